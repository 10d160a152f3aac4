//! Metrics: one set per instance, shared by all its parts and served at `/metrics`. The fan-out updates them once per
//! batch.

mod queues;

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, text::encode},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::deflate::{ByteCounters, CompressionCounters};

pub use queues::{MAX_BROKER_COMMANDS, MAX_QUEUED_CONTROLS, MAX_SURVEYS, Queue, QueueDepth, ratio};

/// Declares each metric once: field, type, name and description.
macro_rules! metrics {
    ($($field:ident: $kind:ty = $name:literal, $help:literal;)*) => {
        /// All metrics of one instance.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Metrics {
            /// The name of each metric as it is exposed, and its type in the terms of OpenMetrics.
            pub const EXPOSED: &[(&str, &str)] = &[$((
                match <$kind as Exposed>::SUFFIX.len() {
                    0 => concat!("wardcast_", $name),
                    _ => concat!("wardcast_", $name, "_total"),
                },
                <$kind as Exposed>::KIND,
            ),)*];

            fn register(&self, registry: &mut Registry) {
                $(registry.register($name, $help, self.$field.clone());)*
            }
        }
    };
}

/// What kind of metric a type is.
trait Exposed {
    const KIND: &str;
    /// What the text format appends to its name.
    const SUFFIX: &str;
}

impl Exposed for Gauge {
    const KIND: &str = "gauge";
    const SUFFIX: &str = "";
}

impl Exposed for Gauge<f64, AtomicU64> {
    const KIND: &str = "gauge";
    const SUFFIX: &str = "";
}

impl Exposed for Counter {
    const KIND: &str = "counter";
    const SUFFIX: &str = "_total";
}

impl Exposed for Histogram {
    const KIND: &str = "histogram";
    const SUFFIX: &str = "";
}

impl<L: Clone + std::hash::Hash + Eq, M: Exposed, C> Exposed for Family<L, M, C> {
    const KIND: &str = M::KIND;
    const SUFFIX: &str = M::SUFFIX;
}

metrics! {
    connections: Gauge = "connections", "Open connections";
    unauthenticated_connections: Gauge = "connections_waiting", "Open connections that have not authenticated yet";
    handshakes_refused: Family<ReasonLabel, Counter> = "handshakes_refused", "Refused handshakes, by reason";
    emulation_requests: Family<OutcomeLabel, Counter> = "emulation_requests", "Requests with commands of clients of streams, by outcome: queued, forwarded to another node, or why not";
    proxy_headers_refused: Counter = "proxy_headers_refused", "Connections of trusted proxies closed because of a missing or malformed PROXY header";
    tls_handshakes: Family<OutcomeLabel, Counter> = "tls_handshakes", "TLS handshakes, by outcome: full, resumed, failed or timeout";
    verifications: Family<OutcomeLabel, Counter> = "verifications", "Tokens of clients that connect, by outcome: verified at once (immediate), after others (waited), or refused unverified";
    key_fetches: Family<OutcomeLabel, Counter> = "key_fetches", "Attempts to fetch a JWK set, by outcome: fetched, or what failed";
    logins: Family<OutcomeLabel, Counter> = "logins", "Attempts to log in, by outcome";
    login_refreshes: Family<OutcomeLabel, Counter> = "login_refreshes", "Uses of refresh tokens, by outcome";
    key_sets_missing: Gauge = "key_sets_missing", "JWK sets whose keys verify nothing, since they were never fetched or the last fetch is too long ago";
    audit_lines: Family<OutcomeLabel, Counter> = "audit_lines", "Lines of the audit log, by outcome: written, lost, or suppressed by a rate limit";
    hook_calls: Family<HookLabel, Counter> = "hook_calls", "Calls of backend hooks, by hook and outcome: answered, refused by the backend, or what failed";
    hook_seconds: SecondsBy<HookNameLabel> = "hook_seconds", "Durations of calls of backend hooks, by hook, waiting included";
    hook_events: Family<OutcomeLabel, Counter> = "hook_events", "Events for the backend, by outcome: queued in the outbox, sent, in calls that failed, dropped, or refused by the backend for so long that they were dropped";
    hook_events_waiting: Gauge = "hook_events_waiting", "Events that wait in the outbox, of all nodes";
    hook_event_restarts: Counter = "hook_event_restarts", "Times that a part of the events for the backend was started again because it had panicked";
    closed_connections: Family<CodeLabel, Counter> = "closed", "Connections closed by the server, by close code";
    error_replies: Family<CodeLabel, Counter> = "errors", "Error replies, by error code";
    commands: Family<CallLabel, Counter> = "commands", "Commands of clients, by method and result: ok, error, or closed with the connection";
    api_calls: Family<CallLabel, Counter> = "api_calls", "Calls of the server API, by method and result: ok or error";
    publications: Counter = "publications", "Publications passed to the broker";
    deliveries: Counter = "deliveries", "Publications queued to sessions";
    deliveries_dropped: Counter = "deliveries_dropped", "Publications dropped because the delivery queue of a hub was full (limits.hub_queue_bytes)";
    compression_messages: Family<CompressionOutcomeLabel, Counter> = "compression_messages", "Messages that were compressed or inflated, each once however many clients receive it, by direction and outcome: compressed, not_shorter (sent uncompressed), inflated, or refused";
    compression_bytes: Family<CompressionFormLabel, Counter> = "compression_bytes", "Bytes of the messages that were compressed or inflated, by direction and form: plain, or compressed as on the wire";
    full_sockets: Counter = "sockets_full", "Times that a socket was full, so that its outbox had to wait";
    reading_pauses: Counter = "reading_paused", "Times that a client's commands had to wait until it had read the replies to earlier ones";
    refused_bus_messages: Family<ReasonLabel, Counter> = "bus_refused", "Redis messages dropped as malformed or foreign, by reason";
    broker_up: Gauge = "broker_up", "1 while the broker is available, otherwise 0";
    broker_seconds: SecondsBy<OperationLabel> = "broker_seconds", "Durations of the calls of Redis on which a client or a caller of the server API waits, by operation, failures included";
    broker_reconnects: Counter = "broker_reconnects", "Times that the Redis subscription connection was re-established";
    gaps: Family<OutcomeLabel, Counter> = "gaps", "Gaps in channels with positioned subscriptions, by outcome: filled from the history, told to the clients, or publications that the broker has lost";
    bus_lag: SecondsBy<ServerLabel> = "bus_lag_seconds", "Times from the queue of a node to its hubs through a Redis server and its PUB/SUB, of the probes that this node sends itself";
    queue_entries: Family<QueueLabel, Gauge> = "queue_entries", "Entries of the queues that have a limit of entries, when they are scraped";
    queue_bytes: Family<QueueLabel, Gauge> = "queue_bytes", "Bytes of the queues that have a limit of bytes, when they are scraped";
    queue_ratio: Family<QueueLabel, Gauge<f64, AtomicU64>> = "queue_ratio", "How full the queues are when they are scraped; 1: full";
    hub_delay: Gauge<f64, AtomicU64> = "hub_delay_seconds", "How long a message waits for the slowest hub, measured by each scrape";
    settings_conflicts: Family<SettingLabel, Gauge> = "settings_conflict", "1 while nodes that were started before have another value of a setting in which all nodes have to agree, by setting";
    nodes: Gauge = "nodes", "Nodes that this node knows to be alive, itself included";
    revocations: Gauge = "revocations", "Revocations in force that this node knows";
    revocations_unconfirmed: Counter = "revocations_unconfirmed", "Revocations of this node that not every live node has confirmed in time";
    backchannel_logouts: Family<OutcomeLabel, Counter> = "backchannel_logouts", "Logout tokens of identity providers, by outcome: obeyed, unconfirmed, failed, or why not: pending, refused, limited";
    probe_microseconds: Family<ServerLabel, Gauge> = "broker_probe_microseconds", "Round-trip time of the last probe through a Redis server, from publish to arrival";
}

/// Durations in seconds by a label, from a quarter of a millisecond to eight seconds: the longest timeouts of hooks and broker are
/// in the last bucket.
#[derive(Clone, Debug)]
pub struct SecondsBy<L: Clone + std::hash::Hash + Eq>(Family<L, Histogram, fn() -> Histogram>);

impl<L: Clone + std::hash::Hash + Eq> Exposed for SecondsBy<L> {
    const KIND: &str = Histogram::KIND;
    const SUFFIX: &str = Histogram::SUFFIX;
}

impl<L: Clone + std::hash::Hash + Eq + EncodeLabelSet> EncodeMetric for SecondsBy<L> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<L: Clone + std::hash::Hash + Eq> Default for SecondsBy<L> {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 16))))
    }
}

/// The label `operation`: one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabel {
    operation: &'static str,
}

/// The label `hook`: one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HookNameLabel {
    hook: &'static str,
}

/// The label `reason`: one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// The label `outcome`: one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    outcome: &'static str,
}

/// The labels `hook` and `outcome`: one word each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HookLabel {
    hook: &'static str,
    outcome: &'static str,
}

/// The labels `method` and `result`: one word each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabel {
    method: &'static str,
    result: &'static str,
}

/// The labels `direction` and `outcome`: one word each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CompressionOutcomeLabel {
    direction: &'static str,
    outcome: &'static str,
}

/// The labels `direction` and `form`: one word each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CompressionFormLabel {
    direction: &'static str,
    form: &'static str,
}

/// The label `setting`: one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SettingLabel {
    setting: &'static str,
}

/// The label `queue`: the name of a [`Queue`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabel {
    queue: &'static str,
}

/// The label `server`: the address of a Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServerLabel {
    server: String,
}

/// The label `code`: an error or close code of the client protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    code: u32,
}

impl Metrics {
    /// Counts a closed connection.
    pub fn count_close(&self, code: u16) {
        self.closed_connections.get_or_create(&CodeLabel { code: code.into() }).inc();
    }

    /// Returns how many connections were closed with `code`.
    pub fn closes_with_code(&self, code: u16) -> u64 {
        self.closed_connections.get(&CodeLabel { code: code.into() }).map_or(0, |count| count.get())
    }

    /// Notes how long the last probe through a Redis server took.
    pub fn set_probe_microseconds(&self, server: &str, microseconds: i64) {
        self.probe_microseconds.get_or_create(&ServerLabel { server: server.to_owned() }).set(microseconds);
    }

    /// Returns the histogram of the times of probes through a Redis server.
    pub fn bus_lag_of(&self, server: &str) -> Histogram {
        self.bus_lag.0.get_or_create(&ServerLabel { server: server.to_owned() }).clone()
    }

    /// Forgets a Redis server that is no longer used.
    pub fn forget_server(&self, server: &str) {
        let label = ServerLabel { server: server.to_owned() };
        self.probe_microseconds.remove(&label);
        self.bus_lag.0.remove(&label);
    }

    /// Notes whether other nodes have another value of a setting in which all nodes have to agree.
    pub fn set_settings_conflict(&self, setting: &'static str, is_there: bool) {
        self.settings_conflicts.get_or_create(&SettingLabel { setting }).set(is_there.into());
    }

    /// Counts an error reply.
    pub fn count_error(&self, code: u32) {
        self.error_replies.get_or_create(&CodeLabel { code }).inc();
    }

    /// Returns the counter of commands of clients of this method and result.
    pub fn command_counter(&self, method: &'static str, result: &'static str) -> Counter {
        self.commands.get_or_create(&CallLabel { method, result }).clone()
    }

    /// Returns the counter of calls of the server API of this method and result.
    pub fn api_call_counter(&self, method: &'static str, result: &'static str) -> Counter {
        self.api_calls.get_or_create(&CallLabel { method, result }).clone()
    }

    /// Returns the counters of compression, for a thread that keeps them.
    pub fn compression_counters(&self) -> CompressionCounters {
        let messages = |direction, outcome| {
            self.compression_messages.get_or_create_owned(&CompressionOutcomeLabel { direction, outcome })
        };
        let bytes = |direction| {
            let of = |form| self.compression_bytes.get_or_create_owned(&CompressionFormLabel { direction, form });
            ByteCounters { plain: of("plain"), compressed: of("compressed") }
        };
        CompressionCounters {
            compressed: messages("sent", "compressed"),
            not_shorter: messages("sent", "not_shorter"),
            inflated: messages("received", "inflated"),
            refused: messages("received", "refused"),
            sent: bytes("sent"),
            received: bytes("received"),
        }
    }

    /// Counts a refused handshake.
    pub fn count_refused_handshake(&self, reason: &'static str) {
        self.handshakes_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a request with commands for a stream: `queued`, `forwarded` to another node, or why it was refused.
    pub fn count_emulation_request(&self, outcome: &'static str) {
        self.emulation_requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a Redis message that this instance dropped.
    pub fn count_refused_bus_message(&self, reason: &'static str) {
        self.refused_bus_messages.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a token of a client that connects: verified `immediate`ly, after it `waited` for others, or `refused` unverified.
    pub fn count_verification(&self, outcome: &'static str) {
        self.verifications.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a TLS handshake: `full`, `resumed`, `failed` or `timeout`.
    pub fn count_tls_handshake(&self, outcome: &'static str) {
        self.tls_handshakes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Returns how many TLS handshakes had `outcome`.
    pub fn tls_handshakes_with_outcome(&self, outcome: &'static str) -> u64 {
        self.tls_handshakes.get(&OutcomeLabel { outcome }).map_or(0, |count| count.get())
    }

    /// Counts an attempt to fetch the keys of an identity provider.
    pub fn count_key_fetch(&self, outcome: &'static str) {
        self.key_fetches.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a login: `succeeded`, `failed`, `delayed` because of earlier failures, or what was not available.
    pub fn count_login(&self, outcome: &'static str) {
        self.logins.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a use of a refresh token: `refreshed`, or why it was refused.
    pub fn count_login_refresh(&self, outcome: &'static str) {
        self.login_refreshes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a logout token that an identity provider has sent.
    pub fn count_backchannel_logout(&self, outcome: &'static str) {
        self.backchannel_logouts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a call of a hook: `answered`, `refused` by the backend, or what failed.
    pub fn count_hook_call(&self, hook: &'static str, outcome: &'static str) {
        self.hook_calls.get_or_create(&HookLabel { hook, outcome }).inc();
    }

    /// Notes how long a call of a hook took, from the question to the answer or failure, waiting included.
    pub fn observe_hook(&self, hook: &'static str, duration: Duration) {
        self.hook_seconds.0.get_or_create(&HookNameLabel { hook }).observe(duration.as_secs_f64());
    }

    /// Returns the histogram of an operation of the broker, for a caller that keeps it.
    pub fn broker_seconds_of(&self, operation: &'static str) -> Histogram {
        self.broker_seconds.0.get_or_create_owned(&OperationLabel { operation })
    }

    /// Counts events for the backend: `queued` in the outbox, `sent`, in calls that `failed`, `dropped` because of a bound, or dropped
    /// because the backend has `refused` them.
    pub fn count_hook_events(&self, outcome: &'static str, count: usize) {
        self.hook_events.get_or_create(&OutcomeLabel { outcome }).inc_by(count as u64);
    }

    /// Returns how many events for the backend had `outcome`.
    pub fn hook_events_with_outcome(&self, outcome: &'static str) -> u64 {
        self.hook_events.get(&OutcomeLabel { outcome }).map_or(0, |count| count.get())
    }

    /// Counts lines of the audit log: `written`, `lost` or `suppressed`.
    pub fn count_audit_lines(&self, outcome: &'static str, count: u64) {
        self.audit_lines.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
    }

    /// Counts a gap in a channel of a hub: `filled` from the history, `told` to the positioned subscriptions, or a sign of
    /// `lost_writes`.
    pub fn count_gap(&self, outcome: &'static str) {
        self.gaps.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Creates the series of which each rise is an alert (`config/alerts.yml`): Prometheus sees a rise only from a value that it has
    /// scraped before, and so not the first one of a series that begins with it.
    fn create_alerted_series(&self) {
        for (family, outcome) in [
            (&self.hook_events, "dropped"),
            (&self.hook_events, "refused"),
            (&self.gaps, "lost_writes"),
            (&self.backchannel_logouts, "failed"),
            (&self.audit_lines, "lost"),
        ] {
            drop(family.get_or_create(&OutcomeLabel { outcome }));
        }
    }

    /// Writes all metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// None in practice: writing to a `String` cannot fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        self.create_alerted_series();
        let mut registry = Registry::with_prefix("wardcast");
        self.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prometheus sees a rise only from a value that it has scraped before.
    #[test]
    fn counters_of_which_each_rise_is_an_alert_are_exposed_from_the_start() {
        let rules = include_str!("../config/alerts.yml");
        let text = Metrics::default().encode().unwrap();
        let mut series = Vec::new();
        for rise in rules.split("increase(").skip(1) {
            let (selector, _) = rise.split_once('[').unwrap();
            let (name, labels) = selector.split_once('{').unwrap_or((selector, ""));
            match labels.split('"').nth(1) {
                Some(outcomes) => {
                    series.extend(outcomes.split('|').map(|outcome| format!("{name}{{outcome=\"{outcome}\"}} 0")))
                }
                // Its reasons are those of other programs, too many to name.
                None if name == "wardcast_bus_refused_total" => {}
                None => series.push(format!("{name} 0")),
            }
        }
        assert!(series.len() >= 7, "{series:?}");
        for series in series {
            assert!(text.lines().any(|line| line == series), "{series} is missing in:\n{text}");
        }
    }
}
