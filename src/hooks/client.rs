//! The HTTP client of one hook: POST requests on kept connections, without redirects, with a limit on the size of responses.
//! The caller limits the time.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    certificate::{self, CertificateError},
    config::HookEndpoint,
};

/// Maximum number of addresses of a name to which the client tries to connect.
const MAX_ADDRESSES: usize = 8;
/// For the connection to one address: the next one may answer where this one is silent.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of the head of a response.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long an unused connection is kept: less than the servers of most backends keep theirs (Node and uvicorn 5 s), so that a
/// request seldom meets a connection that its server is closing.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Maximum bytes of a body that are read only to keep the connection. Above it, the connection is closed.
const MAX_DRAINED_BYTES: usize = 64 * 1024;
/// Maximum time for that.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum connections of a hook on which such bodies are read at the same time: they do not count for its concurrency. Above it, the
/// connection is closed.
const MAX_DRAINING: usize = 4;

/// Why a call of a hook has no valid answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error("cannot resolve the host: {0}")]
    Resolve(std::io::Error),
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("TLS handshake failed: {0}; hooks.ca names the certificate authorities")]
    Tls(std::io::Error),
    #[error("HTTP error: {0}")]
    Http(#[from] hyper::Error),
    #[error("the response has status {0}, but it must be 200; redirects are not followed")]
    Status(StatusCode),
    #[error("the response is longer than {0} bytes (hooks.response_bytes)")]
    TooLarge(usize),
    #[error("no complete response in time (timeout of the hook)")]
    TimedOut,
    #[error("the response is not valid: {0}")]
    Malformed(String),
    #[error("too many calls: they wait for the concurrency of the hook (hooks.waiting, timeout)")]
    Busy,
    #[error("the hook has failed too often (hooks.failures) and is not called for hooks.pause")]
    Paused,
}

impl HookError {
    /// Returns the error as one word, for `wardcast_hook_calls_total`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "unresolved",
            Self::Connect(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::TimedOut => "timeout",
            Self::Malformed(_) => "malformed",
            Self::Busy => "busy",
            Self::Paused => "paused",
        }
    }

    /// Returns whether the backend was not even asked.
    pub(super) fn is_unasked(&self) -> bool {
        matches!(self, Self::Busy | Self::Paused)
    }

    /// Returns whether the backend is away or overloaded, so that others have nothing to expect of it, either. Any other answer may be
    /// caused by what one client has sent.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Connect(_) | Self::Tls(_) | Self::Http(_) | Self::TimedOut => true,
            Self::Status(status) => [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ]
            .contains(status),
            Self::TooLarge(_) | Self::Malformed(_) | Self::Busy | Self::Paused => false,
        }
    }
}

/// Why a request on a connection failed.
enum ExchangeError {
    /// The connection was closed before the request was written: it can be sent on another one.
    Unsent,
    Failed(HookError),
}

type Connection = SendRequest<Full<Bytes>>;

/// The client.
pub(super) struct HookClient {
    endpoint: HookEndpoint,
    tls: Option<TlsConnector>,
    max_bytes: usize,
    idle: Arc<IdleConnections>,
}

/// The connections of a hook that no call uses.
struct IdleConnections {
    /// Each with the time of its last use. There are hardly more than calls at the same time.
    unused: Mutex<Vec<(Connection, Instant)>>,
    /// One for each connection on which a body is read to its end.
    draining: Arc<Semaphore>,
}

impl IdleConnections {
    fn new() -> Self {
        Self { unused: Mutex::default(), draining: Arc::new(Semaphore::new(MAX_DRAINING)) }
    }

    /// Returns the one that was used last.
    fn take(&self) -> Option<Connection> {
        let mut unused = self.unused.lock();
        unused.retain(|(connection, used)| used.elapsed() < KEEP_ALIVE && !connection.is_closed());
        unused.pop().map(|(connection, _)| connection)
    }

    fn add(&self, connection: Connection) {
        self.unused.lock().push((connection, Instant::now()));
    }

    /// Adds a connection when a body that does not matter has been read to its end, if that is soon. The caller does not wait.
    fn add_after(self: Arc<Self>, mut body: Incoming, connection: Connection) {
        if body.is_end_stream() {
            return self.add(connection);
        }
        let Ok(permit) = self.draining.clone().try_acquire_owned() else { return };
        actix_rt::spawn(async move {
            let drained = async {
                let mut bytes = 0;
                while let Some(frame) = body.frame().await {
                    bytes += frame.ok()?.data_ref().map_or(0, Bytes::len);
                    if bytes > MAX_DRAINED_BYTES {
                        return None;
                    }
                }
                Some(())
            };
            if let Ok(Some(())) = timeout(DRAIN_TIMEOUT, drained).await {
                self.add(connection);
            }
            drop(permit);
        });
    }
}

impl HookClient {
    pub(super) fn new(endpoint: HookEndpoint, ca: Option<&Path>, max_bytes: usize) -> Result<Self, CertificateError> {
        let tls = endpoint.is_https.then(|| certificate::tls_connector(ca)).transpose()?;
        Ok(Self { endpoint, tls, max_bytes, idle: Arc::new(IdleConnections::new()) })
    }

    pub(super) fn endpoint(&self) -> &HookEndpoint {
        &self.endpoint
    }

    /// Posts JSON, and returns the body of the response.
    pub(super) async fn post(&self, body: &Bytes, headers: &HeaderMap) -> Result<Bytes, HookError> {
        while let Some(connection) = self.idle.take() {
            match self.exchange(connection, body, headers).await {
                Ok(response) => return Ok(response),
                Err(ExchangeError::Failed(error)) => return Err(error),
                Err(ExchangeError::Unsent) => {}
            }
        }
        let connection = self.connect().await?;
        self.exchange(connection, body, headers).await.map_err(|error| match error {
            ExchangeError::Failed(error) => error,
            ExchangeError::Unsent => HookError::Connect(std::io::ErrorKind::ConnectionReset.into()),
        })
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Bytes, ExchangeError> {
        connection.ready().await.map_err(|_| ExchangeError::Unsent)?;
        let request = self.request(body, headers).map_err(ExchangeError::Failed)?;
        let response = connection.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(_) => ExchangeError::Unsent,
            None => ExchangeError::Failed(error.into_error().into()),
        })?;
        let (status, body) = (response.status(), response.into_body());
        if status != StatusCode::OK {
            self.idle.clone().add_after(body, connection);
            return Err(ExchangeError::Failed(HookError::Status(status)));
        }
        let bytes = self.read_body(body).await.map_err(ExchangeError::Failed)?;
        self.idle.add(connection);
        Ok(bytes)
    }

    fn request(&self, body: &Bytes, headers: &HeaderMap) -> Result<Request<Full<Bytes>>, HookError> {
        let mut request = Request::post(&self.endpoint.path)
            .header(HOST, self.endpoint.authority())
            .body(Full::new(body.clone()))
            .map_err(|error| HookError::Malformed(error.to_string()))?;
        request.headers_mut().extend(headers.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = HeaderValue::from_static(concat!("wardcast/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        Ok(request)
    }

    async fn connect(&self) -> Result<Connection, HookError> {
        let HookEndpoint { host, port, .. } = &self.endpoint;
        let addresses: Vec<SocketAddr> =
            lookup_host((host.as_str(), *port)).await.map_err(HookError::Resolve)?.collect();
        let stream = connect_to_any(&addresses).await?;
        // Requests are small, and their answers are waited for.
        stream.set_nodelay(true).map_err(HookError::Connect)?;
        let Some(tls) = &self.tls else { return start_connection(stream).await };
        let name = ServerName::try_from(host.clone())
            .map_err(|_| HookError::Tls(std::io::Error::other("the host is not a valid server name")))?;
        start_connection(tls.connect(name, stream).await.map_err(HookError::Tls)?).await
    }

    /// Reads the body of a response, up to the limit.
    async fn read_body(&self, mut body: Incoming) -> Result<Bytes, HookError> {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > self.max_bytes {
                return Err(HookError::TooLarge(self.max_bytes));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    }
}

/// Connects to the first of these addresses that is reachable.
async fn connect_to_any(addresses: &[SocketAddr]) -> Result<TcpStream, HookError> {
    let mut error = HookError::Resolve(std::io::ErrorKind::NotFound.into());
    for address in addresses.iter().take(MAX_ADDRESSES) {
        match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(failed)) => error = HookError::Connect(failed),
            Err(_) => error = HookError::Connect(std::io::ErrorKind::TimedOut.into()),
        }
    }
    Err(error)
}

/// Starts HTTP on a connection. The task that moves its bytes ends when the sender is dropped.
async fn start_connection<S>(stream: S) -> Result<Connection, HookError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
    actix_rt::spawn(async move {
        // The sender gets the error, too.
        let _ = connection.await;
    });
    Ok(sender)
}
