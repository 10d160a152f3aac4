//! The two clocks. Tokens and subscriptions expire by the wall clock, because their issuers chose a date: `exp`, `nbf`, `iat`,
//! `expire_at`, `not_after`. NTP, an administrator or a resumed machine may step it in either direction. By the monotonic clock
//! everything else expires that has a length: presence, histories, idempotency keys, tickets, delays, timeouts. Nothing steps
//! it. The times of the two clocks have different types, so that they cannot be mixed; only this file reads the system's wall
//! clock.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A point in time of the wall clock, in milliseconds since 1970 (Unix time): a date, never a length of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(i64);

/// From this number on a date in seconds is taken for milliseconds: in seconds it is in the year 5138, in milliseconds in 1973.
pub const FIRST_MILLISECONDS: i64 = 100_000_000_000;

/// Later than any date: the expiry of whatever never expires.
pub const NEVER: WallTime = WallTime(i64::MAX);

impl WallTime {
    /// The end of the year 9999, after which RFC 3339 has no dates.
    pub const LATEST_DATE: Self = Self::from_unix_seconds(253_402_300_799);

    /// Creates a time from milliseconds since 1970.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Creates a time from seconds since 1970.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Parses a time in the format of RFC 3339; `None` if it has another format. Earlier than 1970 is 1970.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        humantime::parse_rfc3339_weak(text).ok().map(Self::from)
    }

    /// Returns the milliseconds since 1970.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since 1970, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Returns the time from `earlier` to this time; zero if `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// Returns the time in the format of RFC 3339, with milliseconds.
    pub fn with_millis(self) -> impl fmt::Display {
        let millis = self.min(Self::LATEST_DATE).unix_millis().max(0).unsigned_abs();
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// Returns the date that a duration after this one has.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(duration)))
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        Self(whole_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

/// RFC 3339, in whole seconds, from 1970 to [`WallTime::LATEST_DATE`].
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = (*self).min(Self::LATEST_DATE).unix_seconds().max(0).unsigned_abs();
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).fmt(f)
    }
}

/// A point in time of the monotonic clock, in milliseconds since the start of a [`Clock`]. Half the size of an [`Instant`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonotonicTime(u64);

impl MonotonicTime {
    /// The start of the clock.
    pub const START: Self = Self(0);

    /// Returns the milliseconds since the start of the clock.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Creates a time from milliseconds since the start of the clock.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the time from `earlier` to this time; zero if `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns the point in time that is a duration after this one.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(duration).unsigned_abs()))
    }
}

/// The system's clocks. Tests move them; the clones of a clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Arc<ClockState>);

#[derive(Debug)]
struct ClockState {
    start: Instant,
    /// How far tests have moved the wall clock, in milliseconds.
    wall_offset: AtomicI64,
    /// How far tests have moved the monotonic clock, in milliseconds.
    monotonic_offset: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        let (wall_offset, monotonic_offset) = Default::default();
        Self(Arc::new(ClockState { start: Instant::now(), wall_offset, monotonic_offset }))
    }
}

impl Clock {
    /// Returns the time of the wall clock.
    pub fn now(&self) -> WallTime {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        let WallTime(millis) = SystemTime::now().into();
        WallTime(millis.saturating_add(self.0.wall_offset.load(Ordering::Relaxed)))
    }

    /// Returns the time of the monotonic clock.
    pub fn monotonic_now(&self) -> MonotonicTime {
        let since_start = whole_millis(self.0.start.elapsed()).unsigned_abs();
        MonotonicTime(since_start.saturating_add(self.0.monotonic_offset.load(Ordering::Relaxed)))
    }

    /// Lets time pass: moves both clocks forward. Tests use it instead of waiting.
    pub fn advance(&self, by: Duration) {
        self.0.monotonic_offset.fetch_add(whole_millis(by).unsigned_abs(), Ordering::Relaxed);
        self.step_forward(by);
    }

    /// Moves the wall clock forward, and not the monotonic one, as an administrator, NTP or a resumed machine may.
    pub fn step_forward(&self, by: Duration) {
        self.0.wall_offset.fetch_add(whole_millis(by), Ordering::Relaxed);
    }

    /// Moves the wall clock back, and not the monotonic one.
    pub fn step_back(&self, by: Duration) {
        self.0.wall_offset.fetch_sub(whole_millis(by), Ordering::Relaxed);
    }
}

/// Returns the whole milliseconds of a duration, saturating.
fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Formats a duration as the configuration does: "24h", not "1day".
pub fn format_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 3600 && seconds % 3600 == 0 && seconds <= 48 * 3600 => format!("{}h", seconds / 3600),
        _ => humantime::format_duration(duration).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn steps_of_the_wall_clock_do_not_move_the_monotonic_clock() {
        let clock = Clock::default();
        let (wall, monotonic) = (clock.now(), clock.monotonic_now());
        clock.clone().step_forward(MINUTE);
        assert!(clock.now().saturating_duration_since(wall) >= MINUTE);
        assert!(clock.monotonic_now().saturating_duration_since(monotonic) < MINUTE);
        clock.step_back(2 * MINUTE);
        assert!(clock.now() < wall && clock.monotonic_now() >= monotonic);
    }

    #[test]
    fn time_that_passes_moves_both_clocks() {
        let clock = Clock::default();
        let (wall, monotonic) = (clock.now(), clock.monotonic_now());
        clock.clone().advance(MINUTE);
        assert!(clock.now() >= wall.saturating_add(MINUTE));
        assert!(clock.monotonic_now() >= monotonic.saturating_add(MINUTE));
    }

    #[test]
    fn dates_are_read_and_written_as_rfc_3339() {
        let date = WallTime::parse_rfc3339("2027-01-02T03:04:05Z").expect("a date");
        assert_eq!((date.unix_seconds(), date.to_string().as_str()), (1_798_859_045, "2027-01-02T03:04:05Z"));
        assert_eq!(
            date.saturating_add(Duration::from_millis(67)).with_millis().to_string(),
            "2027-01-02T03:04:05.067Z"
        );
        assert_eq!(WallTime::parse_rfc3339("tomorrow"), None);
        assert_eq!(NEVER.to_string(), "9999-12-31T23:59:59Z");
    }
}
