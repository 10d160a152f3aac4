//! A hub's queue of deliveries: unbounded in number, bounded in bytes, with one wake-up for all that is queued.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::{
    broker::QueueFull,
    hub::delivery::Delivery,
    metrics::{Queue, QueueDepth},
};

/// The sending end of a hub's queue.
#[derive(Clone)]
pub(in crate::hub) struct DeliverySender {
    sender: UnboundedSender<Arc<Delivery>>,
    state: Arc<QueueState>,
}

struct QueueState {
    queued_bytes: AtomicUsize,
    limit_bytes: usize,
    /// Whether the hub is awake, or a [`DrainQueue`](super::DrainQueue) is on its way to it. One message is enough for all queued
    /// deliveries.
    is_woken: AtomicBool,
}

/// The hub's end of its queue.
pub(in crate::hub) struct DeliveryReceiver {
    receiver: UnboundedReceiver<Arc<Delivery>>,
    state: Arc<QueueState>,
}

/// Creates a queue of at most `limit_bytes`.
pub(in crate::hub) fn delivery_queue(limit_bytes: usize) -> (DeliverySender, DeliveryReceiver) {
    #[expect(clippy::disallowed_methods, reason = "bounded by bytes, which a channel does not count")]
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let state =
        Arc::new(QueueState { queued_bytes: AtomicUsize::new(0), limit_bytes, is_woken: AtomicBool::new(false) });
    (DeliverySender { sender, state: state.clone() }, DeliveryReceiver { receiver, state })
}

impl DeliverySender {
    /// Reserves room for a delivery. The queue of a hub that has ended always has room: nothing releases it any more, and the
    /// other hubs go on.
    ///
    /// # Errors
    /// The queue has no room for it; nothing is reserved.
    pub(in crate::hub) fn reserve(&self, bytes: usize) -> Result<(), QueueFull> {
        let before = self.state.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.state.limit_bytes && !self.sender.is_closed() {
            self.release(bytes);
            return Err(QueueFull);
        }
        Ok(())
    }

    /// Releases reserved room.
    pub(in crate::hub) fn release(&self, bytes: usize) {
        self.state.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns how full the queue is.
    pub(in crate::hub) fn depth(&self) -> QueueDepth {
        let bytes = self.state.queued_bytes.load(Ordering::Relaxed);
        QueueDepth::of_bytes(Queue::Deliveries, bytes, Some(self.state.limit_bytes))
    }

    /// Queues a delivery for which room is reserved. Returns whether the hub is asleep, so that the caller must send it
    /// a [`DrainQueue`](super::DrainQueue).
    #[must_use]
    pub(in crate::hub) fn send(&self, delivery: Arc<Delivery>) -> bool {
        // An error means that the hub has ended with its worker. Its sessions have ended, too.
        let _ = self.sender.send(delivery);
        // With the fence in `sleep`: either this thread sees that the hub is asleep, or the hub sees this delivery.
        fence(Ordering::SeqCst);
        !self.state.is_woken.swap(true, Ordering::AcqRel)
    }
}

impl DeliveryReceiver {
    /// Takes the next delivery. It keeps its room until [`Self::release`].
    pub(super) fn next(&mut self) -> Option<Arc<Delivery>> {
        self.receiver.try_recv().ok()
    }

    /// Releases the room of a delivery.
    pub(super) fn release(&self, delivery: &Delivery) {
        self.state.queued_bytes.fetch_sub(delivery.cost_bytes(), Ordering::Relaxed);
    }

    /// Takes room for a delivery that was released and waits once more, whether there is room or not.
    pub(super) fn reserve_again(&self, bytes: usize) {
        self.state.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Marks the hub as asleep. Returns `false` if a delivery was queued meanwhile; then the hub stays awake.
    pub(super) fn sleep(&mut self) -> bool {
        self.state.is_woken.store(false, Ordering::Relaxed);
        // A sender that queued a delivery before this store did not wake the hub, so check the queue once more. Without
        // the fence the check could come before the store, and the wake-up would be lost.
        fence(Ordering::SeqCst);
        self.receiver.is_empty() || self.state.is_woken.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::{hint, sync::mpsc, thread, time::Duration};

    use bytes::Bytes;

    use super::*;
    use crate::{channel::Channel, publication::Publication};

    fn delivery() -> Arc<Delivery> {
        let channel = Channel::new("news").unwrap();
        Delivery::new(Publication::new(channel, Bytes::from_static(b"1")))
    }

    /// Each round queues two deliveries and waits until they are taken. In any of them the hub may be falling asleep.
    #[test]
    fn no_wake_up_is_lost_when_a_publication_meets_a_hub_falling_asleep() {
        const ROUNDS: usize = 50_000;
        let (sender, mut receiver) = delivery_queue(usize::MAX);
        let (wake, woken) = mpsc::channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let seen = taken.clone();
        let publisher = thread::spawn(move || {
            let delivery = delivery();
            for round in 1..=ROUNDS {
                for _ in 0..2 {
                    sender.reserve(delivery.cost_bytes()).unwrap();
                    if sender.send(delivery.clone()) {
                        wake.send(()).unwrap();
                    }
                }
                while seen.load(Ordering::Acquire) < 2 * round {
                    hint::spin_loop();
                }
            }
        });
        while taken.load(Ordering::Relaxed) < 2 * ROUNDS {
            woken.recv_timeout(Duration::from_secs(10)).expect("a wake-up for queued deliveries");
            loop {
                taken.fetch_add(std::iter::from_fn(|| receiver.next()).count(), Ordering::Release);
                if receiver.sleep() {
                    break;
                }
            }
        }
        publisher.join().unwrap();
    }

    #[test]
    fn queue_of_hub_that_has_ended_refuses_nothing() {
        let delivery = delivery();
        let (sender, receiver) = delivery_queue(2 * delivery.cost_bytes());
        for _ in 0..2 {
            sender.reserve(delivery.cost_bytes()).unwrap();
            let _ = sender.send(delivery.clone());
        }
        assert_eq!(sender.reserve(delivery.cost_bytes()), Err(QueueFull));
        drop(receiver);
        assert_eq!(sender.reserve(delivery.cost_bytes()), Ok(()));
    }

    #[test]
    fn full_queue_refuses_until_the_room_of_a_delivery_is_released() {
        let delivery = delivery();
        let (sender, mut receiver) = delivery_queue(2 * delivery.cost_bytes());
        for _ in 0..2 {
            sender.reserve(delivery.cost_bytes()).unwrap();
            let _ = sender.send(delivery.clone());
        }
        assert_eq!(sender.reserve(delivery.cost_bytes()), Err(QueueFull));
        assert_eq!(sender.depth().ratio(), 1.0);
        let taken = receiver.next().unwrap();
        assert_eq!(sender.reserve(delivery.cost_bytes()), Err(QueueFull), "it waits elsewhere");
        receiver.release(&taken);
        assert_eq!(sender.depth().ratio(), 0.5);
        assert_eq!(sender.reserve(delivery.cost_bytes()), Ok(()));
    }
}
