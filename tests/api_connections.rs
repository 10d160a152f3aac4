//! HTTP connections of backends: they may be kept for any number of calls, but what they do not read is bounded.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{API_KEY, TestHub, http, raw::exchange_until_close, start_hub, start_hub_with};

fn request(hub: &TestHub, method_and_path: &str, lines: &str, body: &str) -> String {
    format!(
        "{method_and_path} HTTP/1.1\r\nHost: {}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
        hub.address,
        body.len()
    )
}

fn call(hub: &TestHub, method: &str, body: &str) -> String {
    request(hub, &format!("POST /api/{method}"), &format!("X-API-Key: {API_KEY}\r\n"), body)
}

fn publish(hub: &TestHub) -> String {
    call(hub, "publish", r#"{"channel":"news","data":1}"#)
}

async fn exchange(stream: &mut TcpStream, request: &str) -> http::Response {
    stream.write_all(request.as_bytes()).await.unwrap();
    http::receive(stream).await
}

#[actix_rt::test]
async fn connection_with_the_api_key_is_kept_for_any_number_of_calls() {
    let hub = start_hub().await;
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let message = request(
        &hub,
        "POST /v1/channels/news/messages",
        &format!("X-API-Key: {API_KEY}\r\nContent-Type: application/json\r\n"),
        "1",
    );
    let published = publish(&hub);
    let failed = call(&hub, "publish", "{}");
    let lines = request(&hub, "POST /api", &format!("X-API-Key: {API_KEY}\r\n"), r#"{"method":"info"}"#);
    for number in 0..500 {
        let request = [&published, &message, &failed, &lines][number % 4];
        let response = exchange(&mut stream, request).await;
        assert_eq!((response.status, response.header("connection")), (200, None), "call {number}");
    }
}

#[actix_rt::test]
async fn pipelined_calls_with_the_api_key_are_all_answered() {
    let hub = start_hub().await;
    let last = publish(&hub).replace("X-API-Key", "Connection: close\r\nX-API-Key");
    let responses = exchange_until_close(hub.address, (publish(&hub).repeat(999) + &last).as_bytes()).await;
    assert_eq!(responses.matches("HTTP/1.1 200").count(), 1000);
}

/// The requests are more than actix-http reads ahead, so it stops reading while the answers wait for the socket.
#[actix_rt::test]
async fn pipelined_calls_with_large_answers_are_all_answered() {
    const PAIRS: usize = 600;
    let hub = start_hub_with(|config| config.channels.history_size = 10).await;
    hub.publish_with(serde_json::json!({"channel": "large", "data": "x".repeat(60_000)})).await;
    let pair = publish(&hub) + &call(&hub, "history", r#"{"channel":"large","limit":1}"#);
    let last = publish(&hub).replace("X-API-Key", "Connection: close\r\nX-API-Key");
    let responses = exchange_until_close(hub.address, (pair.repeat(PAIRS) + &last).as_bytes()).await;
    assert_eq!(responses.matches("HTTP/1.1 200").count(), 2 * PAIRS + 1);
}

#[actix_rt::test]
async fn connection_is_kept_after_a_client_of_http_1_0() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let health_check = format!("GET /health/live HTTP/1.0\r\nHost: {}\r\n\r\n", hub.address);
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    for number in 0..10 {
        let checked = exchange_until_close(hub.address, health_check.as_bytes()).await;
        assert!(checked.starts_with("HTTP/1.0 200"), "{checked}");
        let response = exchange(&mut stream, &publish(&hub)).await;
        assert_eq!((response.status, response.header("connection")), (200, None), "call {number}");
    }
}

#[actix_rt::test]
async fn only_requests_without_the_api_key_count_towards_the_end_of_a_connection() {
    let hub = start_hub().await;
    let health = request(&hub, "GET /health/live", "", "");
    let wrong = publish(&hub).replace(API_KEY, "wrong");
    let ordinary = (health.repeat(99) + &publish(&hub).repeat(50) + &wrong).repeat(2);
    let responses = exchange_until_close(hub.address, (ordinary + &publish(&hub)).as_bytes()).await;
    let count = |text: &str| responses.matches(text).count();
    assert_eq!((count("HTTP/1.1 200"), count("HTTP/1.1 401"), count("connection: close")), (298, 2, 1));
}

/// The key is not asked for there, so it is no reason to keep the connection.
#[actix_rt::test]
async fn api_key_on_other_paths_does_not_keep_a_connection() {
    let hub = start_hub().await;
    let logout = request(&hub, "POST /auth/logout", &format!("X-API-Key: {API_KEY}\r\n"), "");
    let responses = exchange_until_close(hub.address, logout.repeat(300).as_bytes()).await;
    assert_eq!(responses.matches("HTTP/1.1 204").count(), 200);
}

#[actix_rt::test]
async fn client_that_reads_no_answers_gets_no_further_calls_carried_out() {
    const PAIRS: usize = 3000;
    let hub = start_hub_with(|config| config.channels.history_size = 10).await;
    let data = "x".repeat(60_000);
    hub.publish_with(serde_json::json!({"channel": "large", "data": data})).await;
    let before = hub.metric("wardcast_publications_total").await as usize;
    let pair = publish(&hub) + &call(&hub, "history", r#"{"channel":"large","limit":1}"#);
    let stream = TcpStream::connect(hub.address).await.unwrap();
    let (read, mut write) = stream.into_split();
    let writer = tokio::spawn(async move { write.write_all(pair.repeat(PAIRS).as_bytes()).await.map(|()| write) });
    let published = async || hub.metric("wardcast_publications_total").await as usize - before;
    crate::support::poll_until("the first calls are carried out", async || published().await > 0).await;
    // Each of these takes a turn of the worker, and longer than many calls.
    for _ in 0..200 {
        hub.metric("wardcast_publications_total").await;
    }
    let unread = published().await;
    assert!(unread < PAIRS / 2, "{unread} pairs of calls were carried out for a client that reads nothing");
    drop((read, writer));
}
