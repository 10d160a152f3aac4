//! What channels remember, over the API and over a socket: positions, pages, keys, versions, and what is refused.

use serde_json::{Value, json};
use wardcast::config::{AllowRead, Config};

use crate::support::{API_KEY, Hub, http, hub, hub_with};

fn remembers(config: &mut Config) {
    config.channels.history_size = 5;
    config.channels.allow_history = AllowRead::User;
    config.channels.presence = true;
    config.channels.allow_presence = AllowRead::User;
}

/// Publishes the numbers from 1; tells the epoch.
async fn publish_all(hub: &Hub, count: u64) -> String {
    let mut epoch = Value::Null;
    for number in 1..=count {
        let answer = hub.api("publish", json!({"channel": "news", "data": number})).await;
        assert_eq!(answer["result"]["offset"], number);
        epoch = answer["result"]["epoch"].clone();
    }
    epoch.as_str().unwrap().to_owned()
}

async fn history(hub: &Hub, mut request: Value) -> Value {
    request["channel"] = json!("news");
    hub.api("history", request).await
}

/// Offset and data of what was told.
fn told(result: &Value) -> Vec<(u64, u64)> {
    let empty = Vec::new();
    let publications = result["publications"].as_array().unwrap_or(&empty);
    let pair = |publication: &Value| (publication["offset"].as_u64().unwrap(), publication["data"].as_u64().unwrap());
    publications.iter().map(pair).collect()
}

fn numbers(offsets: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    offsets.into_iter().map(|offset| (offset, offset)).collect()
}

#[actix_rt::test]
async fn the_api_pages_through_a_history() {
    let hub = hub_with(remembers).await;
    let epoch = publish_all(&hub, 7).await;
    for (request, expected) in [
        (json!({}), vec![]),
        (json!({"limit": 0}), vec![]),
        (json!({"limit": 2}), vec![3, 4]),
        (json!({"limit": 100, "reverse": true}), vec![7, 6, 5, 4, 3]),
        (json!({"limit": 2, "since": {"offset": 4, "epoch": epoch}}), vec![5, 6]),
        (json!({"limit": 2, "since": {"offset": 6, "epoch": ""}, "reverse": true}), vec![5, 4]),
        (json!({"limit": 2, "since": {"offset": 7}}), vec![]),
    ] {
        let answer = history(&hub, request.clone()).await;
        assert_eq!(told(&answer["result"]), numbers(expected), "{request}");
        assert_eq!((&answer["result"]["offset"], &answer["result"]["epoch"]), (&json!(7), &json!(epoch)));
    }
    assert_eq!(hub.api("history_remove", json!({"channel": "news"})).await, json!({"result": {}}));
    let answer = history(&hub, json!({"limit": 10})).await;
    assert_eq!((told(&answer["result"]), &answer["result"]["offset"]), (vec![], &json!(7)));
}

#[actix_rt::test]
async fn places_that_no_history_has_are_codes() {
    let hub = hub_with(remembers).await;
    publish_all(&hub, 3).await;
    for (request, code) in [
        (json!({"limit": -1}), 107),
        (json!({"limit": i64::MIN}), 107),
        (json!({"limit": 1, "since": {"offset": 1, "epoch": "another_"}}), 112),
        (json!({"limit": 1, "since": {"offset": 1, "epoch": "never said by anybody here"}}), 112),
        (json!({"limit": 1, "since": {"offset": 4}}), 112),
        (json!({"limit": 1, "since": {"offset": u64::MAX}}), 112),
        (json!({"limit": 1, "since": {"offset": u64::MAX}, "reverse": true}), 112),
    ] {
        assert_eq!(history(&hub, request.clone()).await["error"]["code"], code, "{request}");
    }
    for body in
        [r#"{"channel":"news","since":{"offset":-1}}"#, r#"{"channel":"news","since":{"offset":18446744073709551616}}"#]
    {
        assert_eq!(crate::api::call(&hub, "history", body).await.status, 400, "{body}");
    }
}

#[actix_rt::test]
async fn what_a_channel_does_not_have_is_not_available() {
    let hub = hub().await;
    for method in ["history", "history_remove", "presence", "presence_stats"] {
        assert_eq!(hub.api(method, json!({"channel": "news"})).await["error"]["code"], 108, "{method}");
        assert_eq!(hub.api(method, json!({"channel": "chat:1"})).await["error"]["code"], 102, "{method}");
        assert_eq!(hub.api(method, json!({"channel": "a*"})).await["error"]["code"], 107, "{method}");
        assert_eq!(hub.api(method, json!({})).await["error"]["code"], 107, "{method}");
    }
    let since = json!({"user": "ann", "channel": "news", "recover_since": {"offset": 1, "epoch": "abcdefgh"}});
    assert_eq!(hub.api("subscribe", since).await["error"]["code"], 108);
    let versioned = json!({"channel": "news", "data": 1, "version": 1});
    assert_eq!(hub.api("publish", versioned).await["error"]["code"], 108);
}

#[actix_rt::test]
async fn options_of_a_publication_are_kept_or_refused() {
    let hub = hub_with(remembers).await;
    let tagged = json!({"channel": "news", "data": [1], "tags": {"a": "é"}, "delta": true});
    assert_eq!(hub.api("publish", tagged).await["result"]["offset"], 1);
    let skipped = json!({"channel": "news", "data": 2, "skip_history": true, "tags": {}});
    assert_eq!(hub.api("publish", skipped).await, json!({"result": {}}));
    let answer = history(&hub, json!({"limit": 10})).await;
    let publications = answer["result"]["publications"].as_array().unwrap();
    assert_eq!(publications.len(), 1);
    assert_eq!((&publications[0]["data"], &publications[0]["tags"]), (&json!([1]), &json!({"a": "é"})));
    assert!(publications[0]["time"].as_i64().unwrap() > 1_700_000_000_000, "{answer}");
    for (member, value) in [
        ("tags", json!({"a": 1})),
        ("tags", json!(["a"])),
        ("tags", json!({"a": "x".repeat(4_096)})),
        ("idempotency_key", json!("x".repeat(256))),
        ("version_epoch", json!("x".repeat(65))),
        ("exclude", json!("nobody")),
        ("exclude", json!("{00000000-0000-0000-0000-000000000000}")),
    ] {
        let mut request = json!({"channel": "news", "data": 1});
        request[member] = value;
        assert_eq!(hub.api("publish", request).await["error"]["code"], 107, "{member}");
    }
    for body in [r#"{"channel":"news","data":1,"version":-1}"#, r#"{"channel":"news","data":1,"skip_history":1}"#] {
        assert_eq!(crate::api::call(&hub, "publish", body).await.status, 400, "{body}");
    }
}

#[actix_rt::test]
async fn a_repeated_publication_is_answered_like_the_first_and_delivered_once() {
    let hub = hub_with(remembers).await;
    let mut ann = hub.subscriber("ann", "news").await;
    let once =
        |data: u64| hub.api("broadcast", json!({"channels": ["news", "old"], "data": data, "idempotency_key": "k"}));
    let first = once(1).await;
    assert_eq!(first["result"]["responses"][1]["result"]["offset"], 1);
    assert_eq!(once(2).await, first);
    let state = |data: u64, version: u64, epoch: &str| {
        hub.api("publish", json!({"channel": "news", "data": data, "version": version, "version_epoch": epoch}))
    };
    for (data, version, epoch, offset) in
        [(3, 7, "a", 2), (4, 7, "a", 2), (5, 6, "a", 2), (6, 8, "a", 3), (7, 1, "b", 4)]
    {
        assert_eq!(state(data, version, epoch).await["result"]["offset"], offset, "{data}");
    }
    for expected in [1, 3, 6, 7] {
        assert_eq!(ann.publication().await, json!(expected));
    }
}

#[actix_rt::test]
async fn in_the_plain_form_nobodys_key_stands_in_the_way_of_anothers() {
    let hub = hub_with(remembers).await;
    let publish = |name: &'static str, value: String, key: &'static str| {
        let request = http::post(hub.address, "/v1/channels/news/messages").header(name, &value);
        request.header("Idempotency-Key", key).json(json!(1)).send()
    };
    let bearer = |user: &str| format!("Bearer {}", hub.token(user));
    let offset = |answer: http::Response| answer.json()["result"]["offset"].clone();
    for (user, expected) in [("ann", 1), ("bob", 2), ("ann", 1), ("bob", 2)] {
        assert_eq!(offset(publish("Authorization", bearer(user), "k").await), expected, "{user}");
    }
    assert_eq!(offset(publish("X-API-Key", API_KEY.to_owned(), "k").await), 3);
    assert_eq!(offset(publish("X-API-Key", API_KEY.to_owned(), "k").await), 3);
    let twice = http::post(hub.address, "/v1/channels/news/messages").header("X-API-Key", API_KEY);
    let twice = twice.header("Idempotency-Key", "k").header("Idempotency-Key", "l").json(json!(1)).send().await;
    assert_eq!(twice.status, 400);
}

#[actix_rt::test]
async fn an_answer_is_cut_to_its_limit() {
    let hub = hub_with(|config| {
        remembers(config);
        config.limits.reply_bytes = 16_384;
        config.limits.history_publications = 4;
    })
    .await;
    for _ in 0..5 {
        hub.api("publish", json!({"channel": "long", "data": "x".repeat(7_000)})).await;
        hub.api("publish", json!({"channel": "short", "data": "x"})).await;
    }
    for (channel, count) in [("long", 2), ("short", 4)] {
        let answer = hub.api("history", json!({"channel": channel, "limit": 100})).await;
        assert_eq!(answer["result"]["publications"].as_array().unwrap().len(), count, "{channel}");
        assert_eq!(answer["result"]["offset"], 5);
        let mut ann = hub.client("ann").await;
        let reply = ann.ask(json!({"id": 1, "history": {"channel": channel, "limit": 100}})).await;
        assert_eq!(reply["history"]["publications"].as_array().unwrap().len(), count, "{channel}");
    }
}

#[actix_rt::test]
async fn a_client_reads_what_it_may_read() {
    let hub = hub_with(remembers).await;
    let epoch = publish_all(&hub, 7).await;
    let mut ann = hub.client("ann").await;
    let reply =
        ann.ask(json!({"id": 1, "history": {"channel": "news", "limit": 2, "since": {"offset": 4, "epoch": epoch}}}));
    let reply = reply.await;
    assert_eq!((told(&reply["history"]), &reply["history"]["offset"]), (numbers([5, 6]), &json!(7)));
    for (request, code) in [
        (json!({"channel": "news", "limit": -1}), 107),
        (json!({"channel": "a*"}), 107),
        (json!({"channel": "chat:1"}), 102),
        (json!({"channel": "$news"}), 103),
        (json!({"channel": "news", "limit": 1, "since": {"offset": 9}}), 112),
        (json!({"channel": "news", "limit": 1, "since": {"offset": 1, "epoch": "another_"}}), 112),
    ] {
        assert_eq!(ann.ask(json!({"id": 2, "history": request.clone()})).await["error"]["code"], code, "{request}");
    }
    let published = ann.ask(json!({"id": 3, "publish": {"channel": "news", "data": 8}})).await;
    assert_eq!(published, json!({"id": 3, "publish": {}}));
    let newest = ann.ask(json!({"id": 4, "history": {"channel": "news", "limit": 1, "reverse": true}})).await;
    assert_eq!(told(&newest["history"]), numbers([8]));
    assert_eq!(newest["history"]["publications"][0]["info"]["user"], "ann");
}

#[actix_rt::test]
async fn only_subscribers_look_where_only_subscribers_may() {
    let hub = hub_with(|config| {
        remembers(config);
        config.channels.allow_history = AllowRead::Subscriber;
        config.channels.allow_presence = AllowRead::Subscriber;
    })
    .await;
    let mut ann = hub.client("ann").await;
    for method in ["history", "presence", "presence_stats"] {
        let asked = json!({"id": 1, method: {"channel": "news"}});
        assert_eq!(ann.ask(asked.clone()).await["error"]["code"], 103, "{method}");
        let mut bob = hub.subscriber("bob", "news").await;
        assert!(bob.ask(asked).await[method].is_object(), "{method}");
    }
}

#[actix_rt::test]
async fn a_client_asks_in_vain_for_what_the_channel_does_not_have() {
    let hub = hub_with(|config| {
        config.channels.allow_history = AllowRead::User;
        config.channels.allow_presence = AllowRead::User;
    })
    .await;
    let mut ann = hub.client("ann").await;
    for method in ["history", "presence", "presence_stats"] {
        assert_eq!(ann.ask(json!({"id": 1, method: {"channel": "news"}})).await["error"]["code"], 108, "{method}");
    }
}
