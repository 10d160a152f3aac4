//! Limits of one HTTP connection before it becomes a WebSocket, or if it never does.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_http::{ConnectionType, Extensions};
use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{StatusCode, Version},
    middleware::Next,
    web::Data,
};
use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
    time::sleep_until,
};

use super::{
    HttpContext, HttpError,
    error::respond_with_id,
    forwarded,
    guarded_body::guard_body,
    request_id::{self, X_REQUEST_ID},
    stop::StopWatch,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    transport::KernelSocket,
};

/// The response to this many requests says `Connection: close`. Requests with the API key do not count: a backend may keep its
/// connections.
const MAX_REQUESTS: u32 = 200;
/// After this many requests of a connection the next one waits for another turn of its task. While 16 pipelined requests wait,
/// actix-http parses no further ones; if it answers those in one turn, it leaves the others in its buffer until the keep-alive
/// ends, and closes the connection.
const REQUESTS_PER_TURN: u32 = 8;
/// Maximum time from an accepted connection until the head of its first request is there, and for a PROXY header before it: a
/// slow one holds an unauthenticated connection.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is kept on which nothing arrives after a response.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Maximum time from a response until the head of the next request is there. actix-http has no limit for it once the first byte has
/// arrived.
const NEXT_REQUEST_TIMEOUT: Duration = KEEP_ALIVE.saturating_add(REQUEST_HEAD_TIMEOUT);
/// Maximum body that counts as sent when the response begins: the buffers of the kernel take it.
const MAX_SHORT_BODY: u64 = 64 * 1024;
/// The kernel drops the connection when the peer has acknowledged nothing for this long (TCP_USER_TIMEOUT).
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);

/// In the extensions of a request: it has carried the API key, or a session of the admin page.
#[derive(Clone, Copy, Debug)]
pub struct CarriesApiKey;

/// In the data of a connection: the client's certificate, if the listener asks for one. Its first DNS name, or else its SHA-256.
#[derive(Clone, Debug)]
pub struct ClientCertificateName(pub Arc<str>);

/// In the data of a connection: returns whether the client's certificate is still accepted.
pub struct ClientCertificateCheck(pub Box<dyn Fn() -> bool>);

/// An HTTP connection.
struct HttpConnection {
    /// Number of its requests without the API key so far.
    requests: Cell<u32>,
    /// Number of its requests in the current turn of its task.
    requests_in_turn: Cell<u32>,
    idleness: Rc<Idleness>,
    stop: StopWatch,
    end: RefCell<Option<ConnectionEnd>>,
}

/// Since when a connection has had no request that is being answered.
#[derive(Default)]
struct Idleness {
    /// `None` while a request is being answered, and before the first one.
    since: Cell<Option<Instant>>,
    /// Whether there has been a response.
    has_begun: Cell<bool>,
    begun: Notify,
}

impl Idleness {
    fn end(&self) {
        self.since.set(None);
    }

    fn begin(&self) {
        self.since.set(Some(Instant::now()));
        if !self.has_begun.replace(true) {
            self.begun.notify_one();
        }
    }

    /// Waits until the head of a next request takes too long. A connection has one timer for all of its requests, and none before
    /// its first response: most become a WebSocket.
    async fn timed_out(&self) {
        self.begun.notified().await;
        loop {
            let deadline = self.since.get().unwrap_or_else(Instant::now) + NEXT_REQUEST_TIMEOUT;
            sleep_until(deadline.into()).await;
            if self.since.get().is_some_and(|since| since.elapsed() >= NEXT_REQUEST_TIMEOUT) {
                return;
            }
        }
    }
}

impl HttpConnection {
    /// Counts a request in the current turn. Returns whether it has to wait for the next one.
    fn ends_turn(&self) -> bool {
        self.requests_in_turn.set((self.requests_in_turn.get() + 1) % REQUESTS_PER_TURN);
        self.requests_in_turn.get() == 0
    }
}

/// Tells actix-http that the response to the current request is the last one of the connection.
struct ConnectionEnd {
    last_response: Rc<Notify>,
    /// Ends when actix-http has taken note, or when the connection is no longer its own.
    noted: oneshot::Receiver<Infallible>,
}

impl ConnectionEnd {
    async fn announce(self) {
        self.last_response.notify_one();
        let _ = self.noted.await;
    }
}

/// Connects the data of an HTTP connection with the signal by which actix-http ends it. When actix-http accepts a
/// connection, it asks first for the data and then for the signal.
#[derive(Default)]
pub struct ConnectionSetup {
    accepted: RefCell<Option<PreparedConnection>>,
}

/// What ends a connection, and what is dropped when actix-http has taken note.
struct PreparedConnection {
    last_response: Rc<Notify>,
    idleness: Rc<Idleness>,
    _note: oneshot::Sender<Infallible>,
}

impl ConnectionSetup {
    /// Prepares an accepted connection: sets its kernel timeout, and the data by which its requests are limited.
    pub fn prepare(&self, socket: KernelSocket<'_>, stop: StopWatch, data: &mut Extensions) {
        // Fails only when the client has already disconnected.
        let _ = socket.set_unacknowledged_timeout(UNACKNOWLEDGED_TIMEOUT);
        let (last_response, idleness) = (Rc::<Notify>::default(), Rc::<Idleness>::default());
        let (note, noted) = oneshot::channel();
        let accepted =
            PreparedConnection { last_response: last_response.clone(), idleness: idleness.clone(), _note: note };
        self.accepted.replace(Some(accepted));
        let end = RefCell::new(Some(ConnectionEnd { last_response, noted }));
        data.insert(HttpConnection { requests: Cell::new(0), requests_in_turn: Cell::new(0), idleness, stop, end });
    }

    /// Returns the signal that ends the prepared connection: actix-http sends the response that has begun, answers none
    /// of the requests behind it, and closes.
    pub fn end_signal(&self, stop: StopWatch) -> impl Future<Output = ()> + use<> {
        let accepted = self.accepted.take();
        async move {
            // It is dropped when actix-http has seen this ready, or has dropped it.
            let Some(accepted) = accepted else { return stop.finishing().await };
            tokio::select! {
                () = accepted.last_response.notified() => {}
                () = accepted.idleness.timed_out() => {}
                () = stop.finishing() => {}
            }
        }
    }
}

/// Middleware that limits the requests of a connection: by number, by its client certificate, and by the stop of the instance. Wraps the
/// whole application. A response with `Connection: close` is the last one of its connection (RFC 9112 §9.6): the bytes behind
/// its request may have been meant for another protocol. actix-http alone would answer all requests that it has read, and
/// keep the responses in memory.
///
/// # Errors
/// The errors of the handler.
pub async fn limit_requests(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = request_id::assign(&mut request);
    let connection = request.request().conn_data::<HttpConnection>();
    let answering = connection.map(|connection| Answering::new(connection.idleness.clone()));
    if connection.is_some_and(HttpConnection::ends_turn) {
        yield_now().await;
    }
    let mut response = if let Some(refusal) = refuse_certificate(&request) {
        let mut response = respond_with_id(&refusal.into(), Some(&id));
        response.head_mut().set_connection_type(ConnectionType::Close);
        ServiceResponse::new(request.into_parts().0, response)
    } else {
        next.call(request).await.map_err(|error| {
            let response = respond_with_id(&error, Some(&id));
            InternalError::from_response(error, response)
        })?
    };
    response.headers_mut().insert(X_REQUEST_ID, id);
    // A 101 with `Connection: close` beside `upgrade` would contradict itself.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    // actix-http reuses heads, with the version of an earlier response: one to HTTP/1.0 would end this connection.
    response.response_mut().head_mut().version = Version::HTTP_11;
    let connection = response.request().conn_data::<HttpConnection>();
    let is_last = count_request(response.request()) >= MAX_REQUESTS
        || connection.is_some_and(|connection| connection.stop.is_stopping())
        || response.response().head().connection_type() == ConnectionType::Close
        // The client says so, speaks HTTP/1.0, or asked for an upgrade that it does not get.
        || response.request().head().connection_type() != ConnectionType::KeepAlive;
    let end = connection.filter(|_| is_last).and_then(|connection| connection.end.take());
    if is_last {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    if let Some(end) = end {
        end.announce().await;
    }
    Ok(match answering {
        Some(answering) if is_long(response.response().body()) => {
            response.map_body(|_, body| guard_body(body, answering))
        }
        _ => response,
    })
}

/// Refuses a request whose connection has outlived its client certificate. It is the last one of the connection.
fn refuse_certificate(request: &ServiceRequest) -> Option<HttpError> {
    request.request().conn_data::<ClientCertificateCheck>().filter(|check| !(check.0)())?;
    let reason = "the client certificate of this connection is not accepted any more";
    if let Some(context) = request.app_data::<Data<HttpContext>>() {
        let certificate = request.request().conn_data::<ClientCertificateName>();
        let address = forwarded::client_address(request.head(), &context.config.current().server);
        let fields = AuditFields {
            address: Some(address),
            path: Some(request.path()),
            request: request_id::id_of(request.head()),
            certificate: certificate.map(|name| &*name.0),
            reason: Some(reason),
            ..AuditFields::default()
        };
        context.audit.record(AuditEvent::Refused, fields);
    }
    Some(HttpError::unauthorized(reason))
}

/// Returns whether a client may read a body for longer than a next request may take.
fn is_long(body: &BoxBody) -> bool {
    !matches!(body.size(), BodySize::None | BodySize::Sized(..=MAX_SHORT_BODY))
}

/// A request that is being answered. The connection is idle from its end on.
struct Answering(Rc<Idleness>);

impl Answering {
    fn new(idleness: Rc<Idleness>) -> Self {
        idleness.end();
        Self(idleness)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.begin();
    }
}

/// Counts a request, unless it carries the API key. Returns the number of those counted on its connection.
fn count_request(request: &HttpRequest) -> u32 {
    request.conn_data::<HttpConnection>().map_or(0, |connection| {
        let counts = !request.extensions().contains::<CarriesApiKey>();
        connection.requests.set(connection.requests.get().saturating_add(counts.into()));
        connection.requests.get()
    })
}

#[cfg(test)]
mod tests {
    use actix_web::{
        App,
        body::to_bytes,
        middleware::from_fn,
        test::{TestRequest, init_service, try_call_service},
    };

    use super::*;

    async fn refuse(_: ServiceRequest, _: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, Error> {
        Err(HttpError::forbidden("no").into())
    }

    #[actix_rt::test]
    async fn error_that_middleware_returns_has_the_id_of_the_request() {
        let app = init_service(App::new().wrap(from_fn(refuse)).wrap(from_fn(limit_requests))).await;
        let error = try_call_service(&app, TestRequest::get().to_request()).await.expect_err("an error");
        let response = error.as_response_error().error_response();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let id = response.headers().get(X_REQUEST_ID).expect("an id").to_str().unwrap().to_owned();
        let body = to_bytes(response.into_body()).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["request"], id);
    }
}
