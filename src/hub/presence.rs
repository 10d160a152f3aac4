//! Presence, joins and leaves of subscribers at the broker.
//!
//! The presence of a subscriber is stored with a time to live before its client learns that it is subscribed, so that it is
//! present on every instance from then on. It is refreshed while the subscription lasts, so that the subscribers of an
//! instance that has crashed disappear. The refresh is spread over the ticks of the hub; there is no timer per connection. After
//! an outage of the broker it takes a second.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use futures_util::future::{BoxFuture, FutureExt};

use super::{Hub, subscription::Visibility, timing_wheel::TICK};
use crate::{
    broker::{BrokerError, BrokerFuture, PresenceEvent, PresentClient},
    channel::Channel,
};

/// Part of the time to live after which a subscriber is refreshed: two refreshes fit into it, so that one may get lost without
/// effect.
const REFRESH_AFTER: f64 = 5.0 / 12.0;
/// Ticks of a round of refreshes after an outage of the broker, which may have lost all presence.
const RESTORE_TICKS: usize = 10;
/// How many of these rounds follow an outage. The broker may not accept all calls of the first one yet.
const RESTORE_ROUNDS: usize = 2;

/// How long presence is stored, and how often it is refreshed.
pub(super) struct PresenceLifetime {
    /// Time after which the broker forgets a subscriber that is not refreshed.
    ttl: Duration,
    /// Ticks of one round of refreshes. Each tick refreshes an equal part of the sessions.
    refresh_ticks: usize,
    /// Ticks for which rounds have only [`RESTORE_TICKS`].
    restore_ticks_left: usize,
}

impl PresenceLifetime {
    pub(super) fn new(ttl: Duration) -> Self {
        let ticks = ttl.mul_f64(REFRESH_AFTER).as_millis() / TICK.as_millis();
        Self { ttl, refresh_ticks: usize::try_from(ticks).unwrap_or(usize::MAX).max(1), restore_ticks_left: 0 }
    }
}

impl Hub {
    /// Stores the presence of a new subscriber. Brokers apply calls in the order in which they are made.
    pub(super) fn begin_presence(&self, channel: &Channel, visibility: &Visibility) -> BrokerFuture<()> {
        let broker = self.broker_subscriptions.broker();
        broker.add_presence(channel.clone(), visibility.info.clone(), self.presence_lifetime.ttl)
    }

    /// Publishes the join of a subscriber.
    pub(super) fn announce_join(&self, channel: &Channel, visibility: Option<&Visibility>) {
        self.announce(channel, PresenceEvent::Join, visibility);
    }

    /// Stores the presence of a subscriber with other information.
    pub(super) fn update_presence(&self, channel: &Channel, visibility: &Visibility) {
        if visibility.in_presence {
            run_detached(self.begin_presence(channel, visibility));
        }
    }

    /// Removes the presence of a subscriber and publishes its leave.
    pub(super) fn end_presence(&self, channel: &Channel, visibility: Option<&Visibility>) {
        self.withdraw_presence(channel, visibility);
        self.announce(channel, PresenceEvent::Leave, visibility);
    }

    /// Removes the presence of a subscriber.
    pub(super) fn withdraw_presence(&self, channel: &Channel, visibility: Option<&Visibility>) {
        if let Some(visibility) = visibility.filter(|visibility| visibility.in_presence) {
            let client: Arc<str> = visibility.info.client.as_str().into();
            run_detached(self.broker_subscriptions.broker().remove_presence(channel.clone(), client));
        }
    }

    fn announce(&self, channel: &Channel, event: PresenceEvent, visibility: Option<&Visibility>) {
        if let Some(visibility) = visibility.filter(|visibility| visibility.sends_join_leave) {
            let (broker, info) = (self.broker_subscriptions.broker(), visibility.info.clone());
            run_detached(broker.publish_presence_event(channel.clone(), event, info));
        }
    }

    /// Refreshes the presence of the sessions whose turn it is at this tick.
    pub(super) fn refresh_presence(&mut self, tick: u32) {
        let PresenceLifetime { ttl, refresh_ticks, restore_ticks_left } = &mut self.presence_lifetime;
        let mut round_ticks = *refresh_ticks;
        if *restore_ticks_left > 0 {
            *restore_ticks_left -= 1;
            round_ticks = round_ticks.min(RESTORE_TICKS);
        }
        let ttl = *ttl;
        let visible = self.registry.visible_part(tick as usize % round_ticks, round_ticks);
        let present = visible.filter(|(_, visibility)| visibility.in_presence);
        let clients: Vec<PresentClient> =
            present.map(|(channel, visibility)| (channel.clone(), visibility.info.clone())).collect();
        if !clients.is_empty() {
            run_detached(self.broker_subscriptions.broker().refresh_presence(clients, ttl));
        }
    }
}

/// Stores the presence of all sessions again soon, because the broker may have lost it.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub(super) struct RestorePresence;

impl Handler<RestorePresence> for Hub {
    type Result = ();

    fn handle(&mut self, _: RestorePresence, _: &mut Self::Context) {
        self.presence_lifetime.restore_ticks_left = RESTORE_ROUNDS * RESTORE_TICKS;
    }
}

/// Runs a call to the broker without waiting for it, since no client does. A presence that could not be stored is
/// stored by the next refresh; one that could not be removed expires.
fn run_detached(call: BoxFuture<'static, Result<(), BrokerError>>) {
    let log_error = |result: Result<(), BrokerError>| {
        if let Err(error) = result {
            log::debug!("presence call failed error={error}");
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
