//! The requests that open a stream and those that bring its commands: credentials, origins, limits, and bad input.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::{
    audit::{AuditedHub, assert_fields},
    support::{
        API_KEY, http,
        slow_link::connect_with_small_buffer,
        start_hub, start_hub_with,
        stream::{StreamClient, emulate, get, post, sse_path, subscribe},
    },
};

const LISTED: &str = "https://app.example.com";

#[actix_rt::test]
async fn session_id_of_a_stream_is_not_the_client_id_that_others_see() {
    let hub = start_hub().await;
    let (mut client, connected) = StreamClient::connect_sse(&hub, &hub.token("ann")).await;
    assert_ne!(connected["session"], connected["client"]);
    let forged = json!({"session": connected["client"], "node": connected["node"]});
    let publish = json!({"id": 2, "publish": {"channel": "news", "data": 1}});
    assert_eq!(emulate(hub.address, &forged, &publish).await.status, 404);
    subscribe(hub.address, &mut client, &connected, "news").await;
    let mut plain = hub.connect_without_token().await;
    let reply = plain.request(json!({"id": 1, "connect": {"token": hub.token("bob")}})).await;
    let forged = json!({"session": reply["connect"]["session"], "node": connected["node"]});
    assert_eq!(emulate(hub.address, &forged, &publish).await.status, 404, "a WebSocket takes no requests");
}

#[actix_rt::test]
async fn malformed_requests_with_commands_are_refused() {
    let hub = start_hub_with(|config| config.limits.message_bytes = 1024).await;
    let (mut client, connected) = StreamClient::connect_sse(&hub, &hub.token("ann")).await;
    let send = async |body: String| http::post(hub.address, "/emulation").json_text(body).send().await.status;
    let session = connected["session"].as_str().unwrap();
    for (body, status) in [
        (String::new(), 400),
        ("[]".to_owned(), 400),
        (r#"{"session":"x","data":"{}"}"#.to_owned(), 400),
        (json!(["", session, "{}"]).to_string(), 400),
        (format!(r#"{{"session":"{session}"}}"#), 400),
        (format!(r#"{{"session":"{session}","data":{{}}}}"#), 400),
        (format!(r#"{{"session":"{session}","data":"{}"}}"#, "x".repeat(1025)), 413),
        (format!(r#"{{"session":"{session}","data":"{}"}}"#, "x".repeat(4000)), 413),
        (format!(r#"{{"session":"{}","data":"{{}}"}}"#, uuid::Uuid::new_v4()), 404),
        (format!(r#"{{"session":"{}","node":"elsewhere","data":"{{}}"}}"#, uuid::Uuid::new_v4()), 404),
    ] {
        assert_eq!(send(body.clone()).await, status, "{body}");
    }
    assert_eq!(http::get(hub.address, "/emulation").send().await.status, 405);
    let protobuf = http::post(hub.address, "/emulation").header("Content-Type", "application/octet-stream");
    assert_eq!(protobuf.body([0xff, 0xff]).send().await.status, 400);
    subscribe(hub.address, &mut client, &connected, "news").await;
    let binary = post(hub.address, "/connection/http_stream", "application/json", &[0xff]);
    let mut binary = StreamClient::open(hub.address, &binary, b"\n").await;
    assert_eq!(binary.wait_for_close().await.0, 1007);
    // Not a command: an SDK session is closed, as over a WebSocket.
    assert_eq!(emulate(hub.address, &connected, &json!("nonsense")).await.status, 204);
    assert_eq!(client.wait_for_close().await.0, 3501);
}

#[actix_rt::test]
async fn commands_that_wait_for_a_session_are_limited() {
    let hub = start_hub_with(|config| {
        config.limits.message_bytes = 1024;
        config.limits.emulation_bytes = 2048;
        config.limits.outbox_bytes = 65_536;
        config.limits.publication_bytes = 512;
        config.limits.commands_per_second = 0;
    })
    .await;
    let (_stalled, connected) = StreamClient::connect_sse(&hub, &hub.token("ann")).await;
    // Replies that are not read hold up the commands behind them.
    let commands: Vec<String> = (2..40).map(|id| json!({"id": id, "ping": {}}).to_string()).collect();
    let request = json!({"session": connected["session"], "data": commands.join("\n")});
    let mut statuses = Vec::new();
    while !statuses.contains(&429) {
        let response = http::post(hub.address, "/emulation").json(request.clone()).send().await;
        assert!([204, 429].contains(&response.status), "{response:?}");
        statuses.push(response.status);
        assert!(statuses.len() < 100_000, "the queue has no end");
    }
    assert!(hub.metric("wardcast_emulation_requests_total{outcome=\"full\"}").await >= 1.0);
    assert_eq!(hub.connections(), 1, "the session stays");
}

#[actix_rt::test]
async fn requests_with_commands_are_limited_per_address() {
    let hub = start_hub_with(|config| config.limits.emulation_requests_per_second = 1).await;
    let request = || http::post(hub.address, "/emulation").json(json!({"session": "", "data": ""}));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(request().send().await.status);
    }
    assert!(statuses.starts_with(&[400, 400]) && statuses.contains(&429), "{statuses:?}");
}

#[actix_rt::test]
async fn stream_needs_the_credentials_and_limits_of_a_handshake() {
    let hub = start_hub_with(|config| config.limits.connections_per_user = 1).await;
    let status = async |path: &str, headers: &[(&str, &str)]| {
        http::exchange(hub.address, get(hub.address, path, headers).as_bytes()).await.status
    };
    let forged = hub.forged_token("ann");
    let connect = sse_path(&json!({"id": 1, "connect": {}}));
    for (path, expected) in [
        ("/connection/sse".to_owned(), 400),
        (format!("/connection/sse?token={forged}"), 401),
        (format!("/connection/sse?token={}", hub.expired_token("ann")), 401),
        (format!("/connection/sse?token={forged}&access_token={forged}"), 400),
        ("/connection/sse?cf_connect=%ff".to_owned(), 400),
        ("/connection/http_stream".to_owned(), 405),
        ("/connection/nothing".to_owned(), 404),
    ] {
        assert_eq!(status(&path, &[]).await, expected, "{path}");
    }
    assert_eq!(status(&connect, &[("Origin", "https://evil.com")]).await, 403);
    assert_eq!(status(&connect, &[("Authorization", "Basic x")]).await, 401);
    // Without a token in the request, the first command is refused as over a WebSocket.
    let mut client = StreamClient::events(hub.address, &connect, &[]).await;
    assert_eq!(client.wait_for_close().await.0, 3501);
    let expired = sse_path(&json!({"id": 1, "connect": {"token": hub.expired_token("ann")}}));
    let mut client = StreamClient::events(hub.address, &expired, &[]).await;
    assert_eq!(client.receive().await["error"]["code"], json!(109));
    let authorized = [("Authorization", &*hub.bearer("ann"))];
    let _open = StreamClient::events(hub.address, &connect, &authorized).await;
    assert_eq!(status(&connect, &authorized).await, 429, "limits.connections_per_user");
}

#[actix_rt::test]
async fn cookie_opens_a_stream_only_for_a_page_of_the_own_or_a_listed_origin() {
    let hub =
        start_hub_with(|config| config.origins.allowed = vec![LISTED.to_owned(), "https://*.example.org".to_owned()])
            .await;
    let cookie = format!("wardcast_token={}", hub.token("ann"));
    let publish = [json!({"id": 1, "connect": {}}), json!({"id": 2, "publish": {"channel": "news", "data": 1}})];
    let path = format!(
        "/connection/sse?cf_connect={}",
        percent_encoding::utf8_percent_encode(
            &publish.map(|command| command.to_string()).join("\n"),
            percent_encoding::NON_ALPHANUMERIC
        )
    );
    let mut subscriber = hub.connect_subscriber("bob", "news").await;
    for (headers, expected) in [
        (vec![], 403),
        (vec![("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Sec-Fetch-Site", "same-site")], 403),
        (vec![("Sec-Fetch-Site", "none")], 403),
        (vec![("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Origin", "https://evil.com"), ("Sec-Fetch-Site", "same-origin")], 403),
        (vec![("Sec-Fetch-Site", "same-origin")], 200),
        (vec![("Origin", LISTED)], 200),
        (vec![("Origin", "https://a.example.org"), ("Sec-Fetch-Site", "cross-site")], 200),
    ] {
        let headers: Vec<(&str, &str)> = headers.into_iter().chain([("Cookie", &*cookie)]).collect();
        let client = StreamClient::open(hub.address, get(hub.address, &path, &headers).as_bytes(), b"\n\n").await;
        assert_eq!(client.head.status, expected, "{headers:?}");
        if expected == 200 {
            assert_eq!(subscriber.receive_publication().await, json!(1), "{headers:?}");
        }
    }
}

#[actix_rt::test]
async fn cors_lets_listed_pages_open_streams_and_send_commands() {
    let hub = start_hub_with(|config| config.origins.allowed = vec![LISTED.to_owned()]).await;
    let connect = sse_path(&json!({"id": 1, "connect": {"token": hub.token("ann")}}));
    let client = StreamClient::events(hub.address, &connect, &[("Origin", LISTED)]).await;
    assert_eq!(client.head.header("access-control-allow-origin"), Some(LISTED));
    for path in ["/connection/http_stream", "/emulation", "/v1/channels/news/events"] {
        for (origin, allowed) in [(LISTED, Some(LISTED)), ("https://evil.com", None)] {
            let preflight = http::request(hub.address, "OPTIONS", path)
                .header("Origin", origin)
                .header("Access-Control-Request-Method", "POST")
                .header("Access-Control-Request-Headers", "content-type,last-event-id")
                .send()
                .await;
            assert_eq!(preflight.header("access-control-allow-origin"), allowed, "{path} {preflight:?}");
        }
    }
    let foreign = http::post(hub.address, "/emulation").header("Origin", "https://evil.com").json(json!({}));
    assert_eq!(foreign.send().await.status, 403);
}

/// The session cannot begin before the responses to earlier requests have left, and the client does not read them.
#[actix_rt::test]
async fn stream_that_cannot_begin_is_recorded_as_refused_and_not_as_connected() {
    let audited = AuditedHub::start(|config| {
        config.limits.http_unread_bytes = 1 << 24;
        config.channels.history_size = 20;
    })
    .await;
    let hub = &audited.hub;
    for _ in 0..20 {
        hub.publish_with(json!({"channel": "large", "data": "x".repeat(60_000)})).await;
    }
    let mut client = connect_with_small_buffer(hub.address).await;
    // More than the kernel takes.
    let body = r#"{"channel":"large","limit":20}"#;
    let length = body.len();
    let head = format!("POST /api/history HTTP/1.1\r\nHost: {}\r\nX-API-Key: {API_KEY}", hub.address);
    let unread = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").repeat(8);
    let path = format!("/connection/sse?token={}", hub.token("ann"));
    client.write_all((unread + &get(hub.address, &path, &[])).as_bytes()).await.unwrap();
    let line = audited.wait_for("refused", 1).await;
    let reason = "read the responses to the requests before this one first";
    assert_fields(&line, json!({"address": "127.0.0.1", "path": "/connection/sse", "reason": reason}));
    assert_eq!((audited.lines("refused").len(), audited.lines("connected").len()), (1, 0), "{}", audited.text());
    assert_eq!(audited.lines("disconnected").len(), 0);
}
