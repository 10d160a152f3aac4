//! What is delivered while somebody waits to receive a channel: kept once for all who wait, to follow what they read from the
//! history. Bounded: who waits for too long in a busy channel reads it again.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::delivery::Delivery;
use crate::{channel::Channel, position::Position};

/// The channels that somebody waits for.
pub(super) struct Joinings {
    channels: HashMap<Channel, Joining>,
    kept_bytes: usize,
    limit_bytes: usize,
}

#[derive(Default)]
struct Joining {
    waiting: usize,
    kept: Vec<Arc<Delivery>>,
    /// Where those stand, in order; all in one history.
    places: Vec<Position>,
}

impl Joinings {
    /// Keeps at most so many bytes in all.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { channels: HashMap::new(), kept_bytes: 0, limit_bytes }
    }

    pub(super) fn begin(&mut self, channel: &Channel) {
        self.channels.entry(channel.clone()).or_default().waiting += 1;
    }

    /// One waits no more; what was kept for the last is dropped.
    pub(super) fn end(&mut self, channel: &Channel) {
        if let Entry::Occupied(mut entry) = self.channels.entry(channel.clone()) {
            entry.get_mut().waiting -= 1;
            if entry.get().waiting == 0 {
                self.kept_bytes -= entry.remove().cost_bytes();
            }
        }
    }

    /// Keeps a delivery if somebody waits for its channel.
    pub(super) fn keep(&mut self, delivery: &Arc<Delivery>) {
        if self.channels.is_empty() {
            return;
        }
        let Some(joining) = self.channels.get_mut(delivery.channel()) else { return };
        let Some(position) = delivery.position() else { return };
        match joining.places.last() {
            Some(last) if last.epoch != position.epoch => self.kept_bytes -= joining.clear(),
            Some(last) if last.offset >= position.offset => return,
            _ => {}
        }
        if self.kept_bytes + delivery.cost_bytes() > self.limit_bytes {
            // What is not here any more is in the history.
            self.kept_bytes -= joining.clear();
        }
        self.kept_bytes += delivery.cost_bytes();
        joining.kept.push(delivery.clone());
        joining.places.push(position);
    }

    /// What was kept for a channel, and where it stands.
    pub(super) fn kept(&self, channel: &Channel) -> (&[Arc<Delivery>], &[Position]) {
        self.channels.get(channel).map_or((&[], &[]), |joining| (&joining.kept, &joining.places))
    }
}

impl Joining {
    fn cost_bytes(&self) -> usize {
        self.kept.iter().map(|delivery| delivery.cost_bytes()).sum()
    }

    fn clear(&mut self) -> usize {
        let bytes = self.cost_bytes();
        self.kept.clear();
        self.places.clear();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{position::Epoch, publication::Publication};

    fn delivery(offset: u64, epoch: &str) -> Arc<Delivery> {
        let position = Some(Position { offset, epoch: Epoch::read(epoch).unwrap() });
        let channel = Channel::new("news").unwrap();
        Delivery::new(Publication { position, ..Publication::new(channel, Bytes::from_static(b"1")) })
    }

    fn offsets(joinings: &Joinings) -> Vec<u64> {
        joinings.kept(&Channel::new("news").unwrap()).1.iter().map(|place| place.offset).collect()
    }

    #[test]
    fn what_is_delivered_while_somebody_waits_is_kept_once_and_within_the_limit() {
        let (channel, cost) = (Channel::new("news").unwrap(), delivery(1, "AAAAAAAA").cost_bytes());
        let mut joinings = Joinings::new(3 * cost);
        joinings.keep(&delivery(1, "AAAAAAAA"));
        assert_eq!(offsets(&joinings), [0_u64; 0]);
        joinings.begin(&channel);
        joinings.begin(&channel);
        for offset in [2, 3, 3, 2, 4] {
            joinings.keep(&delivery(offset, "AAAAAAAA"));
        }
        assert_eq!((offsets(&joinings), joinings.kept_bytes), (vec![2, 3, 4], 3 * cost));
        joinings.keep(&delivery(5, "AAAAAAAA"));
        assert_eq!((offsets(&joinings), joinings.kept_bytes), (vec![5], cost), "over the limit it begins anew");
        joinings.keep(&delivery(1, "BBBBBBBB"));
        assert_eq!((offsets(&joinings), joinings.kept_bytes), (vec![1], cost), "another history is another list");
        joinings.end(&channel);
        assert_eq!(offsets(&joinings), [1], "somebody still waits");
        joinings.end(&channel);
        assert_eq!((offsets(&joinings), joinings.kept_bytes), (vec![], 0));
    }
}
