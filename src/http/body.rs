//! The extractor for request bodies, bounded in length and in time. A handler names it after the extractors that
//! authorize the request: actix-web runs extractors in order, so an unauthorized request is never buffered.

use std::time::Duration;

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, Resource,
    dev::{Payload, ServiceFactory, ServiceRequest},
    http::{StatusCode, header::CONTENT_LENGTH},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::LocalBoxFuture};
use tokio::time::timeout;

use super::HttpError;
use crate::protocol::{ErrorCode, ExceededLimit};

/// Time within which the whole body must arrive: a body sent slowly holds a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum bytes of a request body: of a route, or of one request.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit {
    /// Its configuration key, or what it limits.
    pub name: &'static str,
    /// The maximum.
    pub bytes: usize,
}

impl BodyLimit {
    /// Limits the bodies that the handlers of a resource read with [`RequestBody`].
    pub fn apply_to<S>(self, resource: Resource<S>) -> Resource<S>
    where
        S: ServiceFactory<ServiceRequest, Config = (), Error = actix_web::Error, InitError = ()>,
    {
        resource.app_data(self)
    }

    /// Limits the body of one request, instead of the limit of its route. An extractor calls it before [`RequestBody`].
    pub fn apply_to_request(self, request: &HttpRequest) {
        request.extensions_mut().insert(self);
    }

    fn of(request: &HttpRequest) -> Option<Self> {
        let own = request.extensions().get::<Self>().copied();
        own.or_else(|| request.app_data::<Self>().copied())
    }
}

/// A whole request body, at most as long as its [`BodyLimit`] allows.
pub struct RequestBody(pub Bytes);

impl FromRequest for RequestBody {
    type Error = HttpError;
    type Future = LocalBoxFuture<'static, Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limit = BodyLimit::of(request);
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let payload = payload.take();
        Box::pin(async move {
            let limit = limit.ok_or_else(HttpError::internal)?;
            match timeout(BODY_TIMEOUT, read_whole(payload, length.unwrap_or_default(), limit)).await {
                Ok(result) => result.map(Self),
                Err(_) => {
                    let message = format!("the request body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                    Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest, message))
                }
            }
        })
    }
}

/// Reads a body whose length is announced as `length`; of a chunked one it is 0.
async fn read_whole(mut payload: Payload, length: u64, limit: BodyLimit) -> Result<Bytes, HttpError> {
    if length > limit.bytes as u64 {
        return Err(body_too_long(limit));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| HttpError::bad_request("the request body could not be read"))?;
        if chunk.len() > limit.bytes - body.len() {
            return Err(body_too_long(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn body_too_long(BodyLimit { name, bytes }: BodyLimit) -> HttpError {
    let message = format!("the body is too long: {}", ExceededLimit { name, value: bytes });
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::LimitExceeded, message)
}
