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
    pub waiting: Gauge,
    pub handshakes_refused: Family<Reason, Counter>,
    pub proxy_headers_refused: Counter,
    pub closed: Family<Code, Counter>,
    pub errors: Family<Code, Counter>,
    pub publications: Counter,
    pub deliveries: Counter,
    pub deliveries_dropped: Counter,
    pub sockets_full: Counter,
    pub bus_refused: Family<Reason, Counter>,
    pub broker_up: Gauge,
    pub broker_reconnects: Counter,
    pub probe_micros: Gauge,
}

/// Label: why, as one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// Label: a code of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    code: u32,
}

impl Metrics {
    /// Counts a close.
    pub fn count_close(&self, code: u16) {
        self.closed.get_or_create(&Code { code: code.into() }).inc();
    }

    /// How many connections were closed with this code.
    pub fn closed_for(&self, code: u16) -> u64 {
        self.closed.get(&Code { code: code.into() }).map_or(0, |count| count.get())
    }

    /// Counts an error reply.
    pub fn count_error(&self, code: u32) {
        self.errors.get_or_create(&Code { code }).inc();
    }

    /// Counts a handshake that was not let in.
    pub fn count_refused_handshake(&self, reason: &'static str) {
        self.handshakes_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts something on the bus that is not ours.
    pub fn count_refused_on_bus(&self, reason: &'static str) {
        self.bus_refused.get_or_create(&Reason { reason }).inc();
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
            self.waiting.clone(),
        );
        registry.register("handshakes_refused", "Handshakes not let in", self.handshakes_refused.clone());
        registry.register(
            "proxy_headers_refused",
            "Connections of trusted proxies that did not begin with a good PROXY header",
            self.proxy_headers_refused.clone(),
        );
        registry.register("closed", "Connections closed by us, by close code", self.closed.clone());
        registry.register("errors", "Error replies, by error code", self.errors.clone());
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
            self.sockets_full.clone(),
        );
        registry.register("bus_refused", "Messages on the bus that are not ours", self.bus_refused.clone());
        registry.register("broker_up", "1 while the broker is usable", self.broker_up.clone());
        registry.register("broker_reconnects", "Subscription connections made anew", self.broker_reconnects.clone());
        registry.register(
            "broker_probe_microseconds",
            "Time of the last probe from publish to arrival",
            self.probe_micros.clone(),
        );
    }
}
