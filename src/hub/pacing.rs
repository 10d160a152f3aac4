//! The pace of channels with `delivery_interval`: what is published within an interval waits and is sent together. Pure: the
//! fan-out has the timer, one for all channels of a hub.
//!
//! A channel is known here from the delivery that is sent at once until an interval passes in which nothing has come. So a
//! channel that is published to more slowly than its interval is never delayed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashMap as FastMap;

use super::delivery::Delivery;
use crate::{
    channel::Channel,
    config::{ChannelOptions, Config, Limits},
};

/// How the deliveries of a channel are paced.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub) struct Pace {
    /// The shortest time between two batches.
    pub(in crate::hub) interval: Duration,
    /// Which publications of a batch are sent; `None`: all.
    pub(in crate::hub) conflation: Option<Conflation>,
}

/// Which publications of a batch a subscriber receives, of those that it would receive without conflation.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub) enum Conflation {
    /// The newest one.
    Newest,
    /// The newest one of each value of this tag, and all without the tag.
    NewestByTag(String),
}

/// The paces of the configuration.
pub(in crate::hub) struct Paces {
    without_namespace: Option<Arc<Pace>>,
    namespaces: HashMap<String, Arc<Pace>>,
}

impl Pace {
    fn from_options(options: &ChannelOptions) -> Option<Arc<Self>> {
        let conflation = options.conflate.then(|| match options.conflate_by_tag.as_str() {
            "" => Conflation::Newest,
            tag => Conflation::NewestByTag(tag.to_owned()),
        });
        let interval = options.delivery_interval;
        (!interval.is_zero()).then(|| Arc::new(Self { interval, conflation }))
    }
}

impl Paces {
    /// Creates the paces of `[channels]` and `[[namespaces]]`.
    pub(in crate::hub) fn new(config: &Config) -> Self {
        let paces = config
            .namespaces
            .iter()
            .filter_map(|namespace| Pace::from_options(&namespace.channels).map(|pace| (namespace.name.clone(), pace)));
        Self { without_namespace: Pace::from_options(&config.channels), namespaces: paces.collect() }
    }

    /// Returns the pace of a channel; `None`: its deliveries are sent at once.
    pub(in crate::hub) fn of(&self, channel: &Channel) -> Option<&Arc<Pace>> {
        match channel.namespace() {
            None => self.without_namespace.as_ref(),
            Some(namespace) => self.namespaces.get(namespace),
        }
    }
}

/// The limits on waiting deliveries. Above them, they are sent early.
#[derive(Clone, Copy)]
pub(in crate::hub) struct PaceLimits {
    deliveries: usize,
    bytes: usize,
    total_bytes: usize,
}

impl From<&Limits> for PaceLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            deliveries: limits.paced_publications,
            // Clients that read everything must have room for it.
            bytes: limits.paced_bytes.min(limits.outbox_bytes / 4),
            total_bytes: limits.hub_queue_bytes / 4,
        }
    }
}

/// The channels of a hub in which something was delivered within their interval, and what waits there.
pub(in crate::hub) struct PacedChannels {
    channels: FastMap<Channel, PacedChannel, foldhash::fast::RandomState>,
    /// The channels by their interval, each in the order of their due times. There are as many intervals as the configuration has.
    due: Vec<(Duration, VecDeque<(Instant, Channel)>)>,
    waiting_bytes: usize,
    limits: PaceLimits,
}

#[derive(Default)]
struct PacedChannel {
    waiting: Vec<Arc<Delivery>>,
    waiting_bytes: usize,
    /// The fan-out will take what waits.
    is_batch_queued: bool,
}

/// The decision about a delivery of a paced channel.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub) enum PaceDecision {
    /// It is sent at once.
    SendNow,
    /// It waits.
    Waits,
    /// It waits, and a limit is reached: what waits, so many bytes, is to be sent early.
    SendEarly(usize),
}

impl PacedChannels {
    /// Creates it without channels.
    pub(in crate::hub) fn new(limits: PaceLimits) -> Self {
        Self { channels: FastMap::default(), due: Vec::new(), waiting_bytes: 0, limits }
    }

    /// Replaces the limits. The next delivery of a channel shows whether what waits there is above them.
    pub(in crate::hub) fn set_limits(&mut self, limits: PaceLimits) {
        self.limits = limits;
    }

    /// Decides about a delivery of a channel with this interval, and keeps it if it waits.
    pub(in crate::hub) fn admit(&mut self, delivery: &Arc<Delivery>, interval: Duration, now: Instant) -> PaceDecision {
        let channel = delivery.channel();
        let Some(paced) = self.channels.get_mut(channel) else {
            self.channels.insert(channel.clone(), PacedChannel::default());
            self.schedule(channel.clone(), interval, now + interval);
            return PaceDecision::SendNow;
        };
        paced.waiting.push(delivery.clone());
        paced.waiting_bytes += delivery.cost_bytes();
        self.waiting_bytes += delivery.cost_bytes();
        let is_full = paced.waiting.len() >= self.limits.deliveries
            || paced.waiting_bytes >= self.limits.bytes
            || self.waiting_bytes >= self.limits.total_bytes;
        if !is_full || paced.is_batch_queued {
            return PaceDecision::Waits;
        }
        paced.is_batch_queued = true;
        PaceDecision::SendEarly(paced.waiting_bytes)
    }

    fn schedule(&mut self, channel: Channel, interval: Duration, at: Instant) {
        let found = self.due.iter().position(|(of, _)| *of == interval);
        let index = found.unwrap_or_else(|| {
            self.due.push((interval, VecDeque::new()));
            self.due.len() - 1
        });
        self.due[index].1.push_back((at, channel));
    }

    /// Returns when the first channel is due.
    pub(in crate::hub) fn next_due(&self) -> Option<Instant> {
        self.due.iter().filter_map(|(_, queue)| queue.front().map(|(at, _)| *at)).min()
    }

    /// Returns the channels that are due and in which something waits, and its bytes: the fan-out is to take it. Forgets those
    /// in which nothing has come.
    pub(in crate::hub) fn take_due(&mut self, now: Instant) -> Vec<(Channel, usize)> {
        let mut batches = Vec::new();
        for (interval, queue) in &mut self.due {
            while queue.front().is_some_and(|(at, _)| *at <= now)
                && let Some((_, channel)) = queue.pop_front()
            {
                let Some(paced) = self.channels.get_mut(&channel) else { continue };
                // A batch that was to be sent early may still be in its flow.
                if paced.waiting.is_empty() && !paced.is_batch_queued {
                    self.channels.remove(&channel);
                    continue;
                }
                if !std::mem::replace(&mut paced.is_batch_queued, true) {
                    batches.push((channel.clone(), paced.waiting_bytes));
                }
                queue.push_back((now + *interval, channel));
            }
        }
        if self.channels.is_empty() {
            // Many channels at once must not keep their memory.
            (self.channels, self.due) = (FastMap::default(), Vec::new());
        }
        batches
    }

    /// Takes what waits in a channel, in its order.
    pub(in crate::hub) fn take(&mut self, channel: &Channel) -> Vec<Arc<Delivery>> {
        if self.channels.is_empty() {
            return Vec::new();
        }
        let Some(paced) = self.channels.get_mut(channel) else { return Vec::new() };
        paced.is_batch_queued = false;
        self.waiting_bytes -= std::mem::take(&mut paced.waiting_bytes);
        std::mem::take(&mut paced.waiting)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::publication::Publication;

    const INTERVAL: Duration = Duration::from_millis(50);

    fn delivery(channel: &str) -> Arc<Delivery> {
        Delivery::new(Publication::new(Channel::new(channel).unwrap(), Bytes::from_static(b"1")))
    }

    fn channels(deliveries: usize) -> PacedChannels {
        PacedChannels::new(PaceLimits { deliveries, bytes: 1 << 20, total_bytes: 1 << 20 })
    }

    #[test]
    fn first_delivery_after_quiet_interval_is_sent_at_once_and_later_ones_wait_for_its_end() {
        let (mut paced, start) = (channels(100), Instant::now());
        let at = |intervals: u32| start + INTERVAL * intervals;
        let news = delivery("news");
        assert_eq!(paced.admit(&news, INTERVAL, at(0)), PaceDecision::SendNow);
        assert_eq!(
            paced.admit(&delivery("other"), INTERVAL, at(0)),
            PaceDecision::SendNow,
            "channels wait for themselves"
        );
        assert_eq!(paced.admit(&news, INTERVAL, at(0)), PaceDecision::Waits);
        assert_eq!(paced.next_due(), Some(at(1)));
        assert_eq!(paced.take_due(at(1)), [(news.channel().clone(), news.cost_bytes())]);
        assert_eq!(paced.take(news.channel()).len(), 1);
        // The batch begins the next interval.
        assert_eq!(paced.admit(&news, INTERVAL, at(1)), PaceDecision::Waits);
        assert_eq!(paced.take_due(at(2)).len(), 1);
        paced.take(news.channel());
        assert_eq!((paced.take_due(at(3)).len(), paced.next_due()), (0, None));
        assert!(paced.channels.is_empty() && paced.due.is_empty());
        assert_eq!(paced.admit(&news, INTERVAL, at(3)), PaceDecision::SendNow);
    }

    #[test]
    fn channels_with_shorter_intervals_are_due_first() {
        let (mut paced, start) = (channels(100), Instant::now());
        paced.admit(&delivery("slow"), INTERVAL * 10, start);
        paced.admit(&delivery("fast"), INTERVAL, start);
        assert_eq!(paced.next_due(), Some(start + INTERVAL));
        paced.take_due(start + INTERVAL);
        assert_eq!(paced.next_due(), Some(start + INTERVAL * 10));
    }

    #[test]
    fn what_waits_above_a_limit_is_to_be_sent_early_once() {
        let (news, now) = (delivery("news"), Instant::now());
        let bytes = news.cost_bytes();
        for limits in [
            PaceLimits { deliveries: 2, bytes: 1 << 20, total_bytes: 1 << 20 },
            PaceLimits { deliveries: 100, bytes: 2 * bytes, total_bytes: 1 << 20 },
            PaceLimits { deliveries: 100, bytes: 1 << 20, total_bytes: 2 * bytes },
        ] {
            let mut paced = PacedChannels::new(limits);
            let admit = |paced: &mut PacedChannels| paced.admit(&news, INTERVAL, now);
            assert_eq!((admit(&mut paced), admit(&mut paced)), (PaceDecision::SendNow, PaceDecision::Waits));
            assert_eq!(
                (admit(&mut paced), admit(&mut paced)),
                (PaceDecision::SendEarly(2 * bytes), PaceDecision::Waits)
            );
            assert_eq!(paced.take_due(now + INTERVAL), [], "its batch is queued already");
            assert_eq!((paced.take(news.channel()).len(), paced.waiting_bytes), (3, 0));
        }
    }
}
