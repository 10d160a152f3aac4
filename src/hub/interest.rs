//! What this instance wants from the broker: the first hub that listens to a channel subscribes to it, the last one gives
//! it back after a linger. Shared by the hubs of the instance; nothing of it is on the delivery path.

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

/// Channels that may linger. Over it the one that has been idle longest is given back at once: a client that subscribes
/// and unsubscribes all the time must not fill the list.
const LINGERING: usize = 10_000;

/// The channels of this instance at its broker.
pub struct Interest {
    broker: SharedBroker,
    linger: Duration,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    channels: HashMap<Channel, Holders>,
    /// Channels in the order in which they lost their last holder.
    idle: VecDeque<(Instant, Channel)>,
}

struct Holders {
    count: usize,
    /// Ready when the broker has the channel; shared by all who wait for it.
    subscribed: Shared<BoxFuture<'static, Result<(), BrokerError>>>,
    idle_since: Option<Instant>,
}

impl Interest {
    /// Asks `broker`; a channel that nobody holds is given back after `linger`.
    pub fn new(broker: SharedBroker, linger: Duration) -> Arc<Self> {
        Arc::new(Self { broker, linger, wanted: Mutex::default() })
    }

    /// What it asks.
    pub(super) fn broker(&self) -> &SharedBroker {
        &self.broker
    }

    /// Holds a channel. When it is ready, the broker delivers it; each success is to be [released](Self::release) once.
    ///
    /// # Errors
    /// What the broker says; then nothing is held.
    pub(super) async fn acquire(self: Arc<Self>, channel: Channel) -> Result<(), BrokerError> {
        let subscribed = {
            let mut wanted = self.wanted.lock();
            let holders = match wanted.channels.entry(channel.clone()) {
                Entry::Occupied(held) => held.into_mut(),
                // Called under the lock: the broker sees subscribe and unsubscribe in the order of the decisions.
                Entry::Vacant(free) => free.insert(Holders {
                    count: 0,
                    subscribed: self.broker.subscribe(channel.clone()).shared(),
                    idle_since: None,
                }),
            };
            holders.count += 1;
            holders.idle_since = None;
            holders.subscribed.clone()
        };
        let result = subscribed.await;
        if result.is_err() {
            self.give_up(&channel);
        }
        result
    }

    /// Gives one hold back.
    pub(super) fn release(&self, channel: &Channel) {
        let mut wanted = self.wanted.lock();
        let now = Instant::now();
        if let Some(holders) = wanted.channels.get_mut(channel) {
            holders.count = holders.count.saturating_sub(1);
            if holders.count == 0 {
                holders.idle_since = Some(now);
                wanted.idle.push_back((now, channel.clone()));
            }
        }
        if wanted.idle.len() > LINGERING
            && let Some((since, channel)) = wanted.idle.pop_front()
        {
            self.give_back(&mut wanted, since, &channel);
        }
    }

    /// The broker could not: whoever waited holds nothing, and the next who asks tries anew.
    fn give_up(&self, channel: &Channel) {
        let mut wanted = self.wanted.lock();
        if let Entry::Occupied(mut held) = wanted.channels.entry(channel.clone()) {
            held.get_mut().count -= 1;
            if held.get().count == 0 {
                held.remove();
                self.broker.unsubscribe(channel.clone());
            }
        }
    }

    /// Gives back what has been idle for long enough.
    pub(super) fn sweep(&self) {
        let mut wanted = self.wanted.lock();
        let now = Instant::now();
        while let Some((since, channel)) =
            wanted.idle.pop_front_if(|(since, _)| now.duration_since(*since) >= self.linger)
        {
            self.give_back(&mut wanted, since, &channel);
        }
    }

    /// Gives a channel back, unless it is held again, or idle since later and further back in the list.
    fn give_back(&self, wanted: &mut Wanted, since: Instant, channel: &Channel) {
        if wanted.channels.get(channel).is_some_and(|holders| holders.idle_since == Some(since)) {
            wanted.channels.remove(channel);
            self.broker.unsubscribe(channel.clone());
        }
    }
}
