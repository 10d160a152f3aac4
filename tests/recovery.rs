//! Coming back: what a client has missed it gets with the reply, once and in order, or is told that it cannot.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::{Config, RecoveryMode};

use crate::support::{Client, Hub, hub_with};

fn with_history(config: &mut Config) {
    config.channels.history_size = 100;
    config.channels.history_ttl = Duration::from_secs(60);
    config.limits.publications_per_second = 0;
    config.limits.commands_per_second = 0;
}

async fn hub_of_histories(change: impl FnOnce(&mut Config)) -> Hub {
    hub_with(|config| {
        with_history(config);
        change(config);
    })
    .await
}

async fn publish(client: &mut Client, range: std::ops::RangeInclusive<u64>) {
    for number in range {
        let reply = client.ask(json!({"id": 9, "publish": {"channel": "news", "data": number}})).await;
        assert_eq!(reply, json!({"id": 9, "publish": {}}));
    }
}

async fn subscribe(client: &mut Client, request: Value) -> Value {
    let mut command = json!({"id": 2, "subscribe": {"channel": "news"}});
    command["subscribe"].as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let reply = client.ask(command).await;
    assert_eq!(reply["id"], 2, "{reply}");
    reply
}

/// Whoever asks for a position: the epoch, and the offset.
async fn position(hub: &Hub) -> (String, u64) {
    let reply = subscribe(&mut hub.client("pos").await, json!({"positioned": true})).await;
    let result = &reply["subscribe"];
    (result["epoch"].as_str().unwrap().to_owned(), result["offset"].as_u64().unwrap_or(0))
}

fn recover(epoch: &str, offset: u64) -> Value {
    json!({"recover": true, "epoch": epoch, "offset": offset})
}

fn missed(reply: &Value) -> Vec<(u64, u64)> {
    let publications = reply["subscribe"]["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().map(|of| (of["offset"].as_u64().unwrap(), of["data"].as_u64().unwrap())).collect()
}

fn is_recovered(reply: &Value) -> bool {
    assert_eq!(reply["subscribe"]["was_recovering"], true, "{reply}");
    reply["subscribe"]["recovered"] == true
}

#[actix_rt::test]
async fn who_comes_back_gets_what_was_missed_and_then_what_is_live() {
    let hub = hub_of_histories(|_| ()).await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    let (epoch, offset) = position(&hub).await;
    assert_eq!(offset, 0);
    publish(&mut bob, 1..=5).await;
    let reply = subscribe(&mut ann, recover(&epoch, 2)).await;
    assert!(is_recovered(&reply), "{reply}");
    assert_eq!(missed(&reply), [(3, 3), (4, 4), (5, 5)]);
    let result = &reply["subscribe"];
    assert_eq!((&result["offset"], &result["epoch"]), (&json!(2), &json!(epoch)), "the client's own offset");
    assert_eq!((&result["recoverable"], &result["positioned"]), (&json!(true), &json!(true)));
    publish(&mut bob, 6..=6).await;
    let push = ann.hear().await;
    assert_eq!((&push["push"]["pub"]["data"], &push["push"]["pub"]["offset"]), (&json!(6), &json!(6)));
    hub.stop().await;
}

#[actix_rt::test]
async fn who_has_missed_nothing_is_recovered_without_a_publication() {
    let hub = hub_of_histories(|_| ()).await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    publish(&mut bob, 1..=3).await;
    let (epoch, offset) = position(&hub).await;
    // Once with nobody else there, once beside a subscriber.
    for client in [&mut ann, &mut bob] {
        let reply = subscribe(client, recover(&epoch, offset)).await;
        assert!(is_recovered(&reply) && missed(&reply).is_empty(), "{reply}");
    }
    hub.stop().await;
}

#[actix_rt::test]
async fn what_cannot_be_had_whole_is_not_recovered_and_the_position_is_the_newest() {
    let hub = hub_of_histories(|config| {
        config.channels.history_size = 4;
        config.limits.recovered_publications = 3;
    })
    .await;
    let mut bob = hub.client("bob").await;
    publish(&mut bob, 1..=10).await;
    let (epoch, _) = position(&hub).await;
    for (epoch, offset) in [
        (epoch.as_str(), 2),
        (epoch.as_str(), 6),
        (epoch.as_str(), 11),
        (epoch.as_str(), u64::MAX),
        ("AAAAAAAA", 9),
        ("_", 9),
        ("an epoch that was never said by anybody here", 9),
    ] {
        let reply = subscribe(&mut hub.client("ann").await, recover(epoch, offset)).await;
        assert!(!is_recovered(&reply) && missed(&reply).is_empty(), "{epoch} {offset}: {reply}");
        assert_eq!(reply["subscribe"]["offset"], 10, "{reply}");
    }
    let reply = subscribe(&mut hub.client("ann").await, recover(&epoch, 7)).await;
    assert_eq!(missed(&reply), [(8, 8), (9, 9), (10, 10)]);
    let reply = subscribe(&mut hub.client("ann").await, recover("", 9)).await;
    assert_eq!(missed(&reply), [(10, 10)], "an epoch that is not said is any");
    hub.stop().await;
}

#[actix_rt::test]
async fn all_or_nothing_is_112_and_no_subscription() {
    let hub = hub_of_histories(|config| config.channels.history_size = 2).await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    publish(&mut bob, 1..=5).await;
    let (epoch, _) = position(&hub).await;
    let mut request = recover(&epoch, 1);
    request["flag"] = json!(2);
    let refused = subscribe(&mut ann, request.clone()).await;
    assert_eq!(refused["error"]["code"], 112, "{refused}");
    request["offset"] = json!(4);
    let reply = subscribe(&mut ann, request).await;
    assert_eq!(missed(&reply), [(5, 5)], "it was not subscribed before");
    hub.stop().await;
}

#[actix_rt::test]
async fn a_recovery_longer_than_a_reply_may_be_fails_and_the_client_stays() {
    let hub = hub_of_histories(|config| config.limits.outbox_bytes = 256 * 1024).await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    let (epoch, _) = position(&hub).await;
    let data = "x".repeat(30_000);
    for _ in 0..5 {
        bob.ask(json!({"id": 9, "publish": {"channel": "news", "data": data}})).await;
    }
    let reply = subscribe(&mut ann, recover(&epoch, 0)).await;
    assert!(!is_recovered(&reply) && missed(&reply).is_empty());
    assert_eq!(reply["subscribe"]["offset"], 5);
    publish(&mut bob, 6..=6).await;
    assert_eq!(ann.publication().await, 6);
    hub.stop().await;
}

#[actix_rt::test]
async fn in_cache_mode_the_newest_is_all_that_comes_back() {
    let hub = hub_of_histories(|config| config.channels.force_recovery_mode = RecoveryMode::Cache).await;
    let mut bob = hub.client("bob").await;
    let empty = subscribe(&mut hub.client("ann").await, json!({"recover": true})).await;
    assert!(!is_recovered(&empty), "{empty}");
    publish(&mut bob, 1..=5).await;
    let (epoch, _) = position(&hub).await;
    for request in [json!({"recover": true}), recover(&epoch, 2), recover("AAAAAAAA", 99)] {
        let reply = subscribe(&mut hub.client("ann").await, request).await;
        assert!(is_recovered(&reply), "{reply}");
        assert_eq!(missed(&reply), [(5, 5)]);
    }
    let reply = subscribe(&mut hub.client("ann").await, recover(&epoch, 5)).await;
    assert!(is_recovered(&reply) && missed(&reply).is_empty(), "{reply}");
    hub.stop().await;
}

#[actix_rt::test]
async fn a_channel_without_a_history_recovers_nothing_and_says_so() {
    let hub = hub_with(|_| ()).await;
    let reply =
        subscribe(&mut hub.client("ann").await, json!({"recover": true, "offset": 4, "positioned": true})).await;
    assert_eq!(reply, json!({"id": 2, "subscribe": {}}));
    hub.stop().await;
}

#[actix_rt::test]
async fn what_a_token_brings_is_recovered_with_connect() {
    let hub = hub_of_histories(|config| config.channels.force_recovery = true).await;
    let mut bob = hub.client("bob").await;
    publish(&mut bob, 1..=5).await;
    let (epoch, _) = position(&hub).await;
    let token = hub.signed(json!({"sub": "ann", "exp": 60, "channels": ["news", "other"]}));
    let mut ann = hub.stranger().await;
    let subs = json!({"news": {"recover": true, "epoch": epoch, "offset": 3}, "nothing": {"recover": true}});
    let reply = ann.ask(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
    let news = json!({"subscribe": reply["connect"]["subs"]["news"]});
    assert!(is_recovered(&news), "{reply}");
    assert_eq!(missed(&news), [(4, 4), (5, 5)]);
    let other = &reply["connect"]["subs"]["other"];
    assert_eq!(other["recoverable"], true, "{reply}");
    assert_eq!(other["was_recovering"], Value::Null, "{reply}");
    assert_eq!(reply["connect"]["subs"]["nothing"], Value::Null);
    publish(&mut bob, 6..=6).await;
    assert_eq!(ann.publication().await, 6);
    hub.stop().await;
}

#[actix_rt::test]
async fn who_recovers_what_a_token_brings_is_told_that_it_can_again() {
    let hub = hub_of_histories(|_| ()).await;
    let mut bob = hub.client("bob").await;
    publish(&mut bob, 1..=2).await;
    let (epoch, _) = position(&hub).await;
    let token = hub.signed(json!({"sub": "ann", "exp": 60, "channels": ["news"]}));
    let subs = json!({"news": {"recover": true, "epoch": epoch, "offset": 1}});
    let reply = hub.stranger().await.ask(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
    let news = &reply["connect"]["subs"]["news"];
    assert_eq!(
        (&news["recovered"], &news["recoverable"], &news["positioned"]),
        (&json!(true), &json!(true), &json!(true))
    );
    hub.stop().await;
}

/// Reads on until it has everything up to `last`, and goes away and comes back every few publications.
async fn follow(hub: &Hub, epoch: &str, last: u64, patience: u64) {
    let (mut has, mut client) = (0, hub.client("reader").await);
    while has < last {
        let reply = subscribe(&mut client, recover(epoch, has)).await;
        assert!(is_recovered(&reply), "{reply}");
        for (offset, data) in missed(&reply) {
            assert_eq!((offset, data), (has + 1, has + 1), "recovered");
            has = offset;
        }
        for _ in 0..patience {
            if has == last {
                return;
            }
            let push = client.hear().await;
            assert_eq!(push["push"]["pub"]["offset"], has + 1, "live: {push}");
            has += 1;
        }
        if has % 2 == 0 {
            client = hub.client("reader").await;
        } else {
            client.say(json!({"id": 3, "unsubscribe": {"channel": "news"}})).await;
            while client.hear().await["id"] != 3 {}
        }
    }
}

#[actix_rt::test]
async fn clients_that_come_and_go_while_much_is_published_see_everything_once_and_in_order() {
    const PUBLICATIONS: u64 = 3000;
    let hub = hub_of_histories(|config| {
        config.channels.history_size = PUBLICATIONS as usize;
        config.limits.recovered_publications = PUBLICATIONS as usize;
    })
    .await;
    let mut bob = hub.client("bob").await;
    let (epoch, _) = position(&hub).await;
    let readers = futures_util::future::join_all((1..=12).map(|reader| follow(&hub, &epoch, PUBLICATIONS, 7 * reader)));
    tokio::join!(readers, publish(&mut bob, 1..=PUBLICATIONS));
    hub.stop().await;
}
