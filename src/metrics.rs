//! What Wardcast counts. One set per instance, shared by everybody, read by `/metrics`; the hot path adds once a batch.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// All counters of one instance.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is described where it is registered, in `register`")]
pub struct Metrics {
    pub connections: Gauge,
    pub unauthenticated_connections: Gauge,
    pub handshakes_refused: Family<ReasonLabel, Counter>,
    pub proxy_headers_refused: Counter,
    pub closed_connections: Family<CodeLabel, Counter>,
    pub error_replies: Family<CodeLabel, Counter>,
    pub publications: Counter,
    pub deliveries: Counter,
    pub deliveries_dropped: Counter,
    pub full_sockets: Counter,
    pub refused_bus_messages: Family<ReasonLabel, Counter>,
    pub broker_up: Gauge,
    pub broker_reconnects: Counter,
    pub probe_microseconds: Gauge,
}

/// Label: why, as one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// Label: a code of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    code: u32,
}

impl Metrics {
    /// Counts a close.
    pub fn count_close(&self, code: u16) {
        self.closed_connections.get_or_create(&CodeLabel { code: code.into() }).inc();
    }

    /// How many connections were closed with this code.
    pub fn closes_with_code(&self, code: u16) -> u64 {
        self.closed_connections.get(&CodeLabel { code: code.into() }).map_or(0, |count| count.get())
    }

    /// Counts an error reply.
    pub fn count_error(&self, code: u32) {
        self.error_replies.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts a handshake that was not let in.
    pub fn count_refused_handshake(&self, reason: &'static str) {
        self.handshakes_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts something on the bus that is not ours.
    pub fn count_refused_bus_message(&self, reason: &'static str) {
        self.refused_bus_messages.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// The OpenMetrics text format.
    ///
    /// # Errors
    /// Only those of formatting, which into a `String` do not happen.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("wardcast");
        self.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_waiting",
            "Connections that have not said yet who they are",
            self.unauthenticated_connections.clone(),
        );
        registry.register("handshakes_refused", "Handshakes not let in", self.handshakes_refused.clone());
        registry.register(
            "proxy_headers_refused",
            "Connections of trusted proxies that did not begin with a good PROXY header",
            self.proxy_headers_refused.clone(),
        );
        registry.register("closed", "Connections closed by us, by close code", self.closed_connections.clone());
        registry.register("errors", "Error replies, by error code", self.error_replies.clone());
        registry.register("publications", "Publications handed to the broker", self.publications.clone());
        registry.register("deliveries", "Publications queued to a session", self.deliveries.clone());
        registry.register(
            "deliveries_dropped",
            "Publications from the broker that a hub had no room for",
            self.deliveries_dropped.clone(),
        );
        registry.register(
            "sockets_full",
            "Times that a socket took no more and somebody had to wait for it",
            self.full_sockets.clone(),
        );
        registry.register("bus_refused", "Messages on the bus that are not ours", self.refused_bus_messages.clone());
        registry.register("broker_up", "1 while the broker is usable", self.broker_up.clone());
        registry.register("broker_reconnects", "Subscription connections made anew", self.broker_reconnects.clone());
        registry.register(
            "broker_probe_microseconds",
            "Time of the last probe from publish to arrival",
            self.probe_microseconds.clone(),
        );
    }
}
