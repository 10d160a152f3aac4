//! Tag filters of subscriptions: what comes is what was asked for, live and recovered, and gaps are judged before.

use serde_json::{Value, json};
use wardcast::config::DeltaType;

use crate::support::{Client, Hub, hub_with};

async fn hub_of_tags() -> Hub {
    hub_with(|config| {
        config.channels.history_size = 10;
        config.channels.allowed_delta_types = vec![DeltaType::Fossil];
    })
    .await
}

async fn publish(hub: &Hub, number: u64, tags: Value) {
    let answer = hub.api("publish", json!({"channel": "news", "data": number, "tags": tags})).await;
    assert!(answer["result"].is_object(), "{answer}");
}

async fn subscribe(client: &mut Client, options: Value) -> Value {
    let mut request = json!({"channel": "news"});
    request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    client.ask(json!({"id": 1, "subscribe": request})).await
}

fn is(value: &str) -> Value {
    json!({"key": "city", "cmp": "eq", "val": value})
}

#[actix_rt::test]
async fn each_gets_what_it_asked_for_and_positions_go_on_over_the_rest() {
    let hub = hub_of_tags().await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    let (mut cat, mut all) = (hub.client("cat").await, hub.client("dan").await);
    subscribe(&mut ann, json!({"tf": is("bern"), "positioned": true})).await;
    subscribe(&mut bob, json!({"tf": is("rome")})).await;
    subscribe(&mut cat, json!({"tf": {"op": "not", "nodes": [is("rome")]}})).await;
    subscribe(&mut all, json!({})).await;
    for (number, tags) in [(1, json!({"city": "rome"})), (2, json!({})), (3, json!({"city": "bern", "a": "b"}))] {
        publish(&hub, number, tags).await;
    }
    publish(&hub, 4, json!({"city": "rome"})).await;
    assert_eq!(ann.publication().await, 3);
    assert_eq!((bob.publication().await, bob.publication().await), (json!(1), json!(4)));
    assert_eq!((cat.publication().await, cat.publication().await), (json!(2), json!(3)));
    for number in 1..=4 {
        assert_eq!(all.publication().await, number);
    }
    publish(&hub, 5, json!({"city": "bern"})).await;
    assert_eq!(ann.publication().await, 5, "what it did not want was no gap");
    hub.stop().await;
}

#[actix_rt::test]
async fn what_was_missed_is_filtered_too() {
    let hub = hub_of_tags().await;
    for number in 1..=4 {
        publish(&hub, number, json!({"city": if number % 2 == 0 { "bern" } else { "rome" }})).await;
    }
    let mut ann = hub.client("ann").await;
    let reply = subscribe(&mut ann, json!({"tf": is("bern"), "recover": true, "offset": 1})).await;
    assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
    let missed = reply["subscribe"]["publications"].as_array().unwrap();
    assert_eq!(missed.iter().map(|of| of["data"].clone()).collect::<Vec<_>>(), [2, 4]);
    hub.stop().await;
}

#[actix_rt::test]
async fn a_bad_filter_and_one_with_differences_are_107() {
    let hub = hub_of_tags().await;
    let mut deep = is("bern");
    for _ in 0..100 {
        deep = json!({"op": "not", "nodes": [deep]});
    }
    let wide = json!({"op": "and", "nodes": vec![is("bern"); 500]});
    let mut ann = hub.client("ann").await;
    for request in [
        json!({"tf": deep}),
        json!({"tf": wide}),
        json!({"tf": {"key": "city", "cmp": "like", "val": "b"}}),
        json!({"tf": {"op": "and"}}),
        json!({"tf": 7}),
        json!({"tf": is("bern"), "delta": "fossil"}),
    ] {
        let reply = subscribe(&mut ann, request).await;
        assert_eq!(reply["error"]["code"], 107, "{reply}");
    }
    assert!(subscribe(&mut ann, json!({"tf": is("bern")})).await["subscribe"].is_object(), "and it was none before");
    hub.stop().await;
}

#[actix_rt::test]
async fn different_filters_of_a_channel_are_bounded_and_those_that_are_there_can_be_shared() {
    let hub = hub_with(|config| {
        config.limits.filter_nodes_per_channel = 2;
        config.server.workers = 1;
    })
    .await;
    let mut clients = Vec::new();
    for (number, (kind, code)) in [("a", None), ("b", None), ("c", Some(106)), ("b", None)].into_iter().enumerate() {
        let mut client = hub.client(&format!("user{number}")).await;
        let wanted = json!({"channel": "news", "tf": is(kind)});
        let reply = client.ask(json!({"id": 1, "subscribe": wanted})).await;
        assert_eq!(reply["error"]["code"].as_u64(), code, "{kind}: {reply}");
        clients.push(client);
    }
    // A filter of nobody takes no place.
    clients[0].ask(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    let reply = clients[2].ask(json!({"id": 3, "subscribe": {"channel": "news", "tf": is("c")}})).await;
    assert!(reply["error"].is_null(), "{reply}");
    hub.stop().await;
}
