//! Tests of the reporter.

use super::*;
use crate::config::{Config, HookEndpoint};

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
    assert!(state.channels.len() <= 102 && state.vacant.len() <= 102, "{}", state.channels.len());
    assert!(state.changed.len() <= 2_000, "{}", state.changed.len());
    drop(state);
    let mut told = Vec::new();
    while reporter.has_entries() {
        told.extend(reporter.take_entries(50));
    }
    let stays = |(_, entry): &(usize, OutboxEntry)| entry.change == OutboxChange::OccupyChannel(channel(7_000_000));
    assert_eq!(told.iter().filter(|entry| stays(entry)).count(), 1);
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
    assert_eq!(reporter.take_entries(10).len(), 2);
    let stored = reporter.open_state();
    // The session ends before its entry is encoded.
    reporter.session_ended(before, None, "");
    open(after);
    reporter.channel_vacated(&news);
    reporter.vacate_at_once();
    let changes =
        |entries: Vec<OutboxEntry>| -> Vec<OutboxChange> { entries.into_iter().map(|entry| entry.change).collect() };
    let again = changes(reporter.entries_of(&stored, lane));
    assert!(matches!(&again[..], [OutboxChange::OpenSession { client, .. }, ..] if *client == before), "{again:?}");
    let of_channel = changes(reporter.entries_of(&stored, event_lane("news")));
    assert!(of_channel.contains(&OutboxChange::OccupyChannel(news.clone())), "{of_channel:?}");
    let later = changes(reporter.take_entries(10).into_iter().map(|(_, entry)| entry).collect());
    assert!(
        matches!(&later[..], [vacated, OutboxChange::EndSession(client), OutboxChange::OpenSession { client: opened, .. }]
            if *vacated == OutboxChange::VacateChannel(news) && (*client, *opened) == (before, after)),
        "{later:?}"
    );
    let open = reporter.open_state();
    assert!(open.channels.is_empty());
    assert_eq!(open.sessions.iter().map(|session| session.client).collect::<Vec<_>>(), [after]);
}
