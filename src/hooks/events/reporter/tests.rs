//! Tests of the reporter.

use super::*;
use crate::config::{Config, HookEndpoint};

impl EventReporter {
    /// Has the next encodings panic, so many of them.
    pub(in crate::hooks::events) fn panic_when_encoding(&self, times: usize) {
        self.encode_panics.store(times, Ordering::Relaxed);
    }

    pub(super) fn panic_if_due(&self) {
        let is_due =
            self.encode_panics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| times.checked_sub(1));
        assert!(is_due.is_err(), "a fault of the test");
    }

    fn take_entries(&self, lane: usize, max: usize) -> Vec<OutboxEntry> {
        self.encode(&self.take(lane, max))
    }
}

/// Takes all entries of all lanes, `max` at once.
fn take_all(reporter: &EventReporter, max: usize) -> Vec<OutboxEntry> {
    let mut taken = Vec::new();
    for lane in 0..EVENT_LANES {
        while reporter.has_entries(lane) {
            taken.extend(reporter.take_entries(lane, max));
        }
    }
    taken
}

#[test]
fn channels_that_come_and_go_while_the_broker_takes_nothing_are_not_kept() {
    let mut config = Config::default().hooks;
    config.events.endpoint = HookEndpoint::parse("http://localhost/events").ok();
    config.events.types = vec![EventType::Occupied, EventType::Vacated];
    config.events.queue = 100;
    let reporter = EventReporter::from_config(&config, "node", &Clock::default(), &Arc::default()).unwrap();
    let channel = |number: usize| Channel::new(&format!("channel {number}")).unwrap();
    for number in 0..20_000 {
        reporter.channel_occupied(&channel(number));
        reporter.channel_vacated(&channel(number));
    }
    // This one stays.
    reporter.channel_occupied(&channel(7_000_000));
    let state = reporter.state.lock();
    for [channels, changed, vacant] in state.lanes.iter().map(|lane| lane.channels.lengths()) {
        // An eighth of 100, and the one that stays.
        assert!(channels <= 15 && vacant <= 15, "{channels} {vacant}");
        assert!(changed <= 200, "{changed}");
    }
    drop(state);
    let told = take_all(&reporter, 50);
    let stays = |entry: &&OutboxEntry| entry.change == OutboxChange::OccupyChannel(channel(7_000_000));
    assert_eq!(told.iter().filter(stays).count(), 1);
}

#[test]
fn session_whose_end_was_dropped_while_its_begin_waits_is_not_stored_as_open() {
    for (types, events) in [(vec![EventType::Connect, EventType::Disconnect], 1), (vec![EventType::Disconnect], 0)] {
        let mut config = Config::default().hooks;
        config.events.endpoint = HookEndpoint::parse("http://localhost/events").ok();
        (config.events.types, config.events.queue) = (types, 1);
        let reporter = EventReporter::from_config(&config, "node", &Clock::default(), &Arc::default()).unwrap();
        let (client, user, address) = (Uuid::from_u128(1), Arc::from("ann"), IpAddr::from([127, 0, 0, 1]));
        let (transport, protocol) = ("websocket", "json");
        let open = || reporter.session_opened(&ReportedSession { client, user: &user, transport, protocol, address });
        open();
        reporter.session_ended(client, None, "");
        let taken = take_all(&reporter, 10);
        assert_eq!(taken.len(), events);
        assert!(taken.iter().all(|entry| entry.change == OutboxChange::None), "{taken:?}");
        assert!(reporter.take_lost_sessions(event_lane("ann")));
        // With room for its end, it is stored and removed.
        open();
        let mut taken = take_all(&reporter, 10);
        reporter.session_ended(client, None, "");
        taken.extend(take_all(&reporter, 10));
        let changes: Vec<OutboxChange> = taken.into_iter().map(|entry| entry.change).collect();
        assert!(matches!(&changes[..], [OutboxChange::OpenSession { .. }, OutboxChange::EndSession(_)]), "{changes:?}");
        assert!(!reporter.take_lost_sessions(event_lane("ann")));
    }
}

#[test]
fn session_whose_end_waits_counts_as_one_that_the_outbox_has_to_know() {
    let mut config = Config::default().hooks;
    config.events.endpoint = HookEndpoint::parse("http://localhost/events").ok();
    config.events.types = vec![EventType::Disconnect];
    let reporter = EventReporter::from_config(&config, "node", &Clock::default(), &Arc::default()).unwrap();
    let (user, address) = (Arc::from("ann"), IpAddr::from([127, 0, 0, 1]));
    let [ended, open] = [1, 2].map(Uuid::from_u128);
    for client in [ended, open] {
        let (transport, protocol) = ("websocket", "json");
        reporter.session_opened(&ReportedSession { client, user: &user, transport, protocol, address });
    }
    reporter.session_ended(ended, None, "");
    let lane = event_lane("ann");
    assert_eq!(reporter.open_state(lane).clients(), HashSet::from([ended, open]));
    assert_eq!(reporter.open_state(lane + 1).clients(), HashSet::new());
    take_all(&reporter, 10);
    assert_eq!(reporter.open_state(lane).clients(), HashSet::from([open]));
}

#[test]
fn session_that_ends_while_open_ones_are_stored_again_is_ended_after_that() {
    let mut config = Config::default().hooks;
    config.events.endpoint = HookEndpoint::parse("http://localhost/events").ok();
    config.events.types = vec![EventType::Disconnect, EventType::Vacated];
    let reporter = EventReporter::from_config(&config, "node", &Clock::default(), &Arc::default()).unwrap();
    let (user, address) = (Arc::from("ann"), IpAddr::from([127, 0, 0, 1]));
    let (lane, news) = (event_lane("ann"), Channel::new("news").unwrap());
    let open = |client| {
        let (transport, protocol) = ("websocket", "json");
        reporter.session_opened(&ReportedSession { client, user: &user, transport, protocol, address });
    };
    let [before, after] = [1, 2].map(Uuid::from_u128);
    open(before);
    reporter.channel_occupied(&news);
    assert_eq!(take_all(&reporter, 10).len(), 2);
    let of_channels = event_lane("news");
    let (stored, stored_channels) = (reporter.open_state(lane), reporter.open_state(of_channels));
    // The session ends before its entry is encoded.
    reporter.session_ended(before, None, "");
    open(after);
    reporter.channel_vacated(&news);
    reporter.vacate_at_once(of_channels);
    let changes =
        |entries: Vec<OutboxEntry>| -> Vec<OutboxChange> { entries.into_iter().map(|entry| entry.change).collect() };
    let again = changes(reporter.entries_of(&stored).collect());
    assert!(matches!(&again[..], [OutboxChange::OpenSession { client, .. }, ..] if *client == before), "{again:?}");
    assert_eq!(changes(reporter.entries_of(&stored_channels).collect()), [OutboxChange::OccupyChannel(news.clone())]);
    assert_eq!(changes(reporter.take_entries(of_channels, 10)), [OutboxChange::VacateChannel(news)]);
    let later = changes(reporter.take_entries(lane, 10));
    assert!(
        matches!(&later[..], [OutboxChange::EndSession(client), OutboxChange::OpenSession { client: opened, .. }]
            if (*client, *opened) == (before, after)),
        "{later:?}"
    );
    assert!(reporter.open_state(of_channels).channels.is_empty());
    assert_eq!(reporter.open_state(lane).clients(), HashSet::from([after]));
}
