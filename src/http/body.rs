//! The extractor for request bodies, bounded in length and in time. A handler names it after the extractors that
//! authorize the request: actix-web runs extractors in order, so an unauthorized request is never buffered.

use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, dev::Payload, error::PayloadError, http::StatusCode};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::time::timeout;

use super::HttpError;
use crate::protocol::ErrorCode;

/// Time within which the whole body must arrive: a body sent slowly holds a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A whole request body, at most as long as the `PayloadConfig` of its route allows.
pub struct RequestBody(pub Bytes);

impl FromRequest for RequestBody {
    type Error = HttpError;
    type Future = LocalBoxFuture<'static, Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let whole = Bytes::from_request(request, payload);
        Box::pin(async move {
            match timeout(BODY_TIMEOUT, whole).await {
                Ok(Ok(bytes)) => Ok(Self(bytes)),
                Ok(Err(error)) if matches!(error.as_error(), Some(PayloadError::Overflow)) => Err(body_too_long()),
                Ok(Err(_)) => Err(HttpError::bad_request("the request body could not be read")),
                Err(_) => {
                    let message = format!("the request body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                    Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest, message))
                }
            }
        })
    }
}

fn body_too_long() -> HttpError {
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::LimitExceeded, "the body is too long")
}
