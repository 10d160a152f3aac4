//! Keeps which servers work: the gauge `wardcast_broker_up` is 1 while all of them do.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::metrics::Metrics;

/// The state of all servers together. Without servers it is up.
pub(in super::super) struct ServerBoard {
    metrics: Arc<Metrics>,
    /// The addresses of the servers that do not work.
    down: Mutex<BTreeSet<String>>,
}

impl ServerBoard {
    /// Creates the board.
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
        let board = ServerBoard::new(metrics.clone());
        board.note_down("a");
        board.note_down("b");
        board.clear("a");
        board.clear("a");
        assert_eq!(metrics.broker_up.get(), 0);
        board.clear("b");
        assert_eq!(metrics.broker_up.get(), 1);
        board.note_down("a");
        assert_eq!(metrics.broker_up.get(), 0);
    }
}
