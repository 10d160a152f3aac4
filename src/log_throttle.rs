//! Limits how often a log line is written that clients can cause as often as they like.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Counts what happens, and lets one log line pass per interval.
pub struct LogThrottle {
    interval: Duration,
    /// What has happened since the last line, and when that was written.
    state: Mutex<(u64, Option<Instant>)>,
}

impl LogThrottle {
    /// Creates a throttle that lets the first line pass.
    pub fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::default() }
    }

    /// Counts one more. Returns how many to log now, unless the last log line was just written.
    pub fn count(&self, now: Instant) -> Option<u64> {
        let (count, last_logged) = &mut *self.state.lock();
        *count += 1;
        if last_logged.is_some_and(|last| now.duration_since(last) < self.interval) {
            return None;
        }
        *last_logged = Some(now);
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_logged_once_per_interval_with_its_number() {
        let (throttle, start) = (LogThrottle::new(Duration::from_secs(1)), Instant::now());
        let logged = |millis| throttle.count(start + Duration::from_millis(millis));
        let lines: Vec<_> = (0..3000).filter_map(|millis| logged(millis).map(|count| (millis, count))).collect();
        assert_eq!(lines, [(0, 1), (1000, 1000), (2000, 1000)]);
    }
}
