//! Error 106 names the limit that a request exceeds, and its value: to clients and to callers of the server API.

use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Config};

use crate::support::{API_KEY, TestHub, http, start_hub_with};

/// Low limits, each with another value.
fn lower_limits(config: &mut Config) {
    config.limits.channels_per_session = 3;
    config.limits.filter_nodes_per_channel = 1;
    config.limits.publication_bytes = 2000;
    config.api.publication_bytes = 3000;
    config.limits.broadcast_channels = 4;
    config.limits.reply_bytes = 16_384;
    config.api.body_bytes = 50_000;
    config.channels.presence = true;
    config.channels.allow_presence = ChannelAccess::User;
    config.server.workers = 1;
}

fn exceeded(limit: &str) -> Value {
    json!({"code": 106, "message": format!("limit exceeded: {limit}")})
}

/// Connects clients with long names to `crowd` until its presence is longer than 16 KiB.
async fn crowd(hub: &TestHub) -> Vec<crate::support::Client> {
    let mut clients = Vec::new();
    for number in 0..60 {
        clients.push(hub.connect_subscriber(&format!("{number:0>250}"), "crowd").await);
    }
    clients
}

#[actix_rt::test]
async fn every_limit_of_a_command_is_named_with_its_value() {
    let hub = start_hub_with(lower_limits).await;
    let _crowd = crowd(&hub).await;
    let mut ann = hub.connect("ann").await;
    let long = "x".repeat(2001);
    for (command, limit) in [
        (json!({"publish": {"channel": "news", "data": long}}), "limits.publication_bytes = 2000"),
        (json!({"presence": {"channel": "crowd"}}), "limits.reply_bytes = 16384"),
        (
            json!({"subscribe": {"channel": "a", "tf": {"op": "and", "nodes": [
                {"cmp": "ex", "key": "x"}, {"cmp": "ex", "key": "y"}
            ]}}}),
            "limits.filter_nodes_per_channel = 1",
        ),
    ] {
        let mut command = command;
        command["id"] = json!(7);
        assert_eq!(ann.request(command.clone()).await, json!({"id": 7, "error": exceeded(limit)}), "{command}");
    }
    for channel in ["a", "b", "c"] {
        ann.subscribe(channel).await;
    }
    let reply = ann.subscribe_with("d", json!({})).await;
    assert_eq!(reply["error"], exceeded("limits.channels_per_session = 3"));
}

#[actix_rt::test]
async fn presence_that_is_limited_by_the_outbox_names_it() {
    let hub = start_hub_with(|config| {
        lower_limits(config);
        config.limits.publication_bytes = 1000;
        config.limits.reply_bytes = 1 << 20;
        config.limits.message_bytes = 4096;
        config.limits.outbox_bytes = 24_000;
    })
    .await;
    let mut clients = crowd(&hub).await;
    let reply = clients[0].request(json!({"id": 2, "presence": {"channel": "crowd"}})).await;
    assert_eq!(reply["error"], exceeded("half of limits.outbox_bytes = 12000"));
}

#[actix_rt::test]
async fn every_limit_of_the_server_api_is_named_with_its_value() {
    let hub = start_hub_with(lower_limits).await;
    let _crowd = crowd(&hub).await;
    let long = "x".repeat(4096);
    for (method, request, limit) in [
        ("publish", json!({"channel": "news", "data": long}), "api.publication_bytes = 3000"),
        ("broadcast", json!({"channels": ["a", "b", "c", "d", "e"], "data": 1}), "limits.broadcast_channels = 4"),
        ("batch", json!({"commands": [1, 2, 3, 4, 5]}), "limits.broadcast_channels = 4"),
        ("presence", json!({"channel": "crowd"}), "limits.reply_bytes = 16384"),
        ("disconnect", json!({"user": "ann", "whitelist": vec!["c"; 1001]}), "ids in whitelist = 1000"),
        ("refresh", json!({"user": "ann", "info": long}), "bytes of info = 4096"),
        ("subscribe", json!({"user": "ann", "channel": "a", "info": long}), "bytes of info = 4096"),
        ("subscribe", json!({"user": "ann", "channel": "a", "data": long}), "bytes of data = 4096"),
    ] {
        assert_eq!(hub.call_api(method, request).await, json!({"error": exceeded(limit)}), "{method}");
    }
    let in_batch = hub.call_api("batch", json!({"commands": [{"refresh": {"user": "ann", "info": long}}]})).await;
    assert_eq!(in_batch["replies"][0]["error"], exceeded("bytes of info = 4096"));
    let message = http::post(hub.address, "/v1/channels/news/messages").header("X-API-Key", API_KEY);
    let too_long = message.header("Content-Type", "text/plain").body(long.clone()).send().await;
    assert_eq!(too_long.json()["error"], exceeded("api.publication_bytes = 3000"));
    let message = http::post(hub.address, "/v1/channels/news/messages").header("Authorization", &hub.bearer("ann"));
    let of_user = message.header("Content-Type", "text/plain").body("x".repeat(2001)).send().await;
    assert_eq!(of_user.json()["error"], exceeded("limits.publication_bytes = 2000"));
    let body = http::post(hub.address, "/api/publish").header("X-API-Key", API_KEY).body(long.repeat(20)).send().await;
    let error = json!({"code": 106, "message": "the body is too long: api.body_bytes = 50000"});
    assert_eq!((body.status, body.json()["error"].clone()), (413, error));
}
