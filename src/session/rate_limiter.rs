//! How fast a client may go: a token bucket in one number (the generic cell rate algorithm). Pure but for the clock.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// So many seconds' worth may come at once: SDKs subscribe to all of their channels in one frame after a reconnect.
const BURST_SECONDS: u64 = 2;

/// When the next one would be due if they came evenly, in microseconds since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimiter(u64);

/// What is to be thought of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RateVerdict {
    /// It is fine.
    Allowed,
    /// Over the limit: this one is not done.
    Limited,
    /// It has gone on for as long again: whoever does that does not listen.
    Flooding,
}

impl RateLimiter {
    /// One more, of at most `per_second`; 0 is no limit.
    pub(super) fn charge(&mut self, per_second: u32) -> RateVerdict {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.charge_at(START.elapsed(), per_second)
    }

    fn charge_at(&mut self, now: Duration, per_second: u32) -> RateVerdict {
        const SECOND: u64 = 1_000_000;
        if per_second == 0 {
            return RateVerdict::Allowed;
        }
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let ahead = (self.0.max(now) - now) + SECOND / u64::from(per_second);
        // A debt has an end: who slows down is served again within the time of two bursts.
        self.0 = now + ahead.min(2 * BURST_SECONDS * SECOND);
        match ahead {
            ahead if ahead <= BURST_SECONDS * SECOND => RateVerdict::Allowed,
            ahead if ahead <= 2 * BURST_SECONDS * SECOND => RateVerdict::Limited,
            _ => RateVerdict::Flooding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_allowed_then_limited_then_flooding() {
        let (mut limiter, second) = (RateLimiter::default(), Duration::from_secs(1));
        let verdicts: Vec<RateVerdict> = (0..50).map(|_| limiter.charge_at(second, 10)).collect();
        assert!(verdicts.is_sorted());
        let count = |of: RateVerdict| verdicts.iter().filter(|verdict| **verdict == of).count();
        assert_eq!(
            (count(RateVerdict::Allowed), count(RateVerdict::Limited), count(RateVerdict::Flooding)),
            (20, 20, 10)
        );
        assert_eq!(limiter.charge_at(second * 3, 10), RateVerdict::Limited, "it goes on being paid off");
        assert_eq!(limiter.charge_at(second * 8, 10), RateVerdict::Allowed);
        assert_eq!(RateLimiter::default().charge_at(second, 0), RateVerdict::Allowed);
    }
}
