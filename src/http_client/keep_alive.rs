//! POST requests to one URL, on connections that are kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, StatusCode,
    body::{Body, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use super::{Connection, HttpClient, HttpUrl, RequestError};

/// How long an unused connection is kept: less than the servers of most backends keep theirs (Node and uvicorn 5 s), so that a
/// request seldom meets a connection that its server is closing.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Maximum bytes of a body that are read only to keep the connection. Above it, the connection is closed.
const MAX_DRAINED_BYTES: usize = 64 * 1024;
/// Maximum time for that.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum connections of a client on which such bodies are read at the same time: they do not count as calls. Above it, the connection
/// is closed.
const MAX_DRAINING: usize = 4;

/// Why a request on a connection failed.
enum ExchangeError {
    /// The connection was closed before the request was written: it can be sent on another one.
    Unsent,
    Failed(RequestError),
}

impl From<RequestError> for ExchangeError {
    fn from(error: RequestError) -> Self {
        Self::Failed(error)
    }
}

/// Posts to one URL.
pub(crate) struct KeepAliveClient {
    url: HttpUrl,
    client: HttpClient,
    idle: Arc<IdleConnections>,
}

/// The connections that no request uses.
struct IdleConnections {
    /// Each with the time of its last use. There are hardly more than requests at the same time.
    unused: Mutex<Vec<(Connection, Instant)>>,
    /// One for each connection on which a body is read to its end.
    draining: Arc<Semaphore>,
}

impl IdleConnections {
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

impl KeepAliveClient {
    pub(crate) fn new(url: HttpUrl, client: HttpClient) -> Self {
        let draining = Arc::new(Semaphore::new(MAX_DRAINING));
        Self { url, client, idle: Arc::new(IdleConnections { unused: Mutex::default(), draining }) }
    }

    /// Posts JSON, and returns the body of the response.
    pub(crate) async fn post(&self, body: &Bytes, headers: &HeaderMap) -> Result<Bytes, RequestError> {
        while let Some(connection) = self.idle.take() {
            match self.exchange(connection, body, headers).await {
                Ok(response) => return Ok(response),
                Err(ExchangeError::Failed(error)) => return Err(error),
                Err(ExchangeError::Unsent) => {}
            }
        }
        let connection = self.client.connect(&self.url).await?;
        self.exchange(connection, body, headers).await.map_err(|error| match error {
            ExchangeError::Failed(error) => error,
            ExchangeError::Unsent => RequestError::Connect(std::io::ErrorKind::ConnectionReset.into()),
        })
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Bytes, ExchangeError> {
        connection.ready().await.map_err(|_| ExchangeError::Unsent)?;
        let mut request = self.url.request(Method::POST, body.clone());
        request.headers_mut().extend(headers.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = connection.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(_) => ExchangeError::Unsent,
            None => ExchangeError::Failed(error.into_error().into()),
        })?;
        let (status, body) = (response.status(), response.into_body());
        if status != StatusCode::OK {
            self.idle.clone().add_after(body, connection);
            return Err(RequestError::Status(status).into());
        }
        let bytes = self.client.read_body(body).await?;
        self.idle.add(connection);
        Ok(bytes.into())
    }
}
