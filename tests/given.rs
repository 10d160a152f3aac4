//! Subscriptions that the server API brings, and publications that somebody is left out of.

use serde_json::{Value, json};
use wardcast::config::Config;

use crate::support::{Client, Hub, hub_with};

async fn hub_of_histories(change: impl FnOnce(&mut Config)) -> Hub {
    hub_with(|config| {
        config.channels.history_size = 10;
        change(config);
    })
    .await
}

async fn publish(hub: &Hub, request: Value) {
    let answer = hub.api("publish", request).await;
    assert!(answer["result"].is_object(), "{answer}");
}

async fn give(hub: &Hub, request: Value) {
    assert_eq!(hub.api("subscribe", request).await, json!({"result": {}}));
}

async fn told(client: &mut Client) -> Value {
    let push = client.hear().await;
    assert!(push["push"]["subscribe"].is_object(), "{push}");
    push["push"].clone()
}

#[actix_rt::test]
async fn the_api_brings_a_channel_with_what_it_knows_of_the_client() {
    let hub = hub_of_histories(|_| ()).await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    for number in 1..=3 {
        publish(&hub, json!({"channel": "news", "data": number})).await;
    }
    give(&hub, json!({"user": "ann", "channel": "news", "data": {"a": 1}, "recover_since": {"offset": 1}})).await;
    let push = told(&mut ann).await;
    assert_eq!((&push["channel"], &push["subscribe"]["data"]), (&json!("news"), &json!({"a": 1})), "{push}");
    // What was missed comes one by one, as SDKs take it.
    assert_eq!((ann.publication().await, ann.publication().await), (json!(2), json!(3)));
    // It was brought, so the client cannot ask for it.
    let twice = ann.ask(json!({"id": 1, "subscribe": {"channel": "news"}})).await;
    assert_eq!(twice["error"]["code"], 105, "{twice}");
    // Brought again, nothing changes and nobody is told.
    give(&hub, json!({"user": "ann", "channel": "news"})).await;
    publish(&hub, json!({"channel": "news", "data": 4})).await;
    assert_eq!(ann.publication().await, 4);
    assert_eq!(bob.ask(json!({"id": 1, "ping": {}})).await, json!({"id": 1, "ping": {}}), "nobody else has it");
    hub.stop().await;
}

#[actix_rt::test]
async fn what_the_api_brought_outlives_newer_tokens_and_ends_by_the_api() {
    let hub = hub_of_histories(|_| ()).await;
    let mut ann = hub.client("ann").await;
    give(&hub, json!({"user": "ann", "channel": "news"})).await;
    told(&mut ann).await;
    let token = hub.signed(json!({"sub": "ann", "exp": 600, "channels": ["other"]}));
    ann.say(json!({"id": 1, "refresh": {"token": token}})).await;
    assert_eq!(told(&mut ann).await["channel"], "other");
    assert!(ann.hear().await["refresh"].is_object());
    publish(&hub, json!({"channel": "news", "data": 1})).await;
    assert_eq!(ann.publication().await, 1);
    hub.api("unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(ann.hear().await["push"]["unsubscribe"]["code"], 2000);
    hub.stop().await;
}

#[actix_rt::test]
async fn the_api_brings_no_channel_of_others_and_none_of_no_namespace() {
    let hub = hub_of_histories(|_| ()).await;
    let mut ann = hub.client("ann").await;
    for channel in ["dialog#bob,cat", "nowhere:1"] {
        hub.api("subscribe", json!({"user": "ann", "channel": channel})).await;
    }
    give(&hub, json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(told(&mut ann).await["channel"], "news", "it is told of this one first");
    hub.stop().await;
}

#[actix_rt::test]
async fn who_is_excluded_gets_nothing_and_sees_no_gap() {
    let hub = hub_of_histories(|config| config.channels.force_positioning = true).await;
    let (mut ann, greeting) = hub.client_of(json!({"sub": "ann", "exp": 60})).await;
    let mut bob = hub.client("bob").await;
    for client in [&mut ann, &mut bob] {
        client.ask(json!({"id": 1, "subscribe": {"channel": "news"}})).await;
    }
    publish(&hub, json!({"channel": "news", "data": 1, "exclude": greeting["client"]})).await;
    publish(&hub, json!({"channel": "news", "data": 2})).await;
    assert_eq!(ann.publication().await, 2);
    assert_eq!((bob.publication().await, bob.publication().await), (json!(1), json!(2)));
    hub.stop().await;
}

#[actix_rt::test]
async fn who_was_excluded_does_not_recover_it_and_misses_nothing() {
    let hub = hub_of_histories(|_| ()).await;
    let (mut ann, greeting) = hub.client_of(json!({"sub": "ann", "exp": 60})).await;
    publish(&hub, json!({"channel": "news", "data": 1, "exclude": greeting["client"]})).await;
    publish(&hub, json!({"channel": "news", "data": 2})).await;
    let reply = ann.ask(json!({"id": 1, "subscribe": {"channel": "news", "recover": true}})).await;
    let (missed, is_recovered) = (&reply["subscribe"]["publications"], &reply["subscribe"]["recovered"]);
    assert_eq!((is_recovered, missed), (&json!(true), &json!([{"data": 2, "offset": 2, "time": missed[0]["time"]}])));
    hub.stop().await;
}

#[actix_rt::test]
async fn an_unsubscribe_that_is_ordered_behind_a_subscribe_is_carried_out_behind_it() {
    let hub = hub_of_histories(|_| ()).await;
    let mut ann = hub.client("ann").await;
    // The session has far to go with the first, and the hub none with the second.
    for _ in 0..50 {
        let orders = json!({"commands": [
            {"subscribe": {"user": "ann", "channel": "news"}},
            {"unsubscribe": {"user": "ann", "channel": "news"}},
        ]});
        hub.api("batch", orders).await;
        assert_eq!(told(&mut ann).await["channel"], "news");
        assert_eq!(ann.hear().await["push"]["unsubscribe"]["code"], 2000);
    }
    hub.stop().await;
}
