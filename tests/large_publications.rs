//! Publications of 1 MiB, the default of `api.publication_bytes`, on their whole way to subscribers.

use serde_json::{Value, json};
use wardcast::config::{Config, DeltaType};

use crate::support::{
    API_KEY, Client, TestHub, http, protobuf::ProtobufClient, redis::RedisServer, start_hub_on, start_hub_with,
};

const MEBIBYTE: usize = 1 << 20;

/// JSON of exactly 1 MiB, a tenth of it quotation marks, which a JSON client with deltas gets escaped.
fn large_data(seed: char) -> Value {
    let mut text = format!(r#"{seed}34567"8"#).repeat(MEBIBYTE);
    let mut length = 2;
    let end = text.char_indices().find(|(_, character)| {
        length += if *character == '"' { 2 } else { 1 };
        length > MEBIBYTE
    });
    text.truncate(end.unwrap().0);
    let data = json!(text);
    assert!((MEBIBYTE - 1..=MEBIBYTE).contains(&data.to_string().len()));
    data
}

fn with_history(config: &mut Config) {
    config.channels.history_size = 10;
    config.channels.allowed_delta_types = vec![DeltaType::Fossil];
}

async fn publish_large(hub: &TestHub, seed: char) {
    let result = hub.publish_with(json!({"channel": "news", "data": large_data(seed), "delta": true})).await;
    assert!(result.is_object());
}

async fn receive_data(client: &mut Client) -> Value {
    let data = client.receive_publication().await;
    // With deltas the data is JSON in a string.
    match data.as_str().filter(|text| text.starts_with('"')) {
        Some(text) => serde_json::from_str(text).unwrap(),
        None => data,
    }
}

#[actix_rt::test]
async fn publication_of_1_mib_reaches_json_delta_and_protobuf_subscribers() {
    let hub = start_hub_with(with_history).await;
    let (mut plain, mut delta) = (hub.connect("ann").await, hub.connect("bob").await);
    plain.subscribe_with("news", json!({})).await;
    delta.subscribe_with("news", json!({"delta": "fossil"})).await;
    let path = format!("{}&format=protobuf", hub.path_for("cat"));
    let mut protobuf = ProtobufClient::connect(hub.address, &path, &[]).await.unwrap();
    protobuf.receive().await;
    protobuf.subscribe("news").await;
    for seed in ['1', '2', '2'] {
        publish_large(&hub, seed).await;
        assert_eq!(receive_data(&mut plain).await, large_data(seed));
        assert_eq!(receive_data(&mut delta).await, large_data(seed));
        assert_eq!(protobuf.receive_publication().await, large_data(seed).to_string());
    }
    assert_eq!(hub.running().metrics.closes_with_code(3008), 0);
}

#[actix_rt::test]
async fn publications_of_1_mib_are_recovered_and_in_the_history() {
    let hub = start_hub_with(|config| {
        with_history(config);
        config.channels.allow_history = wardcast::config::ChannelAccess::User;
    })
    .await;
    publish_large(&hub, '1').await;
    let mut ann = hub.connect("ann").await;
    for delta in [json!(null), json!("fossil")] {
        let reply = ann.subscribe_with("news", json!({"recover": true, "delta": delta.as_str().unwrap_or("")})).await;
        assert_eq!(reply["subscribe"]["recovered"], true, "{delta}");
        assert_eq!(reply["subscribe"]["publications"].as_array().unwrap().len(), 1);
        ann.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    }
    let history = ann.request(json!({"id": 3, "history": {"channel": "news", "limit": 1}})).await;
    assert_eq!(history["history"]["publications"][0]["data"], large_data('1'));
    let history = hub.call_api("history", json!({"channel": "news", "limit": 2})).await;
    assert_eq!(history["result"]["publications"][0]["data"], large_data('1'));
}

#[actix_rt::test]
async fn publication_of_1_mib_passes_redis_and_its_base64_the_body_limit() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let redis = RedisServer::start().await;
    let (one, two) = (start_hub_on(&redis, |_| ()).await, start_hub_on(&redis, |_| ()).await);
    let mut ann = two.connect_subscriber("ann", "news").await;
    one.publish("news", large_data('1')).await;
    assert_eq!(receive_data(&mut ann).await, large_data('1'));
    let encoded = BASE64_STANDARD.encode(large_data('2').to_string());
    one.publish_with(json!({"channel": "news", "b64data": encoded})).await;
    assert_eq!(receive_data(&mut ann).await, large_data('2'));
}

#[actix_rt::test]
async fn broadcast_of_1_mib_reaches_more_channels_than_the_queue_to_redis_holds() {
    let redis = RedisServer::start().await;
    let hub = start_hub_on(&redis, |_| ()).await;
    let mut ann = hub.connect_subscriber("ann", "49").await;
    let channels: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let answer = hub.call_api("broadcast", json!({"channels": channels, "data": large_data('1')})).await;
    assert_eq!(answer["result"]["responses"], json!(vec![json!({"result": {}}); 50]));
    assert_eq!(receive_data(&mut ann).await, large_data('1'));
}

#[actix_rt::test]
async fn publication_over_1_mib_is_106_and_one_of_a_user_over_64_kib() {
    let hub = start_hub_with(|_| ()).await;
    let request = json!({"channel": "news", "data": "x".repeat(MEBIBYTE - 1)});
    let message = "limit exceeded: api.publication_bytes = 1048576";
    assert_eq!(hub.call_api("publish", request).await["error"]["message"], message);
    for (name, value, message) in [
        ("X-API-Key", API_KEY.to_owned(), None),
        ("Authorization", hub.bearer("ann"), Some("the body is too long: limits.publication_bytes + 1024 = 66560")),
    ] {
        let request = http::post(hub.address, "/v1/channels/news/messages").header(name, &value);
        let response = request.json(json!("x".repeat(70_000))).send().await.json();
        assert_eq!(response["error"]["message"].as_str(), message, "{name}");
    }
}
