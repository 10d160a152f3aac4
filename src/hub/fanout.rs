//! The fan-out of deliveries from a hub's bounded queue to the outboxes of subscribers.
//!
//! The hub takes a batch of deliveries, queues each to all of its subscribers, and then flushes every outbox that it
//! queued to, so that one `writev` carries many publications. It yields the thread every few milliseconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    time::{Duration, Instant},
};

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{
    CloseReason, Hub, SessionKey,
    delivery::Delivery,
    fanout_outcome::FanoutOutcome,
    subscription::{DeliveryOptions, PositionCheck, SubscriptionSource},
};
use crate::{
    broker::QueueFull,
    channel::Channel,
    protocol::{Disconnect, UnsubscribeCode},
    transport::{FlushOutcome, Outbox, PushError, PushOutcome},
};

/// Maximum deliveries of a batch, and their bytes. Larger batches would save system calls and cost latency. The limit
/// also bounds what a batch adds to an outbox before the first write.
const BATCH_PUBLICATIONS: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;
/// Maximum time of one run. The reads, pings and expiry of all sessions of the thread wait for it.
const MAX_RUN: Duration = Duration::from_millis(2);
/// Outboxes that are flushed between two looks at the clock.
const FLUSHES_PER_CLOCK_CHECK: usize = 32;

/// The sending end of a hub's queue.
#[derive(Clone)]
pub(super) struct DeliverySender {
    sender: UnboundedSender<Arc<Delivery>>,
    state: Arc<QueueState>,
}

struct QueueState {
    queued_bytes: AtomicUsize,
    limit_bytes: usize,
    /// Whether the hub is awake, or a [`DrainQueue`] is on its way to it. One message is enough for all queued
    /// deliveries.
    is_woken: AtomicBool,
}

/// The hub's end of its queue.
pub(super) struct DeliveryReceiver {
    receiver: UnboundedReceiver<Arc<Delivery>>,
    state: Arc<QueueState>,
}

/// Creates a queue of at most `limit_bytes`.
pub(super) fn delivery_queue(limit_bytes: usize) -> (DeliverySender, DeliveryReceiver) {
    #[expect(clippy::disallowed_methods, reason = "bounded by bytes, which a channel does not count")]
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let state =
        Arc::new(QueueState { queued_bytes: AtomicUsize::new(0), limit_bytes, is_woken: AtomicBool::new(false) });
    (DeliverySender { sender, state: state.clone() }, DeliveryReceiver { receiver, state })
}

impl DeliverySender {
    /// Reserves room for a delivery.
    ///
    /// # Errors
    /// The queue has no room for it; nothing is reserved.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), QueueFull> {
        let before = self.state.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.state.limit_bytes {
            self.release(bytes);
            return Err(QueueFull);
        }
        Ok(())
    }

    /// Releases reserved room.
    pub(super) fn release(&self, bytes: usize) {
        self.state.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Queues a delivery for which room is reserved. Returns whether the hub is asleep, so that the caller must send it
    /// a [`DrainQueue`].
    #[must_use]
    pub(super) fn send(&self, delivery: Arc<Delivery>) -> bool {
        // An error means that the hub has ended with its worker. Its sessions have ended, too.
        let _ = self.sender.send(delivery);
        // With the fence in `sleep`: either this thread sees that the hub is asleep, or the hub sees this delivery.
        fence(Ordering::SeqCst);
        !self.state.is_woken.swap(true, Ordering::AcqRel)
    }
}

impl DeliveryReceiver {
    /// Takes the next delivery and releases its room.
    fn next(&mut self) -> Option<Arc<Delivery>> {
        let delivery = self.receiver.try_recv().ok()?;
        self.state.queued_bytes.fetch_sub(delivery.cost_bytes(), Ordering::Relaxed);
        Some(delivery)
    }

    /// Marks the hub as asleep. Returns `false` if a delivery was queued meanwhile; then the hub stays awake.
    fn sleep(&mut self) -> bool {
        self.state.is_woken.store(false, Ordering::Relaxed);
        // A sender that queued a delivery before this store did not wake the hub, so check the queue once more. Without
        // the fence the check could come before the store, and the wake-up would be lost.
        fence(Ordering::SeqCst);
        self.receiver.is_empty() || self.state.is_woken.swap(true, Ordering::AcqRel)
    }
}

/// Wakes the hub, because deliveries are queued.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct DrainQueue;

/// The state of the fan-out between two runs.
pub(super) struct Fanout {
    receiver: DeliveryReceiver,
    /// Outboxes to which this batch was queued and that are not flushed yet.
    unflushed: Vec<(SessionKey, Arc<Outbox>)>,
    batch_publications: usize,
    batch_bytes: usize,
}

impl Fanout {
    pub(super) fn new(receiver: DeliveryReceiver) -> Self {
        Self { receiver, unflushed: Vec::new(), batch_publications: 0, batch_bytes: 0 }
    }

    /// Takes the next delivery, unless the batch is full.
    fn next(&mut self) -> Option<Arc<Delivery>> {
        if self.batch_publications >= BATCH_PUBLICATIONS || self.batch_bytes >= BATCH_BYTES {
            return None;
        }
        let delivery = self.receiver.next()?;
        self.batch_publications += 1;
        self.batch_bytes += delivery.cost_bytes();
        Some(delivery)
    }
}

impl Handler<DrainQueue> for Hub {
    type Result = ();

    fn handle(&mut self, _: DrainQueue, ctx: &mut Self::Context) {
        self.run_fanout(ctx);
    }
}

impl Hub {
    /// Fans out for at most [`MAX_RUN`]. If deliveries are left, continues after the other tasks of the thread have
    /// run.
    fn run_fanout(&mut self, ctx: &mut <Self as Actor>::Context) {
        if !self.fan_out_until(Instant::now() + MAX_RUN) {
            // The runtime polls sockets and timers before this continues, and the actor handles its mailbox.
            let others = actix::fut::wrap_future::<_, Self>(tokio::task::yield_now());
            ctx.spawn(others.map(|(), hub, ctx| hub.run_fanout(ctx)));
        }
    }

    /// Fans out until the queue is empty or the deadline is reached. Returns whether the queue is empty.
    fn fan_out_until(&mut self, deadline: Instant) -> bool {
        loop {
            if let Some(delivery) = self.fanout.next() {
                self.queue_to_subscribers(&delivery);
            } else if !self.fanout.unflushed.is_empty() {
                self.flush_next();
            } else if self.fanout.batch_publications > 0 {
                (self.fanout.batch_publications, self.fanout.batch_bytes) = (0, 0);
            } else if self.fanout.receiver.sleep() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    fn queue_to_subscribers(&mut self, delivery: &Arc<Delivery>) {
        self.catch_up_buffer.store(delivery);
        if self.advance_position(delivery) {
            let outcome = self.queue_to_groups(delivery);
            self.apply_outcome(delivery, outcome);
        }
    }

    /// Advances the position of a delivery's channel. Returns whether the delivery goes to the subscribers: not if the
    /// channel has none here, and not if it is a duplicate. A gap ends the positioned subscriptions first.
    fn advance_position(&mut self, delivery: &Delivery) -> bool {
        let channel = delivery.channel();
        let Some(state) = self.registry.channel_state_mut(channel) else { return false };
        match state.advance(delivery.position()) {
            PositionCheck::Duplicate => return false,
            PositionCheck::Gap => self.end_positioned(channel),
            PositionCheck::Next | PositionCheck::Unpositioned => {}
        }
        true
    }

    /// Ends the positioned subscriptions of a channel with a gap, so that their clients subscribe again (2500). A
    /// client cannot ask for a server-side subscription again; its session is closed 3010 instead.
    pub(super) fn end_positioned(&mut self, channel: &Channel) {
        let positioned = self.registry.groups(channel).filter(|(_, options, _)| options.is_positioned);
        let keys: Vec<SessionKey> = positioned.flat_map(|(_, _, sessions)| sessions.map(|(key, _)| key)).collect();
        for key in keys {
            let source = self.registry.channels_of(key).and_then(|channels| channels.source(channel));
            if source.is_some_and(SubscriptionSource::is_server_side) {
                self.close(key, &Disconnect::INSUFFICIENT_STATE);
            } else {
                self.end_subscription(key, channel, UnsubscribeCode::InsufficientState);
            }
        }
    }

    fn queue_to_groups(&mut self, delivery: &Delivery) -> FanoutOutcome {
        let now = self.clock.now();
        let mut outcome = FanoutOutcome { now, ..FanoutOutcome::default() };
        let channel = delivery.channel();
        let base = self.registry.channel_state(channel).and_then(|state| state.last_delivery.clone());
        let excluded = delivery.publication().and_then(|publication| publication.exclude);
        for (group, options, sessions) in self.registry.groups(channel) {
            let frame = delivery.frame(options, base.as_deref());
            outcome.note_group(group, options, delivery, frame.is_some());
            let Some(frame) = frame else { continue };
            for (key, session) in sessions {
                if now >= session.first_subscription_expiry {
                    outcome.with_expired_subscription.push(key);
                    if self.registry.channels_of(key).is_some_and(|channels| channels.has_expired(channel, now)) {
                        continue;
                    }
                }
                if excluded == Some(session.client) {
                    outcome.excluded.push(key);
                    continue;
                }
                match session.outbox.push(now, frame.clone()) {
                    Ok(PushOutcome::NeedsFlush) => self.fanout.unflushed.push((key, session.outbox.clone())),
                    Ok(PushOutcome::FlushPending) => {}
                    Err(error) => {
                        outcome.refused.push((key, error));
                        continue;
                    }
                }
                outcome.delivered += 1;
            }
        }
        outcome
    }

    /// Applies the changes that a delivery brings beyond the outboxes.
    fn apply_outcome(&mut self, delivery: &Arc<Delivery>, outcome: FanoutOutcome) {
        let channel = delivery.channel();
        self.metrics.deliveries.inc_by(outcome.delivered);
        outcome.changes.into_iter().for_each(|(group, options)| self.registry.change_group(channel, group, options));
        if let Some(state) = self.registry.channel_state_mut(channel)
            && delivery.publication().is_some()
            && (outcome.needs_delta_base || state.last_delivery.is_some())
        {
            state.last_delivery = outcome.needs_delta_base.then(|| delivery.clone());
        }
        for key in outcome.excluded {
            // The excluded client does not have the base of the next delta.
            self.registry.change_one(key, channel, DeliveryOptions::forget_base);
        }
        outcome.refused.into_iter().for_each(|(key, error)| self.handle_push_error(key, error));
        outcome.with_expired_subscription.into_iter().for_each(|key| self.end_expired_subscriptions(key, outcome.now));
    }

    fn flush_next(&mut self) {
        let now = self.clock.now();
        let rest = self.fanout.unflushed.len().saturating_sub(FLUSHES_PER_CLOCK_CHECK);
        for (key, outbox) in self.fanout.unflushed.split_off(rest) {
            match outbox.flush(&self.clock, now) {
                Ok(FlushOutcome::Done) => {}
                Ok(FlushOutcome::Pending) => drop(self.metrics.full_sockets.inc()),
                Err(error) => self.handle_push_error(key, error),
            }
        }
    }

    /// Closes a session whose outbox refused a frame.
    pub(super) fn handle_push_error(&mut self, key: SessionKey, error: PushError) {
        // Nothing is left to do for a connection that is closing. If it has failed, its session sees the end of the
        // stream.
        if let Some(reason) = CloseReason::from_push_error(error) {
            self.close(key, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{hint, sync::mpsc, thread};

    use bytes::Bytes;

    use super::*;
    use crate::publication::Publication;

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
    fn full_queue_refuses_until_a_delivery_is_taken() {
        let delivery = delivery();
        let (sender, mut receiver) = delivery_queue(2 * delivery.cost_bytes());
        for _ in 0..2 {
            sender.reserve(delivery.cost_bytes()).unwrap();
            let _ = sender.send(delivery.clone());
        }
        assert_eq!(sender.reserve(delivery.cost_bytes()), Err(QueueFull));
        receiver.next().unwrap();
        assert_eq!(sender.reserve(delivery.cost_bytes()), Ok(()));
    }
}
