//! Subscriptions made by the server API, and publications from which it excludes a client.

use std::time::Duration;

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
        hub.publish("news", json!(number)).await;
    }
    subscribe_user(&hub, json!({"user": "ann", "channel": "news", "data": {"a": 1}, "recover_since": {"offset": 1}}))
        .await;
    let push = receive_subscribe_push(&mut ann).await;
    assert_eq!((&push["channel"], &push["subscribe"]["data"]), (&json!("news"), &json!({"a": 1})), "{push}");
    // Missed publications follow as separate pushes, which is how SDKs accept them.
    assert_eq!((ann.receive_publication().await, ann.receive_publication().await), (json!(2), json!(3)));
    let second = ann.subscribe_with("news", json!({})).await;
    assert_eq!(second["error"]["code"], 105, "the client cannot subscribe to a server-side subscription: {second}");
    // A second API subscribe changes nothing and sends no push.
    subscribe_user(&hub, json!({"user": "ann", "channel": "news"})).await;
    hub.publish("news", json!(4)).await;
    assert_eq!(ann.receive_publication().await, 4);
    let ping = json!({"id": 1, "ping": {}});
    assert_eq!(bob.request(ping.clone()).await, ping, "other users are not subscribed");
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
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
}

#[actix_rt::test]
async fn api_subscribe_leaves_the_subscription_of_a_client_as_it_is() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    ann.subscribe_with("news", json!({})).await;
    let expire_at = hub.clock.now().unix_seconds() + 60;
    subscribe_user(&hub, json!({"user": "ann", "channel": "news", "expire_at": expire_at})).await;
    subscribe_user(&hub, json!({"user": "ann", "channel": "other"})).await;
    assert_eq!(receive_subscribe_push(&mut ann).await["channel"], "other", "the first and only push");
    hub.clock.advance(Duration::from_secs(61));
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
    let reply = ann.request(json!({"id": 1, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(reply, json!({"id": 1, "unsubscribe": {}}));
}

#[actix_rt::test]
async fn api_subscribe_refuses_channels_of_other_users_and_unknown_namespaces() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    for channel in ["dialog#bob,cat", "nowhere:1"] {
        hub.call_api("subscribe", json!({"user": "ann", "channel": channel})).await;
    }
    subscribe_user(&hub, json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(receive_subscribe_push(&mut ann).await["channel"], "news", "the first and only push");
}

#[actix_rt::test]
async fn api_subscription_survives_a_token_that_names_its_channel_and_a_later_one_that_does_not() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    subscribe_user(&hub, json!({"user": "ann", "channel": "$secret"})).await;
    receive_subscribe_push(&mut ann).await;
    for (exp, channels) in [(600, json!(["$secret"])), (601, json!([]))] {
        let token = hub.token_with_claims(json!({"sub": "ann", "exp": exp, "channels": channels}));
        assert!(ann.request(json!({"id": 1, "refresh": {"token": token}})).await["refresh"].is_object());
        hub.publish("$secret", json!(exp)).await;
        assert_eq!(ann.receive_publication().await, exp);
    }
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "$secret"})).await;
    assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
}

#[actix_rt::test]
async fn excluded_client_receives_nothing_and_sees_no_gap() {
    let hub = start_history_hub(|config| config.channels.force_positioning = true).await;
    let (mut ann, connect) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    let mut bob = hub.connect("bob").await;
    for client in [&mut ann, &mut bob] {
        client.subscribe_with("news", json!({})).await;
    }
    hub.publish_with(json!({"channel": "news", "data": 1, "exclude": connect["client"]})).await;
    hub.publish("news", json!(2)).await;
    assert_eq!(ann.receive_publication().await, 2);
    assert_eq!((bob.receive_publication().await, bob.receive_publication().await), (json!(1), json!(2)));
}

#[actix_rt::test]
async fn excluded_client_recovers_everything_but_the_excluded_publication() {
    let hub = start_history_hub(|_| ()).await;
    let (mut ann, connect) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    hub.publish_with(json!({"channel": "news", "data": 1, "exclude": connect["client"]})).await;
    hub.publish("news", json!(2)).await;
    let result = ann.subscribe_with("news", json!({"recover": true})).await["subscribe"].take();
    let missed = &result["publications"];
    assert_eq!(result["recovered"], true, "{result}");
    assert_eq!(*missed, json!([{"data": 2, "offset": 2, "time": missed[0]["time"]}]));
}

#[actix_rt::test]
async fn one_batch_subscribes_a_user_to_as_many_channels_as_it_may_have_and_unsubscribes_it() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    for (method, push) in [("subscribe", "subscribe"), ("unsubscribe", "unsubscribe")] {
        let control = |number: u32| json!({method: {"user": "ann", "channel": format!("c{number:03}")}});
        hub.call_api("batch", json!({"commands": (0..128).map(control).collect::<Vec<_>>()})).await;
        for number in 0..128 {
            let received = ann.receive().await["push"].take();
            assert!(received[push].is_object() && received["channel"] == format!("c{number:03}"), "{received}");
        }
    }
}

#[actix_rt::test]
async fn api_unsubscribe_takes_effect_after_an_earlier_api_subscribe() {
    let hub = start_history_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    // The session carries out the first in several steps; the hub could carry out the second at once.
    for _ in 0..50 {
        let commands = json!({"commands": [
            {"subscribe": {"user": "ann", "channel": "news"}},
            {"unsubscribe": {"user": "ann", "channel": "news"}},
        ]});
        hub.call_api("batch", commands).await;
        assert_eq!(receive_subscribe_push(&mut ann).await["channel"], "news");
        assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
    }
}
