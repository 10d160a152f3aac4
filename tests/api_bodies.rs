//! HTTP bodies of the server API that are too long, endless, malformed or of another content type, and HTTP methods other
//! than POST.

use std::time::Instant;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    api::post_api,
    api_attacks::{assert_alive, assert_reveals_nothing, method_names},
};
use crate::support::{
    API_KEY, PATIENCE, Stopwatch, TestHub, http, raw::exchange_until_close, start_hub, start_hub_with,
};

/// The head of a call with the API key and these further header lines.
fn request_head(hub: &TestHub, path: &str, lines: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nX-API-Key: {API_KEY}\r\nContent-Type: application/json\r\n{lines}\r\n",
        hub.address
    )
}

#[actix_rt::test]
async fn eight_megabytes_of_newlines_are_refused_by_content_length() {
    let hub = start_hub().await;
    for path in ["/api/publish", "/api/batch", "/api/info", "/v1/channels/news/messages"] {
        // Nothing of the body is sent, so a hub that waited for it would not respond.
        let announced =
            http::exchange(hub.address, request_head(&hub, path, "Content-Length: 8000000\r\n").as_bytes()).await;
        assert_eq!((announced.status, announced.json()["error"]["code"].clone()), (413, json!(106)), "{path}");
        assert_eq!(announced.header("connection"), Some("close"), "{path}");
        let sent =
            http::post(hub.address, path).header("X-API-Key", API_KEY).header("Content-Type", "application/json");
        assert_eq!(sent.body("\n".repeat(8_000_000)).send().await.status, 413, "{path}");
    }
    for lengths in [
        "Content-Length: 18446744073709551615\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: -1\r\n",
    ] {
        let refused = exchange_until_close(hub.address, request_head(&hub, "/api/publish", lengths).as_bytes()).await;
        assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
    }
    assert_alive(&hub).await;
}

#[actix_rt::test]
async fn million_newlines_count_as_whitespace_in_bodies() {
    let hub = start_hub().await;
    let newlines = "\n".repeat(1_100_000);
    assert_eq!(post_api(&hub, "channels", &newlines).await.json(), json!({"result": {"channels": {}}}));
    assert_eq!(post_api(&hub, "publish", &newlines).await.status, 400);
    let published = format!(r#"{{"channel":"news","data":1{newlines}}}"#);
    assert_eq!(post_api(&hub, "publish", &published).await.json(), json!({"result": {}}));
    let data = format!(r#"{{"channel":"news","data":[1{newlines}]}}"#);
    assert_eq!(post_api(&hub, "publish", &data).await.json()["error"]["code"], 106);
}

/// Sends chunks until the hub closes the connection; returns what it sent meanwhile.
async fn send_endless_body(hub: &TestHub, head: &str) -> String {
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("3e8\r\n{}\r\n", " ".repeat(1000)).repeat(100);
    let (mut read, mut write) = stream.split();
    let send = async { while write.write_all(chunk.as_bytes()).await.is_ok() {} };
    let mut response = Vec::new();
    let receive = async { while let Ok(1..) = read.read_buf(&mut response).await {} };
    let both = async { tokio::join!(send, receive) };
    let closed = tokio::time::timeout(PATIENCE, both).await;
    closed.unwrap_or_else(|_| panic!("the hub does not close the connection: {head}"));
    String::from_utf8_lossy(&response).into_owned()
}

#[actix_rt::test]
async fn endless_chunked_body_is_cut_off_at_the_limit() {
    let hub = start_hub_with(|config| config.api.body_bytes = 10_000).await;
    for path in ["/api/publish", "/v1/channels/news/messages"] {
        let response = send_endless_body(&hub, &request_head(&hub, path, "Transfer-Encoding: chunked\r\n")).await;
        assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    }
    assert_alive(&hub).await;
}

#[actix_rt::test]
async fn body_of_a_user_is_limited_by_the_publications_of_users() {
    let hub = start_hub_with(|config| {
        config.limits.publication_bytes = 2000;
        config.api.body_bytes = 10_000;
    })
    .await;
    let (path, bearer) = ("/v1/channels/news/messages", hub.bearer("ann"));
    let error = json!({"code": 106, "message": "the body is too long: limits.publication_bytes + 1024 = 3024"});
    let head = request_head(&hub, path, "Content-Length: 3025\r\n");
    let head = head.replace(&format!("X-API-Key: {API_KEY}"), &format!("Authorization: {bearer}"));
    // Nothing of the body is sent, so a hub that waited for it would not respond.
    let announced = http::exchange(hub.address, head.as_bytes()).await;
    assert_eq!((announced.status, &announced.json()["error"]), (413, &error));
    let chunked = send_endless_body(&hub, &head.replace("Content-Length: 3025", "Transfer-Encoding: chunked")).await;
    assert!(chunked.starts_with("HTTP/1.1 413 "), "{chunked}");
    // The longest data, and as many spaces around it as a body may have.
    let longest = format!("{0}\"{1}\"{0}", " ".repeat(512), "x".repeat(1998));
    let post = |name: &str, value: &str, body: &str| {
        let request = http::post(hub.address, path).header(name, value).header("Content-Type", "application/json");
        request.body(body).send()
    };
    assert_eq!(post("Authorization", &bearer, &longest).await.json(), json!({"result": {}}));
    assert_eq!(post("Authorization", &bearer, &format!("{longest} ")).await.status, 413);
    assert_eq!(post("X-API-Key", API_KEY, &format!("{longest:<10000}")).await.json(), json!({"result": {}}));
    assert_eq!(post("X-API-Key", API_KEY, &format!("{longest:<10001}")).await.status, 413);
}

#[actix_rt::test]
async fn endless_body_is_not_read_without_api_key_or_for_other_http_methods() {
    let hub = start_hub().await;
    let chunked =
        |line: &str| format!("{line} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", hub.address);
    let long =
        |line: &str| format!("{line} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000000000\r\n\r\n", hub.address);
    for (line, status) in [
        ("POST /api/publish", 401),
        ("POST /v1/channels/news/messages", 401),
        ("PUT /api/publish", 405),
        ("POST /auth/login", 413),
        ("POST /auth/ticket", 401),
        ("POST /auth/logout", 413),
        ("POST /auth/nothing", 404),
        ("PUT /auth/login", 405),
        ("POST /socket", 405),
        ("GET /socket", 426),
        ("GET /health/live", 200),
        ("POST /nothing", 404),
    ] {
        for head in [chunked(line), long(line)] {
            let response = send_endless_body(&hub, &head).await;
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {response}");
        }
    }
    assert_alive(&hub).await;
}

#[actix_rt::test]
async fn complete_chunked_body_is_accepted_and_connection_stays_open() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let chunks = "b\r\n{\"channel\":\r\n10\r\n\"news\",\"data\":1}\r\n0\r\n\r\n";
    let call = request_head(&hub, "/api/publish", "Transfer-Encoding: chunked\r\n") + chunks;
    for _ in 0..3 {
        stream.write_all(call.as_bytes()).await.unwrap();
        assert_eq!(ann.receive_publication().await, json!(1));
    }
    let mut responses = Vec::new();
    while String::from_utf8_lossy(&responses).matches("{\"result\":{}}").count() < 3 {
        assert!(stream.read_buf(&mut responses).await.unwrap() > 0, "{}", String::from_utf8_lossy(&responses));
    }
}

#[actix_rt::test]
async fn stalled_chunked_body_times_out() {
    let hub = start_hub().await;
    let begun = request_head(&hub, "/api/publish", "Transfer-Encoding: chunked\r\n") + "5\r\n{\"a\":\r\n";
    let (since, watch) = (Instant::now(), Stopwatch::start());
    let response = exchange_until_close(hub.address, begun.as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    assert!(since.elapsed().as_secs() >= 8 && watch.elapsed().as_secs() < 15, "{:?}", since.elapsed());
}

#[actix_rt::test]
async fn malformed_chunked_body_is_refused() {
    let hub = start_hub().await;
    for chunk in ["zz\r\n{}\r\n", "ffffffffffffffff1\r\n{}\r\n", "-1\r\n{}\r\n", "\r\n\r\n"] {
        let request = request_head(&hub, "/api/publish", "Transfer-Encoding: chunked\r\n") + chunk;
        let response = exchange_until_close(hub.address, request.as_bytes()).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{chunk:?}: {response}");
    }
    assert_alive(&hub).await;
}

#[actix_rt::test]
async fn other_http_methods_are_405_with_allow_header() {
    let hub = start_hub().await;
    for path in method_names().map(|method| format!("/api/{method}")).chain(["/v1/channels/news/messages".to_owned()]) {
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let refused = http::request(hub.address, method, &path).header("X-API-Key", API_KEY).send().await;
            assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")), "{method} {path}");
        }
    }
}

#[actix_rt::test]
async fn plain_publish_refuses_other_content_types() {
    let hub = start_hub().await;
    for content in [
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/html",
        "application/jsonp",
        "*/*",
        "",
        "json",
    ] {
        let request = http::post(hub.address, "/v1/channels/news/messages")
            .header("X-API-Key", API_KEY)
            .header("Content-Type", content);
        let refused = request.body("1").send().await;
        assert_eq!(refused.status, 415, "{content}");
        assert_reveals_nothing(&refused);
    }
    let without =
        http::post(hub.address, "/v1/channels/news/messages").header("X-API-Key", API_KEY).body("1").send().await;
    assert_eq!(without.status, 415);
}
