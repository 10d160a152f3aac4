//! Sessions over HTTP responses that do not end, with their commands in other requests: the same session as over a WebSocket.

use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use wardcast::protocol::schema;

use crate::support::{
    TestHub,
    client::tls_stream,
    http, ping_often,
    redis::RedisServer,
    start_hub, start_hub_on, start_hub_with,
    stream::{StreamClient, emulate, get, post, sse_path, subscribe},
    tls::Certificate,
};

async fn connect_both(hub: &TestHub, user: &str) -> [(StreamClient, Value); 2] {
    [
        StreamClient::connect_sse(hub, &hub.token(user)).await,
        StreamClient::connect_http_stream(hub, &hub.token(user)).await,
    ]
}

#[actix_rt::test]
async fn client_of_each_stream_subscribes_publishes_and_receives() {
    let hub = start_hub().await;
    for (mut client, connected) in connect_both(&hub, "ann").await {
        subscribe(hub.address, &mut client, &connected, "news").await;
        hub.publish("news", json!("over REST")).await;
        assert_eq!(client.receive_publication().await, json!("over REST"));
        let publish = json!({"id": 3, "publish": {"channel": "news", "data": "by itself"}});
        assert_eq!(emulate(hub.address, &connected, &publish).await.status, 204);
        // The reply and the publication have no order among each other.
        let received = [client.receive().await, client.receive().await];
        assert!(received.contains(&json!({"id": 3, "publish": {}})), "{received:?}");
        assert!(received.iter().any(|message| message["push"]["pub"]["data"] == "by itself"), "{received:?}");
        assert_eq!((&connected["pong"], &connected["ping"]), (&json!(true), &json!(25)));
    }
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn head_of_a_stream_keeps_proxies_from_storing_and_buffering_it() {
    let hub = start_hub().await;
    for (client, _) in connect_both(&hub, "ann").await {
        let header = |name| client.head.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("x-accel-buffering"), "no");
        assert!(header("cache-control").contains("no-store") && header("cache-control").contains("no-transform"));
        assert_eq!(header("connection"), "close");
        assert!(header("date").ends_with("GMT"), "{:?}", client.head);
        assert_eq!((client.head.header("content-length"), client.head.header("transfer-encoding")), (None, None));
    }
    let (client, _) = StreamClient::connect_sse(&hub, &hub.token("ann")).await;
    assert_eq!(client.head.header("content-type"), Some("text/event-stream"));
}

#[actix_rt::test]
async fn protobuf_stream_frames_replies_by_length_and_takes_protobuf_requests() {
    let hub = start_hub().await;
    let connect = schema::ConnectRequest { token: hub.token("ann"), ..Default::default() };
    let command = schema::Command { id: 1, connect: Some(connect), ..Default::default() };
    let protobuf = "application/octet-stream";
    let request = post(hub.address, "/connection/http_stream", protobuf, &command.encode_length_delimited_to_vec());
    let mut client = StreamClient::open(hub.address, &request, b"").await;
    assert_eq!((client.head.status, client.head.header("content-type")), (200, Some(protobuf)));
    let connected = receive_protobuf(&mut client).await.connect.unwrap();
    let subscribe = schema::SubscribeRequest { channel: "news".to_owned(), ..Default::default() };
    let command = schema::Command { id: 2, subscribe: Some(subscribe), ..Default::default() };
    let request = schema::EmulationRequest {
        node: connected.node,
        session: connected.session,
        data: command.encode_length_delimited_to_vec().into(),
    };
    let sent = http::post(hub.address, "/emulation").header("Content-Type", protobuf).body(request.encode_to_vec());
    assert_eq!(sent.send().await.status, 204);
    assert!(receive_protobuf(&mut client).await.subscribe.is_some());
    hub.publish("news", json!([1])).await;
    let push = receive_protobuf(&mut client).await.push.unwrap();
    assert_eq!(push.r#pub.unwrap().data, "[1]");
    hub.call_api("disconnect", json!({"user": "ann"})).await;
    let push = receive_protobuf(&mut client).await.push.unwrap();
    assert_eq!(push.disconnect.unwrap().code, 3503);
}

async fn receive_protobuf(client: &mut StreamClient) -> schema::Reply {
    use tokio::io::AsyncReadExt;
    let mut bytes = Vec::new();
    loop {
        if let Ok(reply) = schema::Reply::decode_length_delimited(&bytes[..]) {
            return reply;
        }
        let byte = tokio::time::timeout(crate::support::PATIENCE, client.stream.read_u8()).await;
        bytes.push(byte.expect("a reply in time").unwrap());
    }
}

#[actix_rt::test]
async fn close_reaches_the_client_of_a_stream_as_a_push_before_the_end() {
    let hub = start_hub().await;
    for (mut client, _) in connect_both(&hub, "ann").await {
        let disconnect = json!({"user": "ann", "disconnect": {"code": 4000, "reason": "enough"}});
        hub.call_api("disconnect", disconnect).await;
        assert_eq!(client.wait_for_close().await, (4000, "enough".to_owned()));
    }
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn token_of_a_stream_expires_without_traffic_and_nothing_is_delivered_after_it() {
    let hub = start_hub().await;
    let short = hub.token_for("ann", Duration::from_secs(60));
    let (mut client, connected) = StreamClient::connect_sse(&hub, &short).await;
    subscribe(hub.address, &mut client, &connected, "news").await;
    hub.clock.advance(Duration::from_secs(61));
    hub.publish("news", json!("late")).await;
    assert_eq!(client.receive().await["push"]["disconnect"]["code"], json!(3005));
    assert_eq!(client.next().await, None);
    drop(client);
    hub.wait_for_connections(0).await;
    let response = emulate(hub.address, &connected, &json!({"id": 3, "ping": {}})).await;
    assert_eq!(response.status, 404, "the session has ended");
}

#[actix_rt::test]
async fn revocation_ends_a_stream_with_3500() {
    let hub = start_hub().await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "iat": 0, "jti": "1"}));
    let (mut client, _) = StreamClient::connect_http_stream(&hub, &token).await;
    hub.call_api("revoke_token", json!({"jti": "1"})).await;
    assert_eq!(client.wait_for_close().await, (3500, "token revoked".to_owned()));
}

#[actix_rt::test]
async fn session_of_a_stream_that_sends_no_pong_is_closed_and_one_that_does_stays() {
    let hub = start_hub_with(ping_often).await;
    let (mut silent, _) = StreamClient::connect_sse(&hub, &hub.token("ann")).await;
    let (mut answering, connected) = StreamClient::connect_http_stream(&hub, &hub.token("bob")).await;
    let mut pings = 0;
    let answer = async {
        while pings < 4 {
            assert_eq!(answering.next().await.expect("a ping"), b"{}");
            assert_eq!(emulate(hub.address, &connected, &json!({})).await.status, 204);
            pings += 1;
        }
    };
    let (closed, ()) = futures_util::future::join(silent.wait_for_close(), answer).await;
    assert_eq!(closed, (3012, "no pong".to_owned()));
}

#[actix_rt::test]
async fn plain_session_over_a_stream_is_kept_alive_by_comments_that_nobody_answers() {
    let hub = start_hub_with(ping_often).await;
    let path = format!("/connection/sse?token={}", hub.token("ann"));
    let mut client = StreamClient::events(hub.address, &path, &[]).await;
    let connected = client.receive().await["push"]["connect"].clone();
    subscribe(hub.address, &mut client, &connected, "news").await;
    for _ in 0..4 {
        assert_eq!(client.next().await.expect("a comment"), b":");
    }
    hub.publish("news", json!("alive")).await;
    while client.next().await.expect("a publication") == b":" {}
}

#[actix_rt::test]
async fn slow_reader_of_a_stream_is_closed_and_others_continue() {
    let hub = start_hub_with(|config| config.limits.outbox_bytes = 200_000).await;
    let (mut stalled, connected) = StreamClient::connect_sse(&hub, &hub.token("bob")).await;
    subscribe(hub.address, &mut stalled, &connected, "news").await;
    let (mut reader, connected) = StreamClient::connect_http_stream(&hub, &hub.token("ann")).await;
    subscribe(hub.address, &mut reader, &connected, "news").await;
    let mut sent = 0;
    while hub.running().metrics.closes_with_code(3008) == 0 {
        hub.publish("news", json!("x".repeat(30_000))).await;
        assert_eq!(reader.receive_publication().await, json!("x".repeat(30_000)));
        sent += 1;
        assert!(sent < 2_000, "60 MB were accepted for a client that does not read");
    }
    drop(reader);
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn stream_begins_on_a_connection_that_has_served_requests() {
    let hub = start_hub().await;
    let live = format!("GET /health/live HTTP/1.1\r\nHost: {}\r\n\r\n", hub.address);
    let connect = get(hub.address, &sse_path(&json!({"id": 1, "connect": {"token": hub.token("ann")}})), &[]);
    // Pipelined: the responses come in their order, and the session starts behind them.
    let mut client =
        StreamClient::open(hub.address, [&*live, &live, &connect, &live].concat().as_bytes(), b"\n\n").await;
    assert_eq!(client.head.status, 200);
    for _ in 0..2 {
        client.head = http::receive(&mut client.stream).await;
        assert_eq!(client.head.status, 200);
    }
    assert_eq!(client.head.header("content-type"), Some("text/event-stream"));
    assert!(client.receive().await["connect"].is_object());
    // What follows on the connection is no request.
    client.stream.write_all(live.as_bytes()).await.unwrap();
    hub.call_api("disconnect", json!({"user": "ann"})).await;
    assert_eq!(client.wait_for_close().await.0, 3503);
}

#[actix_rt::test]
async fn client_that_sends_without_end_behind_its_request_is_disconnected() {
    let hub = start_hub().await;
    let (mut client, _) = StreamClient::connect_sse(&hub, &hub.token("ann")).await;
    let flood = vec![b'x'; 1 << 20];
    while client.stream.write_all(&flood).await.is_ok() {}
    hub.wait_for_connections(0).await;
    assert_eq!(hub.running().metrics.closes_with_code(3012), 0, "at once, not for want of a pong");
}

#[actix_rt::test]
async fn streams_serve_old_and_upgrading_clients_too() {
    let hub = start_hub().await;
    let path = sse_path(&json!({"id": 1, "connect": {"token": hub.token("ann")}}));
    for request in [
        get(hub.address, &path, &[("Connection", "Upgrade"), ("Upgrade", "websocket")]),
        format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", hub.address),
        get(
            hub.address,
            &path,
            &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AA")],
        ),
    ] {
        let mut client = StreamClient::open(hub.address, request.as_bytes(), b"\n\n").await;
        assert_eq!(client.head.status, 200, "{request}");
        assert!(client.receive().await["connect"].is_object(), "{request}");
    }
}

#[actix_rt::test]
async fn stream_works_over_tls() {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| certificate.configure(config)).await;
    let mut stream = tls_stream(hub.address, certificate.root()).await.unwrap();
    let path = sse_path(&json!({"id": 1, "connect": {"token": hub.token("ann")}}));
    stream.write_all(get(hub.address, &path, &[]).as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("\"session\":") {
        use tokio::io::AsyncReadExt;
        assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
    }
    assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[actix_rt::test]
async fn stopping_hub_closes_streams_with_3001_and_refuses_new_ones() {
    let hub = start_hub_with(|config| config.server.drain = Duration::from_secs(20)).await;
    let streams = connect_both(&hub, "ann").await;
    let command = json!({"id": 1, "connect": {"token": hub.token("ann")}});
    let requests = [
        get(hub.address, &sse_path(&command), &[]).into_bytes(),
        post(hub.address, "/connection/sse", "application/json", command.to_string().as_bytes()),
        post(hub.address, "/connection/http_stream", "application/json", command.to_string().as_bytes()),
    ];
    // Connections that are open already: the listener is closed before the streams are.
    let mut open = Vec::new();
    for _ in &requests {
        let mut connection = TcpStream::connect(hub.address).await.unwrap();
        connection.write_all(b"GET /health/live HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
        assert_eq!(http::receive(&mut connection).await.status, 200);
        open.push(connection);
    }
    // It does not answer the close frame, so its session stays for a while, and with it these connections.
    let session = hub.connect_raw("bob").await;
    let stopped = actix_rt::spawn(hub.stop());
    for (mut client, _) in streams {
        assert_eq!(client.wait_for_close().await, (3001, "shutdown".to_owned()));
    }
    for (connection, request) in open.iter_mut().zip(requests) {
        connection.write_all(&request).await.unwrap();
        let response = http::receive(connection).await;
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{response:?}");
        assert!(response.body.contains("stopping"), "{response:?}");
    }
    drop(session);
    stopped.await.unwrap();
}

/// Each node has its sessions; requests with commands go to the other one.
#[actix_rt::test]
async fn commands_reach_a_session_of_another_node_in_order() {
    let mut redis = RedisServer::start().await;
    let (one, two) = (start_hub_on(&redis, |_| ()).await, start_hub_on(&redis, |_| ()).await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    let (mut client, connected) = StreamClient::connect_sse(&one, &one.token("ann")).await;
    subscribe(two.address, &mut client, &connected, "news").await;
    for number in 0..20 {
        let publish = json!({"id": 3 + number, "publish": {"channel": "other", "data": number}});
        assert_eq!(emulate(two.address, &connected, &publish).await.status, 204);
    }
    for number in 0..20 {
        assert_eq!(client.receive().await, json!({"id": 3 + number, "publish": {}}));
    }
    assert_eq!(two.metric("wardcast_emulation_requests_total{outcome=\"forwarded\"}").await, 21.0);
    let gone = json!({"session": uuid::Uuid::new_v4().to_string(), "node": connected["node"]});
    assert_eq!(emulate(two.address, &gone, &json!({})).await.status, 204, "only its node knows that it is gone");
    let unknown = json!({"session": connected["session"], "node": uuid::Uuid::new_v4().to_string()});
    assert_eq!(emulate(two.address, &unknown, &json!({})).await.status, 404, "there is no such node");
    redis.kill();
    assert_eq!(emulate(two.address, &connected, &json!({"id": 99, "ping": {}})).await.status, 503);
}
