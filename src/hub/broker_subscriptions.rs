//! The instance's subscriptions at the broker, shared by its hubs. The first hub that holds a channel subscribes the
//! instance to it. When the last hold is released, the instance unsubscribes after a linger. Deliveries do not pass
//! here.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;

use crate::{
    broker::{BrokerError, SharedBroker},
    channel::Channel,
};

/// Maximum idle channels. Above it the channel that has been idle longest is unsubscribed at once, so that a client
/// that subscribes and unsubscribes all the time cannot fill the list.
const MAX_IDLE_CHANNELS: usize = 10_000;

/// The channels to which this instance is subscribed at its broker.
pub struct BrokerSubscriptions {
    broker: SharedBroker,
    linger: Duration,
    channels: Mutex<HeldChannels>,
}

#[derive(Default)]
struct HeldChannels {
    by_name: HashMap<Channel, HeldChannel>,
    /// Channels without a hold, in the order in which they lost their last one.
    idle: VecDeque<(Instant, Channel)>,
}

struct HeldChannel {
    /// Number of holds.
    count: usize,
    /// Ready when the broker delivers the channel. Shared by all callers that wait for it.
    subscribed: Shared<BoxFuture<'static, Result<(), BrokerError>>>,
    idle_since: Option<Instant>,
}

/// Keeps a channel held until it is dropped.
pub(super) struct ChannelHold {
    broker_subscriptions: Arc<BrokerSubscriptions>,
    channel: Channel,
}

impl Drop for ChannelHold {
    fn drop(&mut self) {
        self.broker_subscriptions.release(&self.channel);
    }
}

impl BrokerSubscriptions {
    /// Creates the subscriptions at `broker`. A channel without a hold is unsubscribed after `linger`.
    pub fn new(broker: SharedBroker, linger: Duration) -> Arc<Self> {
        Arc::new(Self { broker, linger, channels: Mutex::default() })
    }

    /// The broker itself, for calls other than subscribing.
    pub(super) fn broker(&self) -> &SharedBroker {
        &self.broker
    }

    /// Holds a channel. When this is ready, the broker delivers the channel until the hold is dropped.
    ///
    /// # Errors
    /// The broker's error; then nothing is held.
    pub(super) async fn acquire(self: Arc<Self>, channel: Channel) -> Result<ChannelHold, BrokerError> {
        let subscribed = {
            let mut channels = self.channels.lock();
            let held = match channels.by_name.entry(channel.clone()) {
                Entry::Occupied(entry) => entry.into_mut(),
                // Under the lock, so that the broker sees subscribe and unsubscribe in the order of these decisions.
                Entry::Vacant(entry) => entry.insert(HeldChannel {
                    count: 0,
                    subscribed: self.broker.subscribe(channel.clone()).shared(),
                    idle_since: None,
                }),
            };
            held.count += 1;
            held.idle_since = None;
            held.subscribed.clone()
        };
        let hold = ChannelHold { broker_subscriptions: self, channel };
        subscribed.await?;
        Ok(hold)
    }

    /// Releases one hold. The last one of a channel leaves it idle; if the broker failed, the next who asks tries
    /// again.
    fn release(&self, channel: &Channel) {
        let mut channels = self.channels.lock();
        let now = Instant::now();
        if let Entry::Occupied(mut entry) = channels.by_name.entry(channel.clone()) {
            let held = entry.get_mut();
            held.count = held.count.saturating_sub(1);
            if held.count > 0 {
                return;
            }
            if let Some(Err(_)) = held.subscribed.peek() {
                entry.remove();
                return self.broker.unsubscribe(channel.clone());
            }
            held.idle_since = Some(now);
            channels.idle.push_back((now, channel.clone()));
        }
        if channels.idle.len() > MAX_IDLE_CHANNELS
            && let Some((since, channel)) = channels.idle.pop_front()
        {
            self.unsubscribe_if_idle(&mut channels, since, &channel);
        }
    }

    /// Unsubscribes the channels that have been idle for the linger.
    pub(super) fn release_idle(&self) {
        let mut channels = self.channels.lock();
        let now = Instant::now();
        while let Some((since, channel)) =
            channels.idle.pop_front_if(|(since, _)| now.duration_since(*since) >= self.linger)
        {
            self.unsubscribe_if_idle(&mut channels, since, &channel);
        }
    }

    /// Unsubscribes a channel that has been idle since `since`. Does nothing if it is held again, or became idle again
    /// later, since then it is in the list once more.
    fn unsubscribe_if_idle(&self, channels: &mut HeldChannels, since: Instant, channel: &Channel) {
        if channels.by_name.get(channel).is_some_and(|held| held.idle_since == Some(since)) {
            channels.by_name.remove(channel);
            self.broker.unsubscribe(channel.clone());
        }
    }
}
