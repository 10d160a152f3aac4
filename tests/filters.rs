//! Tag filters of subscriptions: a client receives the publications that match, live and recovered. A publication that the
//! filter drops is no gap.

use futures_util::future::join_all;
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

/// Unfiltered subscribers on every worker: what all of them have received, every hub has compared with its filters.
struct Watchers(Vec<Client>);

impl Watchers {
    async fn connect(hub: &TestHub) -> Self {
        Self(join_all((0..8).map(|_| hub.connect_subscriber("watcher", "news"))).await)
    }

    async fn wait_for(&mut self, number: u64) {
        for watcher in &mut self.0 {
            while watcher.receive_publication().await != number {}
        }
    }
}

/// Publishes numbers for Rome, which nobody's filter matches, and waits until all hubs have dropped them.
async fn publish_for_rome(hub: &TestHub, watchers: &mut Watchers, numbers: std::ops::RangeInclusive<u64>) {
    let last = *numbers.end();
    for number in numbers {
        publish_tagged(hub, number, json!({"city": "rome"})).await;
    }
    watchers.wait_for(last).await;
}

async fn subscribe_to_bern(hub: &TestHub) -> (Client, String) {
    let mut client = hub.connect("ann").await;
    let reply = client.subscribe_with("news", json!({"tf": tag_equals("bern"), "recoverable": true})).await;
    (client, reply["subscribe"]["epoch"].as_str().unwrap().to_owned())
}

async fn recover_from(hub: &TestHub, epoch: &str, offset: u64) -> (Client, Value) {
    let mut client = hub.connect("ann").await;
    let members = json!({"tf": tag_equals("bern"), "recover": true, "epoch": epoch, "offset": offset});
    let reply = client.subscribe_with("news", members).await;
    (client, reply["subscribe"].clone())
}

#[actix_rt::test]
async fn filtered_subscriber_that_missed_nothing_recovers_what_has_left_the_history() {
    let hub = start_tag_hub().await;
    let mut watchers = Watchers::connect(&hub).await;
    let (mut ann, epoch) = subscribe_to_bern(&hub).await;
    publish_tagged(&hub, 1, json!({"city": "bern"})).await;
    assert_eq!(ann.receive_publication().await, 1);
    publish_for_rome(&hub, &mut watchers, 2..=151).await;
    // The hub has not noticed yet that the connection is cut, and has the first subscription still.
    let (again, reply) = recover_from(&hub, &epoch, 1).await;
    assert_eq!(
        (&reply["recovered"], &reply["offset"], &reply["publications"]),
        (&json!(true), &json!(151), &Value::Null)
    );
    drop((ann, again));
    hub.wait_for_connections(8).await;
    for offset in [1, 50, 151] {
        let (_, reply) = recover_from(&hub, &epoch, offset).await;
        assert_eq!((&reply["recovered"], &reply["offset"]), (&json!(true), &json!(151)), "{offset}: {reply}");
    }
    // Before its first subscription anything may have matched.
    let (_, reply) = recover_from(&hub, &epoch, 0).await;
    assert_eq!(reply["recovered"], Value::Null, "{reply}");
    let mut other = hub.connect("ann").await;
    let members = json!({"tf": tag_equals("rome"), "recover": true, "epoch": epoch, "offset": 1});
    assert_eq!(other.subscribe_with("news", members).await["subscribe"]["recovered"], Value::Null);
}

#[actix_rt::test]
async fn filtered_subscriber_recovers_the_match_that_the_history_has_and_fails_without_it() {
    let hub = start_tag_hub().await;
    let mut watchers = Watchers::connect(&hub).await;
    let (mut ann, epoch) = subscribe_to_bern(&hub).await;
    publish_tagged(&hub, 1, json!({"city": "bern"})).await;
    assert_eq!(ann.receive_publication().await, 1);
    publish_for_rome(&hub, &mut watchers, 2..=50).await;
    drop(ann);
    hub.wait_for_connections(8).await;
    publish_tagged(&hub, 51, json!({"city": "bern"})).await;
    publish_for_rome(&hub, &mut watchers, 52..=55).await;
    let (bob, reply) = recover_from(&hub, &epoch, 1).await;
    assert_eq!((&reply["recovered"], &reply["publications"][0]["data"]), (&json!(true), &json!(51)), "{reply}");
    // Its client has everything up to 51 now, and misses nothing while the rest is dropped.
    publish_for_rome(&hub, &mut watchers, 56..=99).await;
    drop(bob);
    hub.wait_for_connections(8).await;
    let (_, reply) = recover_from(&hub, &epoch, 51).await;
    assert_eq!((&reply["recovered"], &reply["offset"]), (&json!(true), &json!(99)), "{reply}");
    let (_, reply) = recover_from(&hub, &epoch, 1).await;
    assert_eq!(reply["recovered"], Value::Null, "publication 51 has left the history: {reply}");
}

#[actix_rt::test]
async fn recovery_of_several_matches_says_nothing_of_the_offsets_between_them() {
    let hub = start_tag_hub().await;
    let mut watchers = Watchers::connect(&hub).await;
    let (ann, epoch) = subscribe_to_bern(&hub).await;
    drop(ann);
    hub.wait_for_connections(8).await;
    publish_tagged(&hub, 1, json!({"city": "bern"})).await;
    publish_tagged(&hub, 2, json!({"city": "bern"})).await;
    watchers.wait_for(2).await;
    let (bob, reply) = recover_from(&hub, &epoch, 0).await;
    assert_eq!(reply["publications"].as_array().map(Vec::len), Some(2), "{reply}");
    publish_for_rome(&hub, &mut watchers, 3..=20).await;
    drop(bob);
    hub.wait_for_connections(8).await;
    let (_, reply) = recover_from(&hub, &epoch, 2).await;
    assert_eq!((&reply["recovered"], &reply["offset"]), (&json!(true), &json!(20)), "{reply}");
    let (_, reply) = recover_from(&hub, &epoch, 1).await;
    assert_eq!(reply["recovered"], Value::Null, "publication 2 has left the history: {reply}");
}

#[actix_rt::test]
async fn match_that_excludes_one_client_is_still_a_match_for_others() {
    let hub = start_tag_hub().await;
    let mut watchers = Watchers::connect(&hub).await;
    let mut ann = Client::connect(hub.address, &hub.path_for("ann")).await.unwrap();
    let client = ann.receive_connect_push().await["client"].clone();
    let members = json!({"tf": tag_equals("bern"), "recoverable": true});
    let reply = ann.subscribe_with("news", members).await;
    let epoch = reply["subscribe"]["epoch"].as_str().unwrap().to_owned();
    ann.request(json!({"id": 5, "unsubscribe": {"channel": "news"}})).await;
    publish_tagged(&hub, 1, json!({"city": "bern"})).await;
    hub.publish_with(json!({"channel": "news", "data": 2, "tags": {"city": "bern"}, "exclude": client})).await;
    watchers.wait_for(2).await;
    let members = json!({"tf": tag_equals("bern"), "recover": true, "epoch": epoch, "offset": 0});
    let reply = ann.subscribe_with("news", members).await["subscribe"].clone();
    assert_eq!((&reply["recovered"], reply["publications"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    publish_for_rome(&hub, &mut watchers, 3..=20).await;
    drop(ann);
    hub.wait_for_connections(8).await;
    let (_, reply) = recover_from(&hub, &epoch, 1).await;
    assert_eq!(reply["recovered"], Value::Null, "publication 2 has left the history: {reply}");
}

#[actix_rt::test]
async fn recovery_of_which_the_filter_drops_everything_sends_the_newest_offset() {
    let hub = start_tag_hub().await;
    let mut watchers = Watchers::connect(&hub).await;
    publish_for_rome(&hub, &mut watchers, 1..=8).await;
    let mut ann = hub.connect("ann").await;
    let members = json!({"tf": tag_equals("bern"), "recover": true, "offset": 2});
    let reply = ann.subscribe_with("news", members).await;
    let result = &reply["subscribe"];
    assert_eq!(
        (&result["recovered"], &result["offset"], &result["publications"]),
        (&json!(true), &json!(8), &Value::Null)
    );
}

#[actix_rt::test]
async fn without_remembered_filters_a_filtered_subscriber_recovers_only_what_the_history_has() {
    let hub = start_hub_with(|config| {
        config.channels.history_size = 10;
        config.limits.filter_positions = 0;
    })
    .await;
    let mut watchers = Watchers::connect(&hub).await;
    let (_ann, epoch) = subscribe_to_bern(&hub).await;
    publish_for_rome(&hub, &mut watchers, 1..=11).await;
    assert_eq!(recover_from(&hub, &epoch, 0).await.1["recovered"], Value::Null);
    assert_eq!(recover_from(&hub, &epoch, 1).await.1["recovered"], true);
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
