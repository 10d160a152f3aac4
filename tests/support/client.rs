//! A WebSocket client that is not ours (tokio-tungstenite), over plain TCP or TLS.

use std::{net::SocketAddr, sync::Arc};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
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
    /// Replies that shared a frame with one that was heard.
    heard: std::collections::VecDeque<String>,
}

/// What ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: Option<u16>,
    pub reason: String,
}

impl Client {
    pub async fn connect(address: SocketAddr, path: &str) -> Result<Self, Error> {
        Self::connect_with(address, path, &[]).await
    }

    /// Headers as pairs; `Sec-WebSocket-Protocol` among them.
    pub async fn connect_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        Self::over(Box::new(stream), &format!("ws://{address}{path}"), headers).await
    }

    /// Over TLS, trusting `root` only.
    pub async fn connect_tls(
        address: SocketAddr,
        path: &str,
        root: rustls_pki_types::CertificateDer<'static>,
    ) -> Result<Self, Error> {
        let stream = tls_stream(address, root).await?;
        Self::over(Box::new(stream), &format!("wss://localhost{path}"), &[]).await
    }

    async fn over(stream: Box<dyn Stream>, url: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let (socket, response) = timeout(PATIENCE, client_async(request, stream)).await.expect("a handshake")?;
        Ok(Self { socket, response, heard: Default::default() })
    }

    pub async fn send(&mut self, command: Value) {
        self.send_text(&command.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// The same, when the connection may have ended; whether it had not.
    pub async fn try_send_text(&mut self, text: &str) -> bool {
        timeout(PATIENCE, self.socket.send(Message::text(text))).await.expect("room in the socket").is_ok()
    }

    pub async fn send_message(&mut self, message: Message) {
        timeout(PATIENCE, self.socket.send(message)).await.expect("room in the socket").expect("a connection");
    }

    /// The next reply or push. Pings are answered on the way; `{}` is passed over and answered.
    pub async fn receive(&mut self) -> Value {
        let text = self.receive_text().await;
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
    }

    pub async fn receive_text(&mut self) -> String {
        match self.next().await {
            Ok(text) => text,
            Err(closed) => panic!("closed instead: {closed:?}"),
        }
    }

    /// The next text, or how the connection ended.
    pub async fn next(&mut self) -> Result<String, Closed> {
        loop {
            if let Some(text) = self.heard.pop_front() {
                return Ok(text);
            }
            match timeout(PATIENCE, self.socket.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => self.heard.extend(text.lines().map(str::to_owned)),
                Some(Ok(Message::Close(frame))) => {
                    let closed = frame.map(|frame| (u16::from(frame.code), frame.reason.to_string()));
                    let (code, reason) = closed.map_or((None, String::new()), |(code, reason)| (Some(code), reason));
                    return Err(Closed { code, reason });
                }
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return Err(Closed { code: None, reason: "cut".to_owned() }),
            }
        }
    }

    /// Reads one raw message, pings included.
    pub async fn next_message(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.socket.next())
            .await
            .expect("a message in time")
            .map(|message| message.expect("a message"))
    }

    /// Reads on until the connection ends; the code, and the disconnect push that came before.
    pub async fn wait_for_close(&mut self) -> (Option<u16>, Option<Value>) {
        let mut push = None;
        loop {
            match self.next().await {
                Ok(text) => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    push = value["push"].get("disconnect").cloned().or(push);
                }
                Err(closed) => return (closed.code, push),
            }
        }
    }

    pub async fn subscribe(&mut self, channel: &str) {
        self.send(json!({"id": 1, "subscribe": {"channel": channel}})).await;
        assert_eq!(self.receive().await, json!({"id": 1, "subscribe": {}}));
    }

    pub async fn subscribe_after_connect_push(&mut self, channel: &str) {
        assert!(self.receive().await["push"]["connect"].is_object());
        self.subscribe(channel).await;
    }

    /// Asks and hears the answer.
    pub async fn request(&mut self, command: Value) -> Value {
        self.send(command).await;
        self.receive().await
    }

    /// The data of the next publication.
    pub async fn receive_publication(&mut self) -> Value {
        let push = self.receive().await;
        assert!(push["push"]["pub"].is_object(), "a publication: {push}");
        push["push"]["pub"]["data"].clone()
    }
}

/// A TLS connection that trusts `root` only.
pub async fn tls_stream(
    address: SocketAddr,
    root: rustls_pki_types::CertificateDer<'static>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    tls_over(TcpStream::connect(address).await?, root).await
}

/// The same over a connection that is there.
pub async fn tls_over(
    stream: TcpStream,
    root: rustls_pki_types::CertificateDer<'static>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}
