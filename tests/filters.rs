//! Tag filters of subscriptions: what comes is what was asked for, live and recovered, and gaps are judged before.

use serde_json::{Value, json};
use wardcast::config::DeltaType;

use crate::support::{Client, TestHub, start_hub_with};

async fn start_tag_hub() -> TestHub {
    start_hub_with(|config| {
        config.channels.history_size = 10;
        config.channels.allowed_delta_types = vec![DeltaType::Fossil];
    })
    .await
}

async fn publish(hub: &TestHub, number: u64, tags: Value) {
    let answer = hub.call_api("publish", json!({"channel": "news", "data": number, "tags": tags})).await;
    assert!(answer["result"].is_object(), "{answer}");
}

async fn subscribe(client: &mut Client, options: Value) -> Value {
    let mut request = json!({"channel": "news"});
    request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    client.request(json!({"id": 1, "subscribe": request})).await
}

fn tag_equals(value: &str) -> Value {
    json!({"key": "city", "cmp": "eq", "val": value})
}

#[actix_rt::test]
async fn subscriber_receives_publications_matching_its_filter_and_offsets_skip_the_others() {
    let hub = start_tag_hub().await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    let (mut cat, mut all) = (hub.connect("cat").await, hub.connect("dan").await);
    subscribe(&mut ann, json!({"tf": tag_equals("bern"), "positioned": true})).await;
    subscribe(&mut bob, json!({"tf": tag_equals("rome")})).await;
    subscribe(&mut cat, json!({"tf": {"op": "not", "nodes": [tag_equals("rome")]}})).await;
    subscribe(&mut all, json!({})).await;
    for (number, tags) in [(1, json!({"city": "rome"})), (2, json!({})), (3, json!({"city": "bern", "a": "b"}))] {
        publish(&hub, number, tags).await;
    }
    publish(&hub, 4, json!({"city": "rome"})).await;
    assert_eq!(ann.receive_publication().await, 3);
    assert_eq!((bob.receive_publication().await, bob.receive_publication().await), (json!(1), json!(4)));
    assert_eq!((cat.receive_publication().await, cat.receive_publication().await), (json!(2), json!(3)));
    for number in 1..=4 {
        assert_eq!(all.receive_publication().await, number);
    }
    publish(&hub, 5, json!({"city": "bern"})).await;
    assert_eq!(ann.receive_publication().await, 5, "what it did not want was no gap");
    hub.stop().await;
}

#[actix_rt::test]
async fn recovered_publications_are_filtered_too() {
    let hub = start_tag_hub().await;
    for number in 1..=4 {
        publish(&hub, number, json!({"city": if number % 2 == 0 { "bern" } else { "rome" }})).await;
    }
    let mut ann = hub.connect("ann").await;
    let reply = subscribe(&mut ann, json!({"tf": tag_equals("bern"), "recover": true, "offset": 1})).await;
    assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
    let missed = reply["subscribe"]["publications"].as_array().unwrap();
    assert_eq!(missed.iter().map(|of| of["data"].clone()).collect::<Vec<_>>(), [2, 4]);
    hub.stop().await;
}

#[actix_rt::test]
async fn invalid_filter_and_filter_with_delta_are_107() {
    let hub = start_tag_hub().await;
    let mut deep = tag_equals("bern");
    for _ in 0..100 {
        deep = json!({"op": "not", "nodes": [deep]});
    }
    let wide = json!({"op": "and", "nodes": vec![tag_equals("bern"); 500]});
    let mut ann = hub.connect("ann").await;
    for request in [
        json!({"tf": deep}),
        json!({"tf": wide}),
        json!({"tf": {"key": "city", "cmp": "like", "val": "b"}}),
        json!({"tf": {"op": "and"}}),
        json!({"tf": 7}),
        json!({"tf": tag_equals("bern"), "delta": "fossil"}),
    ] {
        let reply = subscribe(&mut ann, request).await;
        assert_eq!(reply["error"]["code"], 107, "{reply}");
    }
    assert!(
        subscribe(&mut ann, json!({"tf": tag_equals("bern")})).await["subscribe"].is_object(),
        "and it was none before"
    );
    hub.stop().await;
}

#[actix_rt::test]
async fn number_of_distinct_filters_is_limited_and_existing_ones_are_shared() {
    let hub = start_hub_with(|config| {
        config.limits.filter_nodes_per_channel = 2;
        config.server.workers = 1;
    })
    .await;
    let mut clients = Vec::new();
    for (number, (kind, code)) in [("a", None), ("b", None), ("c", Some(106)), ("b", None)].into_iter().enumerate() {
        let mut client = hub.connect(&format!("user{number}")).await;
        let wanted = json!({"channel": "news", "tf": tag_equals(kind)});
        let reply = client.request(json!({"id": 1, "subscribe": wanted})).await;
        assert_eq!(reply["error"]["code"].as_u64(), code, "{kind}: {reply}");
        clients.push(client);
    }
    // A filter of nobody takes no place.
    clients[0].request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    let reply = clients[2].request(json!({"id": 3, "subscribe": {"channel": "news", "tf": tag_equals("c")}})).await;
    assert!(reply["error"].is_null(), "{reply}");
    hub.stop().await;
}
