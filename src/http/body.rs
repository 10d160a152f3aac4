//! The extractor for request bodies, bounded in length and in time. A handler names it after the extractors that
//! authorize the request: actix-web runs extractors in order, so an unauthorized request is never buffered.

use std::time::Duration;

use actix_web::{
    FromRequest, HttpRequest, Resource,
    dev::{Payload, ServiceFactory, ServiceRequest},
    error::PayloadError,
    http::StatusCode,
    web::PayloadConfig,
};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::time::timeout;

use super::HttpError;
use crate::protocol::{ErrorCode, ExceededLimit};

/// Time within which the whole body must arrive: a body sent slowly holds a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum bytes of the request body of a route.
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
        resource.app_data(PayloadConfig::new(self.bytes)).app_data(self)
    }
}

/// A whole request body, at most as long as the [`BodyLimit`] of its route allows.
pub struct RequestBody(pub Bytes);

impl FromRequest for RequestBody {
    type Error = HttpError;
    type Future = LocalBoxFuture<'static, Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limit = request.app_data::<BodyLimit>().copied();
        let whole = Bytes::from_request(request, payload);
        Box::pin(async move {
            match timeout(BODY_TIMEOUT, whole).await {
                Ok(Ok(bytes)) => Ok(Self(bytes)),
                Ok(Err(error)) if matches!(error.as_error(), Some(PayloadError::Overflow)) => Err(body_too_long(limit)),
                Ok(Err(_)) => Err(HttpError::bad_request("the request body could not be read")),
                Err(_) => {
                    let message = format!("the request body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                    Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest, message))
                }
            }
        })
    }
}

fn body_too_long(limit: Option<BodyLimit>) -> HttpError {
    let limit = limit.map(|BodyLimit { name, bytes }| format!(": {}", ExceededLimit { name, value: bytes }));
    let message = format!("the body is too long{}", limit.unwrap_or_default());
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::LimitExceeded, message)
}
