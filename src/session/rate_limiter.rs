//! Limits how fast a client may send commands: a token bucket in one number. Pure, apart from the clock.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use crate::rate_limit::Gcra;

/// A client may send commands for this time, in nanoseconds, at once: SDKs subscribe to all of their channels in one frame
/// after a reconnect.
const BURST: u64 = 2_000_000_000;

/// A client's bucket: nanoseconds since the process began at which it will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimiter(u64);

/// What a rate limit says of one more command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RateVerdict {
    /// Within the limit.
    Allowed,
    /// Over the limit: the command is refused.
    Limited,
    /// Over the limit for as long again: the client ignores refusals.
    Flooding,
}

impl RateLimiter {
    /// Counts one more command, of at most `per_second`; 0 means no limit.
    pub(super) fn charge(&mut self, per_second: u32) -> RateVerdict {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.charge_at(START.elapsed(), per_second)
    }

    fn charge_at(&mut self, now: Duration, per_second: u32) -> RateVerdict {
        let Some(interval) = Gcra::interval(per_second) else { return RateVerdict::Allowed };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let (full_at, wait) = Gcra { interval, burst: BURST }.charge(self.0, now);
        // Refused commands count too, up to a limit: a client that slows down is served again within the time of two bursts.
        self.0 = full_at.min(now.saturating_add(2 * BURST));
        match wait {
            0 => RateVerdict::Allowed,
            1..=BURST => RateVerdict::Limited,
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
