//! HTTP requests to a hub, one after the other on a connection that is opened again when it has been idle.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderName, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::Endpoint;
use crate::http_client::SOFTWARE;

/// How long an idle connection is used: less than the [`KEEP_ALIVE`](crate::http::connection::KEEP_ALIVE) of a hub.
const MAX_IDLE: Duration = Duration::from_secs(3);

/// A connection for requests. It ends when the client is dropped.
pub(in crate::cli) struct HttpClient {
    endpoint: Endpoint,
    sender: SendRequest<Full<Bytes>>,
    /// When the last request was sent, or else when the connection was opened.
    used_at: Instant,
    timeout: Duration,
}

/// A response whose body has been read.
pub(in crate::cli) struct HttpResponse {
    pub(in crate::cli) status: StatusCode,
    pub(in crate::cli) body: Bytes,
}

/// A request without the headers that all requests have.
pub(super) struct HttpRequest<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Bytes,
}

impl HttpClient {
    /// Connects. The connection, and each response, may take `limit`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(in crate::cli) async fn connect(endpoint: &Endpoint, limit: Duration) -> Result<Self, String> {
        let sender = within(limit, open(endpoint)).await.map_err(|error| endpoint.describe(&error))?;
        Ok(Self { endpoint: endpoint.clone(), sender, used_at: Instant::now(), timeout: limit })
    }

    /// Sends a GET request, and reads the response up to `max_bytes`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(in crate::cli) async fn get(&mut self, path: &str, max_bytes: usize) -> Result<HttpResponse, String> {
        self.fetch(HttpRequest { method: Method::GET, path, headers: &[], body: Bytes::new() }, max_bytes).await
    }

    pub(super) async fn fetch(&mut self, request: HttpRequest<'_>, max_bytes: usize) -> Result<HttpResponse, String> {
        let (limit, endpoint) = (self.timeout, self.endpoint.clone());
        let exchange = async {
            let response = self.send(request).await?;
            let (status, body) = (response.status(), response.into_body());
            let body = Limited::new(body, max_bytes).collect().await.map_err(io::Error::other)?;
            Ok(HttpResponse { status, body: body.to_bytes() })
        };
        within(limit, exchange).await.map_err(|error| endpoint.describe(&error))
    }

    pub(super) async fn send(&mut self, request: HttpRequest<'_>) -> io::Result<Response<Incoming>> {
        let HttpRequest { method, path, headers, body } = request;
        let Endpoint { authority, base_path, .. } = &self.endpoint;
        let mut request = Request::builder()
            .method(method)
            .uri(if base_path.is_empty() && path.is_empty() { "/".to_owned() } else { format!("{base_path}{path}") })
            .header(HOST, authority)
            .header(USER_AGENT, SOFTWARE);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(body)).map_err(io::Error::other)?;
        let is_tls = self.endpoint.is_tls();
        if self.used_at.elapsed() > MAX_IDLE || self.sender.ready().await.is_err() {
            self.sender = open(&self.endpoint).await?;
        }
        self.used_at = Instant::now();
        self.sender.send_request(request).await.map_err(|error| {
            if error.is_parse() {
                let other = if is_tls { "http" } else { "https" };
                return io::Error::other(format!("the response is not HTTP; does the hub listen for {other}?"));
            }
            io::Error::other(error)
        })
    }
}

/// Opens a connection.
async fn open(endpoint: &Endpoint) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = endpoint.connect().await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

/// Waits for a future up to a limit.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let no_response = |_| io::Error::other(format!("no response within {} s", limit.as_secs()));
    timeout(limit, future).await.unwrap_or_else(|elapsed| Err(no_response(elapsed)))
}
