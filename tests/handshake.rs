//! What is accepted as a WebSocket handshake, and how everything else ends.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    Hub, PATIENCE, eventually, http, hub, hub_with,
    raw::{self, CLOSE, Raw},
};

const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A handshake in which something is replaced.
fn but(hub: &Hub, part: &str, instead: &str) -> String {
    let handshake = raw::handshake(hub.address, "/socket");
    assert!(handshake.contains(part), "{part:?} is not in {handshake:?}");
    handshake.replacen(part, instead, 1)
}

/// A handshake with more headers.
fn with(hub: &Hub, headers: &str) -> String {
    but(hub, "\r\n\r\n", &format!("\r\n{headers}\r\n"))
}

/// The head of the only answer to `bytes`, after which the connection has ended.
async fn last_answer(hub: &Hub, bytes: &str) -> String {
    let answer = raw::until_end(hub.address, bytes.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "not one answer to {bytes:.200?}: {answer:?}");
    answer.split_once("\r\n\r\n").expect("a head").0.to_lowercase()
}

async fn is_refused(hub: &Hub, bytes: &str, status: &str) {
    let head = last_answer(hub, bytes).await;
    assert!(head.starts_with(&format!("http/1.1 {status} ")), "{bytes:.300?}: {head}");
    assert!(head.contains("\r\nconnection: close"), "{bytes:.300?}: {head}");
    assert!(!head.contains("sec-websocket-accept"), "{bytes:.300?}: {head}");
}

#[actix_rt::test]
async fn the_sample_of_the_rfc_is_answered_as_in_the_rfc() {
    let hub = hub().await;
    let head = http::exchange(hub.address, raw::handshake(hub.address, "/socket").as_bytes()).await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(head.header("upgrade").unwrap().eq_ignore_ascii_case("websocket"));
    assert!(head.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(head.header("sec-websocket-protocol"), None, "nothing was offered");
    assert_eq!(head.header("sec-websocket-extensions"), None);
}

#[actix_rt::test]
async fn every_configured_path_is_one_and_a_proxy_may_add_to_connection() {
    let hub = hub().await;
    for path in ["/connection/websocket", "/socket", "/"] {
        Raw::connect(hub.address, path).await;
    }
    for handshake in [
        but(&hub, "Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        but(&hub, "Upgrade: websocket", "UPGRADE: WebSocket"),
        with(&hub, "Content-Length: 0\r\n"),
    ] {
        assert_eq!(http::exchange(hub.address, handshake.as_bytes()).await.status, 101, "{handshake}");
    }
}

#[actix_rt::test]
async fn a_version_other_than_13_is_426_with_the_one_that_is_spoken() {
    let hub = hub().await;
    for version in ["7", "8", "0", "", "14", "13, 8", "thirteen"] {
        let handshake = but(&hub, VERSION, &format!("Sec-WebSocket-Version: {version}\r\n"));
        is_refused(&hub, &handshake, "426").await;
        let head = last_answer(&hub, &handshake).await;
        assert!(head.contains("sec-websocket-version: 13"), "{version:?}: {head}");
    }
    let head = last_answer(&hub, &but(&hub, VERSION, "")).await;
    assert!(head.starts_with("http/1.1 426 ") && head.contains("sec-websocket-version: 13"), "{head}");
}

#[actix_rt::test]
async fn two_versions_are_400() {
    let hub = hub().await;
    is_refused(&hub, &with(&hub, VERSION), "400").await;
    is_refused(&hub, &with(&hub, "Sec-WebSocket-Version: 8\r\n"), "400").await;
}

#[actix_rt::test]
async fn a_key_that_is_not_16_bytes_once_is_400() {
    let hub = hub().await;
    let fifteen = "AAAAAAAAAAAAAAAAAAAA";
    let eighteen = "AAAAAAAAAAAAAAAAAAAAAAAA";
    for key in ["", fifteen, eighteen, "dGhlIHNhbXBsZSBub25jZQ", "@@@@@@@@@@@@@@@@@@@@@@=="] {
        is_refused(&hub, &but(&hub, KEY, &format!("Sec-WebSocket-Key: {key}\r\n")), "400").await;
    }
    is_refused(&hub, &but(&hub, KEY, ""), "400").await;
    is_refused(&hub, &with(&hub, KEY), "400").await;
}

#[actix_rt::test]
async fn what_is_no_get_in_http_1_1_to_a_host_is_refused() {
    let hub = hub().await;
    for method in ["POST", "PUT", "HEAD", "OPTIONS"] {
        let head = last_answer(&hub, &but(&hub, "GET", method)).await;
        assert!(head.starts_with("http/1.1 40") && head.contains("connection: close"), "{method}: {head}");
    }
    let head = last_answer(&hub, &but(&hub, "HTTP/1.1", "HTTP/1.0")).await;
    assert!(head.starts_with("http/1.0 400 ") && !head.contains("keep-alive"), "{head}");
    let host = format!("Host: {}\r\n", hub.address);
    is_refused(&hub, &but(&hub, &host, ""), "400").await;
    is_refused(&hub, &with(&hub, "Host: elsewhere\r\n"), "400").await;
}

#[actix_rt::test]
async fn a_handshake_with_a_body_is_refused_and_the_body_is_not_the_next_request() {
    let hub = hub().await;
    let smuggled = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = format!("Content-Length: {}\r\n", smuggled.len());
    is_refused(&hub, &(with(&hub, &length) + smuggled), "400").await;
    let chunked = with(&hub, "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(http::exchange(hub.address, chunked.as_bytes()).await.status, 400);
}

#[actix_rt::test]
async fn a_refusal_of_the_plain_application_says_close_and_ends_too() {
    let hub = hub().await;
    let next = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    is_refused(&hub, &but(&hub, "Upgrade: websocket", "Upgrade: notwebsocketatall"), "400").await;
    // actix-http still answers what came in the same read before it closes; nothing after is.
    let chunked = with(&hub, "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n" + next;
    let answer = raw::until_end(hub.address, chunked.as_bytes()).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 400 ") && answer.contains("\r\nconnection: close"), "{answer}");
}

#[actix_rt::test]
async fn an_upgrade_to_something_else_or_without_the_word_is_400() {
    let hub = hub().await;
    for upgrade in ["notwebsocketatall", "h2c", "websocket/13", "h2c, websocket"] {
        let head = last_answer(&hub, &but(&hub, "Upgrade: websocket", &format!("Upgrade: {upgrade}"))).await;
        assert!(head.starts_with("http/1.1 400 "), "{upgrade}: {head}");
    }
    for connection in ["Connection: keep-alive\r\n", "Connection: close\r\n", ""] {
        is_refused(&hub, &but(&hub, "Connection: Upgrade\r\n", connection), "400").await;
    }
}

#[actix_rt::test]
async fn an_upgrade_where_there_is_none_gets_its_ordinary_answer_and_the_end() {
    let hub = hub().await;
    is_refused(&hub, &but(&hub, "/socket", "/nothing"), "404").await;
    is_refused(&hub, &but(&hub, "/socket", "/socket/"), "404").await;
    is_refused(&hub, &but(&hub, "/socket", "/health/live"), "200").await;
    let login = but(&hub, "GET /socket", "POST /auth/login");
    let head = last_answer(&hub, &login).await;
    assert!(head.contains("connection: close") && !head.contains(" 101 "), "{head}");
    let plain = http::get(hub.address, "/socket").send().await;
    assert_eq!(plain.status, 426, "{plain:?}");
}

#[actix_rt::test]
async fn heads_over_96_headers_or_128_kib_are_431() {
    let hub = hub().await;
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    is_refused(&hub, &with(&hub, &many), "431").await;
    let long = "a".repeat(200 * 1024);
    for head in [with(&hub, &format!("X: {long}\r\n")), but(&hub, "/socket", &format!("/socket?{long}"))] {
        let answer = raw::until_end(hub.address, head.as_bytes()).await;
        // The reset behind it, for what was sent and not read, may overtake it.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let few: String = (0..90).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(http::exchange(hub.address, with(&hub, &few).as_bytes()).await.status, 101);
}

#[actix_rt::test]
async fn heads_that_two_servers_read_differently_are_400_and_nothing_is_smuggled() {
    let hub = hub().await;
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
        is_refused(&hub, &(with(&hub, headers) + smuggled), "400").await;
        is_refused(&hub, &format!("{post}{headers}\r\n{smuggled}"), "400").await;
    }
}

#[actix_rt::test]
async fn bare_newlines_end_lines_as_rfc_9112_allows() {
    let hub = hub().await;
    let handshake = raw::handshake(hub.address, "/socket").replace("\r\n", "\n");
    assert_eq!(http::exchange(hub.address, handshake.as_bytes()).await.status, 101);
}

#[actix_rt::test]
async fn what_follows_a_refused_handshake_is_not_read() {
    let hub = hub().await;
    let next = raw::handshake(hub.address, "/socket") + "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    is_refused(&hub, &(but(&hub, "/socket", "/socket?token=forged") + &next), "401").await;
    is_refused(&hub, &(but(&hub, VERSION, "") + &next), "426").await;
}

#[actix_rt::test]
async fn http_behind_a_101_is_never_read_as_http() {
    let hub = hub().await;
    let mut raw = Raw { stream: TcpStream::connect(hub.address).await.unwrap() };
    let handshake = raw::handshake(hub.address, &format!("/socket?token={}", hub.token("ann")));
    raw.send((handshake + "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(raw.next().await.unwrap().text().starts_with(r#"{"push":{"connect":"#));
    // `G` is 0x47: a reserved bit and an unknown opcode.
    let close = raw.next().await.unwrap();
    assert_eq!((close.opcode, &close.payload[..2]), (CLOSE, &1002_u16.to_be_bytes()[..]));
    assert_eq!(raw.next().await, None);
}

#[actix_rt::test]
async fn a_frame_sent_right_behind_the_handshake_is_heard() {
    let hub = hub().await;
    let mut raw = Raw { stream: TcpStream::connect(hub.address).await.unwrap() };
    let mut bytes = raw::handshake(hub.address, &format!("/socket?token={}", hub.token("ann"))).into_bytes();
    bytes.extend(raw::frame(raw::FIN | raw::TEXT, br#"{"id":7,"ping":{}}"#));
    raw.send(&bytes).await;
    raw.head().await;
    raw.next().await.expect("a greeting");
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":7,"ping":{}}"#);
}

#[actix_rt::test]
async fn a_slow_head_is_ended_after_5_seconds_however_it_drips() {
    let hub = hub().await;
    let began = Instant::now();
    let handshake = raw::handshake(hub.address, "/socket");
    let silent = raw::until_end(hub.address, &handshake.as_bytes()[..40]);
    let dripping = async {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let mut drops = handshake.bytes().cycle().filter(|byte| !b"\r\n".contains(byte));
        while stream.write_all(&[drops.next().unwrap()]).await.is_ok() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let (answer, ()) = tokio::join!(silent, dripping);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let took = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
}

#[actix_rt::test]
async fn health_answers_while_a_hundred_heads_are_half_sent() {
    let hub = hub_with(|config| config.limits.connections = 10).await;
    let half = &raw::handshake(hub.address, "/socket").into_bytes()[..60];
    let _heads = join_all((0..100).map(async |_| {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(half).await.unwrap();
        stream
    }))
    .await;
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
    assert_eq!(hub.connections(), 0, "a half head takes no seat");
    hub.client("ann").await;
}

#[actix_rt::test]
async fn connections_that_wait_for_a_token_have_a_limit_of_their_own() {
    let hub = hub_with(|config| config.limits.waiting = 2).await;
    let (one, _two) = (hub.stranger().await, hub.stranger().await);
    let full = http::exchange(hub.address, raw::handshake(hub.address, "/socket").as_bytes()).await;
    assert_eq!((full.status, full.header("retry-after"), full.header("connection")), (503, Some("5"), Some("close")));
    hub.client("whoever has a token need not wait").await;
    drop(one);
    eventually("a seat is free", async || hub.metric("wardcast_connections_waiting").await < 2.0).await;
    let mut three = hub.stranger().await;
    three.say_text(&format!("Authorization: Bearer {}", hub.token("ann"))).await;
    assert!(three.hear().await["push"]["connect"].is_object());
    hub.stranger().await;
}

#[actix_rt::test]
async fn a_refused_handshake_keeps_no_seat() {
    let hub = hub_with(|config| (config.limits.connections, config.limits.waiting) = (1, 1)).await;
    for path in ["/socket?token=forged", "/socket?token=%zz", "/socket?token=a&token=b"] {
        let handshake = raw::handshake(hub.address, path);
        for _ in 0..3 {
            let status = http::exchange(hub.address, handshake.as_bytes()).await.status;
            assert!([400, 401].contains(&status), "{path}: {status}");
        }
    }
    let ann = hub.client("ann").await;
    let full = http::exchange(hub.address, raw::handshake(hub.address, "/socket").as_bytes()).await;
    assert_eq!((full.status, full.header("retry-after"), full.header("connection")), (503, Some("5"), Some("close")));
    drop(ann);
    eventually("the seat is free", async || hub.connections() == 0).await;
    hub.stranger().await;
}
