//! Silent channels: where nothing has come for a while the broker is asked where the channel stands, since a publication
//! that is lost on the way leaves no gap behind it until the next one comes.

use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{Hub, timing_wheel::TICK};
use crate::{
    broker::{BrokerError, HistoryPage, HistoryRequest, Retention},
    channel::Channel,
    position::Position,
};

/// Questions under way at a time.
const MAX_IN_FLIGHT: usize = 16;
/// What was published just now may still be on its way: a difference has to last.
const CONFIRM_DELAY: Duration = Duration::from_secs(2);

/// One round through the channels of a hub after the other.
pub(super) struct PositionPoller {
    interval: Duration,
    next_round: Instant,
    /// The rest of this round.
    silent: Vec<(Channel, Retention)>,
    per_tick: usize,
    in_flight: usize,
    suspected_gaps: Vec<SuspectedGap>,
}

/// A channel that stood elsewhere at the broker.
struct SuspectedGap {
    channel: Channel,
    retention: Retention,
    local_position: Position,
    confirm_at: Instant,
}

impl PositionPoller {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next_round: Instant::now() + interval,
            silent: Vec::new(),
            per_tick: 1,
            in_flight: 0,
            suspected_gaps: Vec::new(),
        }
    }
}

impl Hub {
    /// Asks for some of the silent channels at each turn of the wheel.
    pub(super) fn poll_positions(&mut self, ctx: &mut <Self as Actor>::Context) {
        let now = Instant::now();
        if now >= self.position_poller.next_round && self.position_poller.silent.is_empty() {
            self.start_round(now);
        }
        let due =
            self.position_poller.suspected_gaps.extract_if(.., |suspect| now >= suspect.confirm_at).collect::<Vec<_>>();
        for suspect in due {
            self.request_top(suspect.channel, suspect.retention, Some(suspect.local_position), ctx);
        }
        let free = MAX_IN_FLIGHT.saturating_sub(self.position_poller.in_flight).min(self.position_poller.per_tick);
        let rest = self.position_poller.silent.len().saturating_sub(free);
        for (channel, retention) in self.position_poller.silent.split_off(rest) {
            self.request_top(channel, retention, None, ctx);
        }
    }

    fn start_round(&mut self, now: Instant) {
        self.position_poller.next_round = now + self.position_poller.interval;
        let silent = self.registry.channel_states_mut().filter_map(|(channel, state)| {
            let was_heard = std::mem::take(&mut state.received_since_check);
            let retention = state.polled_retention.filter(|_| !was_heard)?;
            Some((channel.clone(), retention))
        });
        self.position_poller.silent = silent.collect();
        let ticks = (self.position_poller.interval.as_millis() / TICK.as_millis() / 2).max(1) as usize;
        self.position_poller.per_tick = self.position_poller.silent.len().div_ceil(ticks);
    }

    fn request_top(
        &mut self,
        channel: Channel,
        retention: Retention,
        suspected: Option<Position>,
        ctx: &mut <Self as Actor>::Context,
    ) {
        self.position_poller.in_flight += 1;
        let asked =
            self.broker_subscriptions.broker().read_history(channel.clone(), HistoryRequest::default(), retention);
        ctx.spawn(asked.into_actor(self).map(move |answer, hub, _| {
            hub.position_poller.in_flight -= 1;
            hub.compare_positions(channel, retention, suspected, answer);
        }));
    }

    fn compare_positions(
        &mut self,
        channel: Channel,
        retention: Retention,
        suspected: Option<Position>,
        answer: Result<HistoryPage, BrokerError>,
    ) {
        let Some(local_position) = self.registry.channel_state(&channel).and_then(|state| state.position) else {
            return;
        };
        let Ok(HistoryPage { top, .. }) = answer else { return };
        let is_behind = top.epoch != local_position.epoch || top.offset > local_position.offset;
        match suspected {
            _ if !is_behind => {}
            // It has not moved since, and the broker is elsewhere still.
            Some(before) if before == local_position => {
                log::debug!("a gap in {channel:?}, found by its position");
                self.end_positioned(&channel);
                if let Some(state) = self.registry.channel_state_mut(&channel) {
                    // For those who do not rely on it.
                    state.position = Some(top);
                }
            }
            _ => {
                let confirm_at = Instant::now() + CONFIRM_DELAY;
                self.position_poller.suspected_gaps.push(SuspectedGap {
                    channel,
                    retention,
                    local_position,
                    confirm_at,
                });
            }
        }
    }
}
