//! The monotonic clock of this program, in nanoseconds since its first use: small enough to be sent inside a publication.
//! And the wall clock, for the dates in tokens.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a run waits for any progress before it ends with an error: longer than any delay worth measuring.
pub(crate) const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call. A `u64` of them lasts 584 years.
pub(crate) fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// Seconds since 1970, for the dates in tokens and reports.
#[expect(clippy::disallowed_methods, reason = "the one place of this program that reads the wall clock")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Nanoseconds since 1970, to compare the clock of this program with the dates of tokens.
#[expect(clippy::disallowed_methods, reason = "the one place of this program that reads the wall clock")]
pub(crate) fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Seconds since 1970 as date and time of UTC, such as `2026-11-27T14:00:00Z`.
pub(crate) fn format_utc(unix_seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_seconds)).to_string()
}

/// Sleeps. Only for the time that a server needs to start, or to settle before its memory is read, which no event announces.
#[expect(
    clippy::disallowed_methods,
    reason = "only threads call this that have nothing to read meanwhile: the main thread while nothing is measured, and a publisher until its next publication is due"
)]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}
