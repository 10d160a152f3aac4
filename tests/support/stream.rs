//! A client of an HTTP response that does not end: events, or lines.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, TestHub, http};

/// An open stream, after the head of its response.
pub struct StreamClient {
    pub stream: TcpStream,
    pub head: http::Response,
    received: Vec<u8>,
    /// What ends a message.
    separator: &'static [u8],
}

/// An event of a `text/event-stream`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub id: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// Reads until this text has arrived.
pub async fn read_until(stream: &mut (impl AsyncReadExt + Unpin + ?Sized), text: &str) {
    read_more_until(stream, &mut String::new(), text).await;
}

/// Reads until `received` has this text.
pub async fn read_more_until(stream: &mut (impl AsyncReadExt + Unpin + ?Sized), received: &mut String, text: &str) {
    let mut buffer = [0; 4096];
    while !received.contains(text) {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await;
        let count = read.unwrap_or_else(|_| panic!("no {text:?} in {received}")).unwrap();
        assert_ne!(count, 0, "the connection has ended without {text:?}: {received}");
        received.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

/// The query of `/connection/sse` with these commands.
pub fn first_commands(commands: &Value) -> String {
    format!(
        "cf_connect={}",
        percent_encoding::utf8_percent_encode(&commands.to_string(), percent_encoding::NON_ALPHANUMERIC)
    )
}

/// The path of a stream of events that carries these commands, and no token elsewhere.
pub fn sse_path(commands: &Value) -> String {
    format!("/connection/sse?{}", first_commands(commands))
}

/// GET with these headers, on a connection that stays open.
pub fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{headers}\r\n")
}

impl StreamClient {
    /// Sends a request, and reads the head of the response.
    pub async fn open(address: SocketAddr, request: &[u8], separator: &'static [u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let head = http::receive(&mut stream).await;
        Self { stream, head, received: Vec::new(), separator }
    }

    /// Opens a stream of events.
    pub async fn events(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let client = Self::open(address, get(address, path, headers).as_bytes(), b"\n\n").await;
        assert_eq!(client.head.status, 200, "{:?}", client.head);
        client
    }

    /// Opens the stream of an SDK session over SSE; returns it with the connect result.
    pub async fn connect_sse(hub: &TestHub, token: &str) -> (Self, Value) {
        let path = sse_path(&json!({"id": 1, "connect": {"token": token}}));
        let mut client = Self::events(hub.address, &path, &[]).await;
        let reply = client.receive().await;
        assert!(reply["connect"]["session"].is_string(), "{reply}");
        (client, reply["connect"].clone())
    }

    /// Opens the stream of an SDK session over HTTP streaming; returns it with the connect result.
    pub async fn connect_http_stream(hub: &TestHub, token: &str) -> (Self, Value) {
        let body = json!({"id": 1, "connect": {"token": token}}).to_string();
        let request = post(hub.address, "/connection/http_stream", "application/json", body.as_bytes());
        let mut client = Self::open(hub.address, &request, b"\n").await;
        assert_eq!(client.head.status, 200, "{:?}", client.head);
        let reply = client.receive().await;
        (client, reply["connect"].clone())
    }

    /// Returns the bytes of the next message, without what ends it; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.received.windows(self.separator.len()).position(|bytes| bytes == self.separator);
            if let Some(end) = end {
                let message = self.received[..end].to_vec();
                self.received.drain(..end + self.separator.len());
                return Some(message);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("a message in time");
            if !read.is_ok_and(|bytes| bytes > 0) {
                return None;
            }
        }
    }

    /// Returns the next event that is no comment; `None` at the end of the connection.
    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            let text = String::from_utf8(self.next().await?).unwrap();
            let mut event = Event::default();
            for line in text.lines() {
                match line.split_once(": ") {
                    Some(("event", name)) => event.name = name.to_owned(),
                    Some(("id", id)) => event.id = id.to_owned(),
                    Some(("data", data)) => event.data = data.to_owned(),
                    Some(("retry", time)) => assert!((500..=2500).contains(&time.parse().unwrap()), "{text:?}"),
                    _ => assert!(line.starts_with(':'), "{text:?}"),
                }
            }
            if event != Event::default() {
                return Some(event);
            }
        }
    }

    /// Returns the next event.
    pub async fn event(&mut self) -> Event {
        self.next_event().await.expect("an event")
    }

    /// Returns the next message of the protocol that is no ping.
    pub async fn receive(&mut self) -> Value {
        loop {
            let message = if self.separator == b"\n" {
                serde_json::from_slice(&self.next().await.expect("a line")).unwrap()
            } else {
                self.event().await.json()
            };
            if message != json!({}) {
                return message;
            }
        }
    }

    /// Returns the data of the next publication.
    pub async fn receive_publication(&mut self) -> Value {
        let received = self.receive().await;
        assert!(received["push"]["pub"].is_object(), "not a publication: {received}");
        received["push"]["pub"]["data"].clone()
    }

    /// Reads the disconnect push and then the end of the connection; returns code and reason.
    pub async fn wait_for_close(&mut self) -> (u64, String) {
        loop {
            let received = self.receive().await;
            if let Some(code) = received["push"]["disconnect"]["code"].as_u64() {
                assert_eq!(self.next().await, None, "the end");
                return (code, received["push"]["disconnect"]["reason"].as_str().unwrap().to_owned());
            }
        }
    }
}

/// POST with a body, on a connection that stays open.
pub fn post(address: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Sends commands for the session of a connect result.
pub async fn emulate(address: SocketAddr, connected: &Value, commands: &Value) -> http::Response {
    let request = json!({"session": connected["session"], "node": connected["node"], "data": commands.to_string()});
    http::post(address, "/emulation").json(request).send().await
}

/// Subscribes the session of a stream to a channel, and reads the reply.
pub async fn subscribe(address: SocketAddr, client: &mut StreamClient, connected: &Value, channel: &str) {
    let response = emulate(address, connected, &json!({"id": 2, "subscribe": {"channel": channel}})).await;
    assert_eq!(response.status, 204, "{response:?}");
    let reply = client.receive().await;
    assert!(reply["subscribe"].is_object(), "{reply}");
}
