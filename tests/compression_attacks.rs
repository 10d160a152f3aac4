//! Attacks with permessage-deflate (RFC 7692): bombs, invalid data, and RSV1 where it does not belong.

use std::io::Write;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::json;
use wardcast::{
    config::Secret,
    protocol::{FrameRule, disconnect::INVALID_UTF8_REASON},
};

use crate::{
    compression::start_compressing_hub,
    support::{
        API_KEY,
        backend::{Answer, Backend},
        deflate::{DeflateClient, EXTENSIONS, OFFER, deflate},
        http, mark_secret,
        raw::{BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, PONG, RSV1, TEXT, frame},
        start_hub, start_hub_with,
    },
};

#[actix_rt::test]
async fn compressed_message_over_the_limit_closes_with_1009() {
    let hub = start_compressing_hub(|_| ()).await;
    let limit = hub.config.limits.message_bytes;
    let bomb = deflate(&vec![b' '; 10 << 20]);
    assert!(bomb.len() < limit, "{} bytes", bomb.len());
    for (what, bytes) in [
        ("in one frame", frame(FIN | TEXT | RSV1, &bomb)),
        ("in fragments", [frame(BINARY | RSV1, &bomb[..100]), frame(FIN | CONTINUATION, &bomb[100..])].concat()),
        ("one byte above the limit", frame(FIN | TEXT | RSV1, &deflate(&vec![b'\n'; limit + 1]))),
    ] {
        let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
        ann.send(&bytes).await;
        assert_eq!(ann.wait_for_close().await, Some(1009), "{what}");
    }
    // At the limit it is a command like any other.
    let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
    let command = format!("{}{}", json!({"id": 1, "ping": {}}), " ".repeat(limit));
    ann.send(&frame(FIN | TEXT | RSV1, &deflate(&command.as_bytes()[..limit]))).await;
    assert_eq!(ann.receive().await.json(), json!({"id": 1, "ping": {}}));
}

#[actix_rt::test]
async fn violations_of_compression_close_with_1002_and_invalid_text_with_1007() {
    let hub = start_compressing_hub(|_| ()).await;
    let message = deflate(b"{\"id\":1,\"ping\":{}}");
    let compression = FrameRule::ValidCompression.text();
    let reserved = FrameRule::ReservedBits.text();
    for (what, bytes, code, reason) in [
        ("no data", frame(FIN | TEXT | RSV1, b""), 1002, compression),
        ("not compressed", frame(FIN | TEXT | RSV1, b"{\"id\":1}"), 1002, compression),
        ("cut", frame(FIN | TEXT | RSV1, &message[..message.len() / 2]), 1002, compression),
        (
            "RSV1 in a continuation",
            [frame(TEXT | RSV1, &message[..3]), frame(FIN | CONTINUATION | RSV1, &message[3..])].concat(),
            1002,
            reserved,
        ),
        ("compressed ping", frame(FIN | PING | RSV1, &message), 1002, reserved),
        ("compressed close", frame(FIN | CLOSE | RSV1, &1000_u16.to_be_bytes()), 1002, reserved),
        ("RSV2", frame(FIN | TEXT | RSV1 | 0x20, &message), 1002, reserved),
        ("not UTF-8", frame(FIN | TEXT | RSV1, &deflate(b"\xff\xfe")), 1007, INVALID_UTF8_REASON),
    ] {
        let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
        ann.send(&bytes).await;
        let close = ann.wait_for_close_frame().await.unwrap();
        assert_eq!((close.close_code(), close.close_reason()), (Some(code), reason), "{what}");
    }
    // Each message is compressed by itself, so it may not refer to the one before.
    let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
    let mut compressor = Compress::new(Compression::best(), false);
    for code in [None, Some(1002)] {
        let mut compressed = Vec::with_capacity(100);
        let command = json!({"id": 1, "ping": {}}).to_string();
        compressor.compress_vec(command.as_bytes(), &mut compressed, FlushCompress::Sync).unwrap();
        ann.send(&frame(FIN | TEXT | RSV1, &compressed[..compressed.len() - 4])).await;
        match code {
            None => assert_eq!(ann.receive().await.json(), json!({"id": 1, "ping": {}})),
            code => assert_eq!(ann.wait_for_close().await, code, "context takeover"),
        }
    }
}

#[actix_rt::test]
async fn fragments_of_a_compressed_message_are_bounded_as_those_of_others_are() {
    let hub = start_compressing_hub(|config| config.limits.message_bytes = 2000).await;
    let mut random = vec![0; 3000];
    getrandom::fill(&mut random).unwrap();
    let compressed = deflate(&random);
    for (what, code, bytes) in [
        (
            "one byte too many",
            1009,
            [frame(BINARY | RSV1, &compressed[..1500]), frame(CONTINUATION, &compressed[..501])],
        ),
        // Text that is not UTF-8 before it is inflated is not refused early: only the message decides.
        ("as many as allowed", 1002, [frame(TEXT | RSV1, &[0xff; 1500]), frame(FIN | CONTINUATION, &[0xff; 500])]),
    ] {
        let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
        ann.send(&bytes.concat()).await;
        assert_eq!(ann.wait_for_close().await, Some(code), "{what}");
    }
}

#[actix_rt::test]
async fn control_frames_are_never_compressed() {
    // Everything is compressed that becomes shorter.
    let hub = start_compressing_hub(|config| config.server.compression.min_bytes = 0).await;
    for path in [hub.path_for("ann"), format!("{}&format=protobuf", hub.path_for("ann"))] {
        let mut ann = DeflateClient::connect(&hub, &path, &[OFFER]).await;
        ann.send(&frame(FIN | PING, &[b'a'; 125])).await;
        assert_eq!(ann.receive().await, Frame::new(PONG, &[b'a'; 125]));
        let reason = "a".repeat(120);
        hub.call_api("disconnect", json!({"user": "ann", "disconnect": {"code": 4000, "reason": reason}})).await;
        let payload = [&4000_u16.to_be_bytes()[..], reason.as_bytes()].concat();
        assert_eq!(ann.receive().await, Frame::new(CLOSE, &payload));
    }
}

#[actix_rt::test]
async fn rsv1_without_negotiation_closes_with_1002() {
    let (on, off) = (start_compressing_hub(|_| ()).await, start_hub().await);
    let message = frame(FIN | TEXT | RSV1, &deflate(b"{\"id\":1,\"ping\":{}}"));
    let declined = (EXTENSIONS, "permessage-deflate; server_max_window_bits=8");
    for (what, hub, headers) in
        [("not offered", &on, &[][..]), ("declined", &on, &[declined]), ("disabled", &off, &[OFFER])]
    {
        let mut ann = DeflateClient::connect(hub, &hub.path_for("ann"), headers).await;
        ann.send(&message).await;
        assert_eq!(ann.wait_for_close().await, Some(1002), "{what}");
    }
}

/// HTTP has compression of its own, of which the hub takes none: neither in requests nor in what a backend answers.
#[actix_rt::test]
async fn compressed_http_bodies_are_not_inflated() {
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let backend = Backend::start().await;
    let hub = start_hub_with(|config| {
        config.admin.enabled = true;
        config.login.demo_password = Secret::new(mark_secret("right horse battery"));
        backend.configure(&mut config.hooks.rpc, "/rpc");
    })
    .await;
    let spaces = " ".repeat(10 << 20);
    let own = format!("http://{}", hub.address);
    for (path, body) in [
        ("/api/publish", r#"{"channel":"news","data":1}"#),
        ("/v1/channels/news/messages", "1"),
        ("/admin/login", r#"{"api_key":"x"}"#),
        ("/auth/login", r#"{"username":"demo","password":"right horse battery"}"#),
    ] {
        let post = |name: &str, body: Vec<u8>| {
            let request = http::post(hub.address, path).header("Content-Encoding", name).header("Origin", &own);
            let request = request.header("X-API-Key", API_KEY).header("X-Wardcast-Admin", "1");
            request.header("Content-Type", "application/json").body(body)
        };
        for bomb in [gzip(body), gzip(&format!("{body}{spaces}"))] {
            let response = post("gzip", bomb).send().await;
            assert!((400..500).contains(&response.status), "{path}: {response:?}");
        }
        let plain = post("identity", body.as_bytes().to_vec()).send().await.status;
        assert!([200, 401].contains(&plain), "{path}: {plain}, so only the compression was at fault");
    }
    let mut ann = hub.connect("ann").await;
    let body = gzip(&format!("{{\"result\":{{}}}}{spaces}"));
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
    backend.answer("/rpc", Answer::Raw([head.as_bytes(), &body].concat()));
    assert_eq!(ann.request(json!({"id": 1, "rpc": {"method": "m"}})).await["error"]["code"], 100);
    assert_eq!(hub.metric("wardcast_hook_calls_total{hook=\"rpc\",outcome=\"malformed\"}").await, 1.0);
}
