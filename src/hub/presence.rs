//! Who is in a channel, as others see it: told to the broker when a subscription begins and ends, and again and again while
//! it lasts, so that those of an instance that dies are gone soon. No timer per connection.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{Hub, reception::Shown, wheel::TICK};
use crate::{
    broker::{BrokerError, Movement},
    channel::Channel,
};

/// How long the broker believes that somebody is there.
const TTL: Duration = Duration::from_secs(60);
/// How often it is told again: one lost word costs nothing.
const REFRESH: Duration = Duration::from_secs(25);
/// So many turns of the wheel, at each of which as many are told again.
const TURNS: usize = (REFRESH.as_millis() / TICK.as_millis()) as usize;

impl Hub {
    /// Somebody comes into a channel. Brokers take calls in their order, so nothing here waits.
    pub(super) fn show(&self, channel: &Channel, shown: Option<&Shown>) {
        let Some(shown) = shown else { return };
        self.keep_present(channel, shown);
        if shown.is_announced {
            let joined = self.interest.broker().announce(channel.clone(), Movement::Join, shown.who.clone());
            see_to(joined);
        }
    }

    /// Somebody is in a channel, still or in another guise.
    pub(super) fn keep_present(&self, channel: &Channel, shown: &Shown) {
        if shown.is_present {
            see_to(self.interest.broker().add_member(channel.clone(), shown.who.clone(), TTL));
        }
    }

    /// Somebody leaves a channel.
    pub(super) fn hide(&self, channel: &Channel, shown: Option<&Shown>) {
        let Some(shown) = shown else { return };
        if shown.is_present {
            let client: Arc<str> = shown.who.client.as_str().into();
            see_to(self.interest.broker().remove_member(channel.clone(), client));
        }
        if shown.is_announced {
            see_to(self.interest.broker().announce(channel.clone(), Movement::Leave, shown.who.clone()));
        }
    }

    /// The part of those who are shown whose turn it is.
    pub(super) fn refresh_presence(&self, turn: u32) {
        let turn = turn as usize % TURNS;
        self.registry.shown(turn, TURNS).for_each(|(channel, shown)| self.keep_present(channel, shown));
    }
}

/// What cannot be told now is told with the next turn, or ends by itself: no client waits for it.
fn see_to(told: BoxFuture<'static, Result<(), BrokerError>>) {
    use futures_util::FutureExt;
    let note = |result: Result<(), BrokerError>| {
        if let Err(error) = result {
            log::debug!("presence: {error}");
        }
    };
    let mut told = told;
    match (&mut told).now_or_never() {
        Some(result) => note(result),
        None => drop(actix_rt::spawn(told.map(note))),
    }
}
