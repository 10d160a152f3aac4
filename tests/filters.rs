//! Tag filters of subscriptions: a client receives the publications that match, live and recovered. A publication that the
//! filter drops is no gap.

use serde_json::{Value, json};
use wardcast::config::DeltaType;

use crate::support::{TestHub, start_hub_with};

async fn start_tag_hub() -> TestHub {
    start_hub_with(|config| {
        config.channels.history_size = 10;
        config.channels.allowed_delta_types = vec![DeltaType::Fossil];
    })
    .await
}

async fn publish_tagged(hub: &TestHub, number: u64, tags: Value) {
    hub.publish_with(json!({"channel": "news", "data": number, "tags": tags})).await;
}

fn tag_equals(value: &str) -> Value {
    json!({"key": "city", "cmp": "eq", "val": value})
}

#[actix_rt::test]
async fn subscriber_receives_publications_matching_its_filter_and_offsets_skip_the_others() {
    let hub = start_tag_hub().await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    let (mut cat, mut dan) = (hub.connect("cat").await, hub.connect("dan").await);
    ann.subscribe_with("news", json!({"tf": tag_equals("bern"), "positioned": true})).await;
    bob.subscribe_with("news", json!({"tf": tag_equals("rome")})).await;
    cat.subscribe_with("news", json!({"tf": {"op": "not", "nodes": [tag_equals("rome")]}})).await;
    dan.subscribe_with("news", json!({})).await;
    for (number, tags) in [(1, json!({"city": "rome"})), (2, json!({})), (3, json!({"city": "bern", "a": "b"}))] {
        publish_tagged(&hub, number, tags).await;
    }
    publish_tagged(&hub, 4, json!({"city": "rome"})).await;
    assert_eq!(ann.receive_publication().await, 3);
    assert_eq!((bob.receive_publication().await, bob.receive_publication().await), (json!(1), json!(4)));
    assert_eq!((cat.receive_publication().await, cat.receive_publication().await), (json!(2), json!(3)));
    for number in 1..=4 {
        assert_eq!(dan.receive_publication().await, number);
    }
    publish_tagged(&hub, 5, json!({"city": "bern"})).await;
    assert_eq!(ann.receive_publication().await, 5, "the publications that the filter dropped are no gap");
}

#[actix_rt::test]
async fn recovered_publications_are_filtered_too() {
    let hub = start_tag_hub().await;
    for number in 1..=4 {
        publish_tagged(&hub, number, json!({"city": if number % 2 == 0 { "bern" } else { "rome" }})).await;
    }
    let mut ann = hub.connect("ann").await;
    let members = json!({"tf": tag_equals("bern"), "recover": true, "offset": 1});
    let reply = ann.subscribe_with("news", members).await;
    assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
    let missed = reply["subscribe"]["publications"].as_array().unwrap();
    assert_eq!(missed.iter().map(|publication| publication["data"].clone()).collect::<Vec<_>>(), [2, 4]);
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
    for members in [
        json!({"tf": deep}),
        json!({"tf": wide}),
        json!({"tf": {"key": "city", "cmp": "like", "val": "b"}}),
        json!({"tf": {"op": "and"}}),
        json!({"tf": 7}),
        json!({"tf": tag_equals("bern"), "delta": "fossil"}),
    ] {
        let reply = ann.subscribe_with("news", members).await;
        assert_eq!(reply["error"]["code"], 107, "{reply}");
    }
    let reply = ann.subscribe_with("news", json!({"tf": tag_equals("bern")})).await;
    assert!(reply["subscribe"].is_object(), "the refused commands left no subscription: {reply}");
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
        let reply = client.subscribe_with("news", json!({"tf": tag_equals(kind)})).await;
        assert_eq!(reply["error"]["code"].as_u64(), code, "{kind}: {reply}");
        clients.push(client);
    }
    // A filter that no subscription uses any more does not count.
    clients[0].request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    let reply = clients[2].subscribe_with("news", json!({"tf": tag_equals("c")})).await;
    assert!(reply["error"].is_null(), "{reply}");
}
