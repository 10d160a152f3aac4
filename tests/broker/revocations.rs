//! Revocations: every instance has them before it delivers anything, and Redis keeps them, or gets them back.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    broker::BrokerError,
    clock::WallTime,
    config::Secret,
    revocation::{IssuerScope, Revocation, RevocationTarget, TokenIdentity, TokenIds},
};

use super::{
    cluster::{start_cluster_broker, subscribed_names},
    fixture::{Instance, start_broker, start_broker_with, start_pair, start_ready_broker, wait_until},
};
use crate::support::{
    Stopwatch, poll_until,
    proxy::ProxyMode,
    redis::{ClusterOptions, RedisCluster, RedisServer},
};

const LONG: Duration = Duration::from_secs(20);
const LIST: &str = "wardcast:{revocations}:entries";

/// [`revocations`] as Redis keeps them, and what another program has written.
const ENTRIES: [&str; 8] =
    ["j:{1}:é\0i", "253402300799000 ", "u:ann", "253402300799000 50000", "not a target", "1 1", "u:x", "x"];

fn revocations() -> Vec<Revocation> {
    let until = |target| Revocation::of_all(target, WallTime::LATEST_DATE);
    let user = RevocationTarget::User("ann".to_owned(), IssuerScope::Any);
    let jti = RevocationTarget::Token("{1}:é".to_owned(), IssuerScope::Only("i".to_owned()));
    vec![until(jti), Revocation { issued_before: WallTime::from_unix_seconds(50), ..until(user) }]
}

/// Whether an instance knows exactly what [`revocations`] mean.
fn obeys(instance: &Instance) -> bool {
    let issued_at =
        |seconds| TokenIdentity { issued_at: WallTime::from_unix_seconds(seconds), ..TokenIdentity::default() };
    let token = |issuer: &str| {
        let (issuer, jti) = (Some(issuer.to_owned()), Some("{1}:é".to_owned()));
        TokenIdentity::new(&TokenIds { issuer, jti, sid: None }, None)
    };
    let list = &instance.hubs.revocations;
    assert!(!list.is_revoked("ann", &issued_at(50)) && !list.is_revoked("bob", &issued_at(1)));
    assert!(!list.is_revoked("bob", &token("other")));
    list.is_revoked("bob", &token("i")) && list.is_revoked("ann", &issued_at(49))
}

async fn revoke(instance: &Instance) {
    assert_eq!(instance.broker.revoke(revocations(), LONG).await, Ok(Vec::new()));
}

pub async fn revocation_is_obeyed_when_the_call_completes(instance: Instance) {
    revoke(&instance).await;
    assert!(obeys(&instance));
    assert!(!instance.hubs.revocations.state().is_held());
    revoke(&instance).await;
}

#[tokio::test]
async fn all_live_nodes_obey_before_the_call_completes_and_newcomers_before_they_are_ready() {
    let (server, first, second) = start_pair().await;
    revoke(&first).await;
    assert!(obeys(&first) && obeys(&second));
    let third = start_ready_broker(&server.url()).await;
    assert!(obeys(&third));
    assert_eq!(server.run::<Vec<String>>(&["KEYS", "wardcast:{revocations}:*"]).await.len(), 2);
    let ttl: i64 = server.run(&["TTL", LIST]).await;
    assert!(ttl > 0, "{ttl}");
}

#[tokio::test]
async fn node_that_does_not_confirm_is_named_and_obeys_all_the_same() {
    let (_server, first, second) = start_pair().await;
    second.hubs.is_silent.store(true, Ordering::Relaxed);
    let unconfirmed = first.broker.revoke(revocations(), Duration::from_millis(800)).await;
    assert_eq!(unconfirmed, Ok(vec![second.node()]));
    assert!(obeys(&first) && obeys(&second));
}

#[tokio::test]
async fn deliveries_are_held_until_the_list_is_loaded() {
    let mut server = RedisServer::start_stopped().await;
    let instance = start_broker(&server.url(), "wardcast");
    assert!(instance.hubs.revocations.state().is_held());
    server.restart().await;
    instance.wait_until_ready().await;
    wait_until("the deliveries are released", async || !instance.hubs.revocations.state().is_held()).await;
}

#[tokio::test]
async fn revocation_that_an_interruption_hid_is_loaded_with_the_reconnect() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    // As another instance stores them, without the message that this one would miss.
    server.run::<i64>(&[["HSET", LIST].as_slice(), &ENTRIES].concat()).await;
    assert!(!obeys(&instance));
    server.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    wait_until("the list is loaded again", async || obeys(&instance)).await;
    instance.broker.confirm_revocations(Duration::from_secs(1));
    wait_until("the deliveries are released", async || !instance.hubs.revocations.state().is_held()).await;
}

/// As a Redis that is killed again and again before it has loaded its file.
#[tokio::test]
async fn list_that_cannot_be_loaded_does_not_hold_the_deliveries_of_an_instance_whose_subscriptions_reconnect_often() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    wait_until("the deliveries are released", async || !instance.hubs.revocations.state().is_held()).await;
    server.run::<()>(&["ACL", "SETUSER", "default", "-hscan"]).await;
    let cut = async || server.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    cut().await;
    poll_until("the deliveries are held", async || instance.hubs.revocations.state().is_held()).await;
    let mut cuts = tokio::time::interval(Duration::from_millis(700));
    let keep_cutting = async {
        loop {
            cuts.tick().await;
            cut().await;
        }
    };
    let released = poll_until("the deliveries are released", async || !instance.hubs.revocations.state().is_held());
    tokio::select! {
        () = released => {}
        () = keep_cutting => {}
    }
    server.run::<()>(&["ACL", "SETUSER", "default", "+hscan"]).await;
    server.run::<i64>(&[["HSET", LIST].as_slice(), &ENTRIES].concat()).await;
    cut().await;
    wait_until("the list is loaded", async || obeys(&instance)).await;
}

/// Messages with a signature are refused when they are a minute old, and a control may be one of them.
#[tokio::test]
async fn controls_count_as_lost_after_a_freeze_in_which_their_signatures_may_have_become_too_old() {
    let server = RedisServer::start().await;
    for (key, frozen_for, is_lost) in [
        ("5a1f0c7e9b3d2468ace013579bdf2468", 30, true),
        ("5a1f0c7e9b3d2468ace013579bdf2468", 29, false),
        ("", 90, false),
    ] {
        let instance = start_broker_with(&server.url(), |config| config.bus_key = Secret::new(key));
        instance.wait_until_ready().await;
        let losses = || instance.hubs.losses.load(Ordering::Relaxed);
        let before = losses();
        instance.broker.confirm_revocations(Duration::from_secs(frozen_for));
        assert_eq!(losses() > before, is_lost, "{frozen_for} s");
    }
}

#[tokio::test]
async fn list_that_redis_has_lost_is_put_back() {
    let (mut server, first, second) = start_pair().await;
    revoke(&first).await;
    server.kill();
    server.restart().await;
    wait_until("the list is in Redis again", async || server.run::<i64>(&["HLEN", LIST]).await == 3).await;
    drop((first, second));
    assert!(obeys(&start_ready_broker(&server.url()).await));
}

fn of_token(number: usize) -> Vec<Revocation> {
    vec![Revocation::of_all(RevocationTarget::Token(number.to_string(), IssuerScope::Any), WallTime::LATEST_DATE)]
}

#[tokio::test]
async fn burst_of_revocations_names_only_the_node_that_does_not_answer() {
    let (server, first, second) = start_pair().await;
    second.hubs.is_silent.store(true, Ordering::Relaxed);
    let since = Stopwatch::start();
    let limit = Duration::from_millis(1800);
    let revoked = join_all((0..2000).map(|number| first.broker.revoke(of_token(number), limit))).await;
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    for unconfirmed in revoked {
        assert_eq!(unconfirmed, Ok(vec![second.node()]));
    }
    assert_eq!(server.run::<i64>(&["HLEN", LIST]).await, 2001);
    assert_eq!(second.hubs.revocations.count(), 2000);
}

#[tokio::test]
async fn list_in_redis_is_bounded_and_keeps_what_it_has() {
    let (server, first, second) = start_pair().await;
    revoke(&first).await;
    let max = first.hubs.revocations.max_entries();
    server.run::<i64>(&["HSET", LIST, "", &(max - 1).to_string()]).await;
    // A round is stored as a whole; here one of two has room.
    let (one, two) = tokio::join!(first.broker.revoke(of_token(1), LONG), first.broker.revoke(of_token(2), LONG));
    let full = |result: &Result<_, BrokerError>| matches!(result, Err(BrokerError::RevocationsFull(_)));
    assert_eq!((one.clone().ok(), full(&two)), (Some(Vec::new()), true), "{one:?} {two:?}");
    assert!(full(&second.broker.revoke(of_token(3), LONG).await));
    assert_eq!(first.broker.revoke(revocations(), LONG).await, Ok(Vec::new()), "known ones need no room");
    assert!(obeys(&first) && obeys(&second));
    assert_eq!((first.hubs.revocations.count(), second.hubs.revocations.count()), (3, 3));
}

#[tokio::test]
async fn target_that_is_revoked_twice_in_one_call_is_kept_once_with_the_later_times() {
    let (server, first, _second) = start_pair().await;
    let of_ann = |issued_before, expires_at| Revocation {
        target: RevocationTarget::User("ann".to_owned(), IssuerScope::Any),
        issued_before: WallTime::from_unix_seconds(issued_before),
        expires_at: WallTime::from_unix_seconds(expires_at),
    };
    let twice = vec![of_ann(50, 9_000_000_000), of_ann(40, 8_000_000_000)];
    assert_eq!(first.broker.revoke(twice, LONG).await, Ok(Vec::new()));
    let stored = server.run::<Vec<String>>(&["HMGET", LIST, "u:ann", ""]).await;
    assert_eq!(stored, ["9000000000000 50000", "1"]);
}

/// As after a failover that has lost the latest writes.
#[tokio::test]
async fn times_that_redis_has_lost_are_put_back() {
    let (server, first, _second) = start_pair().await;
    revoke(&first).await;
    for older in ["253402300799000 40000", "253402300798000 50000"] {
        server.run::<i64>(&["HSET", LIST, "u:ann", older]).await;
        first.broker.confirm_revocations(Duration::from_secs(1));
        let stored = async || server.run::<String>(&["HGET", LIST, "u:ann"]).await;
        poll_until("they are put back", async || stored().await == "253402300799000 50000").await;
    }
}

/// As another program changes them, or a failover that no instance has noticed.
#[tokio::test]
async fn weaker_times_in_redis_are_noticed_by_the_next_comparison_of_the_lists() {
    let (server, first, _second) = start_pair().await;
    revoke(&first).await;
    for older in ["253402300798000 50000", "not times"] {
        server.run::<i64>(&["HSET", LIST, "u:ann", older]).await;
        let stored = async || server.run::<String>(&["HGET", LIST, "u:ann"]).await;
        poll_until("they are put back", async || stored().await == "253402300799000 50000").await;
    }
}

#[tokio::test]
async fn those_of_a_lost_list_that_have_room_are_put_back_into_a_redis_that_is_nearly_full() {
    let (server, first, _second) = start_pair().await;
    revoke(&first).await;
    let revoked = join_all((0..300).map(|number| first.broker.revoke(of_token(number), LONG))).await;
    assert!(revoked.into_iter().all(|result| result == Ok(Vec::new())));
    let stored: Vec<String> = server.run(&["HGETALL", LIST]).await;
    assert_eq!(stored.len(), 2 * 303);
    let max = first.hubs.revocations.max_entries();
    let lose = async |entries: &[&str], room: usize| {
        server.run::<i64>(&["DEL", LIST, &LIST.replace("entries", "expiries")]).await;
        let count = (max - room).to_string();
        server.run::<i64>(&[["HSET", LIST, "", &count].as_slice(), entries].concat()).await;
        first.broker.confirm_revocations(Duration::from_secs(1));
    };
    let length = async || server.run::<i64>(&["HLEN", LIST]).await;
    lose(&[], 10).await;
    poll_until("ten have room", async || length().await == 11).await;
    // One that is there, with an earlier time, needs no room.
    lose(&["u:ann", "253402300799000 40000"], 0).await;
    let times = async || server.run::<String>(&["HGET", LIST, "u:ann"]).await;
    poll_until("its time is put back", async || times().await == "253402300799000 50000").await;
    assert_eq!(length().await, 2);
}

#[tokio::test]
async fn redis_forgets_revocations_that_have_expired_at_the_next_one() {
    let (server, first, _second) = start_pair().await;
    let clock = wardcast::clock::Clock::default();
    let soon = clock.now().saturating_add(Duration::from_millis(300));
    for (jti, expires_at) in [("old", soon), ("new", WallTime::LATEST_DATE)] {
        let target = RevocationTarget::Token(jti.to_owned(), IssuerScope::Any);
        assert_eq!(first.broker.revoke(vec![Revocation::of_all(target, expires_at)], LONG).await, Ok(Vec::new()));
        poll_until("the first has expired", async || clock.now() > soon).await;
    }
    let stored = server.run::<Vec<Option<String>>>(&["HMGET", LIST, "j:old", "j:new", ""]).await;
    assert!(stored[0].is_none() && stored[1].is_some() && stored[2].as_deref() == Some("1"), "{stored:?}");
}

#[tokio::test]
async fn revocations_of_another_program_are_not_obeyed_if_there_is_a_bus_key_and_ours_are_put_back() {
    let server = RedisServer::start().await;
    let start = async || {
        let key = "5a1f0c7e9b3d2468ace013579bdf2468";
        let instance = start_broker_with(&server.url(), |config| config.bus_key = Secret::new(key));
        instance.wait_until_ready().await;
        instance
    };
    let first = start().await;
    revoke(&first).await;
    let forged = ["u:bob", "253402300799001 ", "u:ann", "253402300799001 50000", "", "3"];
    server.run::<i64>(&[["HSET", LIST].as_slice(), &forged].concat()).await;
    let second = start().await;
    assert!(second.dropped_count("unsigned") > 0);
    assert_eq!(second.hubs.revocations.count(), 1);
    // The first instance puts back what was overwritten.
    first.broker.confirm_revocations(Duration::from_secs(1));
    wait_until("the second has it", async || second.hubs.revocations.count() == 2).await;
    assert!(obeys(&start().await));
}

async fn slot_of_control_channel(cluster: &RedisCluster) -> u16 {
    let names = subscribed_names(cluster).await;
    cluster.slot_of(names.iter().find(|name| name.starts_with("wardcast:control")).unwrap()).await
}

#[tokio::test]
async fn revocation_that_a_move_of_the_control_channel_hid_is_loaded() {
    let cluster = RedisCluster::start().await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    instance.wait_until_ready().await;
    let list = cluster.master_of(cluster.slot_of(LIST).await).await.unwrap();
    cluster.nodes[list].run::<i64>(&[["HSET", LIST].as_slice(), &ENTRIES].concat()).await;
    let slot = slot_of_control_channel(&cluster).await;
    let to = (cluster.master_of(slot).await.unwrap() + 1) % 3;
    assert!(!obeys(&instance));
    cluster.move_slots(slot..=slot, to).await;
    wait_until("the list is loaded again", async || obeys(&instance)).await;
    wait_until("the deliveries are released", async || !instance.hubs.revocations.state().is_held()).await;
}

/// The instance holds its deliveries while it connects to the master of the control channel, which then leaves.
#[tokio::test]
async fn master_that_leaves_while_it_is_connected_does_not_hold_the_deliveries_for_ever() {
    let cluster = RedisCluster::start_with(&ClusterOptions { has_proxies: true, ..ClusterOptions::default() }).await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    instance.wait_until_ready().await;
    let master = cluster.master_of(slot_of_control_channel(&cluster).await).await.unwrap();
    // Subscribing to them takes longer than the slots take to move.
    let rooms: Vec<String> = (0..100).map(|number| format!("room-{number}")).collect();
    join_all(rooms.iter().map(|room| instance.subscribe(room))).await;
    cluster.proxies[master].set(ProxyMode::Delay(Duration::from_millis(100)));
    cluster.nodes[master].run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    wait_until("the deliveries are held", async || instance.hubs.revocations.state().is_held()).await;
    let slots = ClusterOptions::default().slots[master].clone();
    cluster.move_slots(slots, (master + 1) % 3).await;
    wait_until("the deliveries are released", async || !instance.hubs.revocations.state().is_held()).await;
}

/// Otherwise one call would keep Redis busy for as long as it has revocations.
#[actix_rt::test]
async fn thousand_revocations_at_once_are_stored_in_calls_of_bounded_size() {
    let redis = RedisServer::start().await;
    let instance = start_ready_broker(&redis.url()).await;
    let calls = async || {
        let text: String = redis.run(&["INFO", "commandstats"]).await;
        let calls = |command: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")))?;
            line.split("calls=").nth(1)?.split(',').next()?.parse::<u32>().ok()
        };
        calls("evalsha").unwrap_or_default() + calls("eval").unwrap_or_default()
    };
    let before = calls().await;
    let revoked = join_all((0..1000).map(|number: u32| {
        let target = RevocationTarget::Token(number.to_string(), IssuerScope::Any);
        instance.broker.revoke(vec![Revocation::of_all(target, WallTime::LATEST_DATE)], LONG)
    }));
    assert!(revoked.await.into_iter().all(|result| result == Ok(Vec::new())));
    let calls = calls().await - before;
    assert!((4..100).contains(&calls), "{calls} calls");
}
