//! Subscriptions that the server API brings, and publications that somebody is left out of.

use serde_json::{Value, json};
use wardcast::config::Config;

use crate::support::{Client, TestHub, start_hub_with};

async fn start_history_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.history_size = 10;
        change(config);
    })
    .await
}

async fn publish(hub: &TestHub, request: Value) {
    let answer = hub.call_api("publish", request).await;
    assert!(answer["result"].is_object(), "{answer}");
}

async fn subscribe_user(hub: &TestHub, request: Value) {
    assert_eq!(hub.call_api("subscribe", request).await, json!({"result": {}}));
}

async fn receive_subscribe_push(client: &mut Client) -> Value {
    let push = client.receive().await;
    assert!(push["push"]["subscribe"].is_object(), "{push}");
    push["push"].clone()
}

#[actix_rt::test]
async fn api_subscribe_uses_known_client_info() {
    let hub = start_history_hub(|_| ()).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    for number in 1..=3 {
        publish(&hub, json!({"channel": "news", "data": number})).await;
    }
    subscribe_user(&hub, json!({"user": "ann", "channel": "news", "data": {"a": 1}, "recover_since": {"offset": 1}}))
        .await;
    let push = receive_subscribe_push(&mut ann).await;
    assert_eq!((&push["channel"], &push["subscribe"]["data"]), (&json!("news"), &json!({"a": 1})), "{push}");
    // What was missed comes one by one, as SDKs take it.
    assert_eq!((ann.receive_publication().await, ann.receive_publication().await), (json!(2), json!(3)));
    // It was brought, so the client cannot ask for it.
    let twice = ann.request(json!({"id": 1, "subscribe": {"channel": "news"}})).await;
    assert_eq!(twice["error"]["code"], 105, "{twice}");
    // Brought again, nothing changes and nobody is told.
    subscribe_user(&hub, json!({"user": "ann", "channel": "news"})).await;
    publish(&hub, json!({"channel": "news", "data": 4})).await;
    assert_eq!(ann.receive_publication().await, 4);
    assert_eq!(bob.request(json!({"id": 1, "ping": {}})).await, json!({"id": 1, "ping": {}}), "nobody else has it");
    hub.stop().await;
}

#[actix_rt::test]
async fn api_subscription_survives_new_tokens_and_ends_by_the_api() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    subscribe_user(&hub, json!({"user": "ann", "channel": "news"})).await;
    receive_subscribe_push(&mut ann).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 600, "channels": ["other"]}));
    ann.send(json!({"id": 1, "refresh": {"token": token}})).await;
    assert_eq!(receive_subscribe_push(&mut ann).await["channel"], "other");
    assert!(ann.receive().await["refresh"].is_object());
    publish(&hub, json!({"channel": "news", "data": 1})).await;
    assert_eq!(ann.receive_publication().await, 1);
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
    hub.stop().await;
}

#[actix_rt::test]
async fn api_subscribe_refuses_channels_of_other_users_and_unknown_namespaces() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    for channel in ["dialog#bob,cat", "nowhere:1"] {
        hub.call_api("subscribe", json!({"user": "ann", "channel": channel})).await;
    }
    subscribe_user(&hub, json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(receive_subscribe_push(&mut ann).await["channel"], "news", "it is told of this one first");
    hub.stop().await;
}

#[actix_rt::test]
async fn excluded_client_receives_nothing_and_sees_no_gap() {
    let hub = start_history_hub(|config| config.channels.force_positioning = true).await;
    let (mut ann, greeting) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    let mut bob = hub.connect("bob").await;
    for client in [&mut ann, &mut bob] {
        client.request(json!({"id": 1, "subscribe": {"channel": "news"}})).await;
    }
    publish(&hub, json!({"channel": "news", "data": 1, "exclude": greeting["client"]})).await;
    publish(&hub, json!({"channel": "news", "data": 2})).await;
    assert_eq!(ann.receive_publication().await, 2);
    assert_eq!((bob.receive_publication().await, bob.receive_publication().await), (json!(1), json!(2)));
    hub.stop().await;
}

#[actix_rt::test]
async fn excluded_client_recovers_everything_but_the_excluded_publication() {
    let hub = start_history_hub(|_| ()).await;
    let (mut ann, greeting) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    publish(&hub, json!({"channel": "news", "data": 1, "exclude": greeting["client"]})).await;
    publish(&hub, json!({"channel": "news", "data": 2})).await;
    let reply = ann.request(json!({"id": 1, "subscribe": {"channel": "news", "recover": true}})).await;
    let (missed, is_recovered) = (&reply["subscribe"]["publications"], &reply["subscribe"]["recovered"]);
    assert_eq!((is_recovered, missed), (&json!(true), &json!([{"data": 2, "offset": 2, "time": missed[0]["time"]}])));
    hub.stop().await;
}

#[actix_rt::test]
async fn api_unsubscribe_takes_effect_after_an_earlier_api_subscribe() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    // The session has far to go with the first, and the hub none with the second.
    for _ in 0..50 {
        let orders = json!({"commands": [
            {"subscribe": {"user": "ann", "channel": "news"}},
            {"unsubscribe": {"user": "ann", "channel": "news"}},
        ]});
        hub.call_api("batch", orders).await;
        assert_eq!(receive_subscribe_push(&mut ann).await["channel"], "news");
        assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
    }
    hub.stop().await;
}
