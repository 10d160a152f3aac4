//! Polls the broker for the positions of silent channels. A publication that is lost on its way from the broker would
//! otherwise go unnoticed until the next one reveals the gap.
//!
//! A round begins every `server.position_check_interval`. It asks for each channel that has positioned subscriptions
//! and has received nothing since the last round.

use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{Hub, timing_wheel::TICK};
use crate::{
    broker::{BrokerError, HistoryPage, HistoryRequest, Retention},
    channel::Channel,
    position::Position,
};

/// Maximum queries of a round in flight at the same time.
const MAX_IN_FLIGHT: usize = 16;
/// Time for which the positions have to differ before that counts as a gap. A publication made just now may still be on
/// its way.
const CONFIRM_DELAY: Duration = Duration::from_secs(2);

/// The state of the current round. Pure: the hub passes the time and the positions in.
pub(super) struct PositionPoller {
    interval: Duration,
    next_round: Instant,
    /// Channels of this round that have not been queried.
    remaining: Vec<(Channel, Retention)>,
    /// Channels to query at each tick.
    per_tick: usize,
    in_flight: usize,
    suspected_gaps: Vec<SuspectedGap>,
}

/// A question to the broker about a channel's position.
#[derive(Clone, Debug)]
struct PositionQuery {
    channel: Channel,
    retention: Retention,
    /// The position at the hub when the first query found a difference; `None` for a first query.
    suspected_at: Option<Position>,
}

/// A channel whose position at the broker is ahead of the hub's.
struct SuspectedGap {
    query: PositionQuery,
    confirm_at: Instant,
}

impl PositionPoller {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            next_round: now + interval,
            remaining: Vec::new(),
            per_tick: 1,
            in_flight: 0,
            suspected_gaps: Vec::new(),
        }
    }

    fn is_round_due(&self, now: Instant) -> bool {
        now >= self.next_round && self.remaining.is_empty()
    }

    /// Starts a round over the silent channels, spread over half of the interval.
    fn start_round(&mut self, silent: Vec<(Channel, Retention)>, now: Instant) {
        let ticks = (self.interval.as_millis() / TICK.as_millis() / 2).max(1) as usize;
        self.next_round = now + self.interval;
        self.per_tick = silent.len().div_ceil(ticks);
        self.remaining = silent;
    }

    /// Takes the queries of this tick: suspected gaps that are to be confirmed, and the next channels of the round.
    fn take_queries(&mut self, now: Instant) -> Vec<PositionQuery> {
        let due = self.suspected_gaps.extract_if(.., |suspected| now >= suspected.confirm_at);
        let mut queries: Vec<PositionQuery> = due.map(|suspected| suspected.query).collect();
        let count = MAX_IN_FLIGHT.saturating_sub(self.in_flight).min(self.per_tick);
        let first = self.remaining.split_off(self.remaining.len().saturating_sub(count));
        queries.extend(first.into_iter().map(|(channel, retention)| PositionQuery {
            channel,
            retention,
            suspected_at: None,
        }));
        self.in_flight += queries.len();
        queries
    }

    /// Compares the positions at the hub and at the broker, and returns whether the channel has a gap. A first
    /// difference is only suspected: it becomes a gap if it is still there after [`CONFIRM_DELAY`] and the hub has not
    /// moved.
    fn has_gap(&mut self, query: &PositionQuery, at_hub: Position, at_broker: Position, now: Instant) -> bool {
        let differs = at_broker.epoch != at_hub.epoch || at_broker.offset > at_hub.offset;
        let is_confirmed = differs && query.suspected_at == Some(at_hub);
        if differs && !is_confirmed {
            let query = PositionQuery { suspected_at: Some(at_hub), ..query.clone() };
            self.suspected_gaps.push(SuspectedGap { query, confirm_at: now + CONFIRM_DELAY });
        }
        is_confirmed
    }
}

impl Hub {
    /// Sends the position queries of one tick.
    pub(super) fn poll_positions(&mut self, ctx: &mut <Self as Actor>::Context) {
        let now = Instant::now();
        if self.position_poller.is_round_due(now) {
            let silent = self.registry.channel_states_mut().filter_map(|(channel, state)| {
                let has_received = std::mem::take(&mut state.received_since_check);
                let retention = state.polled_retention.filter(|_| !has_received)?;
                Some((channel.clone(), retention))
            });
            self.position_poller.start_round(silent.collect(), now);
        }
        for query in self.position_poller.take_queries(now) {
            let broker = self.broker_subscriptions.broker();
            let answer = broker.read_history(query.channel.clone(), HistoryRequest::default(), query.retention);
            ctx.spawn(answer.into_actor(self).map(move |answer, hub, _| hub.handle_position_answer(&query, answer)));
        }
    }

    /// Ends the positioned subscriptions of a channel if the answer confirms a gap.
    fn handle_position_answer(&mut self, query: &PositionQuery, answer: Result<HistoryPage, BrokerError>) {
        self.position_poller.in_flight -= 1;
        // After an error the next round asks again.
        let Ok(HistoryPage { top, .. }) = answer else { return };
        let channel = &query.channel;
        let Some(at_hub) = self.registry.channel_state(channel).and_then(|state| state.position) else { return };
        if !self.position_poller.has_gap(query, at_hub, top, Instant::now()) {
            return;
        }
        log::debug!("found gap by position poll channel={channel:?}");
        self.end_positioned(channel);
        // The other subscriptions stay, and continue at the broker's position.
        if let Some(state) = self.registry.channel_state_mut(channel) {
            state.position = Some(top);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    const RETENTION: Retention =
        Retention { size: 10, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(60) };

    fn position(offset: u64) -> Position {
        Position { offset, epoch: Epoch::parse("AAAAAAAA").unwrap() }
    }

    fn silent_channels(count: usize) -> Vec<(Channel, Retention)> {
        (0..count).map(|number| (Channel::new(&format!("news{number}")).unwrap(), RETENTION)).collect()
    }

    /// Starts a round over one channel that is one publication behind, and returns the query that confirms it.
    fn suspect_gap(poller: &mut PositionPoller, now: Instant) -> PositionQuery {
        poller.start_round(silent_channels(1), now);
        let first = poller.take_queries(now).remove(0);
        assert!(!poller.has_gap(&first, position(5), position(6), now), "a first difference is only suspected");
        let almost = now + CONFIRM_DELAY - Duration::from_millis(1);
        assert!(poller.take_queries(almost).is_empty(), "confirmed before 2 s are over");
        let mut queries = poller.take_queries(now + Duration::from_secs(2));
        assert_eq!(queries.len(), 1);
        queries.remove(0)
    }

    #[test]
    fn gap_is_declared_when_a_difference_lasts_two_seconds() {
        let now = Instant::now();
        let mut poller = PositionPoller::new(Duration::from_secs(10), now);
        let confirming = suspect_gap(&mut poller, now);
        assert!(poller.has_gap(&confirming, position(5), position(6), now));
        assert!(poller.take_queries(now + Duration::from_secs(60)).is_empty(), "a gap is declared once");
    }

    #[test]
    fn late_publication_is_no_gap() {
        let now = Instant::now();
        let mut poller = PositionPoller::new(Duration::from_secs(10), now);
        let confirming = suspect_gap(&mut poller, now);
        assert!(!poller.has_gap(&confirming, position(6), position(6), now));
        assert!(poller.take_queries(now + Duration::from_secs(60)).is_empty());
    }

    #[test]
    fn channel_that_moved_meanwhile_is_suspected_anew() {
        let now = Instant::now();
        let mut poller = PositionPoller::new(Duration::from_secs(10), now);
        let confirming = suspect_gap(&mut poller, now);
        assert!(!poller.has_gap(&confirming, position(6), position(7), now));
        let again = poller.take_queries(now + CONFIRM_DELAY).remove(0);
        assert!(poller.has_gap(&again, position(6), position(7), now));
    }

    #[test]
    fn another_epoch_is_a_gap_and_a_hub_ahead_of_the_broker_is_none() {
        let now = Instant::now();
        let mut poller = PositionPoller::new(Duration::from_secs(10), now);
        let other = Position { offset: 1, epoch: Epoch::parse("BBBBBBBB").unwrap() };
        let [(channel, retention)] = silent_channels(1).try_into().unwrap();
        let query = PositionQuery { channel, retention, suspected_at: Some(position(5)) };
        assert!(poller.has_gap(&query, position(5), other, now));
        assert!(!poller.has_gap(&query, position(5), position(4), now));
    }

    #[test]
    fn round_takes_half_of_the_interval_and_respects_the_limit_in_flight() {
        let now = Instant::now();
        let mut poller = PositionPoller::new(Duration::from_secs(10), now);
        assert!(!poller.is_round_due(now) && poller.is_round_due(now + Duration::from_secs(10)));
        poller.start_round(silent_channels(101), now);
        assert_eq!(poller.take_queries(now).len(), 3, "101 channels in 50 ticks");
        poller.start_round(silent_channels(5000), now);
        assert_eq!(poller.take_queries(now).len(), MAX_IN_FLIGHT - 3);
        assert!(poller.take_queries(now).is_empty());
        assert!(!poller.is_round_due(now + Duration::from_secs(60)), "this round has not ended");
    }
}
