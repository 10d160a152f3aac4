//! Fan-out: publications wait in a bounded queue per hub, are queued to every subscriber first and flushed after, a batch
//! at a time, and the thread is given back every few milliseconds. With publications waiting, one `writev` carries many.

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
    Hub, SessionKey, delivery::Delivery, passed::Passed, reception::Reception, subscription::Grant, track::Verdict,
};
use crate::{
    broker::NoRoom,
    channel::Channel,
    protocol::{Disconnect, Unsubscribed},
    transport::{Flushed, Outbox, Pushed, Refused},
};

/// Publications, and bytes of them, that are queued to sessions before the sessions are flushed. More would save
/// system calls and cost latency; it also bounds what a batch adds to an outbox before the socket is asked.
const BATCH_PUBLICATIONS: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;
/// How long the hub keeps the thread: reads, pings and expiry of everybody wait for it.
const TURN: Duration = Duration::from_millis(2);
/// Sessions that are flushed between two looks at the clock.
const FLUSH_AT_ONCE: usize = 32;

/// The end of a hub's queue that everybody else has.
#[derive(Clone)]
pub(super) struct Queue {
    sender: UnboundedSender<Arc<Delivery>>,
    shared: Arc<Shared>,
}

struct Shared {
    queued_bytes: AtomicUsize,
    limit_bytes: usize,
    /// A [`Drain`] is under way: one wakes the hub, however many publications wait.
    is_woken: AtomicBool,
}

/// The end that the hub has.
pub(super) struct Waiting {
    receiver: UnboundedReceiver<Arc<Delivery>>,
    shared: Arc<Shared>,
}

/// A queue of at most `limit_bytes`.
pub(super) fn queue(limit_bytes: usize) -> (Queue, Waiting) {
    #[expect(clippy::disallowed_methods, reason = "bounded by bytes, which a channel does not count")]
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let shared = Arc::new(Shared { queued_bytes: AtomicUsize::new(0), limit_bytes, is_woken: AtomicBool::new(false) });
    (Queue { sender, shared: shared.clone() }, Waiting { receiver, shared })
}

impl Queue {
    /// Keeps room for a publication that will be put.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), NoRoom> {
        let before = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.shared.limit_bytes {
            self.give_back(bytes);
            return Err(NoRoom);
        }
        Ok(())
    }

    /// Gives reserved room back.
    pub(super) fn give_back(&self, bytes: usize) {
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Puts a publication for which room is reserved. Tells whether the hub sleeps and has to be sent a [`Drain`].
    #[must_use]
    pub(super) fn put(&self, delivery: Arc<Delivery>) -> bool {
        // The hub lives as long as its worker; after it nobody is left to deliver to.
        let _ = self.sender.send(delivery);
        // Either we see that the hub sleeps, or it sees what we sent: see `sleep`.
        fence(Ordering::SeqCst);
        !self.shared.is_woken.swap(true, Ordering::AcqRel)
    }
}

impl Waiting {
    fn next(&mut self) -> Option<Arc<Delivery>> {
        let delivery = self.receiver.try_recv().ok()?;
        self.shared.queued_bytes.fetch_sub(delivery.cost_bytes(), Ordering::Relaxed);
        Some(delivery)
    }

    /// Goes to sleep; `false` when a publication came in at that moment.
    fn sleep(&mut self) -> bool {
        self.shared.is_woken.store(false, Ordering::Relaxed);
        // Whoever put one before this store did not wake us, so look once more; without the fence the look could come
        // first, and the wake be lost.
        fence(Ordering::SeqCst);
        self.receiver.is_empty() || self.shared.is_woken.swap(true, Ordering::AcqRel)
    }
}

/// Publications wait.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Drain;

/// The fan-out's state between two turns.
pub(super) struct Fanout {
    waiting: Waiting,
    /// Sessions that were queued to and not flushed yet.
    touched: Vec<(SessionKey, Arc<Outbox>)>,
    batch_publications: usize,
    batch_bytes: usize,
}

impl Fanout {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self { waiting, touched: Vec::new(), batch_publications: 0, batch_bytes: 0 }
    }

    /// The next publication, unless the batch is full.
    fn next(&mut self) -> Option<Arc<Delivery>> {
        if self.batch_publications >= BATCH_PUBLICATIONS || self.batch_bytes >= BATCH_BYTES {
            return None;
        }
        let delivery = self.waiting.next()?;
        self.batch_publications += 1;
        self.batch_bytes += delivery.cost_bytes();
        Some(delivery)
    }
}

impl Handler<Drain> for Hub {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.take_turn(ctx);
    }
}

impl Hub {
    /// Works for a turn, then lets everybody else run before the next.
    fn take_turn(&mut self, ctx: &mut <Self as Actor>::Context) {
        if !self.work_until(Instant::now() + TURN) {
            // Deferred until the runtime has polled sockets and timers; between turns the mailbox is served too.
            let others = actix::fut::wrap_future::<_, Self>(tokio::task::yield_now());
            ctx.spawn(others.map(|(), hub, ctx| hub.take_turn(ctx)));
        }
    }

    /// Whether everything is done.
    fn work_until(&mut self, end: Instant) -> bool {
        loop {
            if let Some(delivery) = self.fanout.next() {
                self.queue_to_subscribers(&delivery);
            } else if !self.fanout.touched.is_empty() {
                self.flush_some();
            } else if self.fanout.batch_publications > 0 {
                (self.fanout.batch_publications, self.fanout.batch_bytes) = (0, 0);
            } else if self.fanout.waiting.sleep() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }

    fn queue_to_subscribers(&mut self, delivery: &Arc<Delivery>) {
        self.joinings.keep(delivery);
        if self.moves_on(delivery) {
            let passed = self.queue_to_classes(delivery);
            self.settle(delivery, passed);
        }
    }

    /// Whether a delivery is for those who receive its channel now, and notes where the channel stands with it.
    fn moves_on(&mut self, delivery: &Delivery) -> bool {
        let channel = delivery.channel();
        let Some(track) = self.registry.state_mut(channel) else { return false };
        match track.take(delivery.position()) {
            Verdict::Repetition => return false,
            Verdict::Gap => self.end_positioned(channel),
            Verdict::Follows | Verdict::Unplaced => {}
        }
        true
    }

    /// Something is missing: whoever was promised to be told of it has to come again.
    pub(super) fn end_positioned(&mut self, channel: &Channel) {
        let positioned = self.registry.classes(channel).filter(|(_, reception, _)| reception.is_positioned);
        let keys: Vec<SessionKey> = positioned.flat_map(|(_, _, members)| members.map(|(key, _)| key)).collect();
        for key in keys {
            let grant = self.registry.channels_of(key).and_then(|channels| channels.grant(channel));
            if grant.is_some_and(Grant::is_server_side) {
                self.close(key, &Disconnect::INSUFFICIENT_STATE);
            } else {
                self.end_subscription(key, channel, Unsubscribed::InsufficientState);
            }
        }
    }

    fn queue_to_classes(&mut self, delivery: &Delivery) -> Passed {
        let now = self.clock.now();
        let mut passed = Passed { now, ..Passed::default() };
        let channel = delivery.channel();
        let base = self.registry.state(channel).and_then(|track| track.last.clone());
        let excluded = delivery.publication().and_then(|publication| publication.exclude);
        for (class, reception, members) in self.registry.classes(channel) {
            let frame = delivery.frame(reception, base.as_deref());
            passed.note_class(class, reception, delivery, frame.is_some());
            let Some(frame) = frame else { continue };
            for (key, member) in members {
                if now >= member.subscriptions_expire_at {
                    passed.overdue.push(key);
                    if self.registry.channels_of(key).is_some_and(|channels| channels.has_expired(channel, now)) {
                        continue;
                    }
                }
                if excluded == Some(member.client) {
                    passed.excluded.push(key);
                    continue;
                }
                match member.outbox.push(now, frame.clone()) {
                    Ok(Pushed::First) => self.fanout.touched.push((key, member.outbox.clone())),
                    Ok(Pushed::Behind) => {}
                    Err(why) => {
                        passed.refused.push((key, why));
                        continue;
                    }
                }
                passed.delivered += 1;
            }
        }
        passed
    }

    /// What a delivery has changed beside the outboxes.
    fn settle(&mut self, delivery: &Arc<Delivery>, passed: Passed) {
        let channel = delivery.channel();
        self.metrics.deliveries.inc_by(passed.delivered);
        passed.changes.into_iter().for_each(|(class, reception)| self.registry.change(channel, class, reception));
        if let Some(track) = self.registry.state_mut(channel)
            && delivery.publication().is_some()
            && (passed.has_differences || track.last.is_some())
        {
            track.last = passed.has_differences.then(|| delivery.clone());
        }
        for key in passed.excluded {
            // It has not got what the next difference is to.
            self.registry.change_one(key, channel, Reception::refresh);
        }
        passed.refused.into_iter().for_each(|(key, why)| self.refuse(key, why));
        passed.overdue.into_iter().for_each(|key| self.expire_subscriptions(key, passed.now));
    }

    fn flush_some(&mut self) {
        let now = self.clock.now();
        let rest = self.fanout.touched.len().saturating_sub(FLUSH_AT_ONCE);
        for (key, outbox) in self.fanout.touched.split_off(rest) {
            match outbox.flush(&self.clock, now) {
                Ok(Flushed::All) => {}
                Ok(Flushed::Later) => drop(self.metrics.sockets_full.inc()),
                Err(refused) => self.refuse(key, refused),
            }
        }
    }

    /// An outbox took nothing: the session is closed for it.
    pub(super) fn refuse(&mut self, key: SessionKey, refused: Refused) {
        match refused {
            Refused::Expired => self.close(key, &Disconnect::EXPIRED),
            Refused::Slow => self.close(key, &Disconnect::SLOW),
            // Whoever closes it has counted it; if it is gone, its session sees the end of the stream.
            Refused::Closing => {}
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

    /// Publishes a few, waits until they are taken, and again: each round may meet the hub as it falls asleep.
    #[test]
    fn no_wake_is_lost_however_publishing_and_falling_asleep_meet() {
        const ROUNDS: usize = 50_000;
        let (queue, mut waiting) = queue(usize::MAX);
        let (wake, woken) = mpsc::channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let seen = taken.clone();
        let publisher = thread::spawn(move || {
            let delivery = delivery();
            for round in 1..=ROUNDS {
                for _ in 0..2 {
                    queue.reserve(delivery.cost_bytes()).unwrap();
                    if queue.put(delivery.clone()) {
                        wake.send(()).unwrap();
                    }
                }
                while seen.load(Ordering::Acquire) < 2 * round {
                    hint::spin_loop();
                }
            }
        });
        while taken.load(Ordering::Relaxed) < 2 * ROUNDS {
            woken.recv_timeout(Duration::from_secs(10)).expect("a wake for what waits");
            loop {
                taken.fetch_add(std::iter::from_fn(|| waiting.next()).count(), Ordering::Release);
                if waiting.sleep() {
                    break;
                }
            }
        }
        publisher.join().unwrap();
    }

    #[test]
    fn a_queue_takes_what_it_has_room_for_and_what_is_taken_makes_room() {
        let delivery = delivery();
        let (queue, mut waiting) = queue(2 * delivery.cost_bytes());
        for _ in 0..2 {
            queue.reserve(delivery.cost_bytes()).unwrap();
            let _ = queue.put(delivery.clone());
        }
        assert_eq!(queue.reserve(delivery.cost_bytes()), Err(NoRoom));
        waiting.next().unwrap();
        assert_eq!(queue.reserve(delivery.cost_bytes()), Ok(()));
    }
}
