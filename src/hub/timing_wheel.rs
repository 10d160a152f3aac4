//! One timing wheel per hub instead of a timer per connection: what is due is looked up by time, a tick at a time. Pure.

use std::time::Duration;

use super::SessionKey;

/// How often the wheel turns, and so how late anything may be.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Ticks that a turn takes: 51 s, more than two ping intervals. What is due later comes by earlier and is put back.
const SLOTS: u64 = 512;

/// A wheel's time: ticks since it began.
pub(super) type Tick = u64;

/// Sessions by the tick at which somebody should look at them.
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
    /// Puts a session where it will be looked at `after` that time, or at the end of a turn if that is sooner. Tells when.
    /// If it stands somewhere already (`scheduled_tick`) and that comes first, it stays there: however often a session changes, it
    /// has few places. Of several, the last told counts; whoever looks compares.
    pub(super) fn schedule(&mut self, key: SessionKey, after: Duration, scheduled_tick: Tick) -> Tick {
        let ticks = after.as_millis().div_ceil(TICK.as_millis()).clamp(1, u128::from(SLOTS) - 1);
        let at = self.now + ticks as Tick;
        if scheduled_tick > self.now && scheduled_tick <= at {
            return scheduled_tick;
        }
        self.slots[(at % SLOTS) as usize].push(key);
        at
    }

    /// Turns by one tick and gives what stands there.
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
        assert_eq!(wheel.schedule(SessionKey(1), Duration::from_secs(1), soon), soon, "what comes first stays");
        assert_eq!((soon, at_once, far), (3, 1, SLOTS - 1));
        let mut seen = Vec::new();
        for _ in 0..SLOTS {
            let (tick, keys) = wheel.advance();
            seen.extend(keys.into_iter().map(|key| (tick, key.0)));
        }
        assert_eq!(seen, [(1, 2), (3, 1), (SLOTS - 1, 3)]);
    }
}
