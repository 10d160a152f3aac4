//! A hub that stops loses no request: every connection is answered or refused, and what has begun is finished.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use actix_rt::task::JoinHandle;
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    API_KEY, Client, PATIENCE, TestHub,
    client::tls_over,
    http::{self, Response},
    poll_until, raw, start_hub_with,
    tls::Certificate,
};

const READY: &str = "GET /health/ready HTTP/1.1\r\nHost: hub\r\n\r\n";

fn publish_request() -> String {
    let body = r#"{"channel":"news","data":1}"#;
    let length = body.len();
    format!("POST /api/publish HTTP/1.1\r\nHost: hub\r\nX-API-Key: {API_KEY}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Starts a hub that is draining for a second when it stops, and takes at most twenty.
async fn start_draining_hub(certificate: Option<&Certificate>) -> TestHub {
    start_hub_with(|config| {
        (config.server.drain_delay, config.server.drain) = (Duration::from_secs(1), Duration::from_secs(20));
        certificate.iter().for_each(|certificate| certificate.configure(config));
    })
    .await
}

/// Begins the stop of a hub.
fn begin_stop(hub: TestHub) -> JoinHandle<()> {
    actix_rt::spawn(hub.stop())
}

/// Connects; `None` if the connection is refused.
async fn connect(address: SocketAddr) -> Option<TcpStream> {
    match TcpStream::connect(address).await {
        Ok(stream) => Some(stream),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        Err(error) => panic!("neither accepted nor refused: {error}"),
    }
}

/// Sends a request and reads the response. Panics if the connection ends without one.
async fn exchange(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), request: &str) -> Response {
    stream.write_all(request.as_bytes()).await.unwrap();
    http::receive(stream).await
}

/// Sends the request on fresh connections until one is refused; returns the responses.
async fn ask_until_refused(address: SocketAddr, certificate: Option<&Certificate>, request: &str) -> Vec<Response> {
    let mut responses = Vec::new();
    while let Some(mut stream) = connect(address).await {
        responses.push(match certificate {
            None => exchange(&mut stream, request).await,
            Some(certificate) => exchange(&mut tls_over(stream, certificate.root()).await.unwrap(), request).await,
        });
    }
    responses
}

async fn wait_until_refused(address: SocketAddr) {
    poll_until("a connection is refused", async || connect(address).await.is_none()).await;
}

async fn check_fresh_connections(certificate: Option<&Certificate>) {
    let hub = start_draining_hub(certificate).await;
    let address = hub.address;
    let handshake = raw::handshake(address, &hub.path_for("ann"));
    let publish = publish_request();
    let stopped = begin_stop(hub);
    tokio::task::yield_now().await;
    let (ready, published, handshakes) = tokio::join!(
        ask_until_refused(address, certificate, READY),
        ask_until_refused(address, certificate, &publish),
        ask_until_refused(address, certificate, &handshake),
    );
    stopped.await.unwrap();
    assert!(ready.len() > 3 && published.len() > 3 && handshakes.len() > 3, "they are answered before");
    for response in ready {
        assert_eq!((response.status, response.header("connection")), (503, Some("close")), "{response:?}");
        assert!(response.body.contains("is stopping"), "{response:?}");
        assert_eq!(response.header("retry-after"), Some("5"), "{response:?}");
    }
    assert!(published.iter().all(|response| response.status == 200), "{published:?}");
    assert_eq!(handshakes[0].status, 101);
    assert!(!handshakes[0].head.contains("close"), "{:?}", handshakes[0]);
    // Those that are answered while the listener closes are refused.
    let is_refusal = |response: &Response| (response.status, response.header("retry-after")) == (503, Some("1"));
    assert!(handshakes.iter().all(|response| response.status == 101 || is_refusal(response)), "{handshakes:?}");
}

#[actix_rt::test]
async fn stopping_hub_is_not_ready_and_serves_fresh_connections_until_it_refuses_them() {
    check_fresh_connections(None).await;
}

#[actix_rt::test]
async fn stopping_hub_serves_fresh_tls_connections_until_it_refuses_them() {
    check_fresh_connections(Some(&Certificate::new())).await;
}

async fn check_queued_connections(certificate: Option<&Certificate>) {
    let hub = start_hub_with(|config| {
        (config.server.workers, config.limits.http_connections) = (1, 1);
        certificate.iter().for_each(|certificate| certificate.configure(config));
    })
    .await;
    // The worker accepts no more connections while this one waits for its first request.
    let idle = connect(hub.address).await.unwrap();
    let handshake = raw::handshake(hub.address, &hub.path_for("ann"));
    let mut queued = join_all((0..20).map(|_| connect(hub.address))).await;
    // A TLS client can send its request only after the handshake.
    let requests = (0..20).map(|number| if number % 2 == 0 { publish_request() } else { handshake.clone() });
    if certificate.is_none() {
        for (stream, request) in queued.iter_mut().flatten().zip(requests.clone()) {
            stream.write_all(request.as_bytes()).await.unwrap();
        }
    }
    let stopped = begin_stop(hub);
    let answers =
        join_all(queued.into_iter().flatten().zip(requests).map(async |(mut stream, request)| match certificate {
            None => http::receive(&mut stream).await,
            Some(certificate) => exchange(&mut tls_over(stream, certificate.root()).await.unwrap(), &request).await,
        }))
        .await;
    assert_eq!(answers.len(), 20);
    for pair in answers.chunks(2) {
        assert_eq!((pair[0].status, pair[0].header("connection")), (200, Some("close")), "{pair:?}");
        assert_eq!((pair[1].status, pair[1].header("retry-after")), (503, Some("1")), "{pair:?}");
    }
    stopped.await.unwrap();
    drop(idle);
}

#[actix_rt::test]
async fn connections_in_the_kernels_queue_are_answered_when_the_listener_closes() {
    check_queued_connections(None).await;
}

#[actix_rt::test]
async fn tls_connections_in_the_kernels_queue_are_answered_when_the_listener_closes() {
    check_queued_connections(Some(&Certificate::new())).await;
}

#[actix_rt::test]
async fn publish_that_has_begun_is_finished_although_no_session_is_left() {
    let hub = start_draining_hub(None).await;
    let address = hub.address;
    let request = publish_request().replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
    let mut stream = connect(address).await.unwrap();
    assert_eq!(exchange(&mut stream, head).await.status, 100);
    let mut idle = connect(address).await.unwrap();
    let stopped = begin_stop(hub);
    wait_until_refused(address).await;
    // Then the hub only waits for requests that have begun.
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0])).await.unwrap().unwrap(), 0, "closed, not reset");
    let response = exchange(&mut stream, body).await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")), "{response:?}");
    stopped.await.unwrap();
}

#[actix_rt::test]
async fn open_connections_are_served_until_sessions_are_gone_and_handshakes_on_them_refused() {
    let hub = start_draining_hub(None).await;
    let address = hub.address;
    let handshake = raw::handshake(address, &hub.path_for("ann"));
    let (mut one, mut two) = (connect(address).await.unwrap(), connect(address).await.unwrap());
    for stream in [&mut one, &mut two] {
        let response = exchange(stream, &publish_request()).await;
        assert_eq!((response.status, response.header("connection")), (200, None), "kept open before the stop");
    }
    // It does not answer the close frame, so its session stays for a while.
    let session = hub.connect_raw("ann").await;
    let stopped = begin_stop(hub);
    wait_until_refused(address).await;
    let response = exchange(&mut one, &publish_request()).await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")), "{response:?}");
    let response = exchange(&mut two, &handshake).await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{response:?}");
    assert!(response.body.contains("stopping"), "{response:?}");
    drop(session);
    stopped.await.unwrap();
}

#[actix_rt::test]
async fn idle_kept_alive_connection_does_not_delay_the_stop() {
    let hub = start_hub_with(|config| config.server.drain = Duration::from_secs(60)).await;
    let mut idle = connect(hub.address).await.unwrap();
    exchange(&mut idle, &publish_request()).await;
    // actix-http would close it after 5 s.
    timeout(Duration::from_secs(4), hub.stop()).await.expect("the stop does not wait for the idle connection");
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0])).await.unwrap().unwrap(), 0, "closed, not reset");
}

#[actix_rt::test]
async fn next_hub_listens_on_the_address_while_the_old_one_closes_its_sessions() {
    let hub = start_draining_hub(None).await;
    let (address, path) = (hub.address, hub.path_for("ann"));
    let session = hub.connect_raw("ann").await;
    let stopped = begin_stop(hub);
    wait_until_refused(address).await;
    let next = start_hub_with(|config| config.server.bind = address.into()).await;
    Client::connect(next.address, &path).await.unwrap().receive_connect_push().await;
    assert!(!stopped.is_finished());
    drop(session);
    stopped.await.unwrap();
}
