//! Who is in a channel, as others see it: told to the broker when a subscription begins and ends, and again and again while
//! it lasts, so that those of an instance that dies are gone soon. No timer per connection.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{Hub, subscription::Visibility, timing_wheel::TICK};
use crate::{
    broker::{BrokerError, PresenceEvent},
    channel::Channel,
};

/// How long the broker believes that somebody is there.
const PRESENCE_TTL: Duration = Duration::from_secs(60);
/// How often it is told again: one lost word costs nothing.
const REFRESH_INTERVAL: Duration = Duration::from_secs(25);
/// So many turns of the wheel, at each of which as many are told again.
const REFRESH_TICKS: usize = (REFRESH_INTERVAL.as_millis() / TICK.as_millis()) as usize;

impl Hub {
    /// Somebody comes into a channel. Brokers take calls in their order, so nothing here waits.
    pub(super) fn begin_presence(&self, channel: &Channel, visibility: Option<&Visibility>) {
        let Some(visibility) = visibility else { return };
        self.store_presence(channel, visibility);
        if visibility.sends_join_leave {
            let joined = self.broker_subscriptions.broker().publish_presence_event(
                channel.clone(),
                PresenceEvent::Join,
                visibility.info.clone(),
            );
            run_detached(joined);
        }
    }

    /// Somebody is in a channel, still or in another guise.
    pub(super) fn store_presence(&self, channel: &Channel, visibility: &Visibility) {
        if visibility.in_presence {
            run_detached(self.broker_subscriptions.broker().add_presence(
                channel.clone(),
                visibility.info.clone(),
                PRESENCE_TTL,
            ));
        }
    }

    /// Somebody leaves a channel.
    pub(super) fn end_presence(&self, channel: &Channel, visibility: Option<&Visibility>) {
        let Some(visibility) = visibility else { return };
        if visibility.in_presence {
            let client: Arc<str> = visibility.info.client.as_str().into();
            run_detached(self.broker_subscriptions.broker().remove_presence(channel.clone(), client));
        }
        if visibility.sends_join_leave {
            run_detached(self.broker_subscriptions.broker().publish_presence_event(
                channel.clone(),
                PresenceEvent::Leave,
                visibility.info.clone(),
            ));
        }
    }

    /// The part of those who are shown whose turn it is.
    pub(super) fn refresh_presence(&self, tick: u32) {
        let part = tick as usize % REFRESH_TICKS;
        self.registry
            .visible_part(part, REFRESH_TICKS)
            .for_each(|(channel, visibility)| self.store_presence(channel, visibility));
    }
}

/// What cannot be told now is told with the next turn, or ends by itself: no client waits for it.
fn run_detached(call: BoxFuture<'static, Result<(), BrokerError>>) {
    use futures_util::FutureExt;
    let log_error = |result: Result<(), BrokerError>| {
        if let Err(error) = result {
            log::debug!("presence: {error}");
        }
    };
    let mut call = call;
    match (&mut call).now_or_never() {
        Some(result) => log_error(result),
        None => drop(actix_rt::spawn(call.map(log_error))),
    }
}

#[cfg(test)]
mod tests;
