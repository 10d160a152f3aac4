//! The live traces of this node. Hubs note events while there is a trace, and only those that it is for; without one, an event costs
//! one load of a flag. Each trace keeps a limited number of bytes until it is asked for them.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Hub, SessionKey, delivery::Delivery};
use crate::{
    broker::{NodeTrace, TraceEvent, TraceEventKind, TraceQuery, TraceTarget},
    channel::Channel,
};

/// Maximum traces of a node. Above it: the trace is refused.
const MAX_TRACES: usize = 64;
/// Maximum bytes of events that wait for one trace. Above it they are dropped and counted.
const MAX_WAITING_BYTES: usize = 256 * 1024;
/// A trace ends when no node has asked for its events for this long.
const MAX_SILENCE: Duration = Duration::from_secs(5);

/// The traces of a node, shared by its hubs.
#[derive(Default)]
pub(super) struct Traces {
    /// There may be a trace. Hubs look at nothing else while there is none.
    is_active: AtomicBool,
    is_stopping: AtomicBool,
    running: Mutex<HashMap<String, RunningTrace>>,
}

struct RunningTrace {
    target: TraceTarget,
    asked_at: Instant,
    events: VecDeque<(u64, TraceEvent)>,
    waiting_bytes: usize,
    last_number: u64,
    dropped: u64,
}

impl RunningTrace {
    fn is_for(&self, event: &TraceEvent) -> bool {
        match &self.target {
            TraceTarget::User(user) => event.user.as_ref() == Some(user),
            TraceTarget::Client(client) => event.client.as_ref() == Some(client),
            TraceTarget::Channel(channel) => event.channel.as_ref() == Some(channel),
        }
    }

    fn add(&mut self, event: TraceEvent) {
        self.last_number += 1;
        let bytes = event.cost_bytes();
        if self.waiting_bytes + bytes > MAX_WAITING_BYTES {
            self.dropped += 1;
            return;
        }
        self.waiting_bytes += bytes;
        self.events.push_back((self.last_number, event));
    }

    fn forget_up_to(&mut self, number: u64) {
        while let Some((_, event)) = self.events.pop_front_if(|(first, _)| *first <= number) {
            self.waiting_bytes -= event.cost_bytes();
        }
    }
}

impl Traces {
    /// Returns whether events have to be noted.
    pub(super) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    /// Has all traces end, because the node stops.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Adds an event to the traces that it is for.
    pub(super) fn note(&self, event: &TraceEvent) {
        let mut running = self.running.lock();
        self.end_silent(&mut running);
        running.values_mut().filter(|trace| trace.is_for(event)).for_each(|trace| trace.add(event.clone()));
    }

    /// Returns the events of a trace that have not been received, and begins the trace if there is none.
    pub(super) fn collect(&self, query: TraceQuery, node: &str) -> NodeTrace {
        let mut running = self.running.lock();
        self.end_silent(&mut running);
        let is_stopping = self.is_stopping.load(Ordering::Relaxed);
        if running.len() >= MAX_TRACES && !running.contains_key(&query.id) {
            return NodeTrace { is_refused: true, is_stopping, ..NodeTrace::default() };
        }
        let received = query.received.get(node).copied().unwrap_or_default();
        let trace = running.entry(query.id).or_insert_with(|| RunningTrace {
            target: query.target,
            asked_at: Instant::now(),
            events: VecDeque::new(),
            waiting_bytes: 0,
            // A trace that goes on was forgotten here meanwhile. What it lacks is unknown, and at least not nothing.
            last_number: received,
            dropped: u64::from(received > 0),
        });
        trace.asked_at = Instant::now();
        trace.forget_up_to(received);
        self.is_active.store(true, Ordering::Relaxed);
        let events = trace.events.iter().cloned().collect();
        NodeTrace { events, dropped: std::mem::take(&mut trace.dropped), is_refused: false, is_stopping }
    }

    fn end_silent(&self, running: &mut HashMap<String, RunningTrace>) {
        running.retain(|_, trace| trace.asked_at.elapsed() < MAX_SILENCE);
        self.is_active.store(!running.is_empty(), Ordering::Relaxed);
    }
}

impl Hub {
    /// Notes an event of a session, if there is a trace. `detail` adds what the event has beside the session.
    pub(super) fn trace_session(
        &self,
        key: SessionKey,
        kind: TraceEventKind,
        channel: Option<&Channel>,
        detail: impl FnOnce(&mut TraceEvent),
    ) {
        if !self.traces.is_active() {
            return;
        }
        let mut event = TraceEvent::new(kind, self.clock.now().unix_millis());
        event.client = self.registry.session(key).map(|session| session.client.to_string());
        event.user = self.registry.user(key).map(|user| user.to_string());
        event.channel = channel.map(|channel| channel.as_str().to_owned());
        detail(&mut event);
        self.traces.note(&event);
    }

    /// Notes that a publication was queued to subscribers, if there is a trace.
    pub(super) fn trace_delivery(&self, delivery: &Delivery, num_clients: u64) {
        let Some(publication) = delivery.publication().filter(|_| self.traces.is_active()) else { return };
        let mut event = TraceEvent::new(TraceEventKind::Delivered, self.clock.now().unix_millis());
        event.channel = Some(publication.channel.as_str().to_owned());
        event.offset = publication.position.map(|position| position.offset);
        event.bytes = Some(publication.data.len() as u64);
        event.num_clients = Some(num_clients);
        self.traces.note(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(id: &str, received: u64) -> TraceQuery {
        let received = [("node".to_owned(), received)].into();
        TraceQuery { id: id.to_owned(), target: TraceTarget::User("ann".to_owned()), received }
    }

    fn event(user: &str, reason: &str) -> TraceEvent {
        let (user, reason) = (Some(user.to_owned()), Some(reason.to_owned()));
        TraceEvent { user, reason, ..TraceEvent::new(TraceEventKind::Connected, 0) }
    }

    fn numbers(trace: &NodeTrace) -> Vec<u64> {
        trace.events.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn events_are_kept_until_they_have_been_received() {
        let traces = Traces::default();
        assert!(!traces.is_active());
        assert!(traces.collect(query("1", 0), "node").events.is_empty());
        assert!(traces.is_active());
        [event("ann", "a"), event("bob", "b"), event("ann", "c")].iter().for_each(|event| traces.note(event));
        assert_eq!(numbers(&traces.collect(query("1", 0), "node")), [1, 2]);
        assert_eq!(numbers(&traces.collect(query("1", 0), "node")), [1, 2], "the answer was lost");
        assert_eq!(numbers(&traces.collect(query("1", 1), "node")), [2]);
        assert!(traces.collect(query("1", 2), "node").events.is_empty());
    }

    #[test]
    fn trace_that_was_forgotten_goes_on_and_says_that_something_is_missing() {
        let traces = Traces::default();
        assert_eq!(traces.collect(query("1", 5), "node").dropped, 1);
        traces.note(&event("ann", "a"));
        let trace = traces.collect(query("1", 5), "node");
        assert_eq!((numbers(&trace), trace.dropped), (vec![6], 0));
    }

    #[test]
    fn trace_that_nobody_asks_for_ends_with_the_next_event() {
        let traces = Traces::default();
        traces.collect(query("1", 0), "node");
        let asked_at = Instant::now().checked_sub(MAX_SILENCE).unwrap();
        traces.running.lock().values_mut().for_each(|trace| trace.asked_at = asked_at);
        assert!(traces.is_active());
        traces.note(&event("ann", "a"));
        assert!(!traces.is_active() && traces.running.lock().is_empty());
    }

    #[test]
    fn events_above_the_limit_are_dropped_and_counted_and_traces_above_theirs_refused() {
        let traces = Traces::default();
        traces.collect(query("1", 0), "node");
        let long = "x".repeat(MAX_WAITING_BYTES / 4);
        (0..10).for_each(|_| traces.note(&event("ann", &long)));
        let trace = traces.collect(query("1", 0), "node");
        assert_eq!((trace.events.len(), trace.dropped), (3, 7));
        assert_eq!(traces.collect(query("1", 3), "node").dropped, 0);
        traces.note(&event("ann", "room again"));
        assert_eq!(numbers(&traces.collect(query("1", 3), "node")), [11]);
        for number in 0..MAX_TRACES + 5 {
            assert_eq!(
                traces.collect(query(&format!("other {number}"), 0), "node").is_refused,
                number >= MAX_TRACES - 1
            );
        }
        traces.stop();
        assert!(traces.collect(query("1", 0), "node").is_stopping);
    }
}
