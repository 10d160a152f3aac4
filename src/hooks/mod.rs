//! Backend hooks: HTTP calls by which the hub asks the operator's backend, in the JSON of Centrifugo's proxies. A session
//! waits for the answer to its own command; nothing else waits. Each hook has a limit on time, on calls at once and on waiting
//! ones, and a circuit breaker, so that a backend that hangs costs its callers an error and the hub nothing.

mod circuit_breaker;
mod client;
pub mod events;
mod headers;
mod hook;
mod reply;
mod request;
mod session_reply;
mod signature;

use std::sync::Arc;

pub use self::{
    events::EventReporter,
    headers::{ForwardedHeaders, TooManyHeaderBytes},
    hook::{Hook, HookRefusal},
    reply::{ApprovedOptions, HookResult, PublishApproval, Received, RpcAnswer, SubscribeApproval},
    request::HookRequest,
    session_reply::{ConnectApproval, Renewal},
    signature::CallSigner,
};
use crate::{
    certificate::CertificateError,
    clock::Clock,
    config::HooksConfig,
    metrics::{Metrics, Queue, QueueDepth, ratio},
};

/// The configured hooks of an instance, shared by all workers. By default none.
#[derive(Default)]
pub struct Hooks {
    /// Asked who a client without a token is.
    pub connect: Option<Arc<Hook>>,
    /// Whether `connect` is asked in the handshake of a WebSocket, before the client sends `connect`.
    pub asks_in_handshake: bool,
    /// Asked before a session ends that `connect` has allowed.
    pub refresh: Option<Arc<Hook>>,
    /// Asked before a subscription in channels with `subscribe_hook`.
    pub subscribe: Option<Arc<Hook>>,
    /// Asked before a subscription ends that `subscribe` has allowed.
    pub sub_refresh: Option<Arc<Hook>>,
    /// Asked before a publication of a client in channels with `publish_hook`.
    pub publish: Option<Arc<Hook>>,
    /// Answers `rpc`.
    pub rpc: Option<Arc<Hook>>,
    /// Takes the data of `send`.
    pub send: Option<Arc<Hook>>,
    /// Gets what is told to the backend.
    pub events: Option<Arc<EventReporter>>,
    /// Signs the calls of all hooks and of the events.
    signer: Arc<CallSigner>,
    /// The headers that some hook gets.
    forwarded_headers: Vec<String>,
}

impl Hooks {
    /// Creates the hooks that have an endpoint, without events.
    ///
    /// # Errors
    /// If the certificate authorities for an https endpoint cannot be read.
    pub fn new(config: &HooksConfig, clock: &Clock, metrics: &Arc<Metrics>) -> Result<Self, CertificateError> {
        let signer = Arc::new(CallSigner::new(config));
        let hook = |name, hook| Hook::from_config(name, hook, config, &signer, clock, metrics);
        Ok(Self {
            connect: hook("connect", &config.connect)?,
            asks_in_handshake: config.connect_in_handshake,
            refresh: hook("refresh", &config.refresh)?,
            subscribe: hook("subscribe", &config.subscribe)?,
            sub_refresh: hook("sub_refresh", &config.sub_refresh)?,
            publish: hook("publish", &config.publish)?,
            rpc: hook("rpc", &config.rpc)?,
            send: hook("send", &config.send)?,
            events: None,
            signer: signer.clone(),
            forwarded_headers: config.forwarded_headers(),
        })
    }

    /// Returns what signs the calls.
    pub fn signer(&self) -> &Arc<CallSigner> {
        &self.signer
    }

    /// Has the calls from now on signed with the secrets of a reloaded configuration.
    pub fn replace_secrets(&self, config: &HooksConfig) {
        self.signer.replace(config);
    }

    /// Returns how full the queues of the hooks are, and that of the events.
    pub fn queue_depths(&self) -> Vec<QueueDepth> {
        let hooks =
            [&self.connect, &self.refresh, &self.subscribe, &self.sub_refresh, &self.publish, &self.rpc, &self.send];
        let waiting: Vec<(usize, usize)> = hooks.into_iter().flatten().map(|hook| hook.waiting()).collect();
        let sum = |of: fn(&(usize, usize)) -> usize| waiting.iter().map(of).fold(0, usize::saturating_add);
        let all = QueueDepth::of_entries(Queue::Hooks, sum(|(waiting, _)| *waiting), sum(|(_, limit)| *limit));
        let all = waiting.iter().fold(all, |all, (waiting, limit)| all.or_fuller(ratio(*waiting, *limit)));
        let calls = (!waiting.is_empty()).then_some(all);
        calls.into_iter().chain(self.events.as_ref().map(|events| events.depth())).collect()
    }

    /// Returns the lowercase names of the headers that some hook gets.
    pub fn forwarded_headers(&self) -> &[String] {
        &self.forwarded_headers
    }

    /// Returns those headers of a request that some hook gets. `values` returns the values of a header.
    ///
    /// # Errors
    /// If they are too long to be kept for a connection.
    pub fn collect_headers<V: Iterator<Item: AsRef<[u8]>>>(
        &self,
        values: impl Fn(&str) -> V,
    ) -> Result<ForwardedHeaders, TooManyHeaderBytes> {
        ForwardedHeaders::collect(&self.forwarded_headers, values)
    }
}
