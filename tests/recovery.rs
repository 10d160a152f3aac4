//! Recovery: the subscribe reply of a reconnecting client holds every missed publication once and in order, or says that
//! recovery failed.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::{Config, RecoveryMode};

use crate::support::{Client, TestHub, allow_any_rate, start_hub_with};

async fn start_history_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.history_size = 100;
        config.channels.history_ttl = Duration::from_secs(60);
        allow_any_rate(config);
        change(config);
    })
    .await
}

async fn publish_numbers(client: &mut Client, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        client.publish("news", json!(number)).await;
    }
}

/// Subscribes a client that then disconnects; returns the reply.
async fn subscribe_once(hub: &TestHub, members: Value) -> Value {
    hub.connect("ann").await.subscribe_with("news", members).await
}

/// The newest position of the channel, as epoch and offset.
async fn current_position(hub: &TestHub) -> (String, u64) {
    let reply = subscribe_once(hub, json!({"positioned": true})).await;
    let result = &reply["subscribe"];
    (result["epoch"].as_str().unwrap().to_owned(), result["offset"].as_u64().unwrap_or(0))
}

fn recover_from(epoch: &str, offset: u64) -> Value {
    json!({"recover": true, "epoch": epoch, "offset": offset})
}

/// The recovered publications of a reply, as offset and data.
fn recovered_publications(reply: &Value) -> Vec<(u64, u64)> {
    let publications = reply["subscribe"]["publications"].as_array().cloned().unwrap_or_default();
    let offset_and_data = |publication: &Value| Some((publication["offset"].as_u64()?, publication["data"].as_u64()?));
    publications.iter().map(|publication| offset_and_data(publication).unwrap()).collect()
}

fn is_recovered(reply: &Value) -> bool {
    assert_eq!(reply["subscribe"]["was_recovering"], true, "{reply}");
    reply["subscribe"]["recovered"] == true
}

#[actix_rt::test]
async fn reconnecting_client_receives_missed_then_live_publications() {
    let hub = start_history_hub(|_| ()).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    let (epoch, offset) = current_position(&hub).await;
    assert_eq!(offset, 0);
    publish_numbers(&mut bob, 1..=5).await;
    let reply = ann.subscribe_with("news", recover_from(&epoch, 2)).await;
    assert!(is_recovered(&reply), "{reply}");
    assert_eq!(recovered_publications(&reply), [(3, 3), (4, 4), (5, 5)]);
    let result = &reply["subscribe"];
    assert_eq!((&result["offset"], &result["epoch"]), (&json!(2), &json!(epoch)), "the client's own offset");
    assert_eq!((&result["recoverable"], &result["positioned"]), (&json!(true), &json!(true)));
    publish_numbers(&mut bob, 6..=6).await;
    let push = ann.receive().await;
    assert_eq!((&push["push"]["pub"]["data"], &push["push"]["pub"]["offset"]), (&json!(6), &json!(6)));
}

#[actix_rt::test]
async fn client_that_missed_nothing_is_recovered_without_publications() {
    let hub = start_history_hub(|_| ()).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    publish_numbers(&mut bob, 1..=3).await;
    let (epoch, offset) = current_position(&hub).await;
    // First without any subscriber, then beside one.
    for client in [&mut ann, &mut bob] {
        let reply = client.subscribe_with("news", recover_from(&epoch, offset)).await;
        assert!(is_recovered(&reply) && recovered_publications(&reply).is_empty(), "{reply}");
    }
}

#[actix_rt::test]
async fn incomplete_history_is_not_recovered_and_reply_has_newest_position() {
    let hub = start_history_hub(|config| {
        config.channels.history_size = 4;
        config.limits.recovered_publications = 3;
    })
    .await;
    let mut bob = hub.connect("bob").await;
    publish_numbers(&mut bob, 1..=10).await;
    let (epoch, _) = current_position(&hub).await;
    for (epoch, offset) in [
        (epoch.as_str(), 2),
        (epoch.as_str(), 6),
        (epoch.as_str(), 11),
        (epoch.as_str(), u64::MAX),
        ("AAAAAAAA", 9),
        ("_", 9),
        ("an epoch that the hub never sent", 9),
    ] {
        let reply = subscribe_once(&hub, recover_from(epoch, offset)).await;
        assert!(!is_recovered(&reply) && recovered_publications(&reply).is_empty(), "{epoch} {offset}: {reply}");
        assert_eq!(reply["subscribe"]["offset"], 10, "{reply}");
    }
    let reply = subscribe_once(&hub, recover_from(&epoch, 7)).await;
    assert_eq!(recovered_publications(&reply), [(8, 8), (9, 9), (10, 10)]);
    let reply = subscribe_once(&hub, recover_from("", 9)).await;
    assert_eq!(recovered_publications(&reply), [(10, 10)], "an empty epoch matches any");
}

#[actix_rt::test]
async fn failed_strict_recovery_is_112_without_subscription() {
    let hub = start_history_hub(|config| config.channels.history_size = 2).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    publish_numbers(&mut bob, 1..=5).await;
    let (epoch, _) = current_position(&hub).await;
    let mut request = recover_from(&epoch, 1);
    request["flag"] = json!(2);
    let refused = ann.subscribe_with("news", request.clone()).await;
    assert_eq!(refused["error"]["code"], 112, "{refused}");
    request["offset"] = json!(4);
    let reply = ann.subscribe_with("news", request).await;
    assert_eq!(recovered_publications(&reply), [(5, 5)], "the refused command left no subscription");
}

#[actix_rt::test]
async fn recovery_over_the_reply_limit_fails_and_client_stays_connected() {
    let hub = start_history_hub(|config| config.limits.outbox_bytes = 256 * 1024).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    let (epoch, _) = current_position(&hub).await;
    let data = "x".repeat(30_000);
    for _ in 0..5 {
        bob.publish("news", json!(data)).await;
    }
    let reply = ann.subscribe_with("news", recover_from(&epoch, 0)).await;
    assert!(!is_recovered(&reply) && recovered_publications(&reply).is_empty());
    assert_eq!(reply["subscribe"]["offset"], 5);
    publish_numbers(&mut bob, 6..=6).await;
    assert_eq!(ann.receive_publication().await, 6);
}

#[actix_rt::test]
async fn cache_recovery_returns_newest_publication_only() {
    let hub = start_history_hub(|config| config.channels.force_recovery_mode = RecoveryMode::Cache).await;
    let mut bob = hub.connect("bob").await;
    let empty = subscribe_once(&hub, json!({"recover": true})).await;
    assert!(!is_recovered(&empty), "{empty}");
    publish_numbers(&mut bob, 1..=5).await;
    let (epoch, _) = current_position(&hub).await;
    for request in [json!({"recover": true}), recover_from(&epoch, 2), recover_from("AAAAAAAA", 99)] {
        let reply = subscribe_once(&hub, request).await;
        assert!(is_recovered(&reply), "{reply}");
        assert_eq!(recovered_publications(&reply), [(5, 5)]);
    }
    let reply = subscribe_once(&hub, recover_from(&epoch, 5)).await;
    assert!(is_recovered(&reply) && recovered_publications(&reply).is_empty(), "{reply}");
}

#[actix_rt::test]
async fn channel_without_history_reports_failed_recovery() {
    let hub = start_hub_with(|_| ()).await;
    let reply = subscribe_once(&hub, json!({"recover": true, "offset": 4, "positioned": true})).await;
    assert_eq!(reply, json!({"id": 1, "subscribe": {}}));
}

#[actix_rt::test]
async fn connect_recovers_server_side_subscriptions() {
    let hub = start_history_hub(|config| config.channels.force_recovery = true).await;
    let mut bob = hub.connect("bob").await;
    publish_numbers(&mut bob, 1..=5).await;
    let (epoch, _) = current_position(&hub).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["news", "other"]}));
    let mut ann = hub.connect_without_token().await;
    let subs = json!({"news": {"recover": true, "epoch": epoch, "offset": 3}, "$nothing": {"recover": true}});
    let reply = ann.request(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
    let news = json!({"subscribe": reply["connect"]["subs"]["news"]});
    assert!(is_recovered(&news), "{reply}");
    assert_eq!(recovered_publications(&news), [(4, 4), (5, 5)]);
    let other = &reply["connect"]["subs"]["other"];
    assert_eq!(other["recoverable"], true, "{reply}");
    assert_eq!(other["was_recovering"], Value::Null, "{reply}");
    assert_eq!(reply["connect"]["subs"]["$nothing"], Value::Null, "ann may not subscribe to it");
    publish_numbers(&mut bob, 6..=6).await;
    assert_eq!(ann.receive_publication().await, 6);
}

#[actix_rt::test]
async fn connect_recovers_subscriptions_one_by_one_while_they_fit_into_the_reply() {
    let hub = start_history_hub(|config| config.limits.outbox_bytes = 256 * 1024).await;
    let mut bob = hub.connect("bob").await;
    // A reply may have 128 KiB: "b" is too long, and "d" has no room beside "a" and "c".
    let (channels, sizes) = (["a", "b", "c", "d", "e"], [60_000, 140_000, 60_000, 30_000, 1000]);
    let mut subs = json!({});
    for (channel, size) in channels.into_iter().zip(sizes) {
        let reply = bob.subscribe_with(channel, json!({"positioned": true})).await;
        subs[channel] = recover_from(reply["subscribe"]["epoch"].as_str().unwrap(), 0);
        bob.request(json!({"id": 1, "unsubscribe": {"channel": channel}})).await;
        for part in 0..size / 10_000 + 1 {
            let bytes = if part == 0 { size % 10_000 } else { 10_000 };
            bob.publish(channel, json!("x".repeat(bytes))).await;
        }
    }
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": channels}));
    let mut ann = hub.connect_without_token().await;
    let reply = ann.request(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
    let results = channels.map(|channel| reply["connect"]["subs"][channel].clone());
    assert_eq!(
        results.each_ref().map(|result| result["recovered"].as_bool().unwrap_or_default()),
        [true, false, true, false, true]
    );
    for (result, size) in results.iter().zip(sizes) {
        let parts = size / 10_000 + 1;
        let expected = if result["recovered"] == true { (parts, 0) } else { (0, parts) };
        let publications = result["publications"].as_array().map_or(0, Vec::len);
        assert_eq!((publications, result["offset"].as_u64().unwrap_or(0) as usize), expected, "{result}");
    }
    // All are subscribed.
    for channel in channels {
        bob.publish(channel, json!("live")).await;
        assert_eq!(ann.receive().await["push"]["channel"], channel);
    }
}

#[actix_rt::test]
async fn recovered_server_side_subscription_is_marked_recoverable() {
    let hub = start_history_hub(|_| ()).await;
    let mut bob = hub.connect("bob").await;
    publish_numbers(&mut bob, 1..=2).await;
    let (epoch, _) = current_position(&hub).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["news"]}));
    let subs = json!({"news": {"recover": true, "epoch": epoch, "offset": 1}});
    let reply =
        hub.connect_without_token().await.request(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
    let news = &reply["connect"]["subs"]["news"];
    assert_eq!(
        (&news["recovered"], &news["recoverable"], &news["positioned"]),
        (&json!(true), &json!(true), &json!(true))
    );
}

/// Receives every publication up to the offset `last`, and reconnects or subscribes again after each `stay` live ones.
async fn receive_everything(hub: &TestHub, epoch: &str, last: u64, stay: u64) {
    let (mut received, mut client) = (0, hub.connect("reader").await);
    while received < last {
        let reply = client.subscribe_with("news", recover_from(epoch, received)).await;
        assert!(is_recovered(&reply), "{reply}");
        for (offset, data) in recovered_publications(&reply) {
            assert_eq!((offset, data), (received + 1, received + 1), "recovered");
            received = offset;
        }
        for _ in 0..stay {
            if received == last {
                return;
            }
            let push = client.receive().await;
            assert_eq!(push["push"]["pub"]["offset"], received + 1, "live: {push}");
            received += 1;
        }
        if received % 2 == 0 {
            client = hub.connect("reader").await;
        } else {
            client.send(json!({"id": 3, "unsubscribe": {"channel": "news"}})).await;
            while client.receive().await["id"] != 3 {}
        }
    }
}

#[actix_rt::test]
async fn clients_reconnecting_under_load_receive_everything_once_in_order() {
    const PUBLICATIONS: u64 = 3000;
    let hub = start_history_hub(|config| {
        config.channels.history_size = PUBLICATIONS as usize;
        config.limits.recovered_publications = PUBLICATIONS as usize;
    })
    .await;
    let mut bob = hub.connect("bob").await;
    let (epoch, _) = current_position(&hub).await;
    let readers = futures_util::future::join_all(
        (1..=12).map(|reader| receive_everything(&hub, &epoch, PUBLICATIONS, 7 * reader)),
    );
    tokio::join!(readers, publish_numbers(&mut bob, 1..=PUBLICATIONS));
}
