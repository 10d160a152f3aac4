//! A circuit breaker: it stops calls to a backend that fails, and lets one through now and then to see whether it works again.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::MonotonicTime;

/// Opens after a number of consecutive failures.
pub(super) struct CircuitBreaker {
    max_failures: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    /// Before this time no call passes. One passes after it, and moves it: a caller may leave without a result.
    closed_until: Option<MonotonicTime>,
}

/// A change of state that a result has caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// No call passes for the pause.
    Opened,
    /// Calls pass again.
    Recovered,
}

impl CircuitBreaker {
    pub(super) fn new(max_failures: u32, pause: Duration) -> Self {
        Self { max_failures, pause, state: Mutex::default() }
    }

    /// Returns whether a call may begin.
    pub(super) fn admits(&self, now: MonotonicTime) -> bool {
        let mut state = self.state.lock();
        match state.closed_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.closed_until = Some(now.saturating_add(self.pause));
                true
            }
        }
    }

    /// Notes the result of a call.
    pub(super) fn record(&self, succeeded: bool, now: MonotonicTime) -> Option<Transition> {
        let mut state = self.state.lock();
        let was_open = state.closed_until.is_some();
        if succeeded {
            *state = State::default();
            return was_open.then_some(Transition::Recovered);
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.max_failures {
            state.closed_until = Some(now.saturating_add(self.pause));
        }
        (!was_open && state.closed_until.is_some()).then_some(Transition::Opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_millis(millis)
    }

    #[test]
    fn breaker_opens_after_consecutive_failures_and_probes_once_a_pause() {
        let breaker = CircuitBreaker::new(2, Duration::from_millis(100));
        assert_eq!(breaker.record(false, at(0)), None);
        assert_eq!(breaker.record(true, at(0)), None);
        assert_eq!(breaker.record(false, at(0)), None);
        assert!(breaker.admits(at(0)));
        assert_eq!(breaker.record(false, at(0)), Some(Transition::Opened));
        assert!(!breaker.admits(at(99)));
        // One call passes. Its caller leaves without a result: another passes after the next pause.
        assert!(breaker.admits(at(100)));
        assert!(!breaker.admits(at(199)));
        assert!(breaker.admits(at(200)));
        assert_eq!(breaker.record(false, at(210)), None);
        assert!(!breaker.admits(at(309)));
        assert!(breaker.admits(at(310)));
        assert_eq!(breaker.record(true, at(320)), Some(Transition::Recovered));
        assert!(breaker.admits(at(320)) && breaker.admits(at(320)));
    }
}
