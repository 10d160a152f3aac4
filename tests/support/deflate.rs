//! A client that negotiates permessage-deflate (RFC 7692), and compresses and inflates messages with code of its own.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use wardcast::protocol::schema::{Command, Reply, SubscribeRequest};

use super::{
    PATIENCE, TestHub,
    client::Stream,
    raw::{BINARY, CLOSE, FIN, frame, handshake_with, text_frame},
};

/// The bit of a frame's first byte that says that its message is compressed.
pub const RSV1: u8 = 0x40;
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
fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 << 20);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut inflater = Decompress::new(false);
    inflater.decompress_vec(&input, &mut message, FlushDecompress::Sync).unwrap();
    assert_eq!(inflater.total_in() as usize, input.len());
    message
}

/// A client that writes and reads the frames itself.
pub struct DeflateClient {
    stream: Box<dyn Stream>,
    /// The head of the response to the handshake.
    head: String,
}

/// A message from the hub.
#[derive(Debug)]
pub struct Received {
    pub first: u8,
    /// As on the wire.
    pub payload: Vec<u8>,
    pub message: Vec<u8>,
}

impl Received {
    pub fn is_compressed(&self) -> bool {
        self.first & RSV1 != 0
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.message).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn protobuf(&self) -> Reply {
        Reply::decode_length_delimited(self.message.as_slice()).unwrap()
    }
}

impl DeflateClient {
    pub async fn connect_over(stream: Box<dyn Stream>, hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut client = Self { stream, head: String::new() };
        client.send(handshake_with(hub.address, path, headers).as_bytes()).await;
        while !client.head.ends_with("\r\n\r\n") {
            client.head.push(client.stream.read_u8().await.expect("a head").into());
        }
        assert!(client.head.starts_with("HTTP/1.1 101 "), "{}", client.head);
        client
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
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("the socket accepts data in time").expect("an open connection");
        self.stream.flush().await.unwrap();
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

    pub async fn receive(&mut self) -> Received {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame in time").expect("an open connection")
    }

    async fn read_frame(&mut self) -> std::io::Result<Received> {
        let first = self.stream.read_u8().await?;
        let length = match self.stream.read_u8().await? {
            126 => u64::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await?;
        let message = if first & RSV1 != 0 { inflate(&payload) } else { payload.clone() };
        Ok(Received { first, payload, message })
    }

    pub async fn receive_publication(&mut self) -> Value {
        self.receive().await.json()["push"]["pub"]["data"].take()
    }

    /// Reads until the connection ends; returns the code of the close frame.
    pub async fn wait_for_close(&mut self) -> Option<u16> {
        let mut code = None;
        while let Ok(received) = timeout(PATIENCE, self.read_frame()).await.expect("an end in time") {
            if received.first & 0xf == CLOSE {
                code = received.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
        code
    }
}
