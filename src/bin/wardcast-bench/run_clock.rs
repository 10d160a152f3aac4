//! The run's monotonic clock: nanoseconds since start, small enough to travel inside a publication.

use std::time::{Duration, Instant};

/// How long a run waits for anything to move before it is given up: longer than any hiccup worth measuring.
pub(crate) const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits so long, for a server to come to rest before it is weighed: there is no event that tells.
#[expect(
    clippy::disallowed_methods,
    reason = "the conductor of a run has nothing else to do; no connection waits for it"
)]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// A monotonic clock all threads share; its readings compare only within this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunClock(Instant);

impl RunClock {
    /// A clock that begins now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the clock was started (a u64 lasts 584 years).
    pub(crate) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
