//! Protobuf: how a client selects it, that JSON and Protobuf clients receive each other's publications, and attacks.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use wardcast::protocol::schema::{
    Command, ConnectRequest, FilterNode, HistoryRequest, PingRequest, PublishRequest, RefreshRequest, SendRequest,
    SubRefreshRequest, SubscribeRequest, UnsubscribeRequest,
};

use crate::support::{Client, TestHub, ping_often, protobuf::ProtobufClient, start_hub, start_hub_with};

const PROTOBUF: (&str, &str) = ("Sec-WebSocket-Protocol", "centrifuge-protobuf");

impl TestHub {
    /// Connects a plain client with a token in the query string and reads its connect push.
    async fn connect_protobuf(&self, user: &str) -> ProtobufClient {
        let path = format!("/socket?token={}&format=protobuf", self.token(user));
        let mut client = ProtobufClient::connect(self.address, &path, &[]).await.unwrap();
        let connect = client.receive().await.push.and_then(|push| push.connect).expect("a connect push");
        assert!(!connect.client.is_empty() && connect.expires && connect.ttl > 3500 && connect.ping == 0);
        client
    }

    /// Connects a client that authenticates with a `connect` command, as the SDKs do.
    pub async fn connect_protobuf_sdk(&self, user: &str) -> ProtobufClient {
        let mut client = ProtobufClient::connect(self.address, "/connection/websocket", &[PROTOBUF]).await.unwrap();
        let connect = Some(ConnectRequest { token: self.token(user), name: "go".to_owned(), ..Default::default() });
        let reply = client.request(Command { id: 1, connect, ..Default::default() }).await;
        let result = reply.connect.expect("a result");
        assert!(reply.id == 1 && result.pong && result.ping == 25 && result.session == result.client);
        client
    }
}

fn subscribe_request(channel: &str) -> Option<SubscribeRequest> {
    Some(SubscribeRequest { channel: channel.to_owned(), ..Default::default() })
}

#[actix_rt::test]
async fn protobuf_is_selected_by_subprotocol_or_either_query_parameter() {
    let hub = start_hub().await;
    let token = hub.token("ann");
    for (path, headers) in [
        (format!("/socket?token={token}"), &[PROTOBUF][..]),
        (format!("/socket?token={token}&format=protobuf"), &[]),
        (format!("/socket?cf_protocol=protobuf&token={token}"), &[]),
        (format!("/socket?format=protobuf&token={token}"), &[("Sec-WebSocket-Protocol", "wardcast.v1")]),
    ] {
        let mut client = ProtobufClient::connect(hub.address, &path, headers).await.unwrap();
        assert!(client.receive().await.push.unwrap().connect.is_some(), "{headers:?}");
        let answered = client.client.response.headers().get("sec-websocket-protocol");
        assert_eq!(answered.map(|answer| answer.to_str().unwrap()), headers.first().map(|(_, offer)| *offer));
    }
    // A token in the same header is not echoed.
    let offer = format!("centrifuge-protobuf, {token}");
    let mut client =
        ProtobufClient::connect(hub.address, "/socket", &[("Sec-WebSocket-Protocol", &offer)]).await.unwrap();
    assert!(client.receive().await.push.unwrap().connect.is_some());
    assert_eq!(client.client.response.headers()["sec-websocket-protocol"], "centrifuge-protobuf");
}

#[actix_rt::test]
async fn selected_subprotocol_takes_precedence_over_query() {
    let hub = start_hub().await;
    let path = format!("/socket?token={}&format=protobuf", hub.token("ann"));
    let _json = hub.connect_to(&path, &[("Sec-WebSocket-Protocol", "centrifuge-json, centrifuge-protobuf")]).await;
}

#[actix_rt::test]
async fn json_and_protobuf_clients_receive_each_others_publications() {
    let hub = start_hub().await;
    let mut json = hub.connect_subscriber("ann", "news").await;
    let mut protobuf = hub.connect_protobuf("bob").await;
    protobuf.subscribe("news").await;

    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect_protobuf("bob").await);
    ann.request(json!({"id": 2, "publish": {"channel": "news", "data": {"from": "é"}}})).await;
    let push = protobuf.receive().await.push.unwrap();
    let publication = push.r#pub.unwrap();
    assert_eq!((push.channel.as_str(), &publication.data[..]), ("news", "{\"from\":\"é\"}".as_bytes()));
    assert_eq!(publication.info.unwrap().user, "ann");
    assert_eq!(json.receive_publication().await, json!({"from": "é"}));

    assert!(bob.publish("news", "\t{\"a\":\r\n 1.0e2}\n").await.publish.is_some());
    assert!(json.receive_text().await.contains(r#""data":{"a":   1.0e2},"info":{"user":"bob","#), "on one line");
    assert_eq!(protobuf.receive_publication().await, "{\"a\":   1.0e2}");

    hub.publish("news", json!([1])).await;
    assert_eq!(
        (json.receive_publication().await, protobuf.receive_publication().await),
        (json!([1]), "[1]".to_owned())
    );
}

#[actix_rt::test]
async fn protobuf_commands_in_one_frame_are_answered_separately() {
    let hub = start_hub().await;
    let mut sdk = hub.connect_protobuf_sdk("ann").await;
    let unsubscribe = Some(UnsubscribeRequest { channel: "news".to_owned() });
    let commands = [
        Command { id: 2, subscribe: subscribe_request("news"), ..Default::default() },
        Command { id: 3, ping: Some(PingRequest {}), ..Default::default() },
        Command { id: 4, subscribe: subscribe_request("news"), ..Default::default() },
        Command { id: 5, unsubscribe, ..Default::default() },
        Command { id: 6, history: Some(HistoryRequest { limit: -1, ..Default::default() }), ..Default::default() },
    ];
    sdk.send_bytes(commands.iter().flat_map(prost::Message::encode_length_delimited_to_vec).collect()).await;
    assert!(sdk.receive().await.subscribe.is_some() && sdk.receive().await.ping.is_some());
    let already = sdk.receive().await;
    assert_eq!((already.id, already.error.map(|error| (error.code, error.temporary))), (4, Some((105, false))));
    assert!(sdk.receive().await.unsubscribe.is_some());
    assert_eq!(sdk.receive().await.id, 6);
}

#[actix_rt::test]
async fn protobuf_client_sends_new_token_by_refresh_or_on_any_command() {
    let hub = start_hub().await;
    let mut sdk = hub.connect_protobuf_sdk("ann").await;
    let refresh = Some(RefreshRequest { token: hub.token_for("ann", Duration::from_secs(7200)) });
    let result = sdk.request(Command { id: 2, refresh, ..Default::default() }).await.refresh.unwrap();
    assert!(result.expires && result.ttl > 7000 && !result.client.is_empty());
    let (token, ping) = (hub.token("ann"), Some(PingRequest {}));
    assert!(sdk.request(Command { id: 3, token, ping, ..Default::default() }).await.ping.is_some());
    let sub_refresh = Some(SubRefreshRequest { channel: "news".to_owned(), token: hub.token("ann"), r#type: 0 });
    let refused = sdk.request(Command { id: 4, sub_refresh, ..Default::default() }).await;
    assert_eq!(refused.error.unwrap().code, 103, "not a subscription token");
    let (token, ping) = (hub.token("bob"), Some(PingRequest {}));
    sdk.send(Command { id: 5, token, ping, ..Default::default() }).await;
    assert_eq!(sdk.wait_for_close().await, (Some(3500), "invalid token".to_owned()));
}

#[actix_rt::test]
async fn empty_subscription_result_is_present_in_protobuf_reply() {
    let hub = start_hub().await;
    let claims = json!({"sub": "ann", "exp": 3600, "channels": ["news"]});
    let path = format!("/socket?token={}&format=protobuf", hub.token_with_claims(claims));
    let mut client = ProtobufClient::connect(hub.address, &path, &[]).await.unwrap();
    let connect = client.receive().await.push.unwrap().connect.unwrap();
    // centrifuge-js fails if the result is absent.
    assert_eq!((connect.subs.len(), connect.subs[0].result.is_some()), (1, true));
}

#[actix_rt::test]
async fn server_side_subscriptions_and_their_end_are_pushed_in_protobuf() {
    let hub = start_hub().await;
    let claims = json!({"sub": "ann", "exp": 3600, "subs": {"news": {"data": {"a": 1}}}});
    let path = format!("/socket?token={}&format=protobuf", hub.token_with_claims(claims));
    let mut client = ProtobufClient::connect(hub.address, &path, &[]).await.unwrap();
    let connect = client.receive().await.push.unwrap().connect.unwrap();
    let [entry] = &connect.subs[..] else { panic!("{connect:?}") };
    let result = entry.result.as_ref().unwrap();
    assert_eq!((entry.channel.as_str(), &result.data[..]), ("news", &b"{\"a\":1}"[..]));
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    let push = client.receive().await.push.unwrap();
    assert_eq!((push.channel.as_str(), push.unsubscribe.unwrap().code), ("news", 2000));
    hub.call_api("refresh", json!({"user": "ann", "expire_at": hub.clock.now().unix_seconds() + 7200})).await;
    assert!(client.receive().await.push.unwrap().refresh.unwrap().ttl > 7000);
    hub.call_api("disconnect", json!({"user": "ann", "disconnect": {"code": 4500, "reason": "gone"}})).await;
    assert_eq!(client.wait_for_close().await, (Some(4500), "gone".to_owned()));
}

async fn connect_by_command(hub: &TestHub, path: &str) -> ProtobufClient {
    let mut client = ProtobufClient::connect(hub.address, path, &[PROTOBUF]).await.unwrap();
    let connect = Some(ConnectRequest { token: hub.token("ann"), ..Default::default() });
    assert!(client.request(Command { id: 1, connect, ..Default::default() }).await.connect.is_some());
    client
}

#[actix_rt::test]
async fn protobuf_session_is_kept_alive_by_empty_messages() {
    let hub = start_hub_with(ping_often).await;
    let mut client = connect_by_command(&hub, "/connection/websocket").await;
    for _ in 0..4 {
        assert_eq!(client.client.next_message().await, Some(Message::binary(vec![0])));
        client.send_bytes(vec![0]).await;
    }
    assert_eq!(client.wait_for_close().await.0, Some(3012), "the last ping was not answered");
}

#[actix_rt::test]
async fn sdk_may_request_native_pings() {
    let hub = start_hub_with(ping_often).await;
    let mut protobuf = connect_by_command(&hub, "/connection/websocket?cf_ws_frame_ping_pong=true").await;
    for _ in 0..3 {
        // tungstenite answers pings while it reads, so the clients run one after the other.
        assert!(matches!(protobuf.client.next_message().await, Some(Message::Ping(_))));
    }
    let mut json = Client::connect(hub.address, "/connection/websocket?cf_ws_frame_ping_pong=true").await.unwrap();
    let reply = json.request(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    assert!(reply["connect"]["client"].is_string() && reply["connect"].get("ping").is_none(), "{reply}");
    for _ in 0..3 {
        assert!(matches!(json.next_message().await, Some(Message::Ping(_))));
    }
}

#[actix_rt::test]
async fn message_in_other_format_is_protocol_error_or_closes_with_3506() {
    let hub = start_hub().await;
    let mut plain = hub.connect_protobuf("ann").await;
    plain.client.send_text(r#"{"id":1,"ping":{}}"#).await;
    assert_eq!(plain.receive().await.error.unwrap().code, 107);
    plain.subscribe("news").await;

    let mut sdk = hub.connect_protobuf_sdk("ann").await;
    sdk.client.send_text(r#"{"id":2,"ping":{}}"#).await;
    assert_eq!(sdk.wait_for_close().await.0, Some(3506));
    let mut stranger = ProtobufClient::connect(hub.address, "/socket", &[PROTOBUF]).await.unwrap();
    stranger.client.send_text(&hub.token_message("ann")).await;
    assert_eq!(stranger.wait_for_close().await.0, Some(3506), "the text form needs a connection that speaks JSON");

    let mut json = hub.connect_sdk(&hub.token("ann")).await;
    json.send_message(Message::binary(vec![0])).await;
    assert_eq!(json.wait_for_close().await.0, Some(3506));
}

#[actix_rt::test]
async fn protobuf_data_that_is_not_json_is_107_and_not_delivered() {
    let hub = start_hub().await;
    let mut ann = hub.connect_protobuf("ann").await;
    ann.subscribe("news").await;
    for data in ["", " ", "{", "nothing", "1 2", "\u{0}", "{\"a\":}"] {
        assert_eq!(ann.publish("news", data).await.error.unwrap().code, 107, "{data:?}");
    }
    let not_utf8 = Some(PublishRequest { channel: "news".to_owned(), data: vec![b'"', 0xff, b'"'].into(), r#type: 0 });
    let refused = ann.request(Command { id: 3, publish: not_utf8, ..Default::default() }).await;
    assert_eq!(refused.error.unwrap().code, 107);
    hub.publish("news", json!("real")).await;
    assert_eq!(ann.receive_publication().await, "\"real\"");
}

#[actix_rt::test]
async fn data_nested_ten_thousand_levels_reaches_json_and_protobuf_clients() {
    let hub = start_hub().await;
    let mut json = hub.connect_subscriber("ann", "news").await;
    let mut protobuf = hub.connect_protobuf("bob").await;
    protobuf.subscribe("news").await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(hub.connect_protobuf("bob").await.publish("news", &deep).await.publish.is_some());
    assert_eq!(protobuf.receive_publication().await, deep);
    assert!(json.receive_text().await.contains(&deep));
}

/// Frames that hold no valid command, each with its description.
fn malformed_messages() -> Vec<(&'static str, Vec<u8>)> {
    let varint = |bytes: &[u8]| [bytes, b"x"].concat();
    let framed = |message: &[u8]| [&[u8::try_from(message.len()).unwrap()][..], message].concat();
    vec![
        ("an empty frame", vec![]),
        ("a length of 2^63", varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01])),
        ("a length of 2^64", varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02])),
        ("a length of eleven bytes", varint(&[0x80; 10])),
        ("a length that ends too early", vec![0x80]),
        ("a message that ends too early", vec![10, 8, 1]),
        ("one byte too few", vec![5, 8, 1, 0x5a, 1]),
        ("an empty ping without an id", framed(&[0x5a, 0])),
        ("an id alone", framed(&[8, 1])),
        ("an id of 33 bits", framed(&[8, 0x80, 0x80, 0x80, 0x80, 0x10, 0x5a, 0])),
        ("an id of text", framed(&[10, 1, b'1', 0x5a, 0])),
        ("two methods", framed(&[8, 1, 0x5a, 0, 0x72, 0])),
        ("one method twice", framed(&[8, 1, 0x5a, 0, 0x5a, 0])),
        ("a method that is a number", framed(&[8, 1, 0x58, 1])),
        ("field 0", framed(&[8, 1, 0x5a, 0, 2, 0])),
        ("a group", framed(&[8, 1, 0x5a, 0, 0x9b, 1, 0x9c, 1])),
        ("the end of a group that did not begin", framed(&[8, 1, 0x5a, 0, 0x9c, 1])),
        ("wire type 6", framed(&[8, 1, 0x5a, 0, 0x9e, 1])),
        ("a channel that is not UTF-8", framed(&[8, 1, 0x2a, 3, 10, 1, 0xff])),
        ("a field beyond its message", framed(&[8, 1, 0x2a, 4, 10, 100, b'a', b'b'])),
        ("JSON", br#"{"id":1,"ping":{}}"#.to_vec()),
    ]
}

#[actix_rt::test]
async fn malformed_protobuf_closes_sdk_session_with_3501() {
    let hub = start_hub().await;
    for (name, attack) in malformed_messages() {
        let mut sdk = hub.connect_protobuf_sdk("ann").await;
        sdk.send_bytes(attack).await;
        assert_eq!(sdk.wait_for_close().await, (Some(3501), "bad request".to_owned()), "{name}");
    }
}

#[actix_rt::test]
async fn malformed_protobuf_is_protocol_error_of_plain_session() {
    let hub = start_hub_with(|config| config.limits.errors = 100).await;
    let mut plain = hub.connect_protobuf("ann").await;
    for (name, attack) in malformed_messages() {
        plain.send_bytes(attack).await;
        let reply = plain.receive().await;
        assert_eq!(reply.error.map(|error| error.code), Some(107), "{name}");
    }
    plain.send_bytes(vec![7, 8, 7, 0x2a, 3, 10, 1, 0xff]).await;
    let reply = plain.receive().await;
    let message = "bad request: field 1 of subscribe has the wrong type".to_owned();
    assert_eq!((reply.id, reply.error.unwrap().message), (7, message));
    plain.subscribe("news").await;
}

#[actix_rt::test]
async fn command_after_malformed_length_is_not_executed() {
    let hub = start_hub().await;
    let mut plain = hub.connect_protobuf("ann").await;
    let ping = Command { id: 7, ping: Some(PingRequest {}), ..Default::default() };
    let good = prost::Message::encode_length_delimited_to_vec(&ping);
    plain.send_bytes([&good[..], &[0xff; 11], &good].concat()).await;
    assert!(plain.receive().await.ping.is_some());
    assert_eq!(plain.receive().await.error.unwrap().code, 107);
    plain.subscribe("news").await;
}

#[actix_rt::test]
async fn unknown_protobuf_fields_are_ignored() {
    let hub = start_hub().await;
    let mut sdk = hub.connect_protobuf_sdk("ann").await;
    // A varint, eight bytes, bytes and four bytes, of fields 16 to 19.
    let unknown = [&[0x80, 1, 5, 0x89, 1][..], &[0; 8], &[0x92, 1, 1, 0xff, 0x9d, 1], &[0; 4]].concat();
    let message = [&unknown[..], &[8, 9, 0x5a, 0], &unknown].concat();
    sdk.send_bytes([&[message.len() as u8][..], &message].concat()).await;
    assert_eq!(sdk.receive().await.id, 9);
}

#[actix_rt::test]
async fn protobuf_send_command_closes_with_3508() {
    let hub = start_hub().await;
    let mut sdk = hub.connect_protobuf_sdk("ann").await;
    sdk.send(Command { send: Some(SendRequest { data: "1".into() }), ..Default::default() }).await;
    assert_eq!(sdk.wait_for_close().await.0, Some(3508));
}

#[actix_rt::test]
async fn filter_of_a_thousand_levels_is_refused_and_session_stays_open() {
    let hub = start_hub().await;
    let mut sdk = hub.connect_protobuf_sdk("ann").await;
    let deep =
        (0..1000).fold(FilterNode::default(), |below, _| FilterNode { nodes: vec![below], ..Default::default() });
    let subscribe = SubscribeRequest { channel: "news".to_owned(), tf: Some(deep), ..Default::default() };
    assert_eq!(sdk.request(Command { id: 2, subscribe: Some(subscribe), ..Default::default() }).await.id, 2);
    let ping = Some(PingRequest {});
    assert!(sdk.request(Command { id: 3, ping, ..Default::default() }).await.ping.is_some());
}
