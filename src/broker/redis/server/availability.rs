//! Tracks which Redis servers work: the gauge `wardcast_broker_up` is 1 while all of them do.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::metrics::Metrics;

/// The servers that work, and those that do not. Without servers the broker is up.
pub(in super::super) struct ServerAvailability {
    metrics: Arc<Metrics>,
    /// The addresses of the servers that do not work.
    down: Mutex<BTreeSet<String>>,
}

impl ServerAvailability {
    /// Creates it without servers.
    pub(in super::super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, down: Mutex::default() }
    }

    /// Notes that a server works, or is no longer used.
    pub(in super::super) fn clear(&self, address: &str) {
        let mut down = self.down.lock();
        down.remove(address);
        self.metrics.broker_up.set(down.is_empty().into());
    }

    /// Notes that a server does not work.
    pub(in super::super) fn note_down(&self, address: &str) {
        self.down.lock().insert(address.to_owned());
        self.metrics.broker_up.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_is_up_while_every_server_is() {
        let metrics = Arc::new(Metrics::default());
        let availability = ServerAvailability::new(metrics.clone());
        availability.note_down("a");
        availability.note_down("b");
        availability.clear("a");
        availability.clear("a");
        assert_eq!(metrics.broker_up.get(), 0);
        availability.clear("b");
        assert_eq!(metrics.broker_up.get(), 1);
        availability.note_down("a");
        assert_eq!(metrics.broker_up.get(), 0);
    }
}
