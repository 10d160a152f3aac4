//! The body of a response, with what has to live until it has been sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

/// A body that drops its guard when it has been sent, or the connection has ended.
struct GuardedBody<G> {
    body: BoxBody,
    _guard: G,
}

/// Returns the body with a guard.
pub(super) fn guard_body(body: BoxBody, guard: impl Unpin + 'static) -> BoxBody {
    GuardedBody { body, _guard: guard }.boxed()
}

impl<G: Unpin> MessageBody for GuardedBody<G> {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
