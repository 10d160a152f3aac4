//! Compares the positions of channels at the hub and at the broker. A publication that is lost on its way from the broker
//! would otherwise go unnoticed until the next one reveals the gap.
//!
//! A round begins every `server.position_check_interval`. It asks for each channel that has positioned subscriptions
//! and has received nothing since the last round. Channels that the broker has subscribed to again are compared at once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use actix::prelude::*;

use super::{Comparison, compare};
use crate::{
    broker::{ChannelTop, PositionResult, Retention},
    channel::Channel,
    hub::{Hub, timing_wheel::TICK},
    position::Position,
};

/// Maximum channels of one question to the broker.
const BATCH_CHANNELS: usize = 1000;
/// Maximum questions in flight at the same time.
const MAX_IN_FLIGHT: usize = 4;
/// Time for which the positions have to differ in a round before that counts as a gap. A publication made just now may still
/// be on its way.
const CONFIRM_DELAY: Duration = Duration::from_secs(2);

/// The channels that are to be compared. Pure: the hub passes the time in.
pub(in crate::hub) struct PositionPoller {
    interval: Duration,
    next_round: Instant,
    /// Channels of this round that have not been compared.
    remaining: Vec<Channel>,
    /// Channels to compare at each tick.
    per_tick: usize,
    /// Channels that are to be compared at once. `ChannelState::is_check_queued` is set for each, so there is none twice.
    urgent: VecDeque<Channel>,
    /// Channels of `urgent` for which the broker has failed: they wait for the next tick.
    failed: Vec<Channel>,
    suspected_gaps: VecDeque<SuspectedGap>,
    in_flight: usize,
}

/// A channel that was behind the broker at a time. Whether it still is at `confirm_at` decides.
struct SuspectedGap {
    channel: Channel,
    suspected_at: Position,
    confirm_at: Instant,
}

/// A channel that is to be compared, and at which position it was found to be behind.
type DueCheck = (Channel, Option<Position>);

/// A channel as the hub knows it when it asks the broker.
struct PositionQuery {
    channel: Channel,
    asked_at: ChannelTop,
    suspected_at: Option<Position>,
    /// The gap for which the channel is compared.
    gap: Option<u64>,
    /// `ChannelState::unverified` at that time.
    unverified: Vec<ChannelTop>,
}

impl PositionPoller {
    pub(in crate::hub) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            next_round: now + interval,
            remaining: Vec::new(),
            per_tick: 1,
            urgent: VecDeque::new(),
            failed: Vec::new(),
            suspected_gaps: VecDeque::new(),
            in_flight: 0,
        }
    }

    fn is_round_due(&self, now: Instant) -> bool {
        now >= self.next_round && self.remaining.is_empty()
    }

    /// Starts a round over the silent channels, spread over half of the interval.
    fn start_round(&mut self, silent: Vec<Channel>, now: Instant) {
        let ticks = (self.interval.as_millis() / TICK.as_millis() / 2).max(1) as usize;
        self.next_round = now + self.interval;
        self.per_tick = silent.len().div_ceil(ticks);
        self.remaining = silent;
    }

    /// Takes the checks of this tick: suspected gaps that are to be confirmed, and the next channels of the round.
    fn take_due(&mut self, now: Instant) -> Vec<DueCheck> {
        if self.in_flight >= MAX_IN_FLIGHT {
            return Vec::new();
        }
        let mut due = Vec::new();
        while due.len() < BATCH_CHANNELS
            && let Some(suspected) = self.suspected_gaps.pop_front_if(|suspected| now >= suspected.confirm_at)
        {
            due.push((suspected.channel, Some(suspected.suspected_at)));
        }
        let count = self.per_tick.min(BATCH_CHANNELS - due.len());
        let first = self.remaining.split_off(self.remaining.len().saturating_sub(count));
        due.extend(first.into_iter().map(|channel| (channel, None)));
        due
    }

    /// Takes the next channels that are to be compared at once.
    fn take_urgent(&mut self) -> Vec<DueCheck> {
        if self.in_flight >= MAX_IN_FLIGHT {
            return Vec::new();
        }
        let count = self.urgent.len().min(BATCH_CHANNELS);
        self.urgent.drain(..count).map(|channel| (channel, None)).collect()
    }

    /// Has the channels compared again for which the broker has failed.
    fn retry_failed(&mut self) {
        self.urgent.extend(self.failed.drain(..));
    }

    fn suspect(&mut self, channel: &Channel, suspected_at: Position, now: Instant) {
        let confirm_at = now + CONFIRM_DELAY;
        self.suspected_gaps.push_back(SuspectedGap { channel: channel.clone(), suspected_at, confirm_at });
    }
}

impl Hub {
    /// Compares the channels of one tick, and goes on with failed reads.
    pub(in crate::hub) fn poll_positions(&mut self, ctx: &mut <Self as Actor>::Context) {
        let now = Instant::now();
        if self.position_poller.is_round_due(now) {
            let silent = self.registry.channel_states_mut().filter_map(|(channel, state)| {
                let has_received = std::mem::take(&mut state.received_since_check);
                (state.polled_retention().is_some() && !has_received).then(|| channel.clone())
            });
            self.position_poller.start_round(silent.collect(), now);
        }
        let due = self.position_poller.take_due(now);
        self.ask_positions(due, ctx);
        self.position_poller.retry_failed();
        self.check_urgent(ctx);
        self.retry_gap_reads(ctx);
    }

    /// Has a channel compared with the broker soon.
    pub(in crate::hub) fn queue_check(&mut self, channel: &Channel) {
        if let Some(state) = self.registry.channel_state_mut(channel)
            && state.retention.is_some()
            && !std::mem::replace(&mut state.is_check_queued, true)
        {
            self.position_poller.urgent.push_back(channel.clone());
        }
    }

    /// Compares the channels that are to be compared at once.
    pub(super) fn check_urgent(&mut self, ctx: &mut <Self as Actor>::Context) {
        loop {
            let due = self.position_poller.take_urgent();
            if due.is_empty() {
                return;
            }
            for (channel, _) in &due {
                if let Some(state) = self.registry.channel_state_mut(channel) {
                    state.is_check_queued = false;
                }
            }
            self.ask_positions(due, ctx);
        }
    }

    fn ask_positions(&mut self, due: Vec<DueCheck>, ctx: &mut <Self as Actor>::Context) {
        let (mut queries, mut channels) = (Vec::with_capacity(due.len()), Vec::with_capacity(due.len()));
        for (channel, suspected_at) in due {
            let Some(state) = self.registry.channel_state(&channel) else { continue };
            let gap = state.gap_fill.as_ref().map(|fill| fill.id());
            let is_known = state.position.is_some() || !state.unverified.is_empty();
            let known: Option<(ChannelTop, Retention)> = state.newest().zip(state.retention);
            if let Some((asked_at, retention)) = known.filter(|_| is_known) {
                channels.push((channel.clone(), retention));
                let unverified = state.unverified.clone();
                queries.push(PositionQuery { channel, asked_at, suspected_at, gap, unverified });
            } else if gap.is_some() {
                self.give_gap_up(&channel, None);
            }
        }
        if queries.is_empty() {
            return self.resume_fanout(ctx);
        }
        self.position_poller.in_flight += 1;
        let found = self.broker_subscriptions.broker().read_positions(channels);
        ctx.spawn(found.into_actor(self).map(move |found, hub, ctx| {
            hub.position_poller.in_flight -= 1;
            queries.iter().zip(found).for_each(|(query, found)| hub.handle_position(query, found, ctx));
            hub.check_urgent(ctx);
            hub.start_gap_reads(ctx);
            hub.start_verifications(ctx);
            hub.resume_fanout(ctx);
        }));
    }

    fn handle_position(&mut self, query: &PositionQuery, found: PositionResult, ctx: &mut <Self as Actor>::Context) {
        let channel = &query.channel;
        let Some(state) = self.registry.channel_state(channel) else { return };
        let gap = state.gap_fill.as_ref();
        if gap.map(|fill| fill.id()) != query.gap {
            // The answer is outdated: another gap has begun meanwhile.
            return;
        }
        if state.unverified != query.unverified {
            // The answer is outdated: there was another interruption meanwhile, or what was to be verified is verified.
            return self.queue_check(channel);
        }
        let here = state.position.unwrap_or(query.asked_at.position);
        let (is_relied_on, is_unverified) = (state.is_relied_on, !state.unverified.is_empty());
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                log::debug!("cannot compare positions channel={channel:?} error={error:?}");
                return self.handle_failed_comparison(channel);
            }
        };
        match compare(query.asked_at, here, found) {
            Comparison::InStep => {
                if query.gap.is_some() {
                    self.end_gap(channel);
                }
                if is_unverified {
                    self.verify(channel, query.asked_at, found);
                }
            }
            Comparison::Behind if query.gap.is_some() => self.read_gap(channel),
            Comparison::Behind if is_unverified || !is_relied_on => self.verify(channel, query.asked_at, found),
            Comparison::Behind if query.suspected_at == Some(here) => {
                log::debug!("found gap by comparison with the broker channel={channel:?}");
                self.read_gap(channel);
            }
            Comparison::Behind => self.position_poller.suspect(channel, here, Instant::now()),
            Comparison::NewHistory if !is_relied_on && query.gap.is_none() => self.end_verification(channel),
            Comparison::NewHistory => {
                log::debug!("found another history by comparison with the broker channel={channel:?}");
                // Its first publications may be on their way here, although the history has them already.
                self.give_gap_up(channel, None);
            }
            Comparison::LostWrites => self.renew_lost_epoch(channel.clone(), query.asked_at.position, ctx),
        }
    }

    fn handle_failed_comparison(&mut self, channel: &Channel) {
        let Some(state) = self.registry.channel_state(channel) else { return };
        let (gap, is_unverified) = (state.gap_fill.as_ref(), !state.unverified.is_empty());
        let is_overdue = gap.is_some_and(|fill| fill.is_overdue(Instant::now()));
        // Otherwise the next round asks again.
        let is_urgent = is_unverified || (gap.is_some() && !is_overdue);
        if is_overdue {
            self.give_gap_up(channel, None);
        }
        if is_urgent {
            self.recheck_at_next_tick(channel);
        }
    }

    /// Has a channel compared again, but not at once: the broker has failed.
    pub(super) fn recheck_at_next_tick(&mut self, channel: &Channel) {
        if let Some(state) = self.registry.channel_state_mut(channel)
            && !std::mem::replace(&mut state.is_check_queued, true)
        {
            self.position_poller.failed.push(channel.clone());
        }
    }
}
