//! A timing wheel: names the sessions whose deadline has come, tick by tick. One per hub replaces a timer per
//! connection. Pure.

use std::time::Duration;

use super::SessionKey;

/// Time between two ticks, and so the maximum delay of a deadline.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Ticks of one revolution: 51 s, more than two ping intervals. A session with a later deadline is named once per
/// revolution and scheduled again.
const SLOTS: u64 = 512;

/// A point in the time of a wheel: the number of ticks since its start.
pub(super) type Tick = u64;

/// Sessions by the tick at which they are due.
pub(super) struct TimingWheel {
    slots: Vec<Vec<SessionKey>>,
    now: Tick,
}

impl Default for TimingWheel {
    fn default() -> Self {
        Self { slots: vec![Vec::new(); SLOTS as usize], now: 0 }
    }
}

impl TimingWheel {
    /// Schedules a session `after` this time, or after one revolution if that is sooner, and returns the tick.
    ///
    /// If the session is scheduled already (`scheduled_tick`) for an earlier tick, that entry stays and is returned, so
    /// that a session that changes often has few entries. An entry counts only if its tick is the one that was returned
    /// last; the caller compares them.
    pub(super) fn schedule(&mut self, key: SessionKey, after: Duration, scheduled_tick: Tick) -> Tick {
        let ticks = after.as_millis().div_ceil(TICK.as_millis()).clamp(1, u128::from(SLOTS) - 1);
        let at = self.now + ticks as Tick;
        if scheduled_tick > self.now && scheduled_tick <= at {
            return scheduled_tick;
        }
        self.slots[(at % SLOTS) as usize].push(key);
        at
    }

    /// Advances by one tick, and returns the tick and the sessions that are scheduled for it.
    pub(super) fn advance(&mut self) -> (Tick, Vec<SessionKey>) {
        self.now += 1;
        (self.now, std::mem::take(&mut self.slots[(self.now % SLOTS) as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_up_at_their_tick_and_distant_ones_after_one_revolution() {
        let mut wheel = TimingWheel::default();
        let soon = wheel.schedule(SessionKey(1), Duration::from_millis(250), 0);
        let at_once = wheel.schedule(SessionKey(2), Duration::ZERO, 0);
        let far = wheel.schedule(SessionKey(3), Duration::from_secs(86_400), 0);
        assert_eq!(wheel.schedule(SessionKey(1), Duration::from_secs(1), soon), soon, "the earlier entry stays");
        assert_eq!((soon, at_once, far), (3, 1, SLOTS - 1));
        let mut seen = Vec::new();
        for _ in 0..SLOTS {
            let (tick, keys) = wheel.advance();
            seen.extend(keys.into_iter().map(|key| (tick, key.0)));
        }
        assert_eq!(seen, [(1, 2), (3, 1), (SLOTS - 1, 3)]);
    }
}
