//! The HTTP client of one hook, and why a call of it has no valid answer.

use std::path::Path;

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};

use crate::{
    certificate::{self, CertificateError},
    config::HookEndpoint,
    http_client::{HttpClient, KeepAliveClient, RequestError, SettingNames},
};

/// Why a call of a hook has no valid answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the response is not valid: {0}")]
    Malformed(String),
    #[error("too many calls: they wait for the concurrency of the hook (hooks.waiting, timeout)")]
    Busy,
    #[error("the hook has failed too often (hooks.failures) and is not called for hooks.pause")]
    Paused,
}

impl HookError {
    pub(super) const TIMED_OUT: Self = Self::Request(RequestError::TimedOut("timeout of the hook"));

    /// Returns the error as one word, for `wardcast_hook_calls_total`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Request(error) => error.outcome(),
            Self::Malformed(_) => "malformed",
            Self::Busy => "busy",
            Self::Paused => "paused",
        }
    }

    /// Returns whether the backend was not even asked.
    pub(super) fn is_unasked(&self) -> bool {
        matches!(self, Self::Busy | Self::Paused)
    }

    /// Returns whether the backend is away or overloaded, so that others have nothing to expect of it, either. Any other answer may be
    /// caused by what one client has sent.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Request(RequestError::Status(status)) => [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ]
            .contains(status),
            Self::Request(RequestError::TooLarge(..)) => false,
            Self::Request(_) => true,
            Self::Malformed(_) | Self::Busy | Self::Paused => false,
        }
    }
}

/// The client.
pub(super) struct HookClient {
    endpoint: HookEndpoint,
    client: KeepAliveClient,
}

impl HookClient {
    pub(super) fn new(endpoint: HookEndpoint, ca: Option<&Path>, max_bytes: usize) -> Result<Self, CertificateError> {
        let url = endpoint.url().clone();
        let tls = url.is_https.then(|| certificate::tls_connector(ca)).transpose()?;
        let names = SettingNames { ca: "hooks.ca", max_bytes: "hooks.response_bytes" };
        let client = KeepAliveClient::new(url, HttpClient { tls, private_networks: None, max_bytes, names });
        Ok(Self { endpoint, client })
    }

    pub(super) fn endpoint(&self) -> &HookEndpoint {
        &self.endpoint
    }

    /// Posts JSON, and returns the body of the response.
    pub(super) async fn post(&self, body: &Bytes, headers: &HeaderMap) -> Result<Bytes, HookError> {
        Ok(self.client.post(body, headers).await?)
    }
}
