//! WebSocket handshakes: the requests that are accepted, and the response and close that every other request gets.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{
    API_KEY, PATIENCE, Stopwatch, TestHub, http,
    raw::{self, CLOSE, RawClient},
    start_hub, start_hub_with,
};

const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A handshake with one part replaced.
fn handshake_replacing(hub: &TestHub, part: &str, instead: &str) -> String {
    let handshake = raw::handshake(hub.address, "/socket");
    assert!(handshake.contains(part), "{part:?} is not in {handshake:?}");
    handshake.replacen(part, instead, 1)
}

/// A handshake with further headers.
fn handshake_with_headers(hub: &TestHub, headers: &str) -> String {
    handshake_replacing(hub, "\r\n\r\n", &format!("\r\n{headers}\r\n"))
}

/// Sends `bytes`, checks that the connection ends after one response, and returns its head.
async fn final_response(hub: &TestHub, bytes: &str) -> String {
    let response = raw::exchange_until_close(hub.address, bytes.as_bytes()).await;
    assert_eq!(response.matches("HTTP/1.").count(), 1, "one response is expected to {bytes:.200?}: {response:?}");
    response.split_once("\r\n\r\n").expect("a head").0.to_lowercase()
}

/// Checks that the response to `bytes` has this status and closes the connection without an upgrade.
async fn assert_refused(hub: &TestHub, bytes: &str, status: &str) {
    let head = final_response(hub, bytes).await;
    assert!(head.starts_with(&format!("http/1.1 {status} ")), "{bytes:.300?}: {head}");
    assert!(head.contains("\r\nconnection: close"), "{bytes:.300?}: {head}");
    assert!(!head.contains("sec-websocket-accept"), "{bytes:.300?}: {head}");
}

#[actix_rt::test]
async fn sample_handshake_of_rfc_6455_is_answered_as_in_the_rfc() {
    let hub = start_hub().await;
    let head = http::exchange(hub.address, raw::handshake(hub.address, "/socket").as_bytes()).await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(head.header("upgrade").unwrap().eq_ignore_ascii_case("websocket"));
    assert!(head.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(head.header("sec-websocket-protocol"), None, "no subprotocol was offered");
    assert_eq!(head.header("sec-websocket-extensions"), None);
}

#[actix_rt::test]
async fn every_configured_path_accepts_handshakes_with_extra_connection_tokens() {
    let hub = start_hub().await;
    for path in ["/connection/websocket", "/socket", "/"] {
        RawClient::connect(hub.address, path).await;
    }
    for handshake in [
        handshake_replacing(&hub, "Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        handshake_replacing(&hub, "Upgrade: websocket", "UPGRADE: WebSocket"),
        handshake_with_headers(&hub, "Content-Length: 0\r\n"),
    ] {
        assert_eq!(http::exchange(hub.address, handshake.as_bytes()).await.status, 101, "{handshake}");
    }
}

#[actix_rt::test]
async fn websocket_version_other_than_13_is_426_with_supported_version() {
    let hub = start_hub().await;
    for version in ["7", "8", "0", "", "14", "13, 8", "thirteen"] {
        let handshake = handshake_replacing(&hub, VERSION, &format!("Sec-WebSocket-Version: {version}\r\n"));
        assert_refused(&hub, &handshake, "426").await;
        let head = final_response(&hub, &handshake).await;
        assert!(head.contains("sec-websocket-version: 13"), "{version:?}: {head}");
    }
    let head = final_response(&hub, &handshake_replacing(&hub, VERSION, "")).await;
    assert!(head.starts_with("http/1.1 426 ") && head.contains("sec-websocket-version: 13"), "{head}");
}

#[actix_rt::test]
async fn two_websocket_versions_are_400() {
    let hub = start_hub().await;
    assert_refused(&hub, &handshake_with_headers(&hub, VERSION), "400").await;
    assert_refused(&hub, &handshake_with_headers(&hub, "Sec-WebSocket-Version: 8\r\n"), "400").await;
}

#[actix_rt::test]
async fn websocket_key_other_than_one_of_16_bytes_is_400() {
    let hub = start_hub().await;
    let fifteen = "AAAAAAAAAAAAAAAAAAAA";
    let eighteen = "AAAAAAAAAAAAAAAAAAAAAAAA";
    for key in ["", fifteen, eighteen, "dGhlIHNhbXBsZSBub25jZQ", "@@@@@@@@@@@@@@@@@@@@@@=="] {
        assert_refused(&hub, &handshake_replacing(&hub, KEY, &format!("Sec-WebSocket-Key: {key}\r\n")), "400").await;
    }
    assert_refused(&hub, &handshake_replacing(&hub, KEY, ""), "400").await;
    assert_refused(&hub, &handshake_with_headers(&hub, KEY), "400").await;
}

#[actix_rt::test]
async fn handshake_other_than_http_1_1_get_with_host_is_refused() {
    let hub = start_hub().await;
    for method in ["POST", "PUT", "HEAD", "OPTIONS"] {
        let head = final_response(&hub, &handshake_replacing(&hub, "GET", method)).await;
        assert!(head.starts_with("http/1.1 40") && head.contains("connection: close"), "{method}: {head}");
    }
    let head = final_response(&hub, &handshake_replacing(&hub, "HTTP/1.1", "HTTP/1.0")).await;
    assert!(head.starts_with("http/1.0 400 ") && !head.contains("keep-alive"), "{head}");
    let host = format!("Host: {}\r\n", hub.address);
    assert_refused(&hub, &handshake_replacing(&hub, &host, ""), "400").await;
    assert_refused(&hub, &handshake_with_headers(&hub, "Host: elsewhere\r\n"), "400").await;
}

#[actix_rt::test]
async fn handshake_with_body_is_refused_and_body_is_not_parsed_as_request() {
    let hub = start_hub().await;
    let smuggled = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = format!("Content-Length: {}\r\n", smuggled.len());
    assert_refused(&hub, &(handshake_with_headers(&hub, &length) + smuggled), "400").await;
    let chunked = handshake_with_headers(&hub, "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(http::exchange(hub.address, chunked.as_bytes()).await.status, 400);
}

#[actix_rt::test]
async fn upgrade_to_other_protocol_or_without_upgrade_token_is_400() {
    let hub = start_hub().await;
    for upgrade in ["notwebsocketatall", "h2c", "websocket/13", "h2c, websocket"] {
        let head =
            final_response(&hub, &handshake_replacing(&hub, "Upgrade: websocket", &format!("Upgrade: {upgrade}")))
                .await;
        assert!(head.starts_with("http/1.1 400 "), "{upgrade}: {head}");
    }
    for connection in ["Connection: keep-alive\r\n", "Connection: close\r\n", ""] {
        assert_refused(&hub, &handshake_replacing(&hub, "Connection: Upgrade\r\n", connection), "400").await;
    }
}

#[actix_rt::test]
async fn upgrade_on_ordinary_path_gets_ordinary_response_and_close() {
    let hub = start_hub().await;
    assert_refused(&hub, &handshake_replacing(&hub, "/socket", "/nothing"), "404").await;
    assert_refused(&hub, &handshake_replacing(&hub, "/socket", "/socket/"), "404").await;
    assert_refused(&hub, &handshake_replacing(&hub, "/socket", "/health/live"), "200").await;
    let login = handshake_replacing(&hub, "GET /socket", "POST /auth/login");
    let head = final_response(&hub, &login).await;
    assert!(head.contains("connection: close") && !head.contains(" 101 "), "{head}");
    let plain = http::get(hub.address, "/socket").send().await;
    assert_eq!(plain.status, 426, "{plain:?}");
}

#[actix_rt::test]
async fn request_head_over_96_headers_or_128_kib_is_431() {
    let hub = start_hub().await;
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_refused(&hub, &handshake_with_headers(&hub, &many), "431").await;
    let long = "a".repeat(200 * 1024);
    for head in [
        handshake_with_headers(&hub, &format!("X: {long}\r\n")),
        handshake_replacing(&hub, "/socket", &format!("/socket?{long}")),
    ] {
        let response = raw::exchange_until_close(hub.address, head.as_bytes()).await;
        // The server does not read the rest, so that a reset may overtake the response.
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 431 "), "{response}");
    }
    let few: String = (0..90).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(http::exchange(hub.address, handshake_with_headers(&hub, &few).as_bytes()).await.status, 101);
}

#[actix_rt::test]
async fn ambiguous_request_head_is_400_and_nothing_is_smuggled() {
    let hub = start_hub().await;
    let smuggled = "0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = format!("POST /api/publish HTTP/1.1\r\nHost: {}\r\n", hub.address);
    for headers in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X: a\r\n folded\r\n",
        "X : a\r\n",
        "X: a\0b\r\n",
    ] {
        assert_refused(&hub, &(handshake_with_headers(&hub, headers) + smuggled), "400").await;
        assert_refused(&hub, &format!("{post}{headers}\r\n{smuggled}"), "400").await;
    }
}

#[actix_rt::test]
async fn bare_newlines_end_lines_as_rfc_9112_allows() {
    let hub = start_hub().await;
    let handshake = raw::handshake(hub.address, "/socket").replace("\r\n", "\n");
    assert_eq!(http::exchange(hub.address, handshake.as_bytes()).await.status, 101);
}

/// Every kind of request that is refused or answered without the upgrade that it asks for: each is the last one of its
/// connection, however it reaches the handler.
fn refused_handshakes(hub: &TestHub) -> Vec<(String, &'static str)> {
    let replacing = |part, instead| handshake_replacing(hub, part, instead);
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        (replacing("Upgrade: websocket", "Upgrade: h2c"), "400"),
        (replacing("Upgrade: websocket\r\n", ""), "426"),
        (replacing("Upgrade: websocket", "Upgrade: h2c").replace("/socket", "/health/live"), "200"),
        (replacing("Upgrade: websocket", "Upgrade: h2c").replace("/socket", "/nothing"), "404"),
        (replacing("/socket", "/health/live"), "200"),
        (replacing("/socket", "/nothing"), "404"),
        (replacing("/socket", "/socket?token=forged"), "401"),
        (replacing("/socket", "/socket?token=a&token=b"), "400"),
        (replacing(VERSION, ""), "426"),
        (replacing(KEY, ""), "400"),
        (replacing("Connection: Upgrade\r\n", ""), "400"),
        (replacing("GET /socket", "POST /auth/login"), "404"),
        (handshake_with_headers(hub, "Origin: https://evil.example\r\n"), "403"),
        (handshake_with_headers(hub, chunked) + "0\r\n\r\n", "400"),
        (handshake_with_headers(hub, chunked).replace("Upgrade: websocket", "Upgrade: h2c") + "0\r\n\r\n", "400"),
        (raw::handshake(hub.address, "/socket").replace("Connection: Upgrade", "Connection: close"), "400"),
    ]
}

#[actix_rt::test]
async fn nothing_pipelined_behind_refused_handshake_is_answered() {
    let hub = start_hub().await;
    let request = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    for (refused, status) in refused_handshakes(&hub) {
        for next in
            [request.to_owned(), request.repeat(40), raw::handshake(hub.address, "/socket"), "\0\r\n".to_owned()]
        {
            assert_refused(&hub, &(refused.clone() + &next), status).await;
        }
    }
    assert_eq!(hub.connections(), 0);
}

#[actix_rt::test]
async fn request_with_connection_close_is_the_last_one_that_is_answered() {
    let hub = start_hub().await;
    let request = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let responses =
        raw::exchange_until_close(hub.address, (request.to_owned() + &last + request + request).as_bytes()).await;
    assert_eq!(responses.matches("HTTP/1.1 200 ").count(), 2, "{responses}");
    let old = request.replace("1.1", "1.0");
    assert!(final_response(&hub, &(old + request)).await.contains(" 200 ok"));
}

#[actix_rt::test]
async fn http_after_101_is_never_parsed_as_http() {
    let hub = start_hub().await;
    let mut raw = RawClient { stream: TcpStream::connect(hub.address).await.unwrap() };
    let handshake = raw::handshake(hub.address, &hub.path_for("ann"));
    raw.send((handshake + "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(raw.next().await.unwrap().text().starts_with(r#"{"push":{"connect":"#));
    // `G` is 0x47: a reserved bit and an unknown opcode.
    let close = raw.next().await.unwrap();
    assert_eq!((close.opcode, &close.payload[..2]), (CLOSE, &1002_u16.to_be_bytes()[..]));
    assert_eq!(raw.next().await, None);
}

#[actix_rt::test]
async fn frame_sent_directly_after_handshake_is_accepted() {
    let hub = start_hub().await;
    let mut raw = RawClient { stream: TcpStream::connect(hub.address).await.unwrap() };
    let mut bytes = raw::handshake(hub.address, &hub.path_for("ann")).into_bytes();
    bytes.extend(raw::text_frame(r#"{"id":7,"ping":{}}"#));
    raw.send(&bytes).await;
    raw.read_head().await;
    raw.next().await.expect("a connect push");
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":7,"ping":{}}"#);
}

#[actix_rt::test]
async fn slow_request_head_is_closed_after_5_seconds() {
    let hub = start_hub().await;
    let (started, watch) = (Instant::now(), Stopwatch::start());
    let handshake = raw::handshake(hub.address, "/socket");
    let send_part = raw::exchange_until_close(hub.address, &handshake.as_bytes()[..40]);
    // The attack is to send a byte at a time, so that the connection is never idle for long.
    let send_slowly = async {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let mut bytes = handshake.bytes().cycle().filter(|byte| !b"\r\n".contains(byte));
        while stream.write_all(&[bytes.next().unwrap()]).await.is_ok() && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let (response, ()) = tokio::join!(send_part, send_slowly);
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 408 "), "{response}");
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(4) && watch.elapsed() < Duration::from_secs(9), "{took:?}");
}

/// With a few thousand of them a client without a token could take all connections of an instance.
#[actix_rt::test]
async fn slow_head_of_a_second_request_is_closed_and_its_connection_is_free_again() {
    let hub = start_hub_with(|config| (config.server.workers, config.limits.http_connections) = (1, 2)).await;
    let watch = Stopwatch::start();
    let request = format!("GET /health/live HTTP/1.1\r\nHost: {}\r\n\r\n", hub.address);
    let slow = join_all([true, false].map(async |goes_on| {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = [0; 12];
        stream.read_exact(&mut response).await.unwrap();
        assert_eq!(&response, b"HTTP/1.1 200");
        let started = Instant::now();
        while stream.write_all(b"G").await.is_ok() && goes_on && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let mut rest = Vec::new();
        _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("a closed connection");
    }));
    let (_, mut ann) = tokio::join!(slow, hub.connect("ann"));
    assert_eq!(ann.request(json!({"id": 1, "ping": {}})).await, json!({"id": 1, "ping": {}}));
    assert!(watch.elapsed() < Duration::from_secs(20), "{:?}", watch.elapsed());
}

/// The time for the head of the next request does not run while the client reads a response.
#[actix_rt::test]
async fn request_behind_a_long_response_that_is_read_slowly_is_answered() {
    let hub = start_hub_with(|config| config.channels.history_size = 60).await;
    let data = "x".repeat(60_000);
    for _ in 0..60 {
        hub.publish("news", json!(data)).await;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(hub.address).await.unwrap();
    let history = json!({"channel": "news", "limit": 60}).to_string();
    let read = format!(
        "POST /api/history HTTP/1.1\r\nHost: {}\r\nX-API-Key: {API_KEY}\r\nContent-Length: {}\r\n\r\n{history}",
        hub.address,
        history.len()
    );
    // Together three times what the buffers of the kernel take. Less would be sent before the time for the next head is over.
    let requests =
        format!("{}GET /health/live HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", read.repeat(3), hub.address);
    stream.write_all(requests.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut responses = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut responses)).await.expect("the end").unwrap();
    let text = String::from_utf8_lossy(&responses);
    assert!(responses.len() > 180 * data.len() && text.matches("HTTP/1.1 200").count() == 4, "{} bytes", text.len());
}

#[actix_rt::test]
async fn health_responds_while_a_hundred_heads_are_incomplete() {
    let hub = start_hub_with(|config| config.limits.connections = 10).await;
    let half = &raw::handshake(hub.address, "/socket").into_bytes()[..60];
    let _heads = join_all((0..100).map(async |_| {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(half).await.unwrap();
        stream
    }))
    .await;
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
    assert_eq!(hub.connections(), 0, "an incomplete head holds no permit");
    let _ann = hub.connect("ann").await;
}

#[actix_rt::test]
async fn unauthenticated_connections_have_a_separate_limit() {
    let hub = start_hub_with(|config| config.limits.waiting = 2).await;
    let (one, _two) = (hub.connect_without_token().await, hub.connect_without_token().await);
    let full = http::exchange(hub.address, raw::handshake(hub.address, "/socket").as_bytes()).await;
    assert_eq!((full.status, full.header("retry-after"), full.header("connection")), (503, Some("5"), Some("close")));
    // A handshake with a token needs no such permit.
    let _ann = hub.connect("ann").await;
    drop(one);
    hub.wait_for_connections(2).await;
    let mut three = hub.connect_without_token().await;
    three.send_text(&hub.token_message("ann")).await;
    three.receive_connect_push().await;
    // Now that it has authenticated, its permit is free.
    let _four = hub.connect_without_token().await;
}

#[actix_rt::test]
async fn refused_handshake_holds_no_permit() {
    let hub = start_hub_with(|config| (config.limits.connections, config.limits.waiting) = (1, 1)).await;
    for path in ["/socket?token=forged", "/socket?token=%zz", "/socket?token=a&token=b"] {
        let handshake = raw::handshake(hub.address, path);
        for _ in 0..3 {
            let status = http::exchange(hub.address, handshake.as_bytes()).await.status;
            assert!([400, 401].contains(&status), "{path}: {status}");
        }
    }
    let ann = hub.connect("ann").await;
    let full = http::exchange(hub.address, raw::handshake(hub.address, "/socket").as_bytes()).await;
    assert_eq!((full.status, full.header("retry-after"), full.header("connection")), (503, Some("5"), Some("close")));
    drop(ann);
    hub.wait_for_connections(0).await;
    let _last = hub.connect_without_token().await;
}
