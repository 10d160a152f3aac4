//! Measures the durations of the calls on which a client or a caller of the server API waits (`wardcast_broker_seconds`).

use std::time::Instant;

use futures_util::future::{BoxFuture, FutureExt};
use prometheus_client::metrics::histogram::Histogram;

use super::RedisBroker;
use crate::metrics::Metrics;

/// What a call does, as the metric names it.
#[derive(Clone, Copy)]
pub(super) enum Operation {
    Publish,
    History,
    Presence,
    Subscribe,
    Survey,
    Revoke,
    Login,
}

/// A histogram for each operation, in the order of [`Operation`]: a call looks nothing up.
pub(super) struct CallTimes([Histogram; 7]);

impl CallTimes {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let operations = ["publish", "history", "presence", "subscribe", "survey", "revoke", "login"];
        Self(operations.map(|operation| metrics.broker_seconds_of(operation)))
    }
}

impl RedisBroker {
    /// Notes how long a call takes, from now until it is ready. A call that its caller gives up is not counted.
    pub(super) fn measured<T: Send + 'static>(
        &self,
        operation: Operation,
        call: BoxFuture<'static, T>,
    ) -> BoxFuture<'static, T> {
        let (times, began) = (self.call_times.0[operation as usize].clone(), Instant::now());
        call.inspect(move |_| times.observe(began.elapsed().as_secs_f64())).boxed()
    }
}
