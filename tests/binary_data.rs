//! Channels with `data_format = "binary"`: any bytes, unchanged, for connections that can carry them.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};
use wardcast::{
    config::{AllowSubscribe, ChannelAccess, Config, DataFormat, DeltaType},
    protocol::schema::{Command, HistoryRequest, Publication, PublishRequest, Reply, SubscribeRequest},
};

use crate::support::{
    API_KEY, TestHub, backend::Backend, http, protobuf::ProtobufClient, redis::RedisServer, start_hub_on,
    start_hub_with, stream::StreamClient,
};

const CHANNEL: &str = "doc:1";

/// Bytes that are neither JSON nor text, with line breaks, zeros and white space around them.
fn update(number: u8) -> Vec<u8> {
    let mut bytes = vec![b' ', b'\n', 0, 0xff, 0xfe, b'"', b'\r', number];
    bytes.extend((0..=255_u8).cycle().take(600));
    bytes.extend([number, b' ']);
    bytes
}

fn encode(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Adds a namespace `doc` with binary data.
fn add_namespace(config: &mut Config) {
    let mut channels = config.channels.clone();
    (channels.data_format, channels.history_size) = (DataFormat::Binary, 100);
    (channels.allow_subscribe, channels.allow_publish) = (AllowSubscribe::User, ChannelAccess::User);
    channels.allow_history = ChannelAccess::User;
    channels.allowed_delta_types = vec![DeltaType::Fossil];
    config.namespaces.push(wardcast::config::Namespace { name: "doc".to_owned(), channels });
}

async fn start() -> TestHub {
    start_hub_with(add_namespace).await
}

async fn request_publish(client: &mut ProtobufClient, channel: &str, data: &[u8]) -> Reply {
    let publish = Some(PublishRequest { channel: channel.to_owned(), data: data.to_vec().into(), r#type: 0 });
    client.request(Command { id: 2, publish, ..Default::default() }).await
}

async fn publish(client: &mut ProtobufClient, data: &[u8]) {
    let reply = request_publish(client, CHANNEL, data).await;
    assert!(reply.publish.is_some(), "{reply:?}");
}

async fn subscribe(client: &mut ProtobufClient, request: SubscribeRequest) -> Reply {
    let subscribe = Some(SubscribeRequest { channel: CHANNEL.to_owned(), ..request });
    client.request(Command { id: 1, subscribe, ..Default::default() }).await
}

async fn receive(client: &mut ProtobufClient) -> Publication {
    let reply = client.receive().await;
    reply.push.and_then(|push| push.r#pub).unwrap_or_else(|| panic!("not a publication"))
}

async fn check_round_trip(hub: &TestHub, other: &TestHub) {
    let mut ann = hub.connect_protobuf_sdk("ann").await;
    let mut bob = other.connect_protobuf_sdk("bob").await;
    assert!(subscribe(&mut bob, SubscribeRequest::default()).await.subscribe.is_some());
    for number in 1..=3 {
        publish(&mut ann, &update(number)).await;
        assert_eq!(receive(&mut bob).await.data, update(number));
    }
    // JSON text is bytes like any others: white space stays.
    publish(&mut ann, b" {\n\"a\": 1 } ").await;
    assert_eq!(receive(&mut bob).await.data, Bytes::from_static(b" {\n\"a\": 1 } "));
    let answer = hub.call_api("publish", json!({"channel": CHANNEL, "b64data": encode(&update(5))})).await;
    assert_eq!(answer["result"]["offset"], 5, "{answer}");
    assert_eq!(receive(&mut bob).await.data, update(5));
    // The histories of clients and of the server API, and recovery.
    let history = HistoryRequest { channel: CHANNEL.to_owned(), limit: 10, ..Default::default() };
    let reply = bob.request(Command { id: 3, history: Some(history), ..Default::default() }).await;
    let stored = reply.history.expect("a history").publications;
    let data: Vec<Vec<u8>> = stored.iter().map(|publication| publication.data.to_vec()).collect();
    let expected = vec![update(1), update(2), update(3), b" {\n\"a\": 1 } ".to_vec(), update(5)];
    assert_eq!(data, expected);
    let answer = hub.call_api("history", json!({"channel": CHANNEL, "limit": 10})).await;
    let publications = answer["result"]["publications"].as_array().unwrap();
    let encoded: Vec<Value> = expected.iter().map(|bytes| json!(encode(bytes))).collect();
    assert_eq!(publications.iter().map(|publication| publication["b64data"].clone()).collect::<Vec<_>>(), encoded);
    assert!(publications.iter().all(|publication| publication.get("data").is_none()), "{answer}");
    let mut late = hub.connect_protobuf_sdk("late").await;
    let epoch = answer["result"]["epoch"].as_str().unwrap().to_owned();
    let request = SubscribeRequest { recover: true, epoch, offset: 2, ..Default::default() };
    let recovered = subscribe(&mut late, request).await.subscribe.expect("a result");
    let data: Vec<Vec<u8>> = recovered.publications.iter().map(|publication| publication.data.to_vec()).collect();
    assert_eq!((recovered.recovered, data), (true, expected[2..].to_vec()));
}

#[actix_rt::test]
async fn bytes_arrive_unchanged_live_recovered_and_from_the_history() {
    let hub = start().await;
    check_round_trip(&hub, &hub).await;
}

#[actix_rt::test]
async fn bytes_arrive_unchanged_over_redis() {
    let redis = RedisServer::start().await;
    let (one, two) = (start_hub_on(&redis, add_namespace).await, start_hub_on(&redis, add_namespace).await);
    check_round_trip(&one, &two).await;
}

#[actix_rt::test]
async fn large_update_takes_at_most_2_percent_more_on_the_wire() {
    let hub = start().await;
    let (mut ann, mut bob) = (hub.connect_protobuf_sdk("ann").await, hub.connect_protobuf_sdk("bob").await);
    subscribe(&mut bob, SubscribeRequest::default()).await;
    let data: Vec<u8> = (0..10_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    publish(&mut ann, &data).await;
    let message = bob.client.next_message().await.expect("a message");
    let frame_bytes = message.len() + 4;
    assert!(frame_bytes * 100 <= data.len() * 102, "{frame_bytes}");
}

#[actix_rt::test]
async fn deltas_of_bytes_restore_them() {
    let hub = start().await;
    let (mut ann, mut bob) = (hub.connect_protobuf_sdk("ann").await, hub.connect_protobuf_sdk("bob").await);
    let request = SubscribeRequest { delta: "fossil".to_owned(), ..Default::default() };
    assert!(subscribe(&mut bob, request).await.subscribe.is_some_and(|result| result.delta));
    let (mut base, mut deltas) = (Vec::new(), 0);
    for number in 1..=4 {
        let request = json!({"channel": CHANNEL, "b64data": encode(&update(number)), "delta": true});
        hub.call_api("publish", request).await;
        let publication = receive(&mut bob).await;
        base = if publication.delta {
            deltas += 1;
            wardcast::delta::decode(&base, &publication.data, 1 << 20).unwrap()
        } else {
            publication.data.to_vec()
        };
        assert_eq!(base, update(number));
    }
    assert_eq!(deltas, 3);
    publish(&mut ann, &update(9)).await;
    assert_eq!(receive(&mut bob).await.data, update(9));
}

#[actix_rt::test]
async fn connections_that_use_json_are_refused_with_108_and_stay_open() {
    let hub = start().await;
    let mut ann = hub.connect("ann").await;
    for command in [
        json!({"subscribe": {"channel": CHANNEL}}),
        json!({"publish": {"channel": CHANNEL, "data": 1}}),
        json!({"history": {"channel": CHANNEL, "limit": 1}}),
    ] {
        let mut command = command;
        command["id"] = json!(7);
        let reply = ann.request(command).await;
        let message = reply["error"]["message"].as_str().unwrap_or_default();
        assert!(reply["error"]["code"] == 108 && message.contains("Protobuf"), "{reply}");
    }
    ann.subscribe("news").await;
    let path = format!("/v1/channels/{CHANNEL}/events?token={}", hub.token("ann"));
    let response = hub.try_handshake(&path, &[]).await;
    let error = &serde_json::from_str::<Value>(&response.body).unwrap()["error"];
    assert_eq!((response.status, &error["code"]), (400, &json!(108)), "{response:?}");
    assert!(error["message"].as_str().unwrap().contains("binary data (data_format)"), "{error}");
}

#[actix_rt::test]
async fn json_session_lacks_only_the_binary_channels_of_its_token() {
    let hub = start().await;
    let claims = json!({"sub": "ann", "exp": 60, "channels": ["news", CHANNEL]});
    let (mut ann, connect) = hub.connect_with_claims(claims.clone()).await;
    let subs = connect["subs"].as_object().unwrap();
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["news"]);
    // One with Protobuf has both.
    let path = format!("/socket?token={}&format=protobuf", hub.token_with_claims(claims));
    let mut bob = ProtobufClient::connect(hub.address, &path, &[]).await.unwrap();
    let connect = bob.receive().await.push.and_then(|push| push.connect).expect("a connect push");
    assert_eq!(connect.subs.len(), 2);
    // The server API subscribes neither.
    assert_eq!(hub.call_api("subscribe", json!({"user": "ann", "channel": "doc:2"})).await, json!({"result": {}}));
    let push = bob.receive().await.push.unwrap();
    assert!(push.channel == "doc:2" && push.subscribe.is_some(), "{push:?}");
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1, "no subscription was announced");
    let explained = hub.call_api("explain", json!({"user": "ann", "channel": "doc:2"})).await;
    assert!(explained.to_string().contains("Protobuf"), "{explained}");
}

#[actix_rt::test]
async fn api_takes_only_what_the_channel_carries() {
    let hub = start().await;
    let bytes = encode(&update(1));
    let refused = |answer: &Value| answer["error"]["code"] == 107;
    let answer = hub.call_api("publish", json!({"channel": CHANNEL, "data": {"a": 1}})).await;
    assert!(refused(&answer) && answer.to_string().contains("b64data"), "{answer}");
    let answer = hub.call_api("publish", json!({"channel": "news", "b64data": bytes})).await;
    assert!(refused(&answer), "{answer}");
    let broadcast = json!({"channels": [CHANNEL, "news", "doc:2"], "b64data": bytes});
    let answer = hub.call_api("broadcast", broadcast.clone()).await;
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert!(responses[0]["result"].is_object() && refused(&responses[1]) && responses[2]["result"].is_object());
    let batch = json!({"commands": [{"publish": {"channel": CHANNEL, "b64data": bytes}}, {"broadcast": broadcast}]});
    let answer = hub.call_api("batch", batch).await;
    assert_eq!(answer["replies"][0]["publish"]["offset"], 2, "{answer}");
    let answer = hub.call_api("publish", json!({"channel": CHANNEL, "b64data": "%"})).await;
    assert!(refused(&answer), "{answer}");
}

/// Posts a body of this type to a channel; returns the status, and the result or the error.
async fn post(hub: &TestHub, channel: &str, authorization: &str, content_type: &str, body: &[u8]) -> (u16, Value) {
    let request = http::post(hub.address, &format!("/v1/channels/{channel}/messages"));
    let request = request.header("Authorization", authorization).header("Content-Type", content_type);
    let response = request.body(body).send().await;
    (response.status, response.json())
}

#[actix_rt::test]
async fn plain_publishing_takes_bytes_where_the_data_is_binary_and_nothing_else() {
    let hub = start().await;
    let mut bob = hub.connect_protobuf_sdk("bob").await;
    subscribe(&mut bob, SubscribeRequest::default()).await;
    let (key, octets) = (format!("apikey {API_KEY}"), "application/octet-stream");
    for (offset, authorization, body) in [
        (1, key.clone(), update(1)),
        (2, hub.bearer("ann"), update(2)),
        (3, hub.bearer("ann"), b" {\n\"a\": 1 } ".to_vec()),
    ] {
        let (status, answer) = post(&hub, CHANNEL, &authorization, octets, &body).await;
        assert_eq!((status, &answer["result"]["offset"]), (200, &json!(offset)), "{answer}");
        let publication = receive(&mut bob).await;
        assert_eq!(publication.data, body);
        assert_eq!(publication.info.map(|info| info.user), (offset > 1).then(|| "ann".to_owned()));
    }
    for (what, channel, content_type, body, status, detail) in [
        ("JSON", CHANNEL, "application/json", &b"1"[..], 415, "octet-stream"),
        ("text", CHANNEL, "text/plain", b"1", 415, "octet-stream"),
        ("nothing", CHANNEL, octets, b"", 400, "empty"),
        ("bytes where the data is JSON", "news", octets, b"1", 415, "application/json"),
        ("too much", CHANNEL, octets, &vec![0; hub.config.limits.publication_bytes + 1], 200, "publication_bytes"),
    ] {
        let (refused, answer) = post(&hub, channel, &hub.bearer("ann"), content_type, body).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(refused == status && message.contains(detail), "{what}: {refused} {answer}");
    }
    // None of them was published.
    publish(&mut bob, &update(4)).await;
    assert_eq!(receive(&mut bob).await.data, update(4));
}

#[actix_rt::test]
async fn user_who_may_not_publish_does_not_learn_which_data_a_channel_has() {
    let hub = start().await;
    // `#bob`: the channels of another user.
    for channel in ["doc:1%23bob", "1%23bob"] {
        for content_type in ["application/json", "text/plain", "application/octet-stream", "image/png"] {
            let (status, answer) = post(&hub, channel, &hub.bearer("ann"), content_type, b"{").await;
            assert_eq!((status, &answer["error"]["code"]), (200, &json!(103)), "{channel} {content_type}: {answer}");
        }
    }
}

#[actix_rt::test]
async fn publish_hook_gets_and_answers_b64data() {
    let backend = Backend::start().await;
    let hub = start_hub_with(|config| {
        add_namespace(config);
        config.namespaces[0].channels.publish_hook = true;
        backend.configure(&mut config.hooks.publish, "/publish");
        config.hooks.publish.timeout = Duration::from_secs(5);
    })
    .await;
    let (mut ann, mut bob) = (hub.connect_protobuf_sdk("ann").await, hub.connect_protobuf_sdk("bob").await);
    subscribe(&mut bob, SubscribeRequest::default()).await;
    backend.answer_json("/publish", json!({"result": {}}));
    publish(&mut ann, &update(1)).await;
    assert_eq!(receive(&mut bob).await.data, update(1));
    backend.answer_json("/publish", json!({"result": {"b64data": encode(&update(2))}}));
    publish(&mut ann, &update(1)).await;
    assert_eq!(receive(&mut bob).await.data, update(2));
    // A user without a connection.
    let (status, answer) = post(&hub, CHANNEL, &hub.bearer("eve"), "application/octet-stream", &update(3)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(receive(&mut bob).await.data, update(2));
    let call = backend.calls("/publish")[2].json();
    assert_eq!((&call["user"], &call["b64data"]), (&json!("eve"), &json!(encode(&update(3)))), "{call}");
    // JSON is not what the channel carries.
    backend.answer_json("/publish", json!({"result": {"data": {"a": 1}}}));
    let reply = request_publish(&mut ann, CHANNEL, &update(1)).await;
    assert_eq!(reply.error.map(|error| error.code), Some(100));
    let call = backend.calls("/publish")[0].json();
    assert_eq!((&call["b64data"], &call["encoding"]), (&json!(encode(&update(1))), &json!("binary")), "{call}");
    assert!(call.get("data").is_none(), "{call}");
}

#[actix_rt::test]
async fn protobuf_session_publishes_only_json_where_the_data_is_json() {
    let hub = start().await;
    let mut ann = hub.connect_protobuf_sdk("ann").await;
    let reply = request_publish(&mut ann, "news", &update(1)).await;
    assert_eq!(reply.error.map(|error| error.code), Some(107));
    let mut stream =
        StreamClient::events(hub.address, &format!("/v1/channels/news/events?token={}", hub.token("ann")), &[]).await;
    assert_eq!(stream.event().await.name, "subscribe");
}
