//! What the backend was told, compared with the sessions that there were. There is no I/O here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::backend::ReceivedEvent;
use super::users::Session;

/// A session that began so shortly before its hub was killed may be unknown to the broker (docs/hooks.md).
const UNHEARD: Duration = Duration::from_secs(1);

/// The hub that was killed, and when.
#[derive(Clone, Copy)]
pub(super) struct KilledHub {
    pub(super) hub: usize,
    pub(super) at: Instant,
}

/// What became of the events.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct EventFindings {
    /// Sessions that had begun.
    pub(super) sessions: u64,
    /// Different events that were accepted.
    pub(super) told: u64,
    /// Events that were accepted again, with the same id.
    pub(super) doubled: u64,
    /// Ends that were told under a second id.
    pub(super) ended_twice: u64,
    /// Ends that another node has told, because that of the session was lost.
    pub(super) of_lost_node: u64,
    /// Events of a user that came after one that had happened later, on whatever node.
    pub(super) out_of_order: u64,
    /// Sessions whose end was never told.
    pub(super) not_told: u64,
    /// Sessions of the killed hub that began right before it was killed and of which nothing was told.
    pub(super) unheard: u64,
}

impl EventFindings {
    /// Draws the conclusions.
    pub(super) fn new(sessions: &[Session], events: &[ReceivedEvent], killed: Option<KilledHub>) -> Self {
        let mut findings = Self { sessions: sessions.len() as u64, ..Self::default() };
        let mut ids = HashSet::new();
        let (mut begun, mut ended) = (HashSet::new(), HashSet::new());
        let known: HashSet<&str> = sessions.iter().map(|session| session.client.as_str()).collect();
        let mut newest: HashMap<&str, u64> = HashMap::new();
        for event in events {
            if !ids.insert(event.id.as_str()) {
                findings.doubled += 1;
                continue;
            }
            findings.told += 1;
            let is_first = if event.is_begin { begun.insert(&*event.client) } else { ended.insert(&*event.client) };
            findings.ended_twice += u64::from(!is_first && !event.is_begin);
            let is_late_begin = event.is_begin && ended.contains(&*event.client);
            if event.is_of_lost_node {
                // It is told when the loss is noticed, after sessions that the user has begun elsewhere meanwhile.
                findings.of_lost_node += 1;
            } else {
                let newest = newest.entry(&*event.user).or_default();
                findings.out_of_order += u64::from(event.time < *newest || is_late_begin);
                *newest = event.time.max(*newest);
            }
        }
        for session in sessions.iter().filter(|session| !ended.contains(&*session.client)) {
            let is_unheard = killed.is_some_and(|killed| {
                killed.hub == session.hub && session.begun_at + UNHEARD > killed.at && !begun.contains(&*session.client)
            });
            *(if is_unheard { &mut findings.unheard } else { &mut findings.not_told }) += 1;
        }
        // Sessions that had begun in the hub, but whose reply was lost with it.
        let unanswered = begun.iter().filter(|client| !ended.contains(*client) && !known.contains(*client));
        findings.not_told += unanswered.count() as u64;
        findings
    }

    /// Returns whether something has happened that must not.
    pub(super) fn has_failed(&self) -> bool {
        self.not_told + self.out_of_order > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(client: &str) -> Session {
        Session { client: client.to_owned(), hub: 0, begun_at: Instant::now() }
    }

    /// An event like `+a` (begin) or `-a` (end), `!a` (the end, told for a lost node), all of one user. `a` happens before `b`.
    fn event(text: &str) -> ReceivedEvent {
        let (kind, client) = text.split_at(1);
        ReceivedEvent {
            id: text.to_owned(),
            is_begin: kind == "+",
            client: client.to_owned(),
            user: "bench-0".to_owned(),
            time: 2 * u64::from(client.as_bytes()[0]) + u64::from(kind != "+"),
            is_of_lost_node: kind == "!",
        }
    }

    fn findings(clients: &[&str], events: &[&str], killed: Option<KilledHub>) -> EventFindings {
        let sessions: Vec<_> = clients.iter().map(|client| session(client)).collect();
        let events: Vec<_> = events.iter().map(|text| event(text)).collect();
        EventFindings::new(&sessions, &events, killed)
    }

    #[test]
    fn events_in_order_are_no_fault_and_repeated_ones_are_counted() {
        let usual = EventFindings { sessions: 2, told: 4, ..Default::default() };
        assert_eq!(findings(&["a", "b"], &["+a", "-a", "+b", "-b"], None), usual);
        let doubled = findings(&["a", "b"], &["+a", "-a", "+a", "-a", "+b", "-b"], None);
        assert_eq!(doubled, EventFindings { doubled: 2, ..usual });
        assert!(!doubled.has_failed());
    }

    #[test]
    fn event_after_a_later_one_is_out_of_order_unless_a_lost_node_delayed_it() {
        let out_of_order = |events| findings(&["a", "b"], events, None).out_of_order;
        assert_eq!(out_of_order(&["+a", "+b", "-a", "-b"]), 1);
        assert_eq!(out_of_order(&["-a", "+a", "+b", "-b"]), 1);
        assert_eq!(out_of_order(&["+b", "-b", "+a", "-a"]), 2);
        assert_eq!(out_of_order(&["+a", "+b", "!a", "-b"]), 0);
        assert_eq!(findings(&["a"], &["+a", "-a", "!a"], None).ended_twice, 1);
    }

    #[test]
    fn end_that_is_missing_is_a_fault_unless_the_killed_hub_had_only_just_begun_the_session() {
        let at = Instant::now();
        let killed = |hub, after| Some(KilledHub { hub, at: at + Duration::from_millis(after) });
        let missing = |events: &[&str], killed| {
            let findings = findings(&["a"], events, killed);
            (findings.not_told, findings.unheard)
        };
        assert_eq!(missing(&["+a"], None), (1, 0));
        assert_eq!(missing(&["+a"], killed(0, 100)), (1, 0));
        assert_eq!(missing(&[], killed(0, 100)), (0, 1));
        assert_eq!(missing(&[], killed(1, 100)), (1, 0));
        assert_eq!(missing(&[], killed(0, 5000)), (1, 0));
        assert_eq!(missing(&["+a", "!a", "+x"], killed(0, 100)), (1, 0), "a session whose reply was lost");
    }
}
