//! Limits of one HTTP connection before it becomes a WebSocket, or if it never does.

use std::{cell::Cell, time::Duration};

use actix_http::{ConnectionType, Extensions};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use socket2::SockRef;
use tokio::net::TcpStream;

/// The response to this many requests says `Connection: close`.
const MAX_REQUESTS: u32 = 200;
/// How long each request above [`MAX_REQUESTS`] waits. actix-http answers pipelined requests even after `Connection: close`,
/// and buffers without a bound the responses that the peer does not read; the delay keeps that buffer small.
const EXCESS_REQUEST_DELAY: Duration = Duration::from_millis(100);
/// The kernel drops the connection when the peer has acknowledged nothing for this long (TCP_USER_TIMEOUT).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of requests on a connection so far.
#[derive(Default)]
struct RequestCounter(Cell<u32>);

/// Prepares an accepted connection: sets its kernel timeout and its request counter.
pub fn prepare(tcp: &TcpStream, data: &mut Extensions) {
    // Fails only when the client has already disconnected.
    let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    data.insert(RequestCounter::default());
}

/// Delays request `number` of a connection if it is above the limit. Returns whether its response must close the connection.
pub async fn delay_excess_request(number: u32) -> bool {
    if number > MAX_REQUESTS {
        tokio::time::sleep(EXCESS_REQUEST_DELAY).await;
    }
    number >= MAX_REQUESTS
}

/// Counts a request. Returns its number on its connection, starting at 1.
pub fn count_request(request: &ServiceRequest) -> u32 {
    request.conn_data::<RequestCounter>().map_or(0, |counter| {
        counter.0.set(counter.0.get().saturating_add(1));
        counter.0.get()
    })
}

/// Makes a response close its connection.
pub fn close_after_response<B>(response: &mut ServiceResponse<B>) {
    response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
}
