//! Bodies of requests, bounded in length and in time. Whoever wants one names it after what authorizes the request: actix
//! asks extractors in their order, so that strangers make us buffer nothing.

use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, dev::Payload, error::PayloadError, http::StatusCode};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::time::timeout;

use super::HttpError;
use crate::protocol::ErrorCode;

/// A body must be there by then; one that trickles in holds a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A whole body, at most as long as the `PayloadConfig` of its route says.
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
                Ok(Err(_)) => Err(HttpError::bad_request("the body could not be read")),
                Err(_) => {
                    Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest, "the body took too long"))
                }
            }
        })
    }
}

fn body_too_long() -> HttpError {
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::LimitExceeded, "the body is too long")
}
