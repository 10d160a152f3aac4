//! Presence, joins and leaves of subscribers at the broker.
//!
//! The presence of a subscriber is stored with a time to live and refreshed while the subscription lasts, so that the
//! subscribers of an instance that has crashed disappear. The refresh is spread over the ticks of the hub; there is no
//! timer per connection.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{Hub, subscription::Visibility, timing_wheel::TICK};
use crate::{
    broker::{BrokerError, PresenceEvent},
    channel::Channel,
};

/// Time after which the broker forgets a subscriber that is not refreshed.
const PRESENCE_TTL: Duration = Duration::from_secs(60);
/// Time between two refreshes of a subscriber. One refresh may get lost without effect.
const REFRESH_INTERVAL: Duration = Duration::from_secs(25);
/// Ticks of one round of refreshes. Each tick refreshes an equal part of the sessions.
const REFRESH_TICKS: usize = (REFRESH_INTERVAL.as_millis() / TICK.as_millis()) as usize;

impl Hub {
    /// Stores the presence of a new subscriber and publishes its join. Does not wait: brokers apply calls in the order
    /// in which they are made.
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

    /// Stores the presence of a subscriber, again or with other information.
    pub(super) fn store_presence(&self, channel: &Channel, visibility: &Visibility) {
        if visibility.in_presence {
            run_detached(self.broker_subscriptions.broker().add_presence(
                channel.clone(),
                visibility.info.clone(),
                PRESENCE_TTL,
            ));
        }
    }

    /// Removes the presence of a subscriber and publishes its leave.
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

    /// Refreshes the presence of the sessions whose turn it is at this tick.
    pub(super) fn refresh_presence(&self, tick: u32) {
        let part = tick as usize % REFRESH_TICKS;
        self.registry
            .visible_part(part, REFRESH_TICKS)
            .for_each(|(channel, visibility)| self.store_presence(channel, visibility));
    }
}

/// Runs a call to the broker without waiting for it, since no client does. A presence that could not be stored is
/// stored by the next refresh; one that could not be removed expires.
fn run_detached(call: BoxFuture<'static, Result<(), BrokerError>>) {
    use futures_util::FutureExt;
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
