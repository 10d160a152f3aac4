//! Frames from a client: the rules of RFC 6455, and the limits that it leaves to the server.

use futures_util::future::join_all;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use wardcast::protocol::{FrameRule, disconnect::PROTOCOL_ERROR};

use crate::support::{
    TestHub, http,
    raw::{BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, PONG, RawClient, TEXT, frame, text_frame},
    start_hub, start_hub_with,
};

const INVALID_UTF8: u16 = 1007;
const MESSAGE_TOO_BIG: u16 = 1009;

/// Checks that the server closes with `code` when it receives `bytes`, on authenticated and on other connections.
async fn assert_closed_with(hub: &TestHub, what: &str, bytes: &[u8], code: u16) {
    for mut raw in [hub.connect_raw("ann").await, RawClient::connect(hub.address, "/socket").await] {
        raw.send_until_closed(bytes).await;
        assert_eq!(raw.wait_for_close().await, Some(code), "{what}");
    }
}

/// Checks that the server closes with 1002 and the text of the rule when it receives `bytes`.
async fn assert_breaks(hub: &TestHub, rule: FrameRule, what: &str, bytes: &[u8]) {
    assert_closed_with(hub, what, bytes, PROTOCOL_ERROR).await;
    let mut raw = hub.connect_raw("ann").await;
    raw.send_until_closed(bytes).await;
    assert_eq!(raw.wait_for_close_frame().await.unwrap().close_reason(), rule.text(), "{what}");
}

fn close_frame(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes())
}

/// The header of a frame that announces `length` bytes.
fn frame_header(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xff][..], &length.to_be_bytes(), &[7, 11, 13, 17]].concat()
}

/// Pseudorandom bytes that are the same in every run.
fn random_bytes(seed: u64) -> impl Iterator<Item = u8> {
    std::iter::successors(Some(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), |state| {
        let state = state ^ (state << 13);
        let state = state ^ (state >> 7);
        Some(state ^ (state << 17))
    })
    .map(|state| (state >> 32) as u8)
}

#[actix_rt::test]
async fn frames_forbidden_by_rfc_6455_close_with_1002() {
    let hub = start_hub().await;
    let start = frame(TEXT, b"a");
    for (rule, what, bytes) in [
        (FrameRule::Masked, "unmasked", b"\x81\x05hello".to_vec()),
        (FrameRule::Masked, "unmasked and empty", vec![FIN | TEXT, 0]),
        (FrameRule::Masked, "unmasked ping", vec![FIN | PING, 0]),
        (FrameRule::ReservedBits, "rsv1", frame(FIN | TEXT | 0x40, b"a")),
        (FrameRule::ReservedBits, "rsv2", frame(FIN | TEXT | 0x20, b"a")),
        (FrameRule::ReservedBits, "rsv3", frame(FIN | PING | 0x10, b"a")),
        (FrameRule::SmallControlFrame, "ping of 126", frame(FIN | PING, &[b'x'; 126])),
        (FrameRule::SmallControlFrame, "close of 126", frame(FIN | CLOSE, &[3; 126])),
        (FrameRule::SmallControlFrame, "ping of 64 KiB", frame_header(FIN | PING, 65_536)),
        (FrameRule::SmallControlFrame, "fragmented ping", frame(PING, b"a")),
        (FrameRule::SmallControlFrame, "fragmented close", frame(CLOSE, &1000_u16.to_be_bytes())),
        (FrameRule::OpenMessage, "continuation of nothing", frame(FIN | CONTINUATION, b"a")),
        (FrameRule::OpenMessage, "unfinished continuation of nothing", frame(CONTINUATION, b"a")),
        (FrameRule::OneMessageAtATime, "text inside text", [&start[..], &text_frame("b")].concat()),
        (FrameRule::OneMessageAtATime, "binary inside text", [&start[..], &frame(BINARY, b"b")].concat()),
        (
            FrameRule::ShortestLength,
            "a length that is not the shortest",
            [&[FIN | TEXT, 0xfe, 0, 1][..], &[0; 5]].concat(),
        ),
        (FrameRule::ShortestLength, "a length with its highest bit", frame_header(FIN | TEXT, 1 << 63)),
    ] {
        assert_breaks(&hub, rule, what, &bytes).await;
    }
}

#[actix_rt::test]
async fn unknown_opcodes_close_with_1002() {
    let hub = start_hub().await;
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        let what = format!("opcode {opcode}");
        assert_breaks(&hub, FrameRule::KnownOpcode, &what, &frame(FIN | opcode, b"")).await;
    }
}

#[actix_rt::test]
async fn declared_length_over_the_limit_is_refused_at_the_header() {
    let hub = start_hub().await;
    let limit = hub.config.limits.message_bytes as u64;
    for length in [limit + 1, 1 << 32, 1 << 40, (1 << 63) - 1] {
        // Only the header is sent, so the server cannot have waited for more.
        assert_closed_with(&hub, &format!("{length} bytes"), &frame_header(FIN | TEXT, length), MESSAGE_TOO_BIG).await;
        assert_closed_with(&hub, &format!("{length} bytes, binary"), &frame_header(BINARY, length), MESSAGE_TOO_BIG)
            .await;
    }
    let body = [frame_header(FIN | TEXT, 1 << 40), vec![b'x'; 1 << 20]].concat();
    assert_closed_with(&hub, "the first MiB of a TiB", &body, MESSAGE_TOO_BIG).await;
}

#[actix_rt::test]
async fn message_of_exactly_the_size_limit_is_accepted() {
    let hub = start_hub_with(|config| config.limits.message_bytes = 4096).await;
    let command = |length: usize| format!("{:<length$}", r#"{"id":1,"ping":{}}"#);
    let mut raw = hub.connect_raw("ann").await;
    raw.send(&text_frame(&command(4096))).await;
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
    raw.send(&text_frame(&command(4097))).await;
    assert_eq!(raw.wait_for_close().await, Some(MESSAGE_TOO_BIG));
}

#[actix_rt::test]
async fn fragments_over_the_total_size_limit_close_with_1009() {
    let hub = start_hub_with(|config| config.limits.message_bytes = 4096).await;
    let part = [b'x'; 1024];
    let mut bytes = frame(TEXT, &part);
    (0..3).for_each(|_| bytes.extend(frame(CONTINUATION, &part)));
    assert_closed_with(&hub, "4,097 bytes", &[bytes, frame(FIN, b"x")].concat(), MESSAGE_TOO_BIG).await;
}

#[actix_rt::test]
async fn hundred_thousand_empty_fragments_close_with_1009() {
    let hub = start_hub().await;
    let bytes = [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(100_000)].concat();
    assert_closed_with(&hub, "empty fragments", &bytes, MESSAGE_TOO_BIG).await;
    let bytes = [frame(BINARY, b""), frame(CONTINUATION, b"").repeat(100_000)].concat();
    assert_closed_with(&hub, "empty binary fragments", &bytes, MESSAGE_TOO_BIG).await;
}

#[actix_rt::test]
async fn invalid_utf8_closes_with_1007_in_whole_messages_and_at_the_bad_fragment() {
    let hub = start_hub().await;
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
        assert_closed_with(&hub, what, &frame(FIN | TEXT, bytes), INVALID_UTF8).await;
        // The server does not wait for the rest of the message.
        assert_closed_with(&hub, &format!("{what}, in a first fragment"), &frame(TEXT, bytes), INVALID_UTF8).await;
        let later = [frame(TEXT, b"fine"), frame(CONTINUATION, bytes)].concat();
        assert_closed_with(&hub, &format!("{what}, in a later fragment"), &later, INVALID_UTF8).await;
    }
    assert_closed_with(&hub, "cut off at the end", &frame(FIN | TEXT, b"\xe2\x82"), INVALID_UTF8).await;
    let cut = [frame(TEXT, b"\xe2\x82"), frame(FIN, b"")].concat();
    assert_closed_with(&hub, "cut off at the end of fragments", &cut, INVALID_UTF8).await;
    let reason = [&1000_u16.to_be_bytes()[..], b"\xff"].concat();
    assert_closed_with(&hub, "a close reason", &frame(FIN | CLOSE, &reason), INVALID_UTF8).await;
}

#[actix_rt::test]
async fn code_point_split_over_fragments_arrives_intact() {
    let hub = start_hub().await;
    let mut subscriber = hub.connect_subscriber("bob", "news").await;
    let mut raw = hub.connect_raw("ann").await;
    let command = r#"{"id":1,"publish":{"channel":"news","data":"a 🦀 b"}}"#.as_bytes();
    let crab = command.iter().position(|byte| *byte == 0xf0).unwrap();
    for cut in crab..=crab + 4 {
        let middle = (cut + 1).min(command.len());
        raw.send(&frame(TEXT, &command[..cut])).await;
        raw.send(&frame(CONTINUATION, &command[cut..middle])).await;
        raw.send(&frame(FIN, &command[middle..])).await;
        assert_eq!(subscriber.receive_publication().await, json!("a 🦀 b"), "cut at {cut}");
    }
}

#[actix_rt::test]
async fn reserved_close_codes_close_with_1002() {
    let hub = start_hub().await;
    assert_breaks(&hub, FrameRule::WholeCloseCode, "one byte", &frame(FIN | CLOSE, &[3])).await;
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65_535] {
        assert_breaks(&hub, FrameRule::AllowedCloseCode, &format!("{code}"), &close_frame(code)).await;
    }
}

#[actix_rt::test]
async fn close_frame_is_echoed_with_its_code_and_server_disconnects() {
    let hub = start_hub().await;
    for code in [1000, 1001, 1011, 3000, 4999] {
        assert_closed_with(&hub, &format!("{code}"), &close_frame(code), code).await;
    }
    let mut raw = hub.connect_raw("ann").await;
    raw.send(&frame(FIN | CLOSE, b"")).await;
    assert_eq!(raw.next().await, Some(Frame::new(CLOSE, b"")));
    assert_eq!(raw.next().await, None);
    // The server does not wait for the client to disconnect.
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn nothing_is_read_after_close_or_violation() {
    let hub = start_hub().await;
    let mut subscriber = hub.connect_subscriber("bob", "news").await;
    let publish = text_frame(r#"{"id":1,"publish":{"channel":"news","data":"after the close"}}"#);
    for last in [close_frame(1000), vec![FIN | TEXT, 0], frame(FIN | TEXT, b"\xff")] {
        let mut raw = hub.connect_raw("ann").await;
        raw.send_until_closed(&[&last[..], &publish, &frame(FIN | PING, b"x")].concat()).await;
        // The close is the only frame: no reply and no pong follow it.
        assert_eq!(raw.next().await.unwrap().opcode, CLOSE);
        assert_eq!(raw.next().await, None);
    }
    hub.publish("news", json!("from others")).await;
    assert_eq!(subscriber.receive_publication().await, json!("from others"));
}

#[actix_rt::test]
async fn ping_is_answered_with_its_payload_even_between_fragments() {
    let hub = start_hub().await;
    let mut raw = hub.connect_raw("ann").await;
    let pong = |payload: &[u8]| Some(Frame::new(PONG, payload));
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        raw.send(&frame(FIN | PING, payload)).await;
        assert_eq!(raw.next().await, pong(payload));
    }
    raw.send(&frame(TEXT, br#"{"id":1,"#)).await;
    raw.send(&frame(FIN | PING, b"between")).await;
    assert_eq!(raw.next().await, pong(b"between"));
    raw.send(&frame(FIN | PONG, b"unsolicited")).await;
    raw.send(&frame(FIN, br#""ping":{}}"#)).await;
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
    let mut stranger = RawClient::connect(hub.address, "/socket").await;
    stranger.send(&frame(FIN | PING, b"without token")).await;
    assert_eq!(stranger.next().await, pong(b"without token"));
}

#[actix_rt::test]
async fn frames_sent_byte_by_byte_are_accepted() {
    let hub = start_hub().await;
    let mut raw = hub.connect_raw("ann").await;
    raw.stream.set_nodelay(true).unwrap();
    for byte in
        [text_frame(r#"{"id":1,"ping":{}}"#), frame(FIN | PING, b"x"), text_frame(r#"{"id":2,"ping":{}}"#)].concat()
    {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
    assert_eq!(raw.next().await.unwrap().opcode, PONG);
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":2,"ping":{}}"#);
}

#[actix_rt::test]
async fn random_garbage_closes_only_its_own_connection() {
    let hub = start_hub().await;
    let mut witness = hub.connect_subscriber("bob", "news").await;
    for seed in 0..40 {
        let mut garbage: Vec<u8> = random_bytes(seed).take(64 * 1024).collect();
        if seed % 2 == 1 {
            // Half of the runs begin with a valid frame of garbage.
            garbage.splice(0..0, frame(FIN | TEXT, &random_bytes(seed + 100).take(300).collect::<Vec<u8>>()));
        }
        let mut raw = hub.connect_raw("ann").await;
        raw.send_until_closed(&garbage).await;
        // The garbage may look like an incomplete frame, whose rest the server would wait for.
        let _ = raw.stream.shutdown().await;
        while raw.next().await.is_some() {}
    }
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
    hub.publish("news", json!("unaffected")).await;
    assert_eq!(witness.receive_publication().await, json!("unaffected"));
    hub.wait_for_connections(1).await;
}

#[actix_rt::test]
async fn violations_do_not_delay_other_clients_of_the_worker() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut subscriber = hub.connect_subscriber("bob", "news").await;
    let violate = async |seed: u64| {
        for round in 0..50 {
            let mut raw = hub.connect_raw("ann").await;
            raw.send_until_closed(
                &[vec![FIN | TEXT, 0], random_bytes(seed + round).take(16 * 1024).collect()].concat(),
            )
            .await;
            assert_eq!(raw.wait_for_close().await, Some(PROTOCOL_ERROR));
        }
    };
    let listen = async {
        for n in 0..100 {
            hub.publish("news", json!(n)).await;
            assert_eq!(subscriber.receive_publication().await, json!(n));
        }
    };
    tokio::join!(listen, join_all((0..4).map(|n| violate(n * 1000))));
}

#[actix_rt::test]
async fn half_closed_connection_is_closed_in_either_direction() {
    let hub = start_hub().await;
    let mut half_closed = [hub.connect_raw("ann").await, RawClient::connect(hub.address, "/socket").await];
    assert_eq!(hub.connections(), 2);
    for raw in &mut half_closed {
        raw.stream.shutdown().await.unwrap();
    }
    hub.wait_for_connections(0).await;
    // The same in the middle of a frame.
    let mut halfway = hub.connect_raw("ann").await;
    halfway.send(&text_frame(r#"{"id":1,"ping":{}}"#)[..9]).await;
    halfway.stream.shutdown().await.unwrap();
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn thousand_simultaneous_resets_leave_nothing_behind() {
    let hub = start_hub().await;
    for _ in 0..5 {
        let crowd = join_all((0..200).map(async |n| match n % 4 {
            0 => TcpStream::connect(hub.address).await.unwrap(),
            1 => RawClient::connect(hub.address, "/socket").await.stream,
            _ => {
                let mut raw = hub.connect_raw("ann").await;
                raw.send(&text_frame(r#"{"id":1,"subscribe":{"channel":"news"}}"#)).await;
                raw.stream
            }
        }))
        .await;
        assert_eq!(hub.connections(), 150);
        // With a linger time of zero, closing sends a reset.
        crowd.iter().for_each(|stream| stream.set_zero_linger().unwrap());
        drop(crowd);
        hub.wait_for_connections(0).await;
    }
    hub.wait_for_channels(&[]).await;
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
}

#[actix_rt::test]
async fn binary_message_is_protocol_error_and_plain_session_stays_open() {
    let hub = start_hub().await;
    let mut raw = hub.connect_raw("ann").await;
    raw.send(&frame(FIN | BINARY, b"\xff\x00")).await;
    let refused = r#"{"error":{"code":107,"message":"bad request: binary message on a JSON connection"}}"#;
    assert_eq!(raw.next().await.unwrap().text(), refused);
    raw.send(&text_frame(r#"{"id":1,"ping":{}}"#)).await;
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":1,"ping":{}}"#);
}
