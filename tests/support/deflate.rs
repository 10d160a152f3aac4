//! A client that negotiates permessage-deflate (RFC 7692), and compresses and inflates messages with code of its own.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use wardcast::protocol::schema::{Command, SubscribeRequest};

use super::{
    TestHub,
    client::Stream,
    raw::{BINARY, FIN, Frame, RawClient, frame, handshake_with, text_frame},
};

pub const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
/// What browsers offer.
pub const OFFER: (&str, &str) = (EXTENSIONS, "permessage-deflate; client_max_window_bits");

/// Compresses a message by itself (RFC 7692 §7.2.1).
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(message.len() + 100);
    let mut compressor = Compress::new(Compression::best(), false);
    compressor.compress_vec(message, &mut compressed, FlushCompress::Sync).unwrap();
    assert_eq!(compressor.total_in() as usize, message.len());
    assert!(compressed.ends_with(&[0, 0, 0xff, 0xff]));
    compressed.truncate(compressed.len() - 4);
    compressed
}

/// Inflates a message by itself, with the largest window.
pub fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 << 20);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut inflater = Decompress::new(false);
    inflater.decompress_vec(&input, &mut message, FlushDecompress::Sync).unwrap();
    assert_eq!(inflater.total_in() as usize, input.len());
    message
}

/// A client that has offered compression or not.
pub struct DeflateClient {
    raw: RawClient<Box<dyn Stream>>,
    /// The head of the response to the handshake.
    head: String,
}

impl DeflateClient {
    pub async fn connect_over(stream: Box<dyn Stream>, hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut raw = RawClient { stream };
        raw.send(handshake_with(hub.address, path, headers).as_bytes()).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { raw, head }
    }

    /// Connects, and reads the connect push.
    pub async fn connect(hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> Self {
        let stream = TcpStream::connect(hub.address).await.unwrap();
        let mut client = Self::connect_over(Box::new(stream), hub, path, headers).await;
        client.receive().await;
        client
    }

    /// Connects with compression and JSON, and subscribes.
    pub async fn connect_subscriber(hub: &TestHub, channel: &str) -> Self {
        let mut client = Self::connect(hub, &hub.path_for("ann"), &[OFFER]).await;
        client.subscribe(channel, json!({})).await;
        client
    }

    pub fn accepted_extensions(&self) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: "))
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.raw.send(bytes).await;
    }

    pub async fn subscribe(&mut self, channel: &str, mut members: Value) -> Value {
        members["channel"] = json!(channel);
        self.send(&text_frame(&json!({"id": 1, "subscribe": members}).to_string())).await;
        let reply = self.receive().await.json();
        assert!(reply["subscribe"].is_object(), "{reply}");
        reply
    }

    pub async fn subscribe_protobuf(&mut self, channel: &str) {
        let subscribe = Some(SubscribeRequest { channel: channel.to_owned(), ..Default::default() });
        let command = Command { id: 1, subscribe, ..Default::default() };
        self.send(&frame(FIN | BINARY, &command.encode_length_delimited_to_vec())).await;
        assert!(self.receive().await.protobuf().subscribe.is_some());
    }

    pub async fn receive(&mut self) -> Frame {
        self.raw.next().await.expect("an open connection")
    }

    pub async fn receive_publication(&mut self) -> Value {
        self.receive().await.json()["push"]["pub"]["data"].take()
    }

    /// Reads until the connection ends; returns the code of the close frame.
    pub async fn wait_for_close(&mut self) -> Option<u16> {
        self.raw.wait_for_close().await
    }

    pub async fn wait_for_close_frame(&mut self) -> Option<Frame> {
        self.raw.wait_for_close_frame().await
    }
}
