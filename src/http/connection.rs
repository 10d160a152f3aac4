//! Limits of one HTTP connection before it becomes a WebSocket, or if it never does.

use std::{cell::Cell, time::Duration};

use actix_http::{ConnectionType, Extensions};
use actix_web::{
    Error,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::StatusCode,
    middleware::Next,
};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::stop::StopWatch;

/// The response to this many requests says `Connection: close`.
const MAX_REQUESTS: u32 = 200;
/// How long each request above [`MAX_REQUESTS`] waits. actix-http answers pipelined requests even after `Connection:
/// close`, and buffers without a bound the responses that the peer does not read; the delay keeps that buffer small.
const EXCESS_REQUEST_DELAY: Duration = Duration::from_millis(100);
/// The kernel drops the connection when the peer has acknowledged nothing for this long (TCP_USER_TIMEOUT).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// An HTTP connection.
struct HttpConnection {
    /// Number of its requests so far.
    requests: Cell<u32>,
    stop: StopWatch,
}

/// Prepares an accepted connection: sets its kernel timeout, and the data by which its requests are limited.
pub fn prepare(tcp: &TcpStream, stop: StopWatch, data: &mut Extensions) {
    // Fails only when the client has already disconnected.
    let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    data.insert(HttpConnection { requests: Cell::new(0), stop });
}

/// Middleware that limits the requests of a connection: by number, and by the stop of the instance. Wraps the whole
/// application.
///
/// # Errors
/// The errors of the handler.
pub async fn limit_requests(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, Error> {
    let number = count_request(&request);
    if number > MAX_REQUESTS {
        tokio::time::sleep(EXCESS_REQUEST_DELAY).await;
    }
    let mut response = next.call(request).await?;
    let is_stopping =
        response.request().conn_data().is_some_and(|connection: &HttpConnection| connection.stop.is_stopping());
    // A 101 with `Connection: close` beside `upgrade` would contradict itself.
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if (number >= MAX_REQUESTS || is_stopping) && !is_upgrade {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Counts a request. Returns its number on its connection, starting at 1.
fn count_request(request: &ServiceRequest) -> u32 {
    request.conn_data::<HttpConnection>().map_or(0, |connection| {
        connection.requests.set(connection.requests.get().saturating_add(1));
        connection.requests.get()
    })
}
