//! An independent WebSocket client (tokio-tungstenite), over plain TCP or TLS.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use futures_util::{SinkExt, StreamExt};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::Response},
};

use super::PATIENCE;

pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

pub struct Client {
    socket: WebSocketStream<Box<dyn Stream>>,
    pub response: Response<Option<Vec<u8>>>,
    /// Replies and pushes that arrived in one frame with the last one returned.
    received: VecDeque<String>,
}

/// How a connection ended. Without a close frame there is no code.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: Option<u16>,
    pub reason: String,
}

impl Client {
    pub async fn connect(address: SocketAddr, path: &str) -> Result<Self, Error> {
        Self::connect_with(address, path, &[]).await
    }

    /// Connects with these headers, `Sec-WebSocket-Protocol` among them.
    pub async fn connect_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        Self::connect_over(Box::new(stream), &format!("ws://{address}{path}"), headers).await
    }

    /// Connects over TLS and trusts only `root`.
    pub async fn connect_tls(address: SocketAddr, path: &str, root: CertificateDer<'static>) -> Result<Self, Error> {
        let stream = tls_stream(address, root).await?;
        Self::connect_over(Box::new(stream), &format!("wss://localhost{path}"), &[]).await
    }

    /// Connects over an open stream, with TLS below it or not.
    pub async fn connect_over(stream: Box<dyn Stream>, url: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let (socket, response) =
            timeout(PATIENCE, client_async(request, stream)).await.expect("a response to the handshake in time")?;
        Ok(Self { socket, response, received: VecDeque::new() })
    }

    /// Sends one command.
    pub async fn send(&mut self, command: Value) {
        self.send_text(&command.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends text and returns whether the connection was still open.
    pub async fn try_send_text(&mut self, text: &str) -> bool {
        timeout(PATIENCE, self.socket.send(Message::text(text))).await.expect("the socket accepts data in time").is_ok()
    }

    pub async fn send_message(&mut self, message: Message) {
        let sent = timeout(PATIENCE, self.socket.send(message)).await;
        sent.expect("the socket accepts data in time").expect("an open connection");
    }

    /// Returns the next reply or push. Answers WebSocket pings on the way.
    pub async fn receive(&mut self) -> Value {
        let text = self.receive_text().await;
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
    }

    pub async fn receive_text(&mut self) -> String {
        match self.next().await {
            Ok(text) => text,
            Err(closed) => panic!("the connection was closed: {closed:?}"),
        }
    }

    /// Returns the next reply or push as text, or how the connection ended.
    pub async fn next(&mut self) -> Result<String, Closed> {
        loop {
            if let Some(text) = self.received.pop_front() {
                return Ok(text);
            }
            match timeout(PATIENCE, self.socket.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => self.received.extend(text.lines().map(str::to_owned)),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(Closed { code: Some(frame.code.into()), reason: frame.reason.to_string() });
                }
                Some(Ok(Message::Close(None))) => return Err(Closed { code: None, reason: String::new() }),
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return Err(Closed { code: None, reason: "aborted".to_owned() }),
            }
        }
    }

    /// Returns the next WebSocket message, pings included.
    pub async fn next_message(&mut self) -> Option<Message> {
        let next = timeout(PATIENCE, self.socket.next()).await.expect("a message in time");
        next.map(|message| message.expect("a message"))
    }

    /// Reads until the connection ends; returns code and reason of the close frame. No push may announce them.
    pub async fn wait_for_close(&mut self) -> (Option<u16>, String) {
        loop {
            match self.next().await {
                Ok(text) => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    assert!(value["push"].get("disconnect").is_none(), "a push before the close frame: {value}");
                }
                Err(closed) => return (closed.code, closed.reason),
            }
        }
    }

    /// Sends a command and returns the next reply or push.
    pub async fn request(&mut self, command: Value) -> Value {
        self.send(command).await;
        self.receive().await
    }

    /// Subscribes to a channel, which has nothing to report in the reply.
    pub async fn subscribe(&mut self, channel: &str) {
        let reply = self.subscribe_with(channel, json!({})).await;
        assert_eq!(reply, json!({"id": 1, "subscribe": {}}));
    }

    /// Sends a `subscribe` command with these further members; returns the reply.
    pub async fn subscribe_with(&mut self, channel: &str, mut members: Value) -> Value {
        members["channel"] = json!(channel);
        let reply = self.request(json!({"id": 1, "subscribe": members})).await;
        assert_eq!(reply["id"], 1, "{reply}");
        reply
    }

    /// Publishes to a channel. The client must not be subscribed to it, or the push may come before the reply.
    pub async fn publish(&mut self, channel: &str, data: Value) {
        let reply = self.request(json!({"id": 1, "publish": {"channel": channel, "data": data}})).await;
        assert_eq!(reply, json!({"id": 1, "publish": {}}));
    }

    /// Returns the content of the connect push, which must come next.
    pub async fn receive_connect_push(&mut self) -> Value {
        let received = self.receive().await;
        assert!(received["push"]["connect"]["client"].is_string(), "not a connect push: {received}");
        received["push"]["connect"].clone()
    }

    /// Returns the data of the next publication.
    pub async fn receive_publication(&mut self) -> Value {
        let received = self.receive().await;
        assert!(received["push"]["pub"].is_object(), "not a publication: {received}");
        received["push"]["pub"]["data"].clone()
    }
}

/// Opens a TLS connection that trusts only `root`.
pub async fn tls_stream(address: SocketAddr, root: CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    tls_over(TcpStream::connect(address).await?, root).await
}

/// Starts TLS on an open connection and trusts only `root`.
pub async fn tls_over<S: Stream>(stream: S, root: CertificateDer<'static>) -> std::io::Result<TlsStream<S>> {
    tls_with(Arc::new(tls_client_config(root)), stream).await
}

/// Starts TLS on an open connection with a configuration that several connections may share.
pub async fn tls_with<S: Stream>(config: Arc<rustls::ClientConfig>, stream: S) -> std::io::Result<TlsStream<S>> {
    tokio_rustls::TlsConnector::from(config).connect("localhost".try_into().unwrap(), stream).await
}

/// A client that trusts only `root`, with all that the library supports.
pub fn tls_client_config(root: CertificateDer<'static>) -> rustls::ClientConfig {
    tls_client_config_for(root, rustls::crypto::aws_lc_rs::default_provider(), rustls::ALL_VERSIONS)
}

/// A client that trusts only `root`, with this cryptography and these versions.
pub fn tls_client_config_for(
    root: CertificateDer<'static>,
    provider: rustls::crypto::CryptoProvider,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
    builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots).with_no_client_auth()
}
