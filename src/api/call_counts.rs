//! Counts the calls of the server API by method and result (`wardcast_api_calls_total`).

use prometheus_client::metrics::counter::Counter;

use super::{ApiMethod, METHODS, publish::PUBLISH};
use crate::metrics::Metrics;

/// The label of calls of methods that do not exist.
const UNKNOWN: &str = "unknown";
/// The results that are counted, in the order of the counters of a method.
const RESULTS: [&str; 2] = ["ok", "error"];

/// Counters for each method of [`METHODS`], in its order, and for unknown ones: a call looks nothing up by its name.
pub struct CallCounters {
    methods: Vec<[Counter; RESULTS.len()]>,
    publish: [Counter; RESULTS.len()],
    unknown: Counter,
}

impl CallCounters {
    /// Returns the counters of these metrics. From then on all of them are exposed.
    pub fn new(metrics: &Metrics) -> Self {
        let counters_of = |method: &ApiMethod| RESULTS.map(|result| metrics.api_call_counter(method.name, result));
        let [_, error] = RESULTS;
        Self {
            publish: counters_of(&PUBLISH),
            methods: METHODS.iter().map(counters_of).collect(),
            unknown: metrics.api_call_counter(UNKNOWN, error),
        }
    }

    /// Counts a call of a method of [`METHODS`].
    pub(super) fn count(&self, method: &'static ApiMethod, is_ok: bool) {
        if let Some(index) = METHODS.iter().position(|other| std::ptr::eq(other, method)) {
            self.methods[index][usize::from(!is_ok)].inc();
        }
    }

    /// Counts a call of `POST /v1/channels/{channel}/messages`, which is a `publish` by another path.
    pub(super) fn count_publish(&self, is_ok: bool) {
        self.publish[usize::from(!is_ok)].inc();
    }

    /// Counts a call of a method that does not exist.
    pub(super) fn count_unknown(&self) {
        self.unknown.inc();
    }
}
