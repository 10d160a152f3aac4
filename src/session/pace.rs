//! How fast a client may go: a token bucket in one number (the generic cell rate algorithm). Pure but for the clock.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// So many seconds' worth may come at once: SDKs subscribe to all of their channels in one frame after a reconnect.
const BURST_SECONDS: u64 = 2;

/// When the next one would be due if they came evenly, in microseconds since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace(u64);

/// What is to be thought of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Haste {
    /// It is fine.
    None,
    /// Over the limit: this one is not done.
    Over,
    /// It has gone on for as long again: whoever does that does not listen.
    Flood,
}

impl Pace {
    /// One more, of at most `per_second`; 0 is no limit.
    pub(super) fn take(&mut self, per_second: u32) -> Haste {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.take_at(START.elapsed(), per_second)
    }

    fn take_at(&mut self, now: Duration, per_second: u32) -> Haste {
        const SECOND: u64 = 1_000_000;
        if per_second == 0 {
            return Haste::None;
        }
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let ahead = (self.0.max(now) - now) + SECOND / u64::from(per_second);
        // A debt has an end: who slows down is served again within the time of two bursts.
        self.0 = now + ahead.min(2 * BURST_SECONDS * SECOND);
        match ahead {
            ahead if ahead <= BURST_SECONDS * SECOND => Haste::None,
            ahead if ahead <= 2 * BURST_SECONDS * SECOND => Haste::Over,
            _ => Haste::Flood,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_only_the_rate_then_it_is_a_flood() {
        let (mut pace, second) = (Pace::default(), Duration::from_secs(1));
        let hastes: Vec<Haste> = (0..50).map(|_| pace.take_at(second, 10)).collect();
        assert!(hastes.is_sorted());
        let count = |of: Haste| hastes.iter().filter(|haste| **haste == of).count();
        assert_eq!((count(Haste::None), count(Haste::Over), count(Haste::Flood)), (20, 20, 10));
        assert_eq!(pace.take_at(second * 3, 10), Haste::Over, "it goes on being paid off");
        assert_eq!(pace.take_at(second * 8, 10), Haste::None);
        assert_eq!(Pace::default().take_at(second, 0), Haste::None);
    }
}
