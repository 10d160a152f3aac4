//! History and presence over the server API and over a socket: positions, pages, idempotency keys, versions and errors.

use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Config, Namespace};

use crate::support::{API_KEY, TestHub, http, start_hub, start_hub_with};

fn enable_history_and_presence(config: &mut Config) {
    config.channels.history_size = 5;
    config.channels.allow_history = ChannelAccess::User;
    config.channels.presence = true;
    config.channels.allow_presence = ChannelAccess::User;
}

/// Publishes the numbers from 1 to `count`; returns the epoch.
async fn publish_all(hub: &TestHub, count: u64) -> String {
    let mut epoch = Value::Null;
    for number in 1..=count {
        let answer = hub.call_api("publish", json!({"channel": "news", "data": number})).await;
        assert_eq!(answer["result"]["offset"], number);
        epoch = answer["result"]["epoch"].clone();
    }
    epoch.as_str().unwrap().to_owned()
}

async fn read_history(hub: &TestHub, mut request: Value) -> Value {
    request["channel"] = json!("news");
    hub.call_api("history", request).await
}

/// Offset and data of each publication of a result.
fn offsets_and_numbers(result: &Value) -> Vec<(u64, u64)> {
    let empty = Vec::new();
    let publications = result["publications"].as_array().unwrap_or(&empty);
    let pair = |publication: &Value| (publication["offset"].as_u64().unwrap(), publication["data"].as_u64().unwrap());
    publications.iter().map(pair).collect()
}

fn numbered(offsets: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    offsets.into_iter().map(|offset| (offset, offset)).collect()
}

#[actix_rt::test]
async fn api_pages_through_history() {
    let hub = start_hub_with(enable_history_and_presence).await;
    let epoch = publish_all(&hub, 7).await;
    for (request, expected) in [
        (json!({}), vec![]),
        (json!({"limit": 0}), vec![]),
        (json!({"limit": 2}), vec![3, 4]),
        (json!({"limit": 100, "reverse": true}), vec![7, 6, 5, 4, 3]),
        (json!({"limit": -1}), vec![3, 4, 5, 6, 7]),
        (json!({"limit": i64::MIN}), vec![3, 4, 5, 6, 7]),
        (json!({"limit": 2, "since": {"offset": 4, "epoch": epoch}}), vec![5, 6]),
        (json!({"limit": 2, "since": {"offset": 6, "epoch": ""}, "reverse": true}), vec![5, 4]),
        (json!({"limit": 2, "since": {"offset": 7}}), vec![]),
        (json!({"limit": 2, "since": {"offset": 8}, "reverse": true}), vec![7, 6]),
        (json!({"limit": 2, "since": {"offset": 8}}), vec![]),
        (json!({"limit": 2, "since": {"offset": u64::MAX, "epoch": epoch}}), vec![]),
        (json!({"limit": 2, "since": {"offset": u64::MAX}, "reverse": true}), vec![]),
    ] {
        let answer = read_history(&hub, request.clone()).await;
        assert_eq!(offsets_and_numbers(&answer["result"]), numbered(expected), "{request}");
        assert!(answer["result"]["publications"].is_array(), "{answer}");
        assert_eq!((&answer["result"]["offset"], &answer["result"]["epoch"]), (&json!(7), &json!(epoch)));
    }
    assert_eq!(hub.call_api("history_remove", json!({"channel": "news"})).await, json!({"result": {}}));
    let answer = read_history(&hub, json!({"limit": 10})).await;
    assert_eq!((offsets_and_numbers(&answer["result"]), &answer["result"]["offset"]), (vec![], &json!(7)));
}

#[actix_rt::test]
async fn api_history_of_an_empty_channel_has_all_members() {
    let hub = start_hub_with(enable_history_and_presence).await;
    for request in [json!({}), json!({"limit": 5}), json!({"limit": -1, "since": {"offset": 9}})] {
        let answer = read_history(&hub, request).await;
        let epoch = answer["result"]["epoch"].as_str().unwrap();
        assert_eq!(answer["result"], json!({"publications": [], "offset": 0, "epoch": epoch}));
    }
}

#[actix_rt::test]
async fn history_position_of_another_epoch_is_an_error_code() {
    let hub = start_hub_with(enable_history_and_presence).await;
    publish_all(&hub, 3).await;
    for (request, code) in [
        (json!({"limit": 1, "since": {"offset": 1, "epoch": "another_"}}), 112),
        (json!({"limit": 1, "since": {"offset": 1, "epoch": "an epoch that the hub never sent"}}), 112),
    ] {
        assert_eq!(read_history(&hub, request.clone()).await["error"]["code"], code, "{request}");
    }
    for body in
        [r#"{"channel":"news","since":{"offset":-1}}"#, r#"{"channel":"news","since":{"offset":18446744073709551616}}"#]
    {
        assert_eq!(crate::api::post_api(&hub, "history", body).await.status, 400, "{body}");
    }
}

#[actix_rt::test]
async fn api_methods_for_disabled_channel_features_are_108() {
    let hub = start_hub().await;
    for method in ["history", "history_remove", "presence", "presence_stats"] {
        assert_eq!(hub.call_api(method, json!({"channel": "news"})).await["error"]["code"], 108, "{method}");
        assert_eq!(hub.call_api(method, json!({"channel": "chat:1"})).await["error"]["code"], 102, "{method}");
        assert_eq!(hub.call_api(method, json!({"channel": "a*"})).await["error"]["code"], 107, "{method}");
        assert_eq!(hub.call_api(method, json!({})).await["error"]["code"], 107, "{method}");
    }
    let since = json!({"user": "ann", "channel": "news", "recover_since": {"offset": 1, "epoch": "abcdefgh"}});
    let off = |name: &str| json!({"error": {"code": 108, "message": format!("not available: {name} is off")}});
    assert_eq!(hub.call_api("subscribe", since).await, off("channels.history_size"));
    let versioned = json!({"channel": "news", "data": 1, "version": 1});
    assert_eq!(hub.call_api("publish", versioned).await, off("channels.history_size"));
    assert_eq!(hub.call_api("history", json!({"channel": "news"})).await, off("channels.history_size"));
    assert_eq!(hub.call_api("presence_stats", json!({"channel": "news"})).await, off("channels.presence"));
}

#[actix_rt::test]
async fn error_108_names_the_option_that_is_off_and_its_namespace() {
    let hub = start_hub_with(|config| {
        config.namespaces = vec![Namespace { name: "chat".to_owned(), channels: config.channels.clone() }];
    })
    .await;
    let mut client = hub.connect("ann").await;
    for (command, name) in [
        (json!({"history": {"channel": "news"}}), "channels.history_size"),
        (json!({"presence": {"channel": "$news"}}), "channels.presence"),
        (json!({"history": {"channel": "chat:1"}}), "history_size of namespace \"chat\""),
        (json!({"presence_stats": {"channel": "$chat:1"}}), "presence of namespace \"chat\""),
    ] {
        let mut request = command.clone();
        request["id"] = json!(3);
        let error = json!({"code": 108, "message": format!("not available: {name} is off")});
        assert_eq!(client.request(request).await, json!({"id": 3, "error": error}), "{command}");
    }
}

#[actix_rt::test]
async fn publish_options_are_stored_or_refused() {
    let hub = start_hub_with(enable_history_and_presence).await;
    let tagged = json!({"channel": "news", "data": [1], "tags": {"a": "é"}, "delta": true});
    assert_eq!(hub.call_api("publish", tagged).await["result"]["offset"], 1);
    let skipped = json!({"channel": "news", "data": 2, "skip_history": true, "tags": {}});
    assert_eq!(hub.call_api("publish", skipped).await, json!({"result": {}}));
    let answer = read_history(&hub, json!({"limit": 10})).await;
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
        ("exclude", json!("not a client id")),
        ("exclude", json!("{00000000-0000-0000-0000-000000000000}")),
    ] {
        let mut request = json!({"channel": "news", "data": 1});
        request[member] = value;
        assert_eq!(hub.call_api("publish", request).await["error"]["code"], 107, "{member}");
    }
    for body in [r#"{"channel":"news","data":1,"version":-1}"#, r#"{"channel":"news","data":1,"skip_history":1}"#] {
        assert_eq!(crate::api::post_api(&hub, "publish", body).await.status, 400, "{body}");
    }
}

#[actix_rt::test]
async fn repeated_idempotency_key_returns_first_result_and_delivers_once() {
    let hub = start_hub_with(enable_history_and_presence).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let once = |data: u64| {
        hub.call_api("broadcast", json!({"channels": ["news", "old"], "data": data, "idempotency_key": "k"}))
    };
    let first = once(1).await;
    assert_eq!(first["result"]["responses"][1]["result"]["offset"], 1);
    assert_eq!(once(2).await, first);
    let state = |data: u64, version: u64, epoch: &str| {
        hub.call_api("publish", json!({"channel": "news", "data": data, "version": version, "version_epoch": epoch}))
    };
    for (data, version, epoch, offset) in
        [(3, 7, "a", 2), (4, 7, "a", 2), (5, 6, "a", 2), (6, 8, "a", 3), (7, 1, "b", 4)]
    {
        assert_eq!(state(data, version, epoch).await["result"]["offset"], offset, "{data}");
    }
    for expected in [1, 3, 6, 7] {
        assert_eq!(ann.receive_publication().await, json!(expected));
    }
}

#[actix_rt::test]
async fn idempotency_keys_of_plain_publish_are_separate_for_each_user() {
    let hub = start_hub_with(enable_history_and_presence).await;
    let publish = |name: &'static str, value: String, key: &'static str| {
        let request = http::post(hub.address, "/v1/channels/news/messages").header(name, &value);
        request.header("Idempotency-Key", key).json(json!(1)).send()
    };
    let bearer = |user: &str| hub.bearer(user);
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
async fn history_response_is_cut_to_the_size_limit() {
    let hub = start_hub_with(|config| {
        enable_history_and_presence(config);
        config.limits.reply_bytes = 16_384;
        config.limits.history_publications = 4;
    })
    .await;
    for _ in 0..5 {
        hub.call_api("publish", json!({"channel": "long", "data": "x".repeat(7_000)})).await;
        hub.call_api("publish", json!({"channel": "short", "data": "x"})).await;
    }
    for (channel, count) in [("long", 2), ("short", 4)] {
        let answer = hub.call_api("history", json!({"channel": channel, "limit": 100})).await;
        assert_eq!(answer["result"]["publications"].as_array().unwrap().len(), count, "{channel}");
        assert_eq!(answer["result"]["offset"], 5);
        let mut ann = hub.connect("ann").await;
        let reply = ann.request(json!({"id": 1, "history": {"channel": channel, "limit": 100}})).await;
        assert_eq!(reply["history"]["publications"].as_array().unwrap().len(), count, "{channel}");
    }
}

#[actix_rt::test]
async fn history_reply_to_a_client_is_cut_to_half_of_its_outbox() {
    let hub = start_hub_with(|config| {
        enable_history_and_presence(config);
        config.limits.outbox_bytes = 32_768;
    })
    .await;
    for _ in 0..5 {
        hub.call_api("publish", json!({"channel": "news", "data": "x".repeat(7_000)})).await;
    }
    let mut ann = hub.connect("ann").await;
    let reply = ann.request(json!({"id": 1, "history": {"channel": "news", "limit": 100}})).await;
    assert_eq!(reply["history"]["publications"].as_array().unwrap().len(), 2);
    assert_eq!(reply["history"]["offset"], 5);
}

#[actix_rt::test]
async fn client_reads_history_and_presence_it_may_read() {
    let hub = start_hub_with(enable_history_and_presence).await;
    let epoch = publish_all(&hub, 7).await;
    let mut ann = hub.connect("ann").await;
    let reply = ann
        .request(json!({"id": 1, "history": {"channel": "news", "limit": 2, "since": {"offset": 4, "epoch": epoch}}}));
    let reply = reply.await;
    assert_eq!((offsets_and_numbers(&reply["history"]), &reply["history"]["offset"]), (numbered([5, 6]), &json!(7)));
    for (request, code) in [
        (json!({"channel": "a*"}), 107),
        (json!({"channel": "chat:1"}), 102),
        (json!({"channel": "$news"}), 103),
        (json!({"channel": "news", "limit": 1, "since": {"offset": 1, "epoch": "another_"}}), 112),
    ] {
        assert_eq!(ann.request(json!({"id": 2, "history": request.clone()})).await["error"]["code"], code, "{request}");
    }
    for (request, expected) in [
        (json!({"channel": "news", "limit": -1}), vec![3, 4, 5, 6, 7]),
        (json!({"channel": "news", "limit": i32::MIN, "reverse": true}), vec![7, 6, 5, 4, 3]),
        (json!({"channel": "news", "limit": 5, "since": {"offset": 999, "epoch": epoch}}), vec![]),
        (json!({"channel": "news", "limit": 5, "since": {"offset": 999}, "reverse": true}), vec![]),
    ] {
        let reply = ann.request(json!({"id": 2, "history": request.clone()})).await;
        assert_eq!(offsets_and_numbers(&reply["history"]), numbered(expected), "{request}: {reply}");
        assert_eq!((&reply["history"]["offset"], &reply["history"]["epoch"]), (&json!(7), &json!(epoch)), "{reply}");
    }
    let published = ann.request(json!({"id": 3, "publish": {"channel": "news", "data": 8}})).await;
    assert_eq!(published, json!({"id": 3, "publish": {}}));
    let newest = ann.request(json!({"id": 4, "history": {"channel": "news", "limit": 1, "reverse": true}})).await;
    assert_eq!(offsets_and_numbers(&newest["history"]), numbered([8]));
    assert_eq!(newest["history"]["publications"][0]["info"]["user"], "ann");
}

#[actix_rt::test]
async fn history_and_presence_may_be_limited_to_subscribers() {
    let hub = start_hub_with(|config| {
        enable_history_and_presence(config);
        config.channels.allow_history = ChannelAccess::Subscriber;
        config.channels.allow_presence = ChannelAccess::Subscriber;
    })
    .await;
    let mut ann = hub.connect("ann").await;
    for method in ["history", "presence", "presence_stats"] {
        let asked = json!({"id": 1, method: {"channel": "news"}});
        assert_eq!(ann.request(asked.clone()).await["error"]["code"], 103, "{method}");
        let mut bob = hub.connect_subscriber("bob", "news").await;
        assert!(bob.request(asked).await[method].is_object(), "{method}");
    }
}

#[actix_rt::test]
async fn commands_for_disabled_channel_features_are_108() {
    let hub = start_hub_with(|config| {
        config.channels.allow_history = ChannelAccess::User;
        config.channels.allow_presence = ChannelAccess::User;
    })
    .await;
    let mut ann = hub.connect("ann").await;
    for method in ["history", "presence", "presence_stats"] {
        assert_eq!(ann.request(json!({"id": 1, method: {"channel": "news"}})).await["error"]["code"], 108, "{method}");
    }
}
