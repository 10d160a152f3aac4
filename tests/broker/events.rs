//! The outbox of events for the backend: of every broker, and of several instances on one Redis.

use std::{collections::HashSet, sync::Arc, time::Duration};

use uuid::Uuid;
use wardcast::{
    broker::event_outbox::{
        Appended, EVENT_LANES, EntryId, EntryOwner, EventOutbox, LostCursor, LostPage, OutboxChange, OutboxEntry,
        StoredSessions, event_lane,
    },
    channel::Channel,
    config::{RedisConfig, Secret},
};

use super::fixture::{ELSEWHERE, Instance, start_broker_with};
use crate::support::{
    SECRET, poll_until,
    redis::{RedisForm, RedisServer},
};

const LEASE: Duration = Duration::from_secs(60);
const MANY: usize = 1000;

fn event(text: &str) -> OutboxEntry {
    OutboxEntry { event: Some(text.to_owned()), change: OutboxChange::None }
}

fn with_change(text: &str, change: OutboxChange) -> OutboxEntry {
    OutboxEntry { event: Some(text.to_owned()), change }
}

fn open(client: Uuid, record: &str) -> OutboxEntry {
    OutboxEntry { event: None, change: OutboxChange::OpenSession { client, record: record.to_owned() } }
}

async fn append(outbox: &Arc<dyn EventOutbox>, number: u64, entries: Vec<OutboxEntry>) -> Appended {
    append_to(outbox, 1, number, entries).await
}

async fn append_to(outbox: &Arc<dyn EventOutbox>, lane: usize, number: u64, entries: Vec<OutboxEntry>) -> Appended {
    outbox.append(lane, EntryOwner::ThisNode(number), MANY, entries).await.unwrap()
}

/// The texts that wait in lane 1, and the last of their ids.
async fn waiting(outbox: &Arc<dyn EventOutbox>) -> Option<(Vec<String>, Option<EntryId>)> {
    waiting_in(outbox, 1).await
}

async fn waiting_in(outbox: &Arc<dyn EventOutbox>, lane: usize) -> Option<(Vec<String>, Option<EntryId>)> {
    let events = outbox.read(lane, None, MANY, LEASE).await.unwrap().events?;
    let last = events.last().map(|(id, _)| *id);
    Some((events.into_iter().map(|(_, text)| text).collect(), last))
}

pub async fn events_wait_in_order_until_they_are_accepted(instance: Instance) {
    let outbox = instance.broker.event_outbox();
    assert_eq!(waiting(&outbox).await, Some((Vec::new(), None)));
    let texts: Vec<String> = (0..50).map(|number| format!("{{\"é\": \"{number}\"}}")).collect();
    for (number, texts) in (1..).zip(texts.chunks(20)) {
        let entries: Vec<OutboxEntry> = texts.iter().map(|text| event(text)).collect();
        let count = entries.len();
        assert_eq!(append(&outbox, number, entries).await, Appended { queued: count, dropped: 0 });
    }
    let page = outbox.read(1, None, 30, LEASE).await.unwrap();
    let first = page.events.unwrap();
    assert_eq!((page.waiting, first.len()), (50, 30));
    // Only what is named is removed.
    let page = outbox.read(1, Some(first[9].0), 5, LEASE).await.unwrap();
    let next: Vec<String> = page.events.unwrap().into_iter().map(|(_, text)| text).collect();
    assert_eq!((page.waiting, next.as_slice()), (40, &texts[10..15]));
    let (rest, last) = waiting(&outbox).await.unwrap();
    assert_eq!(rest, texts[10..]);
    let page = outbox.read(1, last, 5, LEASE).await.unwrap();
    assert_eq!((page.waiting, page.events), (0, Some(Vec::new())));
    let other = outbox.read(2, None, MANY, LEASE).await.unwrap();
    assert_eq!(other.events, Some(Vec::new()), "lanes are independent");
}

pub async fn events_above_the_bound_are_dropped(instance: Instance) {
    let outbox = instance.broker.event_outbox();
    let three = || ["a", "b", "c"].map(event).to_vec();
    let append = async |number, entries| outbox.append(1, EntryOwner::ThisNode(number), 4, entries).await.unwrap();
    assert_eq!(append(1, three()).await, Appended { queued: 3, dropped: 0 });
    assert_eq!(append(2, three()).await, Appended { queued: 1, dropped: 2 });
    let (texts, last) = waiting(&outbox).await.unwrap();
    assert_eq!(texts, ["a", "b", "c", "a"]);
    outbox.read(1, last, MANY, LEASE).await.unwrap();
    assert_eq!(append(3, three()).await, Appended { queued: 3, dropped: 0 });
}

/// Nodes of another release must find the same lanes.
#[test]
fn users_keep_their_lanes_for_ever() {
    assert_eq!(["ann", "bob", "", "日本"].map(event_lane), [3, 0, 6, 3]);
    let used: HashSet<usize> = (0..100).map(|number: u32| event_lane(&number.to_string())).collect();
    assert_eq!(used.len(), EVENT_LANES);
}

/// An instance whose registrations last for 300 ms.
async fn start(server: &RedisServer, change: impl FnOnce(&mut RedisConfig)) -> (Instance, Arc<dyn EventOutbox>) {
    let url = Secret::new(server.url());
    start_with(|config| {
        config.url = url;
        change(config);
    })
    .await
}

async fn start_with(change: impl FnOnce(&mut RedisConfig)) -> (Instance, Arc<dyn EventOutbox>) {
    let instance = start_broker_with(ELSEWHERE, |config| {
        config.heartbeat_interval = Duration::from_millis(100);
        change(config);
    });
    instance.wait_until_ready().await;
    let outbox = instance.broker.event_outbox();
    (instance, outbox)
}

#[tokio::test]
async fn repeated_call_appends_nothing_and_one_node_at_a_time_reads_a_lane() {
    let server = RedisServer::start().await;
    let (_first, one) = start(&server, |_| ()).await;
    let (_second, two) = start(&server, |_| ()).await;
    append(&one, 1, vec![event("a")]).await;
    append(&one, 1, vec![event("a")]).await;
    append(&two, 1, vec![event("b")]).await;
    let (texts, last) = waiting(&one).await.unwrap();
    assert_eq!(texts, ["a", "b"]);
    assert_eq!(waiting(&two).await, None);
    append(&two, 2, vec![event("c")]).await;
    let page = one.read(1, last, MANY, LEASE).await.unwrap();
    let last = page.events.unwrap()[0].0;
    assert_eq!(waiting(&two).await, None, "there was something left to read");
    one.read(1, Some(last), MANY, LEASE).await.unwrap();
    assert_eq!(waiting(&two).await, Some((Vec::new(), None)), "there was nothing left to read");
    append(&one, 2, vec![event("d")]).await;
    assert_eq!(waiting(&one).await.unwrap().0, ["d"]);
    one.release(1).await.unwrap();
    assert_eq!(waiting(&two).await.unwrap().0, ["d"]);
    assert_eq!(waiting(&one).await, None);
    // A node that was killed gives nothing back: its lease ends.
    two.read(1, None, MANY, Duration::from_millis(1)).await.unwrap();
    poll_until("the lease has ended", async || waiting(&one).await.is_some()).await;
}

#[tokio::test]
async fn other_node_appends_the_sessions_and_channels_of_a_lost_one_once() {
    take_over_in_lanes(RedisForm::one_server().await, 1..2).await;
}

/// Each lane has all its keys on one of the servers.
#[tokio::test]
async fn other_node_appends_the_sessions_and_channels_of_a_lost_one_once_over_several_servers() {
    take_over_in_lanes(RedisForm::several_servers().await, 0..EVENT_LANES).await;
}

async fn take_over_in_lanes(redis: RedisForm, lanes: std::ops::Range<usize>) {
    let (_lost, outbox) = start_with(|config| redis.configure(config)).await;
    let (_first, one) = start_with(|config| redis.configure(config)).await;
    let (_second, two) = start_with(|config| redis.configure(config)).await;
    for lane in lanes {
        println!("lane {lane}");
        take_over(lane, &outbox, &one, &two).await;
    }
}

async fn take_over(lane: usize, outbox: &Arc<dyn EventOutbox>, one: &Arc<dyn EventOutbox>, two: &Arc<dyn EventOutbox>) {
    let (ann, bob, eve) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
    let [news, shared] = ["news", "shared"].map(|name| Channel::new(name).unwrap());
    let occupy = |channel: &Channel| with_change("occupied", OutboxChange::OccupyChannel(channel.clone()));
    let vacate = |channel: &Channel| with_change("vacated", OutboxChange::VacateChannel(channel.clone()));
    let end = |client| with_change("end", OutboxChange::EndSession(client));
    assert!(!outbox.renew(lane).await.unwrap().is_known);
    append_to(outbox, lane, 1, vec![open(ann, "a"), open(bob, "b"), open(eve, "e"), end(eve)]).await;
    append_to(outbox, lane, 2, vec![occupy(&news), occupy(&shared), occupy(&news)]).await;
    assert_eq!(append_to(one, lane, 1, vec![occupy(&shared)]).await.queued, 0, "it is occupied already");
    let (texts, last) = waiting_in(one, lane).await.unwrap();
    assert_eq!(texts, ["end", "occupied", "occupied"]);
    one.read(lane, last, MANY, LEASE).await.unwrap();
    let as_lost = |node: &str| EntryOwner::LostNode(node.to_owned());
    let mut node = String::new();
    poll_until("the node is lost", async || {
        assert!(two.renew(lane).await.unwrap().lost.len() <= 1);
        let found = one.renew(lane).await.unwrap().lost;
        node = found.first().cloned().unwrap_or_default();
        !found.is_empty()
    })
    .await;
    let sessions = one.read_lost(lane, &node, LostCursor::Sessions(0)).await.unwrap();
    let mut read = sessions.sessions;
    read.sort_unstable();
    assert_eq!(read, [(ann, "a".to_owned()), (bob, "b".to_owned())]);
    let channels = one.read_lost(lane, &node, sessions.next.unwrap()).await.unwrap();
    let mut names: Vec<&str> = channels.channels.iter().map(Channel::as_str).collect();
    names.sort_unstable();
    assert_eq!((names, channels.next), (vec!["news", "shared"], None));
    let entries = || vec![end(ann), end(bob), vacate(&news), vacate(&shared)];
    let full = one.append(lane, as_lost(&node), 1, entries()).await.unwrap();
    assert_eq!(full, Appended { queued: 1, dropped: 1 }, "what has no room stays stored");
    assert_eq!(one.append(lane, as_lost(&node), MANY, entries()).await.unwrap().queued, 2);
    assert_eq!(two.append(lane, as_lost(&node), MANY, entries()).await.unwrap(), Appended::default());
    assert_eq!(
        waiting_in(one, lane).await.unwrap().0,
        ["end", "end", "vacated"],
        "another node has subscribers of the other one"
    );
    one.forget_lost(lane, &node).await.unwrap();
    assert!(two.renew(lane).await.unwrap().lost.is_empty());
    assert_eq!(
        two.read_lost(lane, &node, LostCursor::Sessions(0)).await.unwrap().sessions,
        LostPage::default().sessions
    );
    assert_eq!(append_to(one, lane, 2, vec![vacate(&shared)]).await.queued, 1);
}

#[tokio::test]
async fn calls_that_find_no_state_of_a_lane_give_it_a_lifetime() {
    let server = RedisServer::start().await;
    let (_lost, outbox) = start(&server, |_| ()).await;
    let (_other, one) = start(&server, |_| ()).await;
    let state = "wardcast:{events-1}:state";
    let assert_lifetime = async |after: &str| {
        let left: i64 = server.run(&["PTTL", state]).await;
        assert!(left > 0, "{left} after {after}");
        server.run::<()>(&["DEL", state]).await;
    };
    outbox.renew(1).await.unwrap();
    let node = wait_for_lost(&one).await;
    assert!(one.lease_lost(1, &node).await.unwrap());
    assert_lifetime("the lease of a lost node").await;
    append(&one, 1, vec![event("a"), event("b")]).await;
    assert_lifetime("an append").await;
    let (texts, last) = waiting(&one).await.unwrap();
    assert_eq!(texts, ["a", "b"]);
    assert_lifetime("a read").await;
    one.read(1, last, 0, Duration::ZERO).await.unwrap();
    assert_lifetime("the removal of accepted events").await;
}

#[tokio::test]
async fn full_redis_can_be_emptied_of_its_events_and_knows_its_nodes() {
    let server = RedisServer::start().await;
    let (_lost, lost) = start(&server, |_| ()).await;
    let (_first, one) = start(&server, |config| config.heartbeat_interval = Duration::from_secs(60)).await;
    lost.renew(1).await.unwrap();
    one.renew(1).await.unwrap();
    append(&one, 1, vec![event("a"), event("b"), event("c")]).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = one.append(1, EntryOwner::ThisNode(2), MANY, vec![event("d")]).await;
    assert!(refused.unwrap_err().to_string().contains("OOM"));
    // Each of these renews the registration of a node that is known.
    let node = wait_for_lost(&one).await;
    assert!(one.renew(1).await.unwrap().is_known);
    assert!(one.lease_lost(1, &node).await.unwrap());
    // The first read of a lane by a node has accepted nothing.
    let (texts, _) = waiting(&one).await.unwrap();
    assert_eq!(texts, ["a", "b", "c"]);
    let page = one.read(1, None, 2, LEASE).await.unwrap();
    let last = page.events.unwrap().last().map(|(id, _)| *id);
    let page = one.read(1, last, MANY, LEASE).await.unwrap();
    assert_eq!((page.waiting, page.events.unwrap()[0].1.as_str()), (1, "c"));
    one.release(1).await.unwrap();
    assert_eq!(waiting(&lost).await.unwrap().0, ["c"]);
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(append(&one, 2, vec![event("d")]).await.queued, 1);
}

#[tokio::test]
async fn what_a_lost_node_had_lives_until_it_is_taken_over() {
    let server = RedisServer::start().await;
    let (_lost, outbox) = start(&server, |_| ()).await;
    let (_other, one) = start(&server, |_| ()).await;
    outbox.renew(1).await.unwrap();
    let occupy = with_change("occupied", OutboxChange::OccupyChannel(Channel::new("news").unwrap()));
    append(&outbox, 1, vec![open(Uuid::from_u128(1), "a"), occupy]).await;
    let node = wait_for_lost(&one).await;
    let keys = server.run::<Vec<String>>(&["KEYS", "wardcast:{events-1}:*:*"]).await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in &keys {
        server.run::<()>(&["PEXPIRE", key, "60000"]).await;
    }
    assert!(one.lease_lost(1, &node).await.unwrap());
    for key in &keys {
        assert!(server.run::<i64>(&["PTTL", key]).await > 60_000, "{key}");
    }
}

#[tokio::test]
async fn node_reads_which_sessions_are_stored_for_it() {
    let server = RedisServer::start().await;
    let (_first, one) = start(&server, |_| ()).await;
    let (_second, two) = start(&server, |_| ()).await;
    let clients: HashSet<Uuid> = (0..2000).map(Uuid::from_u128).collect();
    append(&one, 1, clients.iter().map(|client| open(*client, "a")).collect()).await;
    append(&two, 1, vec![open(Uuid::from_u128(5000), "b")]).await;
    for key in &server.run::<Vec<String>>(&["KEYS", "wardcast:{events-1}:sessions:*"]).await {
        server.run::<()>(&["HSET", key, "no id", "- {}"]).await;
    }
    let (mut read, mut pages, mut from) = (HashSet::new(), 0, Some(0));
    while let Some(start) = from {
        let page = one.read_stored(1, start).await.unwrap();
        read.extend(page.clients);
        (pages, from) = (pages + 1, page.next);
    }
    assert_eq!(read, clients);
    assert!(pages > 2, "{pages}");
    assert_eq!(one.read_stored(2, 0).await.unwrap(), StoredSessions::default());
}

/// Waits until the other node is lost; returns its name.
async fn wait_for_lost(outbox: &Arc<dyn EventOutbox>) -> String {
    let mut node = String::new();
    poll_until("the node is lost", async || {
        node = outbox.renew(1).await.unwrap().lost.first().cloned().unwrap_or_default();
        !node.is_empty()
    })
    .await;
    node
}

#[tokio::test]
async fn one_node_at_a_time_takes_a_lost_one_over_and_another_goes_on_if_it_dies() {
    let server = RedisServer::start().await;
    let (_lost, outbox) = start(&server, |_| ()).await;
    let (_first, one) = start(&server, |_| ()).await;
    let (_second, two) = start(&server, |_| ()).await;
    outbox.renew(1).await.unwrap();
    let node = wait_for_lost(&one).await;
    let may = async |outbox: &Arc<dyn EventOutbox>, lane| outbox.lease_lost(lane, &node).await.unwrap();
    assert!(may(&one, 1).await && may(&one, 1).await && !may(&two, 1).await);
    assert!(!may(&two, 2).await, "it is not registered there");
    // The first one is heard of no more.
    poll_until("the lease has ended", async || may(&two, 1).await).await;
    assert!(!may(&one, 1).await);
    two.forget_lost(1, &node).await.unwrap();
    assert!(!may(&one, 1).await && !may(&two, 1).await);
    outbox.renew(1).await.unwrap();
    assert_eq!(wait_for_lost(&one).await, node);
    assert!(may(&one, 1).await, "no node has the lease");
    outbox.renew(1).await.unwrap();
    assert!(!may(&one, 1).await, "the lost node has renewed its lease");
    let state = server.run::<Vec<String>>(&["HKEYS", "wardcast:{events-1}:state"]).await;
    assert!(!state.iter().any(|field| field.starts_with("take")), "{state:?}");
}

#[tokio::test]
async fn node_that_has_come_back_is_not_lost_and_learns_what_redis_has_lost() {
    let server = RedisServer::start().await;
    let (_first, back) = start(&server, |_| ()).await;
    let (_second, other) = start(&server, |_| ()).await;
    let client = Uuid::from_u128(1);
    back.renew(1).await.unwrap();
    assert!(back.renew(1).await.unwrap().is_known);
    append(&back, 1, vec![open(client, "a")]).await;
    let node = wait_for_lost(&other).await;
    assert!(!back.renew(1).await.unwrap().is_known, "others may have told its sessions");
    let end = vec![with_change("end", OutboxChange::EndSession(client))];
    let appended = other.append(1, EntryOwner::LostNode(node.clone()), MANY, end).await.unwrap();
    assert_eq!(appended, Appended::default());
    other.forget_lost(1, &node).await.unwrap();
    assert_eq!(other.read_lost(1, &node, LostCursor::Sessions(0)).await.unwrap().sessions.len(), 1);
    server.run::<()>(&["FLUSHALL"]).await;
    assert!(!back.renew(1).await.unwrap().is_known);
}

#[tokio::test]
async fn events_and_records_that_other_programs_write_are_dropped_and_counted() {
    let server = RedisServer::start().await;
    let (_instance, outbox) = start(&server, |config| config.bus_key = Secret::new(SECRET)).await;
    append(&outbox, 1, vec![event("a"), open(Uuid::from_u128(1), "r")]).await;
    for forged in ["", "no signature", "- {}", "AAAA {}", "\u{1F600}"] {
        server.run::<String>(&["XADD", "wardcast:{events-1}:queue", "*", "event", forged]).await;
    }
    append(&outbox, 2, vec![event("b")]).await;
    let (texts, last) = waiting(&outbox).await.unwrap();
    assert_eq!(texts, ["a", "", "", "", "", "", "b"]);
    // They go with the others.
    assert_eq!(outbox.read(1, last, MANY, LEASE).await.unwrap().events, Some(Vec::new()));
    let sessions = &server.run::<Vec<String>>(&["KEYS", "wardcast:{events-1}:sessions:*"]).await[0];
    let channels = sessions.replace("sessions", "channels");
    server.run::<()>(&["HSET", sessions, "no id", "- {}", &Uuid::from_u128(2).to_string(), "- {}"]).await;
    server.run::<()>(&["HSET", &channels, "news", "-", "*", "-"]).await;
    let node = sessions.rsplit(':').next().unwrap();
    let page = outbox.read_lost(1, node, LostCursor::Sessions(0)).await.unwrap();
    assert_eq!(page.sessions, [(Uuid::from_u128(1), "r".to_owned())]);
    assert!(outbox.read_lost(1, node, LostCursor::Channels(0)).await.unwrap().channels.is_empty());
}
