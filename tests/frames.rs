//! What a client sends as frames, and how it is judged: RFC 6455, and the bounds that it does not set.

use futures_util::future::join_all;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    Hub, eventually, http, hub, hub_with,
    raw::{self, BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, PONG, Raw, TEXT, frame},
};

const PROTOCOL: u16 = 1002;
const NOT_UTF8: u16 = 1007;
const TOO_BIG: u16 = 1009;

/// A connection that has been let in and greeted.
async fn admitted(hub: &Hub) -> Raw {
    let mut raw = Raw::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    let hello = raw.next().await.expect("a greeting");
    assert!(hello.text().starts_with(r#"{"push":{"connect":"#), "{hello:?}");
    raw
}

/// Both kinds of connection are ended with `code`, and by the server.
async fn is_closed(hub: &Hub, what: &str, bytes: &[u8], code: u16) {
    for mut raw in [admitted(hub).await, Raw::connect(hub.address, "/socket").await] {
        raw.pour(bytes).await;
        assert_eq!(raw.close_code().await, Some(code), "{what}");
    }
}

fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

fn close(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes())
}

/// The first bytes of a frame that promises `length` bytes.
fn header(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xff][..], &length.to_be_bytes(), &[7, 11, 13, 17]].concat()
}

/// The same bytes in every run.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    std::iter::successors(Some(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), |state| {
        let state = state ^ (state << 13);
        let state = state ^ (state >> 7);
        Some(state ^ (state << 17))
    })
    .map(|state| (state >> 32) as u8)
}

#[actix_rt::test]
async fn what_the_rfc_forbids_is_1002() {
    let hub = hub().await;
    let start = frame(TEXT, b"a");
    for (what, bytes) in [
        ("unmasked", b"\x81\x05hello".to_vec()),
        ("unmasked and empty", vec![FIN | TEXT, 0]),
        ("unmasked ping", vec![FIN | PING, 0]),
        ("rsv1", frame(FIN | TEXT | 0x40, b"a")),
        ("rsv2", frame(FIN | TEXT | 0x20, b"a")),
        ("rsv3", frame(FIN | PING | 0x10, b"a")),
        ("ping of 126", frame(FIN | PING, &[b'x'; 126])),
        ("close of 126", frame(FIN | CLOSE, &[3; 126])),
        ("ping of 64 KiB", header(FIN | PING, 65_536)),
        ("fragmented ping", frame(PING, b"a")),
        ("fragmented close", frame(CLOSE, &1000_u16.to_be_bytes())),
        ("continuation of nothing", frame(FIN | CONTINUATION, b"a")),
        ("unfinished continuation of nothing", frame(CONTINUATION, b"a")),
        ("text inside text", [&start[..], &text("b")].concat()),
        ("binary inside text", [&start[..], &frame(BINARY, b"b")].concat()),
        ("a length that is not the shortest", [&[FIN | TEXT, 0xfe, 0, 1][..], &[0; 5]].concat()),
        ("a length with its highest bit", header(FIN | TEXT, 1 << 63)),
    ] {
        is_closed(&hub, what, &bytes, PROTOCOL).await;
    }
}

#[actix_rt::test]
async fn unknown_opcodes_are_1002() {
    let hub = hub().await;
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        is_closed(&hub, &format!("opcode {opcode}"), &frame(FIN | opcode, b""), PROTOCOL).await;
    }
}

#[actix_rt::test]
async fn a_declared_length_over_the_limit_is_refused_at_the_header() {
    let hub = hub().await;
    let limit = hub.config.limits.message_bytes as u64;
    for length in [limit + 1, 1 << 32, 1 << 40, (1 << 63) - 1] {
        // Nothing but the header is sent, so nothing but the header can have been waited for.
        is_closed(&hub, &format!("{length} bytes"), &header(FIN | TEXT, length), TOO_BIG).await;
        is_closed(&hub, &format!("{length} bytes, binary"), &header(BINARY, length), TOO_BIG).await;
    }
    let body = [header(FIN | TEXT, 1 << 40), vec![b'x'; 1 << 20]].concat();
    is_closed(&hub, "a tebibyte that begins to come", &body, TOO_BIG).await;
}

#[actix_rt::test]
async fn a_message_of_exactly_the_limit_is_heard() {
    let hub = hub_with(|config| config.limits.message_bytes = 4096).await;
    let command = |length: usize| format!("{:<length$}", r#"{"id":1,"ping":{}}"#);
    let mut raw = admitted(&hub).await;
    raw.send(&text(&command(4096))).await;
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
    raw.send(&text(&command(4097))).await;
    assert_eq!(raw.close_code().await, Some(TOO_BIG));
}

#[actix_rt::test]
async fn fragments_over_the_limit_in_sum_are_1009() {
    let hub = hub_with(|config| config.limits.message_bytes = 4096).await;
    let part = [b'x'; 1024];
    let mut bytes = frame(TEXT, &part);
    (0..3).for_each(|_| bytes.extend(frame(CONTINUATION, &part)));
    is_closed(&hub, "4,097 bytes", &[bytes, frame(FIN, b"x")].concat(), TOO_BIG).await;
}

#[actix_rt::test]
async fn a_hundred_thousand_empty_fragments_are_1009() {
    let hub = hub().await;
    let bytes = [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(100_000)].concat();
    is_closed(&hub, "empty fragments", &bytes, TOO_BIG).await;
    let bytes = [frame(BINARY, b""), frame(CONTINUATION, b"").repeat(100_000)].concat();
    is_closed(&hub, "empty binary fragments", &bytes, TOO_BIG).await;
}

#[actix_rt::test]
async fn text_that_is_not_utf8_is_1007_whole_and_in_the_fragment_that_holds_it() {
    let hub = hub().await;
    for (what, bytes) in [
        ("a stray byte", &b"a\xff"[..]),
        ("a continuation byte alone", b"\x80"),
        ("overlong slash", b"\xc0\xaf"),
        ("overlong in three bytes", b"\xe0\x80\xaf"),
        ("overlong in four bytes", b"\xf0\x80\x80\xaf"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("a pair of surrogates", b"\xed\xa0\xbd\xed\xb8\x80"),
        ("over U+10FFFF", b"\xf4\x90\x80\x80"),
    ] {
        is_closed(&hub, what, &frame(FIN | TEXT, bytes), NOT_UTF8).await;
        // The rest of the message need not come.
        is_closed(&hub, &format!("{what}, in a first fragment"), &frame(TEXT, bytes), NOT_UTF8).await;
        let later = [frame(TEXT, b"fine"), frame(CONTINUATION, bytes)].concat();
        is_closed(&hub, &format!("{what}, in a later fragment"), &later, NOT_UTF8).await;
    }
    is_closed(&hub, "cut off at the end", &frame(FIN | TEXT, b"\xe2\x82"), NOT_UTF8).await;
    let cut = [frame(TEXT, b"\xe2\x82"), frame(FIN, b"")].concat();
    is_closed(&hub, "cut off at the end of fragments", &cut, NOT_UTF8).await;
    let reason = [&1000_u16.to_be_bytes()[..], b"\xff"].concat();
    is_closed(&hub, "a close reason", &frame(FIN | CLOSE, &reason), NOT_UTF8).await;
}

#[actix_rt::test]
async fn a_code_point_split_over_fragments_arrives_intact() {
    let hub = hub().await;
    let mut subscriber = hub.subscriber("bob", "news").await;
    let mut raw = admitted(&hub).await;
    let command = r#"{"id":1,"publish":{"channel":"news","data":"a 🦀 b"}}"#.as_bytes();
    let crab = command.iter().position(|byte| *byte == 0xf0).unwrap();
    for cut in crab..=crab + 4 {
        let middle = (cut + 1).min(command.len());
        raw.send(&frame(TEXT, &command[..cut])).await;
        raw.send(&frame(CONTINUATION, &command[cut..middle])).await;
        raw.send(&frame(FIN, &command[middle..])).await;
        assert_eq!(subscriber.publication().await, json!("a 🦀 b"), "cut at {cut}");
    }
}

#[actix_rt::test]
async fn close_codes_that_never_are_on_the_wire_are_1002() {
    let hub = hub().await;
    is_closed(&hub, "one byte", &frame(FIN | CLOSE, &[3]), PROTOCOL).await;
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65_535] {
        is_closed(&hub, &format!("{code}"), &close(code), PROTOCOL).await;
    }
}

#[actix_rt::test]
async fn a_close_is_echoed_with_its_code_and_the_server_hangs_up() {
    let hub = hub().await;
    for code in [1000, 1001, 1011, 3000, 4999] {
        is_closed(&hub, &format!("{code}"), &close(code), code).await;
    }
    let mut raw = admitted(&hub).await;
    raw.send(&frame(FIN | CLOSE, b"")).await;
    assert_eq!(raw.next().await, Some(Frame { opcode: CLOSE, payload: Vec::new() }));
    assert_eq!(raw.next().await, None);
    // This side has not hung up, and is not waited for.
    eventually("all are gone", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn nothing_after_a_close_or_a_violation_is_read() {
    let hub = hub().await;
    let mut subscriber = hub.subscriber("bob", "news").await;
    let publish = text(r#"{"id":1,"publish":{"channel":"news","data":"from the dead"}}"#);
    for last in [close(1000), vec![FIN | TEXT, 0], frame(FIN | TEXT, b"\xff")] {
        let mut raw = admitted(&hub).await;
        raw.pour(&[&last[..], &publish, &frame(FIN | PING, b"x")].concat()).await;
        // One frame, the close; no reply and no pong behind it.
        assert_eq!(raw.next().await.unwrap().opcode, CLOSE);
        assert_eq!(raw.next().await, None);
    }
    hub.publish("news", json!("from the living")).await;
    assert_eq!(subscriber.publication().await, json!("from the living"));
}

#[actix_rt::test]
async fn a_ping_is_answered_with_its_payload_even_between_fragments() {
    let hub = hub().await;
    let mut raw = admitted(&hub).await;
    let pong = |payload: &[u8]| Some(Frame { opcode: PONG, payload: payload.to_vec() });
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        raw.send(&frame(FIN | PING, payload)).await;
        assert_eq!(raw.next().await, pong(payload));
    }
    raw.send(&frame(TEXT, br#"{"id":1,"#)).await;
    raw.send(&frame(FIN | PING, b"between")).await;
    assert_eq!(raw.next().await, pong(b"between"));
    raw.send(&frame(FIN | PONG, b"nobody asked")).await;
    raw.send(&frame(FIN, br#""ping":{}}"#)).await;
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
    let mut stranger = Raw::connect(hub.address, "/socket").await;
    stranger.send(&frame(FIN | PING, b"who is there")).await;
    assert_eq!(stranger.next().await, pong(b"who is there"));
}

#[actix_rt::test]
async fn frames_that_come_byte_by_byte_are_heard() {
    let hub = hub().await;
    let mut raw = admitted(&hub).await;
    raw.stream.set_nodelay(true).unwrap();
    for byte in [text(r#"{"id":1,"ping":{}}"#), frame(FIN | PING, b"x"), text(r#"{"id":2,"ping":{}}"#)].concat() {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
    assert_eq!(raw.next().await.unwrap().opcode, PONG);
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":2,"ping":{}}"#);
}

#[actix_rt::test]
async fn random_garbage_ends_its_connection_and_nothing_else() {
    let hub = hub().await;
    let mut witness = hub.subscriber("bob", "news").await;
    for seed in 0..40 {
        let mut garbage: Vec<u8> = noise(seed).take(64 * 1024).collect();
        if seed % 2 == 1 {
            // Half of it begins as a frame does: a good header, masked noise, and then whatever comes.
            garbage.splice(0..0, frame(FIN | TEXT, &noise(seed + 100).take(300).collect::<Vec<u8>>()));
        }
        let mut raw = admitted(&hub).await;
        raw.pour(&garbage).await;
        // What looks like an unfinished frame would be waited for.
        let _ = raw.stream.shutdown().await;
        while raw.next().await.is_some() {}
    }
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
    hub.publish("news", json!("still here")).await;
    assert_eq!(witness.publication().await, json!("still here"));
    eventually("only the witness is left", async || hub.connections() == 1).await;
}

#[actix_rt::test]
async fn the_violations_of_some_hold_up_nobody_on_their_worker() {
    let hub = hub_with(|config| config.server.workers = 1).await;
    let mut subscriber = hub.subscriber("bob", "news").await;
    let violate = async |seed: u64| {
        for round in 0..50 {
            let mut raw = admitted(&hub).await;
            raw.pour(&[vec![FIN | TEXT, 0], noise(seed + round).take(16 * 1024).collect()].concat()).await;
            assert_eq!(raw.close_code().await, Some(PROTOCOL));
        }
    };
    let listen = async {
        for n in 0..100 {
            hub.publish("news", json!(n)).await;
            assert_eq!(subscriber.publication().await, json!(n));
        }
    };
    tokio::join!(listen, join_all((0..4).map(|n| violate(n * 1000))));
}

#[actix_rt::test]
async fn a_peer_that_only_reads_no_more_or_only_writes_no_more_is_gone() {
    let hub = hub().await;
    let mut half_closed = [admitted(&hub).await, Raw::connect(hub.address, "/socket").await];
    assert_eq!(hub.connections(), 2);
    for raw in &mut half_closed {
        raw.stream.shutdown().await.unwrap();
    }
    eventually("half-closed peers are gone", async || hub.connections() == 0).await;
    // Also in the middle of a frame.
    let mut halfway = admitted(&hub).await;
    halfway.send(&text(r#"{"id":1,"ping":{}}"#)[..9]).await;
    halfway.stream.shutdown().await.unwrap();
    eventually("it is gone", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn a_thousand_resets_at_once_leave_nothing_behind() {
    let hub = hub().await;
    for _ in 0..5 {
        let crowd = join_all((0..200).map(async |n| match n % 4 {
            0 => TcpStream::connect(hub.address).await.unwrap(),
            1 => Raw::connect(hub.address, "/socket").await.stream,
            _ => {
                let mut raw = admitted(&hub).await;
                raw.send(&text(r#"{"id":1,"subscribe":{"channel":"news"}}"#)).await;
                raw.stream
            }
        }))
        .await;
        assert_eq!(hub.connections(), 150);
        // With a linger of zero the close is a reset.
        crowd.iter().for_each(|stream| stream.set_zero_linger().unwrap());
        drop(crowd);
        eventually("all are gone", async || hub.connections() == 0).await;
    }
    eventually("no channel is left", async || {
        hub.api("channels", json!({})).await == json!({"result": {"channels": {}}})
    })
    .await;
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
}

#[actix_rt::test]
async fn a_binary_message_is_told_to_be_nonsense_and_the_session_lives() {
    let hub = hub().await;
    let mut raw = admitted(&hub).await;
    raw.send(&frame(FIN | BINARY, b"\xff\x00")).await;
    assert_eq!(raw.next().await.unwrap().text(), r#"{"error":{"code":107,"message":"bad request"}}"#);
    raw.send(&raw::frame(FIN | TEXT, br#"{"id":1,"ping":{}}"#)).await;
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
}
