//! Backend hooks whose backend fails, is slow, or answers what it should not.

use std::time::Duration;

use serde_json::json;

use crate::{
    hooks::{rpc, start},
    support::{
        backend::{Answer, Backend},
        poll_until,
    },
};

#[actix_rt::test]
async fn failing_backend_is_not_called_for_a_pause_and_then_once() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.hooks.failures = 3;
        config.hooks.pause = Duration::from_secs(600);
    })
    .await;
    let (mut ann, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 36_000})).await;
    let paused = "wardcast_hook_calls_total{hook=\"rpc\",outcome=\"paused\"}";
    backend.answer("/rpc", Answer::Raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec()));
    for id in 1..=8 {
        assert_eq!(ann.request(rpc(id, "x")).await["error"]["code"], 100);
    }
    assert_eq!((backend.calls("/rpc").len(), hub.metric(paused).await), (3, 5.0));
    // An hour later.
    for _ in 0..6 {
        hub.clock.advance(Duration::from_secs(601));
        for id in 1..=2 {
            assert_eq!(ann.request(rpc(id, "x")).await["error"]["code"], 100);
        }
    }
    assert_eq!(backend.calls("/rpc").len(), 3 + 6, "one a pause");
    backend.answer_json("/rpc", json!({"result": {}}));
    hub.clock.advance(Duration::from_secs(601));
    for id in 1..=3 {
        assert_eq!(ann.request(rpc(id, "x")).await, json!({"id": id, "rpc": {}}));
    }
}

/// The hook has its answer at once then, without waiting for anything.
#[actix_rt::test]
async fn subscriptions_are_answered_at_once_while_the_hook_is_paused() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.failures = 1).await;
    let mut ann = hub.connect("ann").await;
    backend.answer("/subscribe", Answer::Raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec()));
    for _ in 0..3 {
        assert_eq!(ann.subscribe_with("ask:1", json!({})).await["error"]["code"], 100);
    }
    // Commands after those of the group are handled, too.
    let subscribe = |id| json!({"id": id, "subscribe": {"channel": format!("ask:{id}")}}).to_string();
    ann.send_text(&format!("{}\n{}\n{}", subscribe(1), subscribe(2), json!({"id": 3, "ping": {}}))).await;
    for id in 1..=2 {
        let reply = ann.receive().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(id), &json!(100)));
    }
    assert_eq!(ann.receive().await, json!({"id": 3, "ping": {}}));
    assert_eq!(backend.calls("/subscribe").len(), 1);
}

/// Each of these may be an answer to what one client has sent.
#[actix_rt::test]
async fn answers_that_one_client_may_cause_do_not_pause_the_hook_for_others() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.failures = 3).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    for answer in
        ["422 Unprocessable\r\ncontent-length: 0", "500 Oops\r\ncontent-length: 0", "200 OK\r\ncontent-length: 2"]
    {
        backend.answer("/rpc", Answer::Raw(format!("HTTP/1.1 {answer}\r\n\r\n[]").into_bytes()));
        for id in 1..=4 {
            assert_eq!(ann.request(rpc(id, "x")).await["error"]["code"], 100);
        }
    }
    backend.answer_json("/rpc", json!({"result": {}}));
    assert_eq!(bob.request(rpc(1, "x")).await, json!({"id": 1, "rpc": {}}));
}

#[actix_rt::test]
async fn connection_is_kept_after_an_error_whose_body_ends_soon_and_no_answer_waits_for_that() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.failures = 1000).await;
    let mut ann = hub.connect("ann").await;
    let response = |length: usize, sent: usize| {
        let head = format!("HTTP/1.1 500 Oops\r\ncontent-length: {length}\r\n\r\n");
        Answer::Kept([head.into_bytes(), vec![b'x'; sent]].concat())
    };
    let mut uses_kept_connection = async || {
        let before = backend.connections();
        assert_eq!(ann.request(rpc(1, "x")).await["error"]["code"], 100);
        backend.connections() == before
    };
    // A body that does not end, and one that is too long to be read for nothing.
    for (length, sent) in [(10, 5), (200_000, 200_000)] {
        backend.answer("/rpc", response(length, sent));
        for _ in 0..2 {
            assert!(!uses_kept_connection().await, "{length} {sent}");
        }
    }
    for length in [0, 1000] {
        backend.answer("/rpc", response(length, length));
        uses_kept_connection().await;
        // A call that comes before the body has been read uses another connection.
        poll_until("the connection of the call before", &mut uses_kept_connection).await;
    }
    let calls = backend.calls("/rpc").len() as f64;
    assert_eq!(hub.metric("wardcast_hook_calls_total{hook=\"rpc\",outcome=\"status\"}").await, calls);
}

/// Bodies that never end would otherwise hold a connection each, beyond `concurrency`.
#[actix_rt::test]
async fn errors_whose_bodies_do_not_end_keep_few_connections() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        (config.hooks.failures, config.hooks.rpc.concurrency) = (1000, 2);
    })
    .await;
    let mut ann = hub.connect("ann").await;
    backend.answer("/rpc", Answer::Kept(b"HTTP/1.1 500 Oops\r\ncontent-length: 10\r\n\r\nx".to_vec()));
    for id in 1..=40 {
        assert_eq!(ann.request(rpc(id, "x")).await["error"]["code"], 100);
    }
    // Four, that of the call, and those whose end the backend has not seen yet.
    assert!(backend.peak_connections() <= 10, "{}", backend.peak_connections());
}

/// The backend is slow for so many, and works.
#[actix_rt::test]
async fn calls_that_wait_for_others_too_long_are_error_111_and_do_not_pause_the_hook() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        (config.hooks.failures, config.hooks.rpc.concurrency) = (2, 1);
        config.hooks.rpc.timeout = Duration::from_millis(300);
    })
    .await;
    backend.answer("/rpc", Answer::Silence);
    let mut clients = Vec::new();
    for number in 0..4 {
        clients.push(hub.connect(&format!("user{number}")).await);
    }
    for client in &mut clients {
        client.send(rpc(1, "x")).await;
    }
    let mut codes = Vec::new();
    for client in &mut clients {
        codes.extend(client.receive().await["error"]["code"].as_u64());
    }
    codes.sort_unstable();
    assert_eq!(codes, [100, 111, 111, 111]);
    backend.answer_json("/rpc", json!({"result": {}}));
    assert_eq!(clients[0].request(rpc(2, "x")).await, json!({"id": 2, "rpc": {}}));
}

#[actix_rt::test]
async fn calls_above_concurrency_wait_and_calls_above_waiting_are_error_111() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| (config.hooks.rpc.concurrency, config.hooks.waiting) = (2, 1)).await;
    backend.answer("/rpc", Answer::Silence);
    let mut clients = Vec::new();
    for number in 0..2 {
        let mut client = hub.connect(&format!("user{number}")).await;
        client.send(rpc(1, "x")).await;
        clients.push(client);
        backend.wait_for_calls("/rpc", number + 1).await;
    }
    // Of these one waits, and the others are refused, whichever comes first.
    for number in 2..6 {
        let mut client = hub.connect(&format!("user{number}")).await;
        client.send(rpc(1, "x")).await;
        clients.push(client);
    }
    let busy = "wardcast_hook_calls_total{hook=\"rpc\",outcome=\"busy\"}";
    poll_until("three are refused", async || hub.metric(busy).await == 3.0).await;
    assert_eq!(backend.calls("/rpc").len(), 2);
    backend.answer_json("/rpc", json!({"result": {}}));
    let mut codes = Vec::new();
    for client in &mut clients {
        codes.extend(client.receive().await["error"]["code"].as_u64());
    }
    assert_eq!(codes, [111; 3]);
    assert_eq!((backend.calls("/rpc").len(), backend.connections()), (3, 2), "connections are kept");
}

#[actix_rt::test]
async fn backend_that_fails_is_error_100_and_the_session_goes_on() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.hooks.rpc.timeout = Duration::from_millis(300);
        config.hooks.failures = 1000;
    })
    .await;
    let mut ann = hub.connect("ann").await;
    let head = |status: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    let raw = |text: String| Answer::Raw(text.into_bytes());
    let long = format!("{}\r\n{{\"result\":{{\"data\":\"{}\"}}}}", head("200 OK"), "x".repeat(10 << 20));
    let cases = [
        ("timeout", Answer::Silence),
        ("status", raw(format!("{}\r\n{{\"result\":{{}}}}", head("500 Internal Server Error")))),
        ("status", raw(format!("{}location: /elsewhere\r\n\r\n", head("307 Temporary Redirect")))),
        ("too_large", raw(long)),
        ("malformed", raw(format!("{}\r\n<html>", head("200 OK")))),
        ("malformed", Answer::Json(json!({}))),
        ("malformed", Answer::Json(json!({"result": {"b64data": "%"}}))),
        ("http", raw("SSH-2.0-x\r\n\r\n".to_owned())),
        ("http", Answer::Raw(Vec::new())),
        ("http", raw(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20)))),
    ];
    for (id, (outcome, answer)) in (2..).zip(cases) {
        let name = format!("wardcast_hook_calls_total{{hook=\"rpc\",outcome=\"{outcome}\"}}");
        let before = hub.metric(&name).await;
        backend.answer("/rpc", answer);
        let reply = ann.request(rpc(id, "x")).await;
        let error = json!({"code": 100, "message": "internal server error", "temporary": true});
        assert_eq!(reply, json!({"id": id, "error": error}), "{outcome}");
        assert_eq!(hub.metric(&name).await, before + 1.0, "{outcome}");
    }
    assert!(backend.calls("/elsewhere").is_empty());
    backend.answer_json("/rpc", json!({"result": {"data": 1}}));
    assert_eq!(ann.request(rpc(99, "x")).await["rpc"]["data"], 1);
}
