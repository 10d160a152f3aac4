//! Error responses: a status, and a JSON body with a code and a message. They never contain file paths, stack traces or
//! internal causes.

use std::time::Duration;

use actix_web::{
    Error, HttpResponse, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER},
    },
    middleware::Next,
};
use serde::Serialize;

use super::request_id::{X_REQUEST_ID, id_of};
use crate::{
    auth::{Overloaded, TokenError, credentials::CredentialError},
    protocol::{ErrorCode, WireError},
};

/// The error response to a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct HttpError {
    status: StatusCode,
    code: u32,
    message: String,
    headers: &'static [(&'static str, &'static str)],
    /// In seconds.
    retry_after: Option<u64>,
}

/// `Retry-After` where the end of a limit or an outage is unknown.
pub(super) const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// `Retry-After` of an instance that is stopping: a load balancer knows another one by then.
const STOP_RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct HttpErrorBody<'a> {
    error: HttpErrorDetail<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
}

#[derive(Serialize)]
struct HttpErrorDetail<'a> {
    code: u32,
    message: &'a str,
}

impl HttpError {
    /// An error with a message for the caller. 429 and 503 always have a `Retry-After`.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let code = code.code();
        let error = Self { status, code, message: message.into(), headers: &[], retry_after: None };
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                error.with_retry_after(DEFAULT_RETRY_AFTER)
            }
            _ => error,
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
    }

    /// 401 for a refused bearer token (RFC 6750 §3). The message only distinguishes expired tokens from invalid ones.
    pub fn invalid_token(is_expired: bool) -> Self {
        let (code, message) = if is_expired {
            (ErrorCode::TokenExpired, ErrorCode::TokenExpired.text())
        } else {
            (ErrorCode::Unauthorized, "invalid token")
        };
        let challenge = &[("www-authenticate", "Bearer error=\"invalid_token\"")];
        Self { headers: challenge, ..Self::new(StatusCode::UNAUTHORIZED, code, message) }
    }

    /// 401 for missing credentials, or a wrong API key or password.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        let challenge = &[("www-authenticate", "Bearer")];
        Self { headers: challenge, ..Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message) }
    }

    /// 403 for a page of an origin that is not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, message)
    }

    /// 429 for a rate limit of the client, with `wait` as `Retry-After`.
    pub fn too_many(message: impl Into<String>, wait: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message).with_retry_after(wait)
    }

    /// 429 for the connection limit of a user or an address, with the default `Retry-After`.
    pub fn too_many_connections(message: impl Into<String>) -> Self {
        Self::too_many(message, DEFAULT_RETRY_AFTER)
    }

    /// 503 for a limit that all clients share, with the default `Retry-After`.
    pub fn at_capacity(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests, message)
    }

    /// 503 for a client whose token the instance has no time to verify. `Retry-After` is 1 to 5 s, so that clients that were refused
    /// together do not return together.
    pub fn overloaded() -> Self {
        let mut random = [0];
        // Without it they do.
        let seconds = getrandom::fill(&mut random).map_or(3, |()| 1 + u64::from(random[0] % 5));
        Self::at_capacity("too many clients connect; try again soon").with_retry_after(Duration::from_secs(seconds))
    }

    /// 503 for a part of the server that is temporarily unavailable, with the default `Retry-After`.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Internal, message)
    }

    /// 503 for a handshake with an instance that is stopping. Another one, or its next run, can serve the client.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Internal, "this instance is stopping; try again")
            .with_retry_after(STOP_RETRY_AFTER)
    }

    /// The error that a client of the protocol would get as a reply.
    pub(super) fn of_wire_error(error: &WireError) -> Self {
        let known = ErrorCode::ALL.iter().map(|(code, _)| *code).find(|code| error.has_code(*code));
        let code = known.unwrap_or(ErrorCode::BadRequest);
        let status = match code {
            ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorCode::UnknownChannel => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, code, error.message())
    }

    /// The error of a hook, for a client that has no connection yet: 503 if it is temporary, with the default `Retry-After`, else 403.
    pub(super) fn of_hook_error(error: &WireError) -> Self {
        let status = if error.is_temporary() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
        Self { code: error.code(), ..Self::new(status, ErrorCode::Internal, error.message()) }
    }

    /// 500.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, ErrorCode::Internal.to_string())
    }

    /// Rounds up to whole seconds: a client that waits exactly that long must not be too early.
    fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after: Some(seconds.max(1)), ..self }
    }

    /// 426 with the supported protocol (RFC 9110 §15.5.22) and version (RFC 6455 §4.2.2).
    pub fn upgrade_required(message: impl Into<String>) -> Self {
        let supported = &[("upgrade", "websocket"), ("sec-websocket-version", "13")];
        Self { headers: supported, ..Self::new(StatusCode::UPGRADE_REQUIRED, ErrorCode::BadRequest, message) }
    }

    /// The message for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The time after which the same request may succeed, `Retry-After` of 429 and 503. `None`: it is refused for another reason than a
    /// limit or an outage.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after.map(Duration::from_secs)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn body<'a>(&'a self, request: Option<&'a str>) -> HttpErrorBody<'a> {
        HttpErrorBody { error: HttpErrorDetail { code: self.code, message: &self.message }, request }
    }

    /// Returns the body with the id of the request, which the log and the audit log have, too.
    fn body_with_id(&self, id: &str) -> String {
        serde_json::to_string(&self.body(Some(id))).unwrap_or_default()
    }

    /// Responds with this body, where a specification fixes its form.
    pub(super) fn respond_with(&self, body: impl Serialize) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((CACHE_CONTROL, "no-store"));
        for header in self.headers {
            response.insert_header(*header);
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
            // The unread rest of the body would be parsed as the next request.
            response.force_close();
        }
        response.json(body)
    }
}

impl From<Overloaded> for HttpError {
    fn from(_: Overloaded) -> Self {
        Self::overloaded()
    }
}

impl From<TokenError> for HttpError {
    fn from(error: TokenError) -> Self {
        if matches!(error, TokenError::RevocationsPending | TokenError::LoginUserPending) {
            return Self::unavailable("tokens cannot be checked yet; try again soon");
        }
        if error.is_temporary() {
            return Self::unavailable("the keys of the token's issuer are about to be fetched; try again");
        }
        Self::invalid_token(error.needs_new_token())
    }
}

impl From<CredentialError> for HttpError {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::AuthorizationHeader => Self::unauthorized(error.to_string()),
            _ => Self::bad_request(error.to_string()),
        }
    }
}

impl ResponseError for HttpError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.respond_with(self.body(None))
    }
}

/// Middleware that adds the id of the request to the bodies of errors. Those whose form a specification or the protocol of the server
/// API fixes have it in their header only. Inside of all other middleware, whose bodies it would replace.
///
/// # Errors
/// The errors of the handler.
pub async fn add_request_id(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = next.call(request).await?.map_into_boxed_body();
    let error = response.response().error().and_then(|error| error.as_error::<HttpError>());
    let body = error.zip(id_of(response.request().head())).map(|(error, id)| error.body_with_id(id));
    Ok(match body {
        Some(body) => response.map_body(|_, _| BoxBody::new(body)),
        None => response,
    })
}

/// Returns the response to a request whose error does not pass [`add_request_id`], with the id in its header and in its body.
pub(super) fn respond_with_id(error: &Error, id: Option<&HeaderValue>) -> HttpResponse {
    let mut response = error.error_response();
    let Some(id) = id else { return response };
    response.headers_mut().insert(X_REQUEST_ID, id.clone());
    match (error.as_error::<HttpError>(), id.to_str()) {
        (Some(error), Ok(id)) => response.set_body(BoxBody::new(error.body_with_id(id))),
        _ => response,
    }
}

/// The response to a path without a route: 404. (For a path whose route has another method, actix-web answers 405 with
/// `Allow`.)
pub async fn not_found() -> Result<HttpResponse, HttpError> {
    Err(HttpError::new(StatusCode::NOT_FOUND, ErrorCode::MethodNotFound, "no such path"))
}

/// The response of the public listener beside an internal one to a path that only that one serves: 404, which says where to look.
pub async fn only_internal() -> Result<HttpResponse, HttpError> {
    let message = "the server API and metrics are on another address: server.internal_bind";
    Err(HttpError::new(StatusCode::NOT_FOUND, ErrorCode::MethodNotFound, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_429_and_503_has_a_retry_after_of_at_least_a_second() {
        for (error, seconds) in [
            (HttpError::too_many("", Duration::from_millis(1)), "1"),
            (HttpError::too_many("", Duration::from_millis(2001)), "3"),
            (HttpError::too_many_connections(""), "5"),
            (HttpError::at_capacity(""), "5"),
            (HttpError::unavailable(""), "5"),
            (HttpError::stopping(), "1"),
            (HttpError::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, ""), "5"),
            (HttpError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Internal, ""), "5"),
        ] {
            let response = error.error_response();
            assert_eq!(response.headers().get(RETRY_AFTER).unwrap(), seconds, "{error}");
            assert!(error.retry_after().is_some(), "{error}");
        }
        assert!(HttpError::bad_request("").error_response().headers().get(RETRY_AFTER).is_none());
        assert!(HttpError::bad_request("").retry_after().is_none());
    }
}
