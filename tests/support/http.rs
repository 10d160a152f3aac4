//! An HTTP/1.1 client that also sends what no ordinary client would.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

pub struct Request {
    address: SocketAddr,
    head: String,
    body: Vec<u8>,
}

/// A response. Its status is 0 if the connection was closed without one.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn get(address: SocketAddr, path: &str) -> Request {
    request(address, "GET", path)
}

pub fn post(address: SocketAddr, path: &str) -> Request {
    request(address, "POST", path)
}

pub fn request(address: SocketAddr, method: &str, path: &str) -> Request {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    Request { address, head, body: Vec::new() }
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    /// Sets the body and its `Content-Length`.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// Sets a body that need not be JSON, with the content type of JSON.
    pub fn json_text(self, body: String) -> Self {
        self.header("Content-Type", "application/json").body(body)
    }

    /// Sets a JSON body and its content type.
    pub fn json(self, body: Value) -> Self {
        self.json_text(body.to_string())
    }

    pub async fn send(self) -> Response {
        let mut bytes = self.head.into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        exchange(self.address, &bytes).await
    }
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The value of the first header with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Sends bytes unchanged and reads one response, to its end or to the end of the connection.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Response {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses early may close before everything is sent.
    let _ = stream.write_all(bytes).await;
    let mut received = Vec::new();
    timeout(PATIENCE, read_response(&mut stream, &mut received)).await.expect("a response in time");
    let text = String::from_utf8_lossy(&received).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Response { status, head: head.to_owned(), body: body.to_owned() }
}

/// Reads the next response of a connection. Panics if the connection ends without one.
pub async fn receive(stream: &mut (impl AsyncReadExt + Unpin)) -> Response {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(b"\r\n\r\n") {
        let read = timeout(PATIENCE, stream.read_exact(&mut byte)).await.expect("a response in time");
        read.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&received)));
        received.push(byte[0]);
    }
    let head = String::from_utf8(received).unwrap();
    let mut response = Response { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head, body: String::new() };
    let mut body = vec![0; response.header("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    response.body = String::from_utf8(body).unwrap();
    response
}

async fn read_response(stream: &mut TcpStream, received: &mut Vec<u8>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = stream.read(&mut buffer).await {
        received.extend_from_slice(&buffer[..read]);
        if read == 0 || is_complete(received) {
            return;
        }
    }
}

fn is_complete(received: &[u8]) -> bool {
    let text = String::from_utf8_lossy(received);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    head.starts_with("HTTP/1.1 101") || length.is_some_and(|length| body.len() >= length)
}
