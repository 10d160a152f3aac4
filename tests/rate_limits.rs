//! Rate limits of commands, publications and tokens, and the permits of a user's connections.

use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Client, http, raw, start_hub_with};

#[actix_rt::test]
async fn commands_over_the_rate_are_111_and_twice_the_burst_closes_with_3013() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 5).await;
    let mut client = hub.connect("ann").await;
    let mut codes = Vec::new();
    for id in 1..=15 {
        let reply = client.request(json!({"id": id, "ping": {}})).await;
        assert_eq!(reply["id"], id);
        codes.push(reply["error"]["code"].as_u64().unwrap_or(0));
    }
    assert_eq!(codes[..10], [0; 10], "a burst of two seconds is allowed");
    assert!(codes.contains(&111) && codes.iter().all(|code| [0, 111].contains(code)), "{codes:?}");
    for id in 16..=40 {
        client.send(json!({"id": id, "ping": {}})).await;
    }
    assert_eq!(client.wait_for_close().await.0, Some(3013));
}

#[actix_rt::test]
async fn commands_in_one_frame_are_rate_limited_too() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 5).await;
    let mut client = hub.connect("ann").await;
    client.send_text(&vec![r#"{"id":1,"subscribe":{"channel":"news"}}"#; 1000].join("\n")).await;
    assert_eq!(client.wait_for_close().await.0, Some(3013));
}

#[actix_rt::test]
async fn floods_of_pings_binary_frames_and_pong_replies_are_rate_limited() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 5).await;
    for flood in [Message::Ping(Default::default()), Message::binary(Vec::new()), Message::text("{}")] {
        let is_protocol_error = matches!(flood, Message::Binary(_));
        let mut client = hub.connect_raw("ann").await;
        let (opcode, payload) = match &flood {
            Message::Ping(_) => (raw::PING, &b""[..]),
            Message::Binary(_) => (raw::BINARY, &b""[..]),
            _ => (raw::TEXT, &b"{}"[..]),
        };
        let frames = raw::frame(raw::FIN | opcode, payload).repeat(60);
        client.send(&frames).await;
        let expected = if is_protocol_error { [Some(3509), Some(3013)] } else { [Some(3013); 2] };
        let code = client.wait_for_close().await;
        assert!(expected.contains(&code), "{flood:?}: {code:?}");
    }
}

#[actix_rt::test]
async fn text_tokens_over_the_rate_close_with_3013() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 2).await;
    let mut client = hub.connect("ann").await;
    for _ in 0..6 {
        client.send_text(&hub.token_message("ann")).await;
    }
    assert_eq!(client.wait_for_close().await.0, Some(3013));
}

#[actix_rt::test]
async fn publications_over_the_rate_are_111_and_other_commands_still_work() {
    let hub = start_hub_with(|config| config.limits.publications_per_second = 2).await;
    let mut client = hub.connect("ann").await;
    let mut codes = Vec::new();
    for id in 1..=10 {
        let reply = client.request(json!({"id": id, "publish": {"channel": "news", "data": 1}})).await;
        codes.push(reply["error"]["code"].as_u64().unwrap_or(0));
    }
    assert_eq!(codes[..4], [0; 4], "{codes:?}");
    assert!(codes[5..].contains(&111), "{codes:?}");
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn rest_publications_of_one_user_are_rate_limited() {
    let hub = start_hub_with(|config| config.limits.publications_per_second = 2).await;
    let publish = async |user: &str| {
        let request = http::post(hub.address, "/v1/channels/news/messages");
        request.header("Authorization", &hub.bearer(user)).json(json!({"a": 1})).send().await
    };
    let mut codes = Vec::new();
    for _ in 0..8 {
        let answer = publish("ann").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        codes.push(answer.json()["error"]["code"].as_u64().unwrap_or(0));
    }
    assert_eq!(codes[..4], [0; 4], "{codes:?}");
    assert!(codes[5..].contains(&111), "{codes:?}");
    assert_eq!(publish("bob").await.json(), json!({"result": {}}), "other users have their own rate");
}

#[actix_rt::test]
async fn closed_connection_frees_a_permit_of_its_user() {
    let hub = start_hub_with(|config| config.limits.connections_per_user = 2).await;
    let (first, _second) = (hub.connect("ann").await, hub.connect("ann").await);
    let path = hub.path_for("ann");
    match Client::connect(hub.address, &path).await {
        Err(Error::Http(response)) => {
            assert_eq!(response.status(), 429);
            assert!(response.headers().contains_key("retry-after"));
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    let mut sdk = hub.connect_without_token().await;
    sdk.send(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    assert_eq!(sdk.wait_for_close().await.0, Some(3504));
    let mut text = hub.connect_without_token().await;
    text.send_text(&hub.token_message("ann")).await;
    assert_eq!(text.wait_for_close().await.0, Some(3504));
    let _bob = hub.connect("bob").await;
    drop(first);
    hub.wait_for_connections(2).await;
    let _third = hub.connect("ann").await;
}

#[actix_rt::test]
async fn connect_command_and_refresh_take_no_second_permit() {
    let hub = start_hub_with(|config| config.limits.connections_per_user = 1).await;
    let mut client = hub.connect("ann").await;
    assert!(client.request(json!({"id": 1, "connect": {}})).await["connect"].is_object());
    let refresh = json!({"id": 2, "refresh": {"token": hub.token("ann")}});
    assert!(client.request(refresh).await["refresh"].is_object());
}

#[actix_rt::test]
async fn unauthenticated_token_attempts_are_rate_limited() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 5).await;
    let mut stranger = hub.connect_without_token().await;
    let connect = json!({"id": 1, "connect": {"token": hub.expired_token("ann")}}).to_string();
    stranger.send_text(&vec![connect; 30].join("\n")).await;
    let mut codes = std::collections::BTreeMap::new();
    let closed = loop {
        match stranger.next().await {
            Ok(text) => {
                let reply: serde_json::Value = serde_json::from_str(&text).unwrap();
                *codes.entry(reply["error"]["code"].as_u64().unwrap()).or_insert(0) += 1;
            }
            Err(closed) => break closed,
        }
    };
    assert_eq!(closed.code, Some(3013));
    // A burst of two seconds, and what refills meanwhile on a busy machine.
    assert!((10..=15).contains(&codes[&109]) && codes[&111] >= 10, "{codes:?}");
}

#[actix_rt::test]
async fn token_on_command_over_the_rate_is_111_and_not_adopted() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 5).await;
    let mut client = hub.connect("ann").await;
    let with_channel = |channel: &str| hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": [channel]}));
    let for_channel = hub.token_with_claims(json!({"sub": "ann", "channel": "c", "exp": 60}));
    let mut commands = vec![json!({"id": 1, "ping": {}}); 10];
    commands.extend([
        json!({"id": 2, "refresh": {"token": with_channel("a")}}),
        json!({"id": 3, "token": with_channel("b"), "ping": {}}),
        json!({"id": 4, "subscribe": {"channel": "c", "token": for_channel}}),
        json!({"id": 5, "refresh": {"token": hub.forged_token("ann")}}),
    ]);
    let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
    client.send_text(&lines.join("\n")).await;
    for _ in 0..10 {
        assert!(client.receive().await["ping"].is_object());
    }
    for id in 2..=5 {
        let reply = client.receive().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(id), &json!(111)), "{reply}");
    }
    let channels = hub.call_api("channels", json!({})).await;
    assert_eq!(channels, json!({"result": {"channels": {}}}));
}
