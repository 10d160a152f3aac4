//! The catch-up buffer: stores the deliveries of a channel while subscriptions to it are being made, so that they can follow
//! the publications that were read from the history. A delivery is stored once for all of them. Bounded: a subscription for
//! which too much was delivered reads the history again.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
    sync::Arc,
};

use crate::{
    broker::ChannelTop,
    channel::Channel,
    hub::{delivery::Delivery, gap::Interruption},
    position::Position,
};

/// The stored deliveries of one hub.
pub(in crate::hub) struct CatchUpBuffer(Rc<RefCell<StoredDeliveries>>);

struct StoredDeliveries {
    channels: HashMap<Channel, ChannelCatchUp>,
    stored_bytes: usize,
    max_bytes: usize,
}

/// The deliveries of a channel, and for how many subscriptions they are stored.
#[derive(Default)]
struct ChannelCatchUp {
    subscriptions: usize,
    deliveries: Vec<Arc<Delivery>>,
    /// The positions of `deliveries`, ascending and of one epoch.
    positions: Vec<Position>,
    /// The newest delivery, for which there may have been no room.
    newest: Option<ChannelTop>,
    /// How far the last interruption of the broker is.
    interruption: Option<Interruption>,
}

/// Keeps the deliveries of a channel stored for one subscription until it is dropped.
pub(super) struct CatchUp {
    buffer: Rc<RefCell<StoredDeliveries>>,
    channel: Channel,
}

impl CatchUpBuffer {
    /// Creates a buffer that stores at most `max_bytes` in all.
    pub(in crate::hub) fn new(max_bytes: usize) -> Self {
        Self(Rc::new(RefCell::new(StoredDeliveries { channels: HashMap::new(), stored_bytes: 0, max_bytes })))
    }

    /// Stores the deliveries of a channel from now on.
    pub(super) fn begin(&self, channel: &Channel) -> CatchUp {
        self.0.borrow_mut().channels.entry(channel.clone()).or_default().subscriptions += 1;
        CatchUp { buffer: self.0.clone(), channel: channel.clone() }
    }

    /// Stores a delivery if a subscription to its channel is being made.
    pub(in crate::hub) fn store(&self, delivery: &Arc<Delivery>) {
        self.0.borrow_mut().store(delivery);
    }

    /// Notes an interruption of the broker for the subscriptions that are being made to a channel.
    pub(in crate::hub) fn note_interruption(&self, channel: &Channel, interruption: Interruption) {
        if let Some(catch_up) = self.0.borrow_mut().channels.get_mut(channel) {
            catch_up.interruption = Some(interruption);
        }
    }
}

impl CatchUp {
    /// Calls `read` with the stored deliveries and their positions.
    pub(super) fn read<R>(&self, read: impl FnOnce(&[Arc<Delivery>], &[Position]) -> R) -> R {
        match self.buffer.borrow().channels.get(&self.channel) {
            Some(catch_up) => read(&catch_up.deliveries, &catch_up.positions),
            None => read(&[], &[]),
        }
    }

    /// Returns the newest delivery since the begin, stored or not.
    pub(super) fn newest(&self) -> Option<ChannelTop> {
        self.buffer.borrow().channels.get(&self.channel)?.newest
    }

    /// Returns how far an interruption of the broker is that has begun since the begin.
    pub(super) fn interruption(&self) -> Option<Interruption> {
        self.buffer.borrow().channels.get(&self.channel)?.interruption
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.buffer.borrow_mut().end(&self.channel);
    }
}

impl StoredDeliveries {
    fn store(&mut self, delivery: &Arc<Delivery>) {
        if self.channels.is_empty() {
            return;
        }
        let Some(catch_up) = self.channels.get_mut(delivery.channel()) else { return };
        let Some(top) = delivery.top() else { return };
        let position = top.position;
        match catch_up.newest {
            Some(last) if last.position.epoch != position.epoch => self.stored_bytes -= catch_up.clear(),
            Some(last) if last.position.offset >= position.offset => return,
            _ => {}
        }
        if self.stored_bytes + delivery.cost_bytes() > self.max_bytes {
            // What is dropped here can be read from the history.
            self.stored_bytes -= catch_up.clear();
        }
        catch_up.newest = Some(top);
        if self.stored_bytes + delivery.cost_bytes() > self.max_bytes {
            // Other channels have the room.
            return;
        }
        self.stored_bytes += delivery.cost_bytes();
        catch_up.deliveries.push(delivery.clone());
        catch_up.positions.push(position);
    }

    /// Ends the catch-up of one subscription; with the last of a channel its deliveries are dropped.
    fn end(&mut self, channel: &Channel) {
        if let Entry::Occupied(mut entry) = self.channels.entry(channel.clone()) {
            entry.get_mut().subscriptions -= 1;
            if entry.get().subscriptions == 0 {
                self.stored_bytes -= entry.remove().cost_bytes();
            }
        }
    }
}

impl ChannelCatchUp {
    fn cost_bytes(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.cost_bytes()).sum()
    }

    /// Drops the deliveries; returns their bytes.
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
        delivery_to("news", offset, epoch)
    }

    fn delivery_to(channel: &str, offset: u64, epoch: &str) -> Arc<Delivery> {
        let position = Some(Position { offset, epoch: Epoch::parse(epoch).unwrap() });
        let channel = Channel::new(channel).unwrap();
        Delivery::new(Publication { position, ..Publication::new(channel, Bytes::from_static(b"1")) })
    }

    fn offsets(catch_up: &CatchUp) -> Vec<u64> {
        catch_up.read(|_, positions| positions.iter().map(|position| position.offset).collect())
    }

    #[test]
    fn deliveries_are_stored_once_and_within_the_limit_while_a_subscription_waits() {
        let (channel, cost) = (Channel::new("news").unwrap(), delivery(1, "AAAAAAAA").cost_bytes());
        let buffer = CatchUpBuffer::new(3 * cost);
        let stored = |catch_up: &CatchUp| (offsets(catch_up), buffer.0.borrow().stored_bytes);
        buffer.store(&delivery(1, "AAAAAAAA"));
        let (first, second) = (buffer.begin(&channel), buffer.begin(&channel));
        assert_eq!(stored(&first), (vec![], 0), "no subscription waited for it");
        for offset in [2, 3, 3, 2, 4] {
            buffer.store(&delivery(offset, "AAAAAAAA"));
        }
        assert_eq!(stored(&first), (vec![2, 3, 4], 3 * cost));
        buffer.store(&delivery(5, "AAAAAAAA"));
        assert_eq!(stored(&first), (vec![5], cost), "over the limit it starts again");
        buffer.store(&delivery(1, "BBBBBBBB"));
        assert_eq!(stored(&first), (vec![1], cost), "another epoch replaces the first");
        drop(first);
        assert_eq!(stored(&second), (vec![1], cost), "another subscription waits");
        drop(second);
        assert_eq!(buffer.0.borrow().stored_bytes, 0);
        assert!(buffer.0.borrow().channels.is_empty());
    }

    #[test]
    fn delivery_without_room_is_known_by_its_position() {
        let [news, chat] = ["news", "chat"].map(|name| Channel::new(name).unwrap());
        let cost = delivery(1, "AAAAAAAA").cost_bytes();
        let buffer = CatchUpBuffer::new(cost);
        let (of_news, of_chat) = (buffer.begin(&news), buffer.begin(&chat));
        buffer.store(&delivery(1, "AAAAAAAA"));
        for offset in [7, 8] {
            buffer.store(&delivery_to("chat", offset, "AAAAAAAA"));
        }
        assert_eq!((offsets(&of_news), offsets(&of_chat)), (vec![1], vec![]));
        assert_eq!(of_chat.newest().map(|newest| newest.position.offset), Some(8));
        assert_eq!(buffer.0.borrow().stored_bytes, cost);
        drop(of_news);
        buffer.store(&delivery_to("chat", 9, "AAAAAAAA"));
        assert_eq!((offsets(&of_chat), buffer.0.borrow().stored_bytes), (vec![9], cost));
    }
}
