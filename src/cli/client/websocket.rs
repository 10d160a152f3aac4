//! The client's side of a WebSocket (RFC 6455), with text frames only.

use std::{io, time::Duration};

use actix_codec::Framed;
use actix_http::ws::{self, Codec, Frame, Message};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::{
    Method, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;

use super::{
    Endpoint, HttpClient,
    http::{HttpRequest, within},
};

/// Maximum time for connecting.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of a message. Replies with histories are the longest.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// An open WebSocket.
pub(in crate::cli) struct WebSocketClient {
    framed: Framed<TokioIo<Upgraded>, Codec>,
}

/// What a client receives.
pub(in crate::cli) enum Received {
    /// A text.
    Text(Bytes),
    /// The end of the connection; the code is that of the close frame, if there was one.
    Closed(Option<u16>, String),
}

impl WebSocketClient {
    /// Connects to a path of the hub.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(in crate::cli) async fn connect(endpoint: &Endpoint, path: &str) -> Result<Self, String> {
        let mut http = HttpClient::connect(endpoint, TIMEOUT).await?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| format!("the system provides no random bytes: {error}"))?;
        let key = BASE64_STANDARD.encode(nonce);
        let request = HttpRequest {
            method: Method::GET,
            path,
            headers: &[
                (CONNECTION, "Upgrade"),
                (UPGRADE, "websocket"),
                (SEC_WEBSOCKET_VERSION, "13"),
                (SEC_WEBSOCKET_KEY, &key),
            ],
            body: Bytes::new(),
        };
        let opening = async {
            let response = http.send(request).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(io::Error::other(format!("no WebSocket at {path}: {}", response.status())));
            }
            let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT);
            if accept.is_none_or(|accept| accept.as_bytes() != ws::hash_key(key.as_bytes())) {
                return Err(io::Error::other(
                    "the response to the WebSocket handshake has a wrong Sec-WebSocket-Accept",
                ));
            }
            hyper::upgrade::on(response).await.map_err(io::Error::other)
        };
        let upgraded = within(TIMEOUT, opening).await.map_err(|error| endpoint.describe(&error))?;
        let codec = Codec::new().client_mode().max_size(MAX_MESSAGE_BYTES);
        Ok(Self { framed: Framed::new(TokioIo::new(upgraded), codec) })
    }

    /// Sends a text.
    pub(in crate::cli) async fn send(&mut self, text: String) -> Result<(), String> {
        self.framed.send(Message::Text(text.into())).await.map_err(|error| error.to_string())
    }

    /// Receives the next text, or the end. Answers pings.
    pub(in crate::cli) async fn receive(&mut self) -> Received {
        loop {
            match self.framed.next().await {
                Some(Ok(Frame::Text(text))) => return Received::Text(text),
                Some(Ok(Frame::Ping(payload))) => _ = self.framed.send(Message::Pong(payload)).await,
                Some(Ok(Frame::Close(reason))) => {
                    // The server closes when it has the answer.
                    _ = self.framed.send(Message::Close(reason.clone())).await;
                    let text = reason.as_ref().and_then(|reason| reason.description.clone()).unwrap_or_default();
                    return Received::Closed(reason.map(|reason| reason.code.into()), text);
                }
                Some(Ok(Frame::Pong(_))) => {}
                Some(Ok(_)) => return Received::Closed(None, "an unexpected frame".to_owned()),
                Some(Err(error)) => return Received::Closed(None, error.to_string()),
                None => return Received::Closed(None, "the connection was lost".to_owned()),
            }
        }
    }
}
