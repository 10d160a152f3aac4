//! The connect hook while its backend fails or hangs, and clients that try to have it asked too often: no session without its
//! decision, and limits before each call.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::{AllowSubscribe, Config};

use crate::support::{
    TestHub,
    backend::{Answer, Backend},
    poll_until, start_hub_with,
    tls::Authority,
};

async fn start(backend: &Backend, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        backend.configure_connect(config);
        config.channels.allow_subscribe = AllowSubscribe::Anonymous;
        change(config);
    })
    .await
}

fn connect() -> Value {
    json!({"id": 1, "connect": {}})
}

fn outcome(outcome: &str) -> String {
    format!("wardcast_hook_calls_total{{hook=\"connect\",outcome=\"{outcome}\"}}")
}

#[actix_rt::test]
async fn backend_that_fails_is_temporary_error_100_and_no_session() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.hooks.connect.timeout = Duration::from_millis(300);
        config.hooks.failures = 1000;
    })
    .await;
    let head = |status: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    let raw = |text: String| Answer::Raw(text.into_bytes());
    let long = format!("{}\r\n{{\"result\":{{\"user\":\"{}\"}}}}", head("200 OK"), "x".repeat(10 << 20));
    let user = r#"{"result":{"user":"ann"}}"#;
    let cases = [
        ("timeout", Answer::Silence),
        ("status", raw(format!("{}\r\n{user}", head("500 Internal Server Error")))),
        ("status", raw(format!("{}\r\n{user}", head("403 Forbidden")))),
        ("status", raw(format!("{}location: /elsewhere\r\n\r\n", head("302 Found")))),
        ("too_large", raw(long)),
        ("malformed", raw(format!("{}\r\n<html>", head("200 OK")))),
        ("malformed", Answer::Json(json!({}))),
        ("malformed", Answer::Json(json!({"result": {}}))),
        ("malformed", Answer::Json(json!({"result": {"user": ""}}))),
        ("malformed", Answer::Json(json!({"result": {"user": 7}}))),
        ("malformed", Answer::Json(json!({"result": {"user": "ann", "channels": ["#bob"]}}))),
        (
            "malformed",
            Answer::Json(json!({"result": {"user": "ann", "caps": [{"channels": ["*"], "allow": ["all"]}]}})),
        ),
        ("http", raw("SSH-2.0-x\r\n\r\n".to_owned())),
        ("http", Answer::Raw(Vec::new())),
    ];
    for (name, answer) in cases {
        let before = hub.metric(&outcome(name)).await;
        backend.answer("/connect", answer);
        let mut client = hub.connect_without_token().await;
        // What is sent along has no effect.
        client.send_text(&format!("{}\n{}", connect(), json!({"id": 2, "subscribe": {"channel": "news"}}))).await;
        let error = json!({"code": 100, "message": "internal server error", "temporary": true});
        assert_eq!(client.receive().await, json!({"id": 1, "error": error}), "{name}");
        assert_eq!(hub.metric(&outcome(name)).await, before + 1.0, "{name}");
        // It is not asked about twice on one connection.
        client.send(connect()).await;
        assert_eq!(client.wait_for_close().await.0, Some(3013), "{name}");
        assert_eq!(hub.metric(&outcome(name)).await, before + 1.0, "{name}");
    }
    assert!(backend.calls("/elsewhere").is_empty());
    hub.wait_for_channels(&[]).await;
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    assert!(hub.connect_without_token().await.request(connect()).await["connect"].is_object());
}

#[actix_rt::test]
async fn hook_over_https_trusts_only_the_configured_authorities() {
    let authority = Authority::new();
    let backend = Backend::start_tls(&authority).await;
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    let hub = start(&backend, |config| config.hooks.ca = Some(authority.root_path())).await;
    for _ in 0..2 {
        assert!(hub.connect_without_token().await.request(connect()).await["connect"].is_object());
    }
    assert_eq!((backend.calls("/connect").len(), backend.connections()), (2, 1), "the connection is kept");
    let seconds = "wardcast_hook_seconds_count{hook=\"connect\"}";
    assert_eq!(hub.metric(seconds).await, 2.0);
    let other = Authority::new();
    let stranger = start(&backend, |config| config.hooks.ca = Some(other.root_path())).await;
    assert_eq!(stranger.connect_without_token().await.request(connect()).await["error"]["code"], 100);
    assert_eq!(stranger.metric(&outcome("tls")).await, 1.0);
    assert_eq!(backend.calls("/connect").len(), 2);
}

#[actix_rt::test]
async fn refused_client_gets_the_error_or_close_of_the_backend_and_may_still_send_a_token() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    backend.answer_json("/connect", json!({"error": {"code": 1003, "message": "log in"}}));
    let mut client = hub.connect_without_token().await;
    assert_eq!(client.request(connect()).await, json!({"id": 1, "error": {"code": 1003, "message": "log in"}}));
    let reply = client.request(json!({"id": 2, "connect": {"token": hub.token("ann")}})).await;
    assert!(reply["connect"].is_object(), "{reply}");
    backend.answer_json("/connect", json!({"disconnect": {"code": 4500, "reason": "banned"}}));
    let mut client = hub.connect_without_token().await;
    client.send(connect()).await;
    assert_eq!(client.wait_for_close().await, (Some(4500), "banned".to_owned()));
    assert_eq!(hub.metric(&outcome("refused")).await, 2.0);
}

#[actix_rt::test]
async fn clients_that_wait_for_a_hanging_backend_are_limited_as_unauthenticated_ones() {
    let backend = Backend::start().await;
    for in_handshake in [false, true] {
        let hub = start(&backend, |config| {
            config.hooks.connect_in_handshake = in_handshake;
            config.limits.waiting_per_address = 2;
        })
        .await;
        let before = backend.calls("/connect").len();
        backend.answer("/connect", Answer::Silence);
        let waiting = futures_util::future::join_all((0..2).map(async |_| {
            let mut client = hub.connect_without_token().await;
            if !in_handshake {
                client.send(connect()).await;
            }
            let answered = client.receive().await;
            (client, answered)
        }));
        let refused = async {
            backend.wait_for_calls("/connect", before + 2).await;
            let response = hub.try_handshake("/socket", &[]).await;
            assert_eq!(response.status, 429, "{in_handshake}");
            assert_eq!(backend.calls("/connect").len(), before + 2, "the limit counts before the call");
            assert_eq!(hub.metric("wardcast_connections_waiting").await, 2.0);
            backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
        };
        let (clients, ()) = futures_util::future::join(waiting, refused).await;
        for (_, answered) in &clients {
            assert!(answered["connect"].is_object() || answered["push"]["connect"].is_object(), "{answered}");
        }
        assert_eq!(hub.metric("wardcast_connections_waiting").await, 0.0);
    }
}

#[actix_rt::test]
async fn handshake_rate_is_charged_before_the_backend_is_asked() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.hooks.connect_in_handshake = true;
        config.limits.handshakes_per_second = 1;
    })
    .await;
    backend.answer_json("/connect", json!({"error": {"code": 1003, "message": "log in"}}));
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(hub.try_handshake("/socket", &[]).await.status);
    }
    let asked = statuses.iter().filter(|status| **status == 403).count();
    assert!((2..10).contains(&asked) && statuses.contains(&429), "{statuses:?}");
    assert_eq!(backend.calls("/connect").len(), asked);
}

#[actix_rt::test]
async fn deadline_of_the_first_message_waits_for_the_backend() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.auth.first_message_timeout = Duration::from_millis(300)).await;
    backend.answer("/connect", Answer::Silence);
    let (mut asked, mut silent) = (hub.connect_without_token().await, hub.connect_without_token().await);
    asked.send(connect()).await;
    backend.wait_for_calls("/connect", 1).await;
    // The deadline of both has passed when the one that is not asked about is closed.
    assert_eq!(silent.wait_for_close().await.0, Some(3502));
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    assert!(asked.receive().await["connect"].is_object());
    backend.answer_json("/connect", json!({"error": {"code": 1003, "message": "log in"}}));
    let mut refused = hub.connect_without_token().await;
    assert_eq!(refused.request(connect()).await["error"]["code"], 1003);
    assert_eq!(refused.wait_for_close().await.0, Some(3502), "its deadline goes on");
}

#[actix_rt::test]
async fn client_that_leaves_while_the_backend_is_asked_leaves_nothing() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    backend.answer("/connect", Answer::Silence);
    let mut client = hub.connect_without_token().await;
    client.send(connect()).await;
    backend.wait_for_calls("/connect", 1).await;
    drop(client);
    backend.answer_json("/connect", json!({"result": {"user": "ann", "channels": ["news"]}}));
    hub.wait_for_connections(0).await;
    hub.wait_for_channels(&[]).await;
    assert_eq!(hub.metric("wardcast_connections_waiting").await, 0.0);
}

#[actix_rt::test]
async fn backend_that_is_down_for_long_is_asked_once_a_pause() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.hooks.failures = 2;
        config.hooks.pause = Duration::from_secs(600);
    })
    .await;
    let ask = async || hub.connect_without_token().await.request(connect()).await;
    backend.answer("/connect", Answer::Raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec()));
    for _ in 0..6 {
        for _ in 0..5 {
            let reply = ask().await;
            assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)));
        }
        hub.clock.advance(Duration::from_secs(601));
    }
    assert_eq!(backend.calls("/connect").len(), 2 + 5, "then one a pause");
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    for _ in 0..2 {
        assert!(ask().await["connect"].is_object());
    }
    poll_until("the clients have left", async || hub.connections() == 0).await;
}
