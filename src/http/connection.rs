//! What one HTTP connection may cost before it is a WebSocket, or if it never becomes one.

use std::{cell::Cell, time::Duration};

use actix_http::{ConnectionType, Extensions};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Requests after which a connection is told to end.
const MAX_REQUESTS: u32 = 200;
/// How long each request waits that comes after the end was told. actix-http answers what is pipelined, and keeps the
/// answers for a peer that does not read them, without a bound: slowly, it comes to nothing.
const EXCESS_REQUEST_DELAY: Duration = Duration::from_millis(100);
/// A peer that takes none of what it is sent is given up by the kernel after this.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests answered so far.
#[derive(Default)]
struct RequestCounter(Cell<u32>);

/// A connection has been accepted.
pub fn prepare(tcp: &TcpStream, data: &mut Extensions) {
    // An error here is a client that has gone already.
    let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    data.insert(RequestCounter::default());
}

/// Waits, if the request should not have come any more. Tells whether its answer says that the connection ends.
pub async fn delay_excess_request(number: u32) -> bool {
    if number > MAX_REQUESTS {
        tokio::time::sleep(EXCESS_REQUEST_DELAY).await;
    }
    number >= MAX_REQUESTS
}

/// Which request of its connection this is, counted from 1.
pub fn count_request(request: &ServiceRequest) -> u32 {
    request.conn_data::<RequestCounter>().map_or(0, |counter| {
        counter.0.set(counter.0.get().saturating_add(1));
        counter.0.get()
    })
}

/// Says in an answer that the connection ends.
pub fn close_after_response<B>(response: &mut ServiceResponse<B>) {
    response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
}
