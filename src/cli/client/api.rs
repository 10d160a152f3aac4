//! Calls of the server API.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderName},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    HttpClient, Hub,
    http::{HttpRequest, HttpResponse},
};
use crate::{api::X_API_KEY, config::Secret};

/// Maximum time for connecting, and for each call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum response that is read. The largest ones list all channels.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// A client of the server API.
pub(in crate::cli) struct ApiClient {
    http: HttpClient,
    key: Secret,
    endpoint: String,
}

/// Why a call has failed.
pub(in crate::cli) enum ApiFailure {
    /// The answer is an error of the server API.
    Error {
        /// Its code.
        code: u32,
        /// Its message.
        message: String,
    },
    /// There is no answer, or another one; a sentence for the user.
    Other(String),
}

impl From<ApiFailure> for String {
    fn from(failure: ApiFailure) -> Self {
        match failure {
            ApiFailure::Error { code, message } => format!("error {code}: {message}"),
            ApiFailure::Other(message) => message,
        }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    code: u32,
    message: String,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Box<RawValue>>,
    error: Option<ErrorBody>,
    /// Of `batch`, whose answer is not wrapped in `result`.
    replies: Option<Box<RawValue>>,
}

impl ApiClient {
    /// Connects to the hub's server API.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(in crate::cli) async fn connect(hub: &Hub) -> Result<Self, String> {
        let key = hub.api_key()?.clone();
        let http = HttpClient::connect(&hub.internal, TIMEOUT).await?;
        Ok(Self { http, key, endpoint: hub.internal.to_string() })
    }

    /// Calls a method, and returns its result as JSON.
    ///
    /// # Errors
    /// [`ApiFailure`].
    pub(in crate::cli) async fn call(&mut self, method: &str, params: &str) -> Result<Box<RawValue>, ApiFailure> {
        let request = HttpRequest {
            method: Method::POST,
            path: &format!("/api/{method}"),
            headers: &[(HeaderName::from_static(X_API_KEY), self.key.expose()), (CONTENT_TYPE, "application/json")],
            body: Bytes::copy_from_slice(params.as_bytes()),
        };
        let HttpResponse { status, body } =
            self.http.fetch(request, MAX_RESPONSE_BYTES).await.map_err(ApiFailure::Other)?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(ApiFailure::Other(format!("{}: {WRONG_KEY}", self.endpoint)));
        }
        if let Ok(ErrorBody { code, message }) = serde_json::from_slice(&body) {
            return Err(ApiFailure::Error { code, message });
        }
        match serde_json::from_slice::<Answer>(&body) {
            Ok(Answer { error: Some(ErrorBody { code, message }), .. }) => Err(ApiFailure::Error { code, message }),
            Ok(Answer { result: Some(result), .. } | Answer { replies: Some(result), .. }) => Ok(result),
            _ => Err(ApiFailure::Other(format!(
                "{}: the response has status {status} and does not come from a hub",
                self.endpoint
            ))),
        }
    }
}

const WRONG_KEY: &str = "the hub has another API key; give this command the configuration of the hub (--config FILE), or its API \
    key in WARDCAST_API__KEY";
