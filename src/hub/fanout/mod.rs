//! The fan-out of deliveries from a hub's bounded queue to the outboxes of subscribers.
//!
//! The hub takes what is queued into the flows of a [`Schedule`], which names the next piece of work: to queue a
//! delivery to its subscribers, or to flush the outboxes of some sessions. It yields the thread every few milliseconds.

mod batch;
mod delivery_queue;
mod paced;
mod schedule;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;

use self::{
    delivery_queue::DeliveryReceiver,
    schedule::{FlowId, Schedule, Step},
};
use super::{
    CloseReason, Hub, SessionKey,
    delivery::Delivery,
    fanout_outcome::FanoutOutcome,
    pacing::{PaceDecision, PaceLimits, PacedChannels},
    subscription::{DeliveryOptions, PositionCheck, SubscriptionSource},
};
use crate::{
    channel::Channel,
    protocol::{Disconnect, UnsubscribeCode},
    transport::{FlushOutcome, PushError},
};

pub(super) use self::delivery_queue::{DeliverySender, delivery_queue};

/// Maximum time of one run. The reads, pings and expiry of all sessions of the thread wait for it.
pub(super) const MAX_RUN: Duration = Duration::from_micros(500);
/// Maximum deliveries that are taken from the queue between two pieces of work.
const TAKEN_AT_ONCE: usize = 1024;

/// Wakes the hub, because deliveries are queued.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct DrainQueue;

/// An entry of a flow, which is queued to the subscribers of its channel.
enum FlowItem {
    Delivery(Arc<Delivery>),
    /// What has waited in a paced channel.
    Batch(Channel),
}

/// The state of the fan-out between two runs.
pub(super) struct Fanout {
    receiver: DeliveryReceiver,
    schedule: Schedule<Channel, FlowItem>,
    paced: PacedChannels,
    /// The timer of all paced channels, and when it fires.
    pace_timer: Option<(Instant, SpawnHandle)>,
    /// A run continues after the other tasks of the thread.
    is_running: bool,
    /// Deliveries were put in front, which no run has been started for.
    has_prepended: bool,
}

impl Fanout {
    pub(super) fn new(receiver: DeliveryReceiver, pace_limits: PaceLimits) -> Self {
        Self {
            receiver,
            schedule: Schedule::default(),
            paced: PacedChannels::new(pace_limits),
            pace_timer: None,
            is_running: false,
            has_prepended: false,
        }
    }

    /// Takes deliveries from the queue into the flows of their channels, where they keep their room in the queue.
    fn take_deliveries(&mut self) {
        for _ in 0..TAKEN_AT_ONCE {
            let Some(delivery) = self.receiver.next() else { break };
            let bytes = delivery.cost_bytes();
            self.schedule.add(&delivery.channel().clone(), FlowItem::Delivery(delivery), bytes);
        }
    }

    /// Puts deliveries of a channel in front of those that wait in its flow. [`Hub::resume_fanout`] has to follow.
    pub(super) fn prepend(&mut self, channel: &Channel, deliveries: Vec<Arc<Delivery>>) {
        self.has_prepended |= !deliveries.is_empty();
        for delivery in deliveries.into_iter().rev() {
            let bytes = delivery.cost_bytes();
            self.receiver.reserve_again(bytes);
            self.schedule.add_front(channel, FlowItem::Delivery(delivery), bytes);
        }
    }

    /// Returns the next piece of work. A delivery that is to be queued gives back its room.
    fn next_step(&mut self) -> Option<Step<FlowItem>> {
        let step = self.schedule.next_step();
        if let Some(Step::Queue(_, FlowItem::Delivery(delivery))) = &step {
            self.receiver.release(delivery);
        }
        step
    }
}

impl Handler<DrainQueue> for Hub {
    type Result = ();

    fn handle(&mut self, _: DrainQueue, ctx: &mut Self::Context) {
        if !self.fanout.is_running {
            self.run_fanout(ctx);
        }
    }
}

impl Hub {
    /// Fans out for at most [`MAX_RUN`]. If deliveries are left, continues after the other tasks of the thread have
    /// run.
    fn run_fanout(&mut self, ctx: &mut <Self as Actor>::Context) {
        let now = Instant::now();
        self.hold_after_freeze(now);
        self.fanout.is_running = !self.fan_out_until(now + MAX_RUN);
        self.start_gap_reads(ctx);
        self.run_revocations(ctx);
        self.set_pace_timer(ctx);
        if self.fanout.is_running {
            // The runtime polls sockets and timers before this continues, and the actor handles its mailbox.
            let others = actix::fut::wrap_future::<_, Self>(tokio::task::yield_now());
            ctx.spawn(others.map(|(), hub, ctx| hub.run_fanout(ctx)));
        }
    }

    /// Fans out what was put in front, unless a run will.
    pub(super) fn resume_fanout(&mut self, ctx: &mut <Self as Actor>::Context) {
        if std::mem::take(&mut self.fanout.has_prepended) && !self.fanout.is_running {
            self.run_fanout(ctx);
        }
    }

    /// Fans out until nothing is left or the deadline is reached. Returns whether nothing is left to do: while deliveries are
    /// held, that is so although they wait, and [`DrainQueue`] follows when they may go on.
    fn fan_out_until(&mut self, deadline: Instant) -> bool {
        loop {
            if !self.may_fan_out() {
                return true;
            }
            self.fanout.take_deliveries();
            // A freeze in the middle of a run: other threads may have queued what came meanwhile.
            self.hold_after_freeze(Instant::now());
            if self.revocations.state().is_held() {
                continue;
            }
            match self.fanout.next_step() {
                Some(Step::Queue(flow, FlowItem::Delivery(delivery))) => self.queue_to_subscribers(flow, &delivery),
                Some(Step::Queue(flow, FlowItem::Batch(channel))) => self.queue_batch(flow, &channel),
                Some(Step::Flush(flow, count)) => self.flush(flow, count),
                None if self.fanout.receiver.sleep() => return true,
                None => {}
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    fn queue_to_subscribers(&mut self, flow: FlowId, delivery: &Arc<Delivery>) {
        let Some(state) = self.registry.channel_state_mut(delivery.channel()) else {
            self.store_paced(delivery.channel());
            return self.catch_up_buffer.store(delivery);
        };
        delivery.top().into_iter().for_each(|top| state.note_stored(top));
        // What follows a gap is held back, not paced: so all that is paced has come before it.
        if let Some(pace) = state.pace.as_ref().filter(|_| state.gap_fill.is_none())
            && self.fanout.pace(delivery, pace.interval)
        {
            return;
        }
        match state.advance(delivery.position(), delivery.time()) {
            PositionCheck::Waits => return self.hold_back(delivery),
            PositionCheck::Duplicate => self.examine_repetition(delivery),
            check => {
                if check == PositionCheck::Gap {
                    self.metrics.count_gap("told");
                    self.end_positioned(delivery.channel());
                }
                let outcome = self.queue_to_groups(flow, delivery);
                self.trace_delivery(delivery, outcome.delivered);
                let publication = delivery.publication().is_some().then_some(delivery);
                self.apply_outcome(delivery.channel(), publication, outcome);
            }
        }
        self.catch_up_buffer.store(delivery);
    }

    /// Ends the positioned subscriptions of a channel with a gap, so that their clients subscribe again (2500). A
    /// client cannot ask for a server-side subscription again; its session is closed 3010 instead.
    pub(super) fn end_positioned(&mut self, channel: &Channel) {
        let positioned = self.registry.groups(channel).filter(|(_, options, _)| options.is_positioned);
        let keys: Vec<SessionKey> = positioned.flat_map(|(_, _, sessions)| sessions.map(|(_, key, _)| key)).collect();
        for key in keys {
            let source = self.registry.channels_of(key).and_then(|channels| channels.source(channel));
            if source.is_some_and(SubscriptionSource::is_server_side) {
                self.close(key, &Disconnect::INSUFFICIENT_STATE);
            } else {
                self.end_subscription(key, channel, UnsubscribeCode::InsufficientState);
            }
        }
    }

    fn queue_to_groups(&mut self, flow: FlowId, delivery: &Delivery) -> FanoutOutcome {
        let now = self.clock.now();
        let mut outcome = FanoutOutcome { now, ..FanoutOutcome::default() };
        let channel = delivery.channel();
        let base = self.registry.channel_state(channel).and_then(|state| state.last_delivery.clone());
        let excluded = delivery.publication().and_then(|publication| publication.exclude);
        for (group, options, sessions) in self.registry.groups(channel) {
            let frame = delivery.frame(options, base.as_deref());
            outcome.note_group(group, options, delivery, frame.is_some());
            let Some(frame) = frame else { continue };
            for (slot, key, session) in sessions {
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
                match session.outbox.push_publication(now, frame.clone()) {
                    Ok(_) => {
                        self.fanout.schedule.await_flush(flow, slot);
                        outcome.delivered += 1;
                    }
                    Err(error) => outcome.refused.push((key, error)),
                }
            }
        }
        outcome
    }

    /// Applies the changes that deliveries of a channel bring beyond the outboxes. `last` is the last publication of them.
    fn apply_outcome(&mut self, channel: &Channel, last: Option<&Arc<Delivery>>, outcome: FanoutOutcome) {
        self.metrics.deliveries.inc_by(outcome.delivered);
        outcome.changes.into_iter().for_each(|(group, options)| self.registry.change_group(channel, group, options));
        if let Some(state) = self.registry.channel_state_mut(channel)
            && let Some(last) = last
            && (outcome.needs_delta_base || state.last_delivery.is_some())
        {
            state.last_delivery = outcome.needs_delta_base.then(|| last.clone());
        }
        for key in outcome.excluded {
            // The excluded client does not have the base of the next delta.
            self.registry.change_one(key, channel, DeliveryOptions::forget_base);
        }
        outcome.refused.into_iter().for_each(|(key, error)| self.handle_push_error(key, error));
        outcome.with_expired_subscription.into_iter().for_each(|key| self.end_expired_subscriptions(key, outcome.now));
    }

    fn flush(&mut self, flow: FlowId, count: usize) {
        for _ in 0..count {
            let Some(slot) = self.fanout.schedule.take_waiting(flow) else { return };
            let Some((key, session)) = self.registry.session_at(slot) else { continue };
            // The time of each: the process may have been frozen behind the one before. The outbox then writes nothing, because its hub
            // has not run for too long.
            match session.outbox.flush(&self.clock, self.clock.now()) {
                Ok(FlushOutcome::Done) => {}
                Ok(FlushOutcome::Pending) => drop(self.metrics.full_sockets.inc()),
                Err(error) => self.handle_push_error(key, error),
            }
        }
    }

    /// Closes a session whose outbox refused a frame, in its turn if its token has ended: thousands may have ended together.
    pub(super) fn handle_push_error(&mut self, key: SessionKey, error: PushError) {
        match error {
            // It waits for its close already.
            PushError::Revoked => self.drop_subscriptions(key),
            PushError::Expired => self.close_expired(key),
            PushError::Slow => self.close(key, CloseReason::SLOW),
            // Nothing is left to do. If the connection has failed, its session sees the end of the stream.
            PushError::Closing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        config::{Config, Limits},
        publication::Publication,
    };

    #[test]
    fn delivery_keeps_its_room_in_the_queue_while_it_waits_in_its_flow() {
        let delivery = Delivery::new(Publication::new(Channel::new("news").unwrap(), Bytes::from_static(b"1")));
        let (sender, receiver) = delivery_queue(2 * delivery.cost_bytes());
        let mut fanout = Fanout::new(receiver, PaceLimits::from(&Config::default().limits));
        for _ in 0..2 {
            sender.reserve(delivery.cost_bytes()).unwrap();
            let _ = sender.send(delivery.clone());
        }
        fanout.take_deliveries();
        assert!(sender.reserve(delivery.cost_bytes()).is_err());
        assert!(matches!(fanout.next_step(), Some(Step::Queue(..))));
        assert!(sender.reserve(delivery.cost_bytes()).is_ok());
        assert!(sender.reserve(delivery.cost_bytes()).is_err(), "the second one waits");
    }

    /// As when deliveries were held: many are in the flow of the channel at once.
    #[test]
    fn burst_in_a_paced_channel_becomes_batches_within_the_limit() {
        let delivery = Delivery::new(Publication::new(Channel::new("news").unwrap(), Bytes::from_static(b"1")));
        let (sender, receiver) = delivery_queue(1 << 20);
        let limits = Limits { paced_publications: 4, ..Config::default().limits };
        let mut fanout = Fanout::new(receiver, PaceLimits::from(&limits));
        for _ in 0..20 {
            sender.reserve(delivery.cost_bytes()).unwrap();
            let _ = sender.send(delivery.clone());
        }
        fanout.take_deliveries();
        let (mut sent_at_once, mut batches) = (0, Vec::new());
        while let Some(Step::Queue(_, item)) = fanout.next_step() {
            match item {
                FlowItem::Delivery(delivery) => {
                    sent_at_once += usize::from(!fanout.pace(&delivery, Duration::from_secs(60)));
                }
                FlowItem::Batch(channel) => batches.push(fanout.take_paced(&channel).len()),
            }
        }
        assert_eq!((sent_at_once, batches), (1, vec![4; 4]));
        assert_eq!(fanout.take_paced(delivery.channel()).len(), 3, "they wait for the end of the interval");
    }
}
