//! Answers that come before the end of a chunked body end the connection. Left alone, actix-http reads on behind its
//! answer for as long as the peer sends, key or no key, at a core's full speed (measured: 96 GB in 40 s), and keeps the
//! connection of a peer that falls silent for ever. It does so for bodies that nobody holds any more; so the answer holds
//! the body until it is sent itself. Bodies with a length need no such care.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    Error, HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::header::TRANSFER_ENCODING,
    middleware::Next,
};
use bytes::Bytes;
use futures_util::Stream;

/// Around the whole application.
///
/// # Errors
/// The handler's.
pub async fn keep_until_answered(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let payload = SharedPayload(Rc::new(RefCell::new(request.take_payload())));
    request.set_payload(Payload::Stream { payload: Box::pin(payload.clone()) });
    let response = next.call(request).await?;
    Ok(response
        .map_body(|_, body| ResponseWithPayload { answer: body.boxed(), _payload: payload })
        .map_into_boxed_body())
}

/// A request's body, for whoever reads it and for whoever only holds it.
#[derive(Clone)]
struct SharedPayload(Rc<RefCell<Payload>>);

impl Stream for SharedPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

/// An answer, and the body of its request until the answer is sent.
struct ResponseWithPayload {
    answer: BoxBody,
    _payload: SharedPayload,
}

impl MessageBody for ResponseWithPayload {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.answer).poll_next(cx)
    }
}
