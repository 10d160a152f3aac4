//! A WebSocket connection whose frames the test writes itself, byte by byte.

use std::net::SocketAddr;

use prost::Message as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use wardcast::protocol::schema::Reply;

use super::{PATIENCE, client::Stream, deflate::inflate};

pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
/// The bit of a frame's first byte that says that its message is compressed (RFC 7692 §6).
pub const RSV1: u8 = 0x40;

pub struct RawClient<S = TcpStream> {
    pub stream: S,
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    /// Whether RSV1 is set.
    pub is_compressed: bool,
    /// As on the wire.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame that is not compressed.
    pub fn new(opcode: u8, payload: &[u8]) -> Self {
        Self { opcode, is_compressed: false, payload: payload.to_vec() }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// The message of the frame, inflated if it is compressed.
    pub fn message(&self) -> Vec<u8> {
        if self.is_compressed { inflate(&self.payload) } else { self.payload.clone() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.message()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn protobuf(&self) -> Reply {
        Reply::decode_length_delimited(self.message().as_slice()).unwrap()
    }

    /// The code of a close frame.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().filter(|_| self.opcode == CLOSE);
        code.map(|code| u16::from_be_bytes(*code))
    }

    /// The reason of a close frame.
    pub fn close_reason(&self) -> &str {
        std::str::from_utf8(self.payload.get(2..).unwrap_or_default()).unwrap()
    }
}

/// A handshake with the key of RFC 6455 §1.3.
pub fn handshake(address: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A handshake with these further headers.
pub fn handshake_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    handshake(address, path).replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1)
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = [7, 11, 13, 17];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A text message in one frame.
pub fn text_frame(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

impl RawClient {
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        let mut raw = Self { stream: TcpStream::connect(address).await.unwrap() };
        raw.send(handshake(address, path).as_bytes()).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }
}

impl<S: Stream> RawClient<S> {
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("the socket accepts data in time").expect("an open connection");
        self.stream.flush().await.unwrap();
    }

    /// Sends as much as the server accepts; it may have closed already.
    pub async fn send_until_closed(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("a server that reads or closes");
    }

    /// Subscribes to a channel, and skips what arrives before the reply.
    pub async fn subscribe(&mut self, channel: &str) {
        self.send(&text_frame(&json!({"id": 1, "subscribe": {"channel": channel}}).to_string())).await;
        while self.next().await.expect("a reply").text() != r#"{"id":1,"subscribe":{}}"# {}
    }

    /// Returns the next frame; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame or an end in time").ok()
    }

    async fn read_frame(&mut self) -> std::io::Result<Frame> {
        let first = self.stream.read_u8().await?;
        let length = match self.stream.read_u8().await? {
            126 => u64::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await?;
        Ok(Frame { opcode: first & 0x0f, is_compressed: first & RSV1 != 0, payload })
    }

    /// Reads until the connection ends; returns the code of the server's close frame.
    pub async fn wait_for_close(&mut self) -> Option<u16> {
        self.wait_for_close_frame().await?.close_code()
    }

    /// Reads until the connection ends; returns the server's close frame.
    pub async fn wait_for_close_frame(&mut self) -> Option<Frame> {
        let mut close = None;
        while let Some(frame) = self.next().await {
            close = Some(frame).filter(|frame| frame.close_code().is_some()).or(close);
        }
        close
    }

    /// Reads the head of a response and nothing that follows it.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, self.stream.read_u8()).await.expect("a head in time").expect("a head"));
        }
        String::from_utf8(head).unwrap()
    }
}

/// Sends bytes unchanged and reads everything until the connection ends.
pub async fn exchange_until_close(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut response = Vec::new();
    // If the server refuses while the client still sends, a reset may follow its response.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut response)).await.expect("the end of the connection in time");
    String::from_utf8_lossy(&response).into_owned()
}
