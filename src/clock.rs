//! Wall-clock time, as tokens use it. Tests move it. The system may move it, too; the hub notices that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A point in time, in milliseconds since the epoch, or a length of time. A plain number, so that an expiry check is one
/// comparison.
pub type Millis = i64;

/// Later than any deadline: the expiry of whatever never expires.
pub const NEVER: Millis = Millis::MAX;

/// The system's clock, shifted by an offset that all clones share.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_millis: Arc<AtomicI64>,
}

impl Clock {
    /// Returns the current time.
    pub fn now(&self) -> Millis {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(since_epoch).saturating_add(self.offset_millis.load(Ordering::Relaxed))
    }

    /// Moves this clock and its clones forward. Tests use it instead of waiting.
    pub fn advance(&self, by: Duration) {
        self.offset_millis.fetch_add(millis(by), Ordering::Relaxed);
    }

    /// Moves this clock and its clones back, as an administrator or NTP may.
    pub fn set_back(&self, by: Duration) {
        self.offset_millis.fetch_sub(millis(by), Ordering::Relaxed);
    }
}

/// Converts a duration to whole milliseconds, saturating.
pub fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// Formats a duration as the configuration does: "24h", not "1day".
pub fn format_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 3600 && seconds % 3600 == 0 && seconds <= 48 * 3600 => format!("{}h", seconds / 3600),
        _ => humantime::format_duration(duration).to_string(),
    }
}
