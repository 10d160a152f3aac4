//! A call that the backend refuses, and for how long it has refused it. Pure.

use std::time::{Duration, Instant};

use crate::broker::event_outbox::EntryId;

/// A refused call of a lane. It is repeated with the same events: later ones have been refused by no call, and wait.
pub(super) struct RefusedCall {
    /// Its last event.
    last: EntryId,
    /// Maximum time between two refusals that follow each other. A process that was frozen for longer learns nothing from it.
    longest_gap: Duration,
    age: Duration,
    /// When it was refused. `None`: since then a call has failed.
    refused_at: Option<Instant>,
}

impl RefusedCall {
    pub(super) fn new(last: EntryId, longest_gap: Duration) -> Self {
        Self { last, longest_gap, age: Duration::ZERO, refused_at: None }
    }

    /// Notes that the backend has refused it.
    pub(super) fn note_refused(&mut self, now: Instant) {
        let since = self.refused_at.replace(now).unwrap_or(now);
        self.age += now.saturating_duration_since(since).min(self.longest_gap);
    }

    /// Notes that it could not be sent, or that the backend has failed: until the next refusal it does not age.
    pub(super) fn note_failed(&mut self) {
        self.refused_at = None;
    }

    /// Returns for how long the backend has refused it, without the times for which the backend was away.
    pub(super) fn age(&self) -> Duration {
        self.age
    }

    /// Returns whether the first of these events is one of the call.
    pub(super) fn has_first_of(&self, events: &[(EntryId, String)]) -> bool {
        events.first().is_some_and(|(id, _)| *id <= self.last)
    }

    /// Returns those of the events that the call has.
    pub(super) fn part_of<'a>(&self, events: &'a [(EntryId, String)]) -> &'a [(EntryId, String)] {
        &events[..events.partition_point(|(id, _)| *id <= self.last)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::event_outbox::entry_id;

    #[test]
    fn call_ages_only_while_the_backend_refuses_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut call = RefusedCall::new(entry_id(1), Duration::from_secs(20));
        let mut age_after = |seconds, is_refused| {
            if is_refused {
                call.note_refused(at(seconds))
            } else {
                call.note_failed()
            }
            call.age().as_secs()
        };
        assert_eq!([age_after(0, true), age_after(10, true), age_after(20, true)], [0, 10, 20]);
        // The backend is down for an hour.
        assert_eq!([age_after(30, false), age_after(3600, false), age_after(3630, true)], [20, 20, 20]);
        assert_eq!(age_after(3640, true), 30);
        // The process is frozen for an hour.
        assert_eq!(age_after(7240, true), 50);
    }

    #[test]
    fn call_is_repeated_without_later_events_and_ends_with_its_last_one() {
        let events: Vec<(EntryId, String)> = (3..9).map(|number| (entry_id(number), String::new())).collect();
        let call = RefusedCall::new(entry_id(5), Duration::from_secs(1));
        assert_eq!(call.part_of(&events).len(), 3);
        assert_eq!(call.part_of(&events[2..]).len(), 1);
        assert!(call.has_first_of(&events[2..]) && !call.has_first_of(&events[3..]) && !call.has_first_of(&[]));
    }
}
