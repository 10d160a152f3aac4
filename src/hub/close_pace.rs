//! Closes sessions whose tokens have ended: a few at once, and many over half a second. The close itself is the smaller part of
//! the work. Each session also wakes up to read the answer of its client and to end, and as many tasks as there are sessions
//! would run before the next request and the next delivery.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{CloseReason, SessionKey};

/// Time over which many sessions are closed. The last one is closed within a second of the end of its token.
const SPREAD: Duration = Duration::from_millis(500);
/// How many sessions are closed at once.
const AT_ONCE: usize = 32;

/// The sessions that wait for their close.
#[derive(Default)]
pub(super) struct PacedCloses {
    waiting: VecDeque<(SessionKey, CloseReason<'static>)>,
    /// Sessions that were taken since `waiting` was empty.
    taken: usize,
    /// Since when `waiting` has not been empty.
    since: Option<Instant>,
}

impl PacedCloses {
    /// Adds a session. Its outbox writes nothing any more.
    pub(super) fn add(&mut self, key: SessionKey, reason: CloseReason<'static>) {
        self.waiting.push_back((key, reason));
    }

    /// Returns whether no session waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a session whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(SessionKey, CloseReason<'static>)> {
        if !self.is_due(now) {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.taken += 1;
        if self.waiting.is_empty() {
            (self.taken, self.since) = (0, None);
        }
        Some(next)
    }

    /// Returns whether the time of a session has come.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let elapsed = now.saturating_duration_since(*self.since.get_or_insert(now));
        let all = self.taken + self.waiting.len();
        let share = elapsed.as_secs_f64() / SPREAD.as_secs_f64();
        self.taken < AT_ONCE + (all as f64 * share) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(count: usize) -> PacedCloses {
        let mut closes = PacedCloses::default();
        (0..count).for_each(|_| closes.add(SessionKey::unique(), CloseReason::REVOKED));
        closes
    }

    fn take_all_due(closes: &mut PacedCloses, now: Instant) -> usize {
        std::iter::from_fn(|| closes.take_due(now)).count()
    }

    #[test]
    fn few_sessions_are_closed_at_once_and_many_over_half_a_second() {
        let start = Instant::now();
        assert_eq!(take_all_due(&mut with(AT_ONCE), start), AT_ONCE);
        let mut closes = with(10_000);
        let counts = [0, 1, 100, 250, 499, 500].map(|millis| {
            let now = start + Duration::from_millis(millis);
            take_all_due(&mut closes, now)
        });
        assert_eq!(counts[0], AT_ONCE);
        assert!(
            counts[1..5].iter().zip([20, 1980, 3000, 4968]).all(|(count, due)| count.abs_diff(due) < 2),
            "{counts:?}"
        );
        assert_eq!((counts.iter().sum::<usize>(), closes.is_empty()), (10_000, true));
        (0..100).for_each(|_| closes.add(SessionKey::unique(), CloseReason::EXPIRED));
        assert_eq!(take_all_due(&mut closes, start + 4 * SPREAD), AT_ONCE, "the pace begins anew");
    }

    #[test]
    fn sessions_that_are_added_meanwhile_are_closed_in_their_turn() {
        let (mut closes, start) = (with(1000), Instant::now());
        assert_eq!(take_all_due(&mut closes, start), AT_ONCE);
        (0..1000).for_each(|_| closes.add(SessionKey::unique(), CloseReason::EXPIRED));
        let half = start + SPREAD / 2;
        assert_eq!(take_all_due(&mut closes, half), 1000);
        assert!(closes.take_due(half).is_none());
        assert_eq!(take_all_due(&mut closes, start + SPREAD), 1000 - AT_ONCE);
        assert!(closes.is_empty());
    }
}
