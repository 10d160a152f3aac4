//! What is delivered while somebody waits to receive a channel: kept once for all who wait, to follow what they read from the
//! history. Bounded: who waits for too long in a busy channel reads it again.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::delivery::Delivery;
use crate::{channel::Channel, position::Position};

/// The channels that somebody waits for.
pub(super) struct CatchUpBuffer {
    channels: HashMap<Channel, ChannelCatchUp>,
    stored_bytes: usize,
    limit_bytes: usize,
}

#[derive(Default)]
struct ChannelCatchUp {
    waiters: usize,
    deliveries: Vec<Arc<Delivery>>,
    /// Where those stand, in order; all in one history.
    positions: Vec<Position>,
}

impl CatchUpBuffer {
    /// Keeps at most so many bytes in all.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { channels: HashMap::new(), stored_bytes: 0, limit_bytes }
    }

    pub(super) fn begin(&mut self, channel: &Channel) {
        self.channels.entry(channel.clone()).or_default().waiters += 1;
    }

    /// One waits no more; what was kept for the last is dropped.
    pub(super) fn end(&mut self, channel: &Channel) {
        if let Entry::Occupied(mut entry) = self.channels.entry(channel.clone()) {
            entry.get_mut().waiters -= 1;
            if entry.get().waiters == 0 {
                self.stored_bytes -= entry.remove().cost_bytes();
            }
        }
    }

    /// Keeps a delivery if somebody waits for its channel.
    pub(super) fn store(&mut self, delivery: &Arc<Delivery>) {
        if self.channels.is_empty() {
            return;
        }
        let Some(catch_up) = self.channels.get_mut(delivery.channel()) else { return };
        let Some(position) = delivery.position() else { return };
        match catch_up.positions.last() {
            Some(last) if last.epoch != position.epoch => self.stored_bytes -= catch_up.clear(),
            Some(last) if last.offset >= position.offset => return,
            _ => {}
        }
        if self.stored_bytes + delivery.cost_bytes() > self.limit_bytes {
            // What is not here any more is in the history.
            self.stored_bytes -= catch_up.clear();
        }
        self.stored_bytes += delivery.cost_bytes();
        catch_up.deliveries.push(delivery.clone());
        catch_up.positions.push(position);
    }

    /// What was kept for a channel, and where it stands.
    pub(super) fn deliveries(&self, channel: &Channel) -> (&[Arc<Delivery>], &[Position]) {
        self.channels.get(channel).map_or((&[], &[]), |catch_up| (&catch_up.deliveries, &catch_up.positions))
    }
}

impl ChannelCatchUp {
    fn cost_bytes(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.cost_bytes()).sum()
    }

    fn clear(&mut self) -> usize {
        let bytes = self.cost_bytes();
        self.deliveries.clear();
        self.positions.clear();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{position::Epoch, publication::Publication};

    fn delivery(offset: u64, epoch: &str) -> Arc<Delivery> {
        let position = Some(Position { offset, epoch: Epoch::parse(epoch).unwrap() });
        let channel = Channel::new("news").unwrap();
        Delivery::new(Publication { position, ..Publication::new(channel, Bytes::from_static(b"1")) })
    }

    fn offsets(catch_up: &CatchUpBuffer) -> Vec<u64> {
        catch_up.deliveries(&Channel::new("news").unwrap()).1.iter().map(|place| place.offset).collect()
    }

    #[test]
    fn deliveries_are_stored_once_and_within_the_limit_while_a_subscription_waits() {
        let (channel, cost) = (Channel::new("news").unwrap(), delivery(1, "AAAAAAAA").cost_bytes());
        let mut catch_up = CatchUpBuffer::new(3 * cost);
        catch_up.store(&delivery(1, "AAAAAAAA"));
        assert_eq!(offsets(&catch_up), [0_u64; 0]);
        catch_up.begin(&channel);
        catch_up.begin(&channel);
        for offset in [2, 3, 3, 2, 4] {
            catch_up.store(&delivery(offset, "AAAAAAAA"));
        }
        assert_eq!((offsets(&catch_up), catch_up.stored_bytes), (vec![2, 3, 4], 3 * cost));
        catch_up.store(&delivery(5, "AAAAAAAA"));
        assert_eq!((offsets(&catch_up), catch_up.stored_bytes), (vec![5], cost), "over the limit it begins anew");
        catch_up.store(&delivery(1, "BBBBBBBB"));
        assert_eq!((offsets(&catch_up), catch_up.stored_bytes), (vec![1], cost), "another history is another list");
        catch_up.end(&channel);
        assert_eq!(offsets(&catch_up), [1], "somebody still waits");
        catch_up.end(&channel);
        assert_eq!((offsets(&catch_up), catch_up.stored_bytes), (vec![], 0));
    }
}
