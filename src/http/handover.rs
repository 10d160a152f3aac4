//! Hands the socket of an HTTP connection over to a session, after a handshake or in the middle of a response. actix-http gives
//! a socket away only for a request that asks to upgrade. For other requests it keeps a handle, whose socket a session may take:
//! from then on the handle reads nothing more and discards what is written, so that actix-http ends the connection on its side.
//! A response that actix-http wrote itself would cost 18 KiB per connection, would have to be copied for each of them, and is
//! not polled while its client does not read, so that expiry and limits would stop.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use actix_http::Request;
use actix_rt::net::{ActixStream, Ready};
use actix_web::{HttpRequest, HttpResponse, body::BoxBody, dev::ServiceResponse, error::Error, web::Data};
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

use super::{HttpContext, HttpError, error::respond_with_id, handshake::record_refusal, request_id::X_REQUEST_ID};
use crate::{auth::Admission, transport::Socket};

/// The socket of an HTTP connection, until a session takes it.
pub struct HttpSocket<S>(Rc<HeldSocket<S>>);

struct HeldSocket<S> {
    /// `None`: a session has it.
    socket: RefCell<Option<S>>,
    /// Whether bytes of earlier responses wait for room in the socket.
    has_unsent: Cell<bool>,
}

impl<S: Socket> HttpSocket<S> {
    /// Holds a socket.
    pub fn new(socket: S) -> Self {
        Self(Rc::new(HeldSocket { socket: RefCell::new(Some(socket)), has_unsent: Cell::new(false) }))
    }

    /// Takes the socket, once.
    pub fn take(&self) -> Option<S> {
        self.0.socket.take()
    }

    /// Calls `look` with the socket, unless a session has it.
    pub fn with_socket<T>(&self, look: impl FnOnce(&S) -> T) -> Option<T> {
        self.0.socket.borrow().as_ref().map(look)
    }

    /// Returns what lets a response of this connection become a session, which `start` starts.
    pub fn handover(&self, start: Rc<dyn Fn(S, BytesMut, Admission)>) -> Handover {
        let held: Weak<HeldSocket<S>> = Rc::downgrade(&self.0);
        Handover(Rc::new(move |admission| {
            let Some(held) = held.upgrade().filter(|held| !held.has_unsent.get()) else { return false };
            let Some(socket) = held.socket.take() else { return false };
            start(socket, BytesMut::new(), admission);
            true
        }))
    }

    fn poll_write_with(
        &self,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<usize>>,
        discarded: usize,
    ) -> Poll<io::Result<usize>> {
        let mut socket = self.0.socket.borrow_mut();
        let Some(socket) = &mut *socket else { return Poll::Ready(Ok(discarded)) };
        let written = write(Pin::new(socket));
        self.0.has_unsent.set(written.is_pending());
        written
    }
}

impl<S: Socket> AsyncRead for HttpSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self.0.socket.borrow_mut() {
            Some(socket) => Pin::new(socket).poll_read(cx, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: Socket> AsyncWrite for HttpSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(|socket| socket.poll_write(cx, bytes), bytes.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.0.socket.borrow_mut();
        let Some(socket) = &mut *socket else { return Poll::Ready(Ok(())) };
        let flushed = Pin::new(socket).poll_flush(cx);
        self.0.has_unsent.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.0.socket.borrow_mut() {
            Some(socket) => Pin::new(socket).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_write_with(|socket| socket.poll_write_vectored(cx, slices), length)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.socket.borrow().as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

impl<S: Socket + ActixStream> ActixStream for HttpSocket<S> {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match &*self.0.socket.borrow() {
            Some(socket) => socket.poll_read_ready(cx),
            None => Poll::Ready(Ok(Ready::READABLE)),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match &*self.0.socket.borrow() {
            Some(socket) => socket.poll_write_ready(cx),
            None => Poll::Ready(Ok(Ready::WRITABLE)),
        }
    }
}

/// In the data of an HTTP connection: lets a response become a session.
#[derive(Clone)]
pub struct Handover(Rc<dyn Fn(Admission) -> bool>);

/// Returns what lets the response to this request become a session.
pub fn handover_of(request: &Request) -> Option<Handover> {
    request.conn_data::<Handover>().cloned()
}

/// Passes a response on, unless it carries an [`Admission`]: then a session takes the connection and sends the head itself. Wraps
/// the whole application, so that the head has what middleware adds.
///
/// # Errors
/// The errors of the application.
pub async fn start_stream(
    response: impl Future<Output = Result<ServiceResponse<BoxBody>, Error>>,
    handover: Option<Handover>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let mut response = response.await?;
    let Some(mut admission) = response.response_mut().extensions_mut().remove::<Admission>() else {
        return Ok(response);
    };
    let (request, response) = response.into_parts();
    // Until then actix-http has written the responses to earlier requests, unless the client does not read them.
    yield_now().await;
    admission.head = encode_head(&response, &admission.head);
    let has_started = handover.is_some_and(|Handover(start)| start(admission));
    Ok(answer(request, response, has_started))
}

/// Returns what actix-http is given as the response: nothing of it reaches the client if a session has the socket.
fn answer(request: HttpRequest, response: HttpResponse, has_started: bool) -> ServiceResponse<BoxBody> {
    if has_started {
        return ServiceResponse::new(request, response);
    }
    let error = HttpError::bad_request("read the responses to the requests before this one first");
    let error = match request.app_data::<Data<HttpContext>>() {
        Some(context) => record_refusal(error.into(), &request, context),
        None => error,
    };
    let refusal = respond_with_id(&error.into(), request.headers().get(X_REQUEST_ID));
    ServiceResponse::new(request, refusal)
}

/// Encodes the head of a response whose body begins with `body` and ends with the connection (RFC 9112 §6.3). So events need no
/// chunks around them, and clients and proxies of HTTP/1.0 can read them.
pub(super) fn encode_head(response: &HttpResponse, body: &[u8]) -> Bytes {
    let mut head = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"connection: close\r\n\r\n");
    head.extend_from_slice(body);
    head.into()
}

#[cfg(test)]
mod tests {
    use actix_web::{body::to_bytes, http::StatusCode, test::TestRequest};

    use super::*;

    #[actix_rt::test]
    async fn refusal_of_a_stream_has_the_id_of_the_request() {
        let request = TestRequest::get().insert_header((X_REQUEST_ID, "edge-7")).to_http_request();
        let refused = answer(request, HttpResponse::Ok().finish(), false);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(refused.headers().get(X_REQUEST_ID).unwrap(), "edge-7");
        let body = to_bytes(refused.into_body()).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["request"], "edge-7");
    }
}
