//! The send hook: messages of clients without a reply, in their order and with a limit.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use wardcast::{
    config::Config,
    protocol::schema::{Command, SendRequest},
};

use crate::support::{
    PATIENCE, TestHub,
    backend::{Answer, Backend},
    poll_until,
    protobuf::ProtobufClient,
    raw, start_hub_with,
};

async fn start(backend: &Backend, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        backend.configure(&mut config.hooks.send, "/send");
        backend.configure(&mut config.hooks.rpc, "/rpc");
        (config.limits.commands_per_second, config.hooks.failures) = (0, 1000);
        change(config);
    })
    .await
}

fn data(backend: &Backend) -> Vec<Value> {
    backend.calls("/send").iter().map(|call| call.json()["data"].clone()).collect()
}

#[actix_rt::test]
async fn messages_reach_the_backend_in_order_and_other_commands_do_not_wait() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut ann = hub.connect("ann").await;
    backend.answer("/send", Answer::Silence);
    let sent: Vec<Value> = (0..10).map(|number| json!(number)).collect();
    let text: Vec<String> = sent.iter().map(|data| json!({"send": {"data": data}}).to_string()).collect();
    ann.send_text(&text.join("\n")).await;
    assert_eq!(ann.request(json!({"id": 1, "ping": {}})).await, json!({"id": 1, "ping": {}}));
    backend.wait_for_calls("/send", 1).await;
    assert_eq!(data(&backend), [json!(0)], "one at a time");
    // What was read is sent after its client has left.
    drop(ann);
    hub.wait_for_connections(0).await;
    backend.answer_json("/send", json!({"result": {}}));
    backend.wait_for_calls("/send", 10).await;
    assert_eq!(data(&backend), sent);
    let call = backend.calls("/send").remove(0).json();
    assert_eq!((&call["user"], &call["transport"]), (&json!("ann"), &json!("websocket")));
    let mut bob =
        ProtobufClient::connect(hub.address, &format!("{}&format=protobuf", hub.path_for("bob")), &[]).await.unwrap();
    bob.receive().await;
    bob.send(Command { send: Some(SendRequest { data: b"[7]"[..].into() }), ..Default::default() }).await;
    backend.wait_for_calls("/send", 11).await;
    let call = backend.calls("/send").remove(10).json();
    assert_eq!((&call["user"], &call["data"], &call["protocol"]), (&json!("bob"), &json!([7]), &json!("protobuf")));
}

#[actix_rt::test]
async fn later_commands_wait_when_too_many_messages_do() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.send_queue = 2).await;
    let mut ann = hub.connect("ann").await;
    backend.answer("/send", Answer::Silence);
    backend.answer_json("/rpc", json!({"result": {}}));
    for number in 0..20 {
        ann.send(json!({"send": {"data": number}})).await;
    }
    ann.send(json!({"id": 1, "rpc": {}})).await;
    backend.wait_for_calls("/send", 1).await;
    // The same hub asks this backend about another client at once.
    assert!(hub.connect("bob").await.request(json!({"id": 2, "rpc": {}})).await["rpc"].is_object());
    assert_eq!(backend.calls("/rpc").len(), 1, "ann's rpc waits behind her messages");
    backend.answer_json("/send", json!({"result": {}}));
    assert_eq!(ann.receive().await, json!({"id": 1, "rpc": {}}));
    backend.wait_for_calls("/send", 20).await;
    assert_eq!(data(&backend), (0..20).map(|number| json!(number)).collect::<Vec<_>>());
}

/// Its permits are given back when it ends. Otherwise there would be more sockets than `limits.connections` allows.
#[actix_rt::test]
async fn message_that_waits_for_the_backend_does_not_keep_the_socket_of_a_session_that_has_ended() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.send.timeout = Duration::from_secs(30)).await;
    let mut ann = hub.connect_raw("ann").await;
    backend.answer("/send", Answer::Silence);
    ann.send(&raw::text_frame(&json!({"send": {"data": 1}}).to_string())).await;
    backend.wait_for_calls("/send", 1).await;
    ann.stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, ann.stream.read_to_end(&mut rest)).await.expect("the end of the connection").unwrap();
    assert_eq!(hub.metric("wardcast_hook_calls_total{hook=\"send\",outcome=\"timeout\"}").await, 0.0);
}

#[actix_rt::test]
async fn failures_lose_the_message_alone_and_a_disconnect_closes() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut ann = hub.connect("ann").await;
    let outcome = |outcome: &str| format!("wardcast_hook_calls_total{{hook=\"send\",outcome=\"{outcome}\"}}");
    for (name, answer) in [
        ("status", Answer::Raw(b"HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n".to_vec())),
        ("malformed", Answer::Json(json!({}))),
        ("http", Answer::Raw(Vec::new())),
        ("refused", Answer::Json(json!({"error": {"code": 1000, "message": "no"}}))),
        ("answered", Answer::Json(json!({"result": {}}))),
    ] {
        backend.answer("/send", answer);
        ann.send(json!({"send": {"data": name}})).await;
        poll_until("the call ends", async || hub.metric(&outcome(name)).await == 1.0).await;
        assert_eq!(ann.request(json!({"id": 1, "ping": {}})).await, json!({"id": 1, "ping": {}}), "no reply");
    }
    assert_eq!(data(&backend).len(), 5);
    backend.answer_json("/send", json!({"disconnect": {"code": 4500, "reason": "banned"}}));
    ann.send(json!({"send": {"data": 1}})).await;
    assert_eq!(ann.wait_for_close().await, (Some(4500), "banned".to_owned()));
}
