//! Paced channels in the fan-out: the waiting deliveries, their timer, and how they are queued to the subscribers when they are
//! due.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;

use super::{Fanout, FlowId, FlowItem, PaceDecision, PaceLimits, batch::Batch};
use crate::{
    channel::Channel,
    hub::{
        Hub,
        delivery::Delivery,
        fanout_outcome::FanoutOutcome,
        subscription::{DeliveryOptions, DeltaState, PositionCheck},
    },
};

impl Fanout {
    /// Replaces the limits on waiting deliveries.
    pub(in crate::hub) fn set_pace_limits(&mut self, limits: PaceLimits) {
        self.paced.set_limits(limits);
    }

    /// Paces a delivery of a channel with this interval. Returns whether it waits; then it counts for the queue again.
    pub(super) fn pace(&mut self, delivery: &Arc<Delivery>, interval: Duration) -> bool {
        match self.paced.admit(delivery, interval, Instant::now()) {
            PaceDecision::SendNow => return false,
            PaceDecision::Waits => {}
            PaceDecision::SendEarly(bytes) => self.add_batch(delivery.channel().clone(), bytes),
        }
        self.receiver.reserve_again(delivery.cost_bytes());
        true
    }

    /// Has the deliveries that wait in a channel sent next. They are older than those in its flow; behind these, the batch would take
    /// them too, and outgrow the outbox of each subscriber.
    fn add_batch(&mut self, channel: Channel, bytes: usize) {
        self.schedule.add_front(&channel.clone(), FlowItem::Batch(channel), bytes);
    }

    /// Takes what waits in a channel, and gives back its room.
    pub(in crate::hub) fn take_paced(&mut self, channel: &Channel) -> Vec<Arc<Delivery>> {
        let waiting = self.paced.take(channel);
        waiting.iter().for_each(|delivery| self.receiver.release(delivery));
        waiting
    }
}

impl Hub {
    /// Sets the timer for the first paced channel that is due, if it is not set.
    pub(super) fn set_pace_timer(&mut self, ctx: &mut <Self as Actor>::Context) {
        let Some(due) = self.fanout.paced.next_due() else { return };
        if let Some((at, timer)) = self.fanout.pace_timer {
            if at <= due {
                return;
            }
            ctx.cancel_future(timer);
        }
        let after = due.saturating_duration_since(Instant::now());
        let timer = ctx.run_later(after, |hub, ctx| {
            hub.fanout.pace_timer = None;
            for (channel, bytes) in hub.fanout.paced.take_due(Instant::now()) {
                hub.fanout.add_batch(channel, bytes);
            }
            if hub.fanout.is_running {
                // The run sets the timer at its end.
                return;
            }
            hub.run_fanout(ctx);
        });
        self.fanout.pace_timer = Some((due, timer));
    }

    /// Stores what waits in a channel without subscribers for those that are subscribing.
    pub(super) fn store_paced(&mut self, channel: &Channel) {
        for delivery in self.fanout.take_paced(channel) {
            self.catch_up_buffer.store(&delivery);
        }
    }

    /// Queues what has waited in a paced channel to its subscribers.
    pub(super) fn queue_batch(&mut self, flow: FlowId, channel: &Channel) {
        let mut following: Vec<Arc<Delivery>> = Vec::new();
        for delivery in self.fanout.take_paced(channel) {
            let Some(state) = self.registry.channel_state_mut(channel) else {
                self.catch_up_buffer.store(&delivery);
                continue;
            };
            match state.advance(delivery.position(), delivery.time()) {
                PositionCheck::Waits => {
                    self.hold_back(&delivery);
                    continue;
                }
                PositionCheck::Duplicate => self.examine_repetition(&delivery),
                check => {
                    if check == PositionCheck::Gap {
                        // What came before the gap is for those whose subscriptions end with it, too.
                        self.queue_together(flow, channel, &std::mem::take(&mut following));
                        self.metrics.count_gap("told");
                        self.end_positioned(channel);
                    }
                    following.push(delivery.clone());
                }
            }
            self.catch_up_buffer.store(&delivery);
        }
        self.queue_together(flow, channel, &following);
    }

    /// Queues deliveries that follow each other to the subscribers of their channel, as one frame for each.
    fn queue_together(&mut self, flow: FlowId, channel: &Channel, deliveries: &[Arc<Delivery>]) {
        let Some(state) = self.registry.channel_state(channel).filter(|_| !deliveries.is_empty()) else { return };
        let (base, pace) = (state.last_delivery.clone(), state.pace.clone());
        let batch = Batch::new(deliveries, base.as_ref(), pace.as_ref().and_then(|pace| pace.conflation.as_ref()));
        let now = self.clock.now();
        let mut outcome = FanoutOutcome { now, ..FanoutOutcome::default() };
        let mut receivers = vec![0; deliveries.len()];
        for (group, options, sessions) in self.registry.groups(channel) {
            let received = batch.received_with(options);
            let of_group = batch.select(options, &received, None);
            outcome.needs_delta_base |= options.delta != DeltaState::None;
            outcome.note_change(group, options, of_group.options.clone());
            let mut received_by_group = 0;
            for (slot, key, session) in sessions {
                if now >= session.first_subscription_expiry {
                    outcome.with_expired_subscription.push(key);
                    if self.registry.channels_of(key).is_some_and(|channels| channels.has_expired(channel, now)) {
                        continue;
                    }
                }
                let of_session =
                    batch.excludes(session.client).then(|| batch.select(options, &received, Some(session.client)));
                if of_session.as_ref().is_some_and(|selected| selected.options != of_group.options) {
                    outcome.excluded.push(key);
                }
                let selected = of_session.as_ref().unwrap_or(&of_group);
                let Some(frame) = &selected.frame else { continue };
                match session.outbox.push_publication(now, frame.clone()) {
                    Ok(_) if of_session.is_none() => {
                        self.fanout.schedule.await_flush(flow, slot);
                        received_by_group += 1;
                    }
                    Ok(_) => {
                        self.fanout.schedule.await_flush(flow, slot);
                        selected.deliveries.iter().for_each(|index| receivers[*index] += 1);
                    }
                    Err(error) => outcome.refused.push((key, error)),
                }
            }
            of_group.deliveries.iter().for_each(|index| receivers[*index] += received_by_group);
        }
        for (delivery, receivers) in deliveries.iter().zip(&receivers) {
            outcome.delivered += receivers;
            self.trace_delivery(delivery, *receivers);
        }
        self.apply_outcome(channel, batch.last_publication(), outcome);
    }
}

impl FanoutOutcome {
    /// Notes how the delivery options of a group change with a batch.
    fn note_change(&mut self, group: u32, before: &DeliveryOptions, after: DeliveryOptions) {
        if *before != after {
            self.insert_change(group, before, after);
        }
    }
}
