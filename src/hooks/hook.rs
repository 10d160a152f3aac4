//! One hook: its limits, its circuit breaker, and the outcome of its calls.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    circuit_breaker::{CircuitBreaker, Transition},
    client::{HookClient, HookError},
    headers::ForwardedHeaders,
    reply::{HookResult, parse_reply},
    signature::{CallSigner, SIGNATURE},
};
use crate::{
    certificate::CertificateError,
    clock::Clock,
    config::{HookConfig, HooksConfig},
    log_throttle::LogThrottle,
    metrics::Metrics,
    protocol::{Disconnect, ErrorCode, WireError},
};

/// Minimum time between two log lines about failures of a hook, which clients can cause.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A hook of the backend.
pub struct Hook {
    name: &'static str,
    client: HookClient,
    timeout: Duration,
    /// Calls at the same time.
    permits: Semaphore,
    /// Calls at the same time and those that wait.
    places: Semaphore,
    concurrency: usize,
    /// How many may wait.
    max_waiting: usize,
    breaker: CircuitBreaker,
    failures_logged: LogThrottle,
    allowed_headers: Vec<String>,
    signer: Arc<CallSigner>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// Why a command that needed a hook fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookRefusal {
    /// The client gets this error.
    Error(WireError),
    /// The connection is closed.
    Disconnect(Disconnect),
}

impl Hook {
    /// Creates the hook if it has an endpoint.
    pub(super) fn from_config(
        name: &'static str,
        hook: &HookConfig,
        common: &HooksConfig,
        signer: &Arc<CallSigner>,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Arc<Self>>, CertificateError> {
        let Some(endpoint) = hook.endpoint.clone() else { return Ok(None) };
        Ok(Some(Arc::new(Self {
            name,
            client: HookClient::new(endpoint, common.ca.as_deref(), common.response_bytes)?,
            timeout: hook.timeout,
            permits: Semaphore::new(hook.concurrency.min(Semaphore::MAX_PERMITS)),
            places: Semaphore::new(hook.concurrency.saturating_add(common.waiting).min(Semaphore::MAX_PERMITS)),
            concurrency: hook.concurrency,
            max_waiting: common.waiting,
            breaker: CircuitBreaker::new(common.failures, common.pause),
            failures_logged: LogThrottle::new(LOG_INTERVAL),
            allowed_headers: hook.headers.clone(),
            signer: signer.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        })))
    }

    /// Returns how many calls wait for their turn, and how many may.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let running = self.concurrency.saturating_sub(self.permits.available_permits());
        let places = self.concurrency.saturating_add(self.max_waiting);
        let taken = places.saturating_sub(self.places.available_permits());
        (taken.saturating_sub(running), self.max_waiting)
    }

    /// Asks the backend. `body` is an encoded [`super::HookRequest`].
    ///
    /// # Errors
    /// The error or the close that the backend wants, or a temporary error if it does not answer.
    pub async fn ask<R: HookResult>(self: Arc<Self>, body: Bytes, headers: ForwardedHeaders) -> Result<R, HookRefusal> {
        self.ask_and_check(body, headers, Ok).await
    }

    /// Asks the backend, and has `check` make something of its result, or say what is wrong with it.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_and_check<R: HookResult, T>(
        self: Arc<Self>,
        body: Bytes,
        headers: ForwardedHeaders,
        check: impl FnOnce(R) -> Result<T, String>,
    ) -> Result<T, HookRefusal> {
        let asked_at = Instant::now();
        let response = self.call(&body, &headers).await;
        let is_asked = !response.as_ref().is_err_and(HookError::is_unasked);
        let reply = response.and_then(|response| {
            let reply = parse_reply(&response).and_then(|reply| match reply {
                Ok(result) => check(result).map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            });
            reply.map_err(HookError::Malformed)
        });
        self.note_result(reply.as_ref().err());
        let (outcome, answer) = match reply {
            Ok(Ok(result)) => ("answered", Ok(result)),
            Ok(Err(refusal)) => ("refused", Err(refusal)),
            Err(HookError::Busy) => ("busy", Err(HookRefusal::Error(ErrorCode::TooManyRequests.into()))),
            Err(error) => (error.outcome(), Err(HookRefusal::Error(ErrorCode::Internal.into()))),
        };
        self.metrics.count_hook_call(self.name, outcome);
        if is_asked {
            self.metrics.observe_hook(self.name, asked_at.elapsed());
        }
        answer
    }

    async fn call(&self, body: &Bytes, headers: &ForwardedHeaders) -> Result<Bytes, HookError> {
        let _place = self.places.try_acquire().map_err(|_| HookError::Busy)?;
        let asked_at = Cell::new(None);
        let exchange = async {
            // The semaphore is never closed.
            let _permit = self.permits.acquire().await;
            if !self.breaker.admits(self.clock.monotonic_now()) {
                return Err(HookError::Paused);
            }
            asked_at.set(Some(Instant::now()));
            self.client.post(body, &self.headers(body, headers)).await
        };
        let answer = timeout(self.timeout, exchange).await;
        answer.unwrap_or_else(|_| {
            // If most of the time went by before the backend was asked, that says nothing about the backend.
            let had_time = asked_at.get().is_some_and(|at| at.elapsed() >= self.timeout / 2);
            Err(if had_time { HookError::TIMED_OUT } else { HookError::Busy })
        })
    }

    fn headers(&self, body: &[u8], forwarded: &ForwardedHeaders) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in forwarded.allowed_by(&self.allowed_headers) {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        if let Some(signature) = self.signer.header(body, self.clock.now()) {
            headers.insert(SIGNATURE, signature);
        }
        headers
    }

    /// Tells the breaker, and logs what changes.
    fn note_result(&self, error: Option<&HookError>) {
        if error.is_some_and(HookError::is_unasked) {
            return;
        }
        let (name, endpoint) = (self.name, self.client.endpoint());
        let transition = self.breaker.record(!error.is_some_and(HookError::is_outage), self.clock.monotonic_now());
        match (transition, error) {
            (Some(Transition::Opened), Some(error)) => {
                log::error!("hook paused hook={name} endpoint={endpoint} error={:?}", error.to_string());
            }
            (Some(Transition::Recovered), _) => log::info!("hook works again hook={name} endpoint={endpoint}"),
            (_, Some(error)) => match self.failures_logged.count(Instant::now()) {
                Some(count) => {
                    log::warn!(
                        "hook failed hook={name} endpoint={endpoint} count={count} error={:?}",
                        error.to_string()
                    );
                }
                None => log::debug!("hook failed hook={name} endpoint={endpoint} error={:?}", error.to_string()),
            },
            _ => {}
        }
    }
}
