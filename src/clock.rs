//! Wall-clock time, as tokens count it. Tests move it; the system moves it too, and Wardcast notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A point in time, in milliseconds since the epoch. Plain, so that a check of expiry is one compare.
pub type Millis = i64;

/// Later than any deadline: what never expires.
pub const NEVER: Millis = Millis::MAX;

/// The system's clock, shifted by an offset that all clones share.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_millis: Arc<AtomicI64>,
}

impl Clock {
    /// Now.
    pub fn now(&self) -> Millis {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(since_epoch).saturating_add(self.offset_millis.load(Ordering::Relaxed))
    }

    /// Moves this clock and its clones forward; what a test does instead of waiting.
    pub fn advance(&self, by: Duration) {
        self.offset_millis.fetch_add(millis(by), Ordering::Relaxed);
    }

    /// Moves this clock and its clones back, as an administrator or NTP may.
    pub fn set_back(&self, by: Duration) {
        self.offset_millis.fetch_sub(millis(by), Ordering::Relaxed);
    }
}

/// A duration in whole milliseconds, saturating.
pub fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
