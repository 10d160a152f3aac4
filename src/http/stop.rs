//! The phase of the stop of this instance, on which readiness, handshakes and HTTP connections depend.

use std::time::Duration;

use tokio::sync::watch;

/// The phases of a stop, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopPhase {
    /// The instance is not stopping.
    Running,
    /// `server.drain_delay`: not ready, but everything is served. Each response closes its connection, so that a load
    /// balancer does not keep it for the next request.
    Draining,
    /// The listener is closed, and the sessions are being closed. Handshakes are refused; other requests on open
    /// connections are served.
    Closing,
    /// The sessions are closed. Each HTTP connection closes as soon as the request that has begun on it is answered.
    Finishing,
}

/// The phase of this instance. Every HTTP connection watches it, so that the stop can wait for the end of all of them.
#[derive(Debug)]
pub struct StopProgress(watch::Sender<StopPhase>);

/// An HTTP connection's view of the stop. While it exists, the connection counts as open.
#[derive(Clone, Debug)]
pub struct StopWatch(watch::Receiver<StopPhase>);

impl Default for StopProgress {
    fn default() -> Self {
        Self(watch::Sender::new(StopPhase::Running))
    }
}

impl StopProgress {
    /// Returns the phase.
    pub fn phase(&self) -> StopPhase {
        *self.0.borrow()
    }

    /// Enters a phase.
    pub fn enter(&self, phase: StopPhase) {
        self.0.send_replace(phase);
    }

    /// Returns the view of a new HTTP connection.
    pub fn watch(&self) -> StopWatch {
        StopWatch(self.0.subscribe())
    }

    /// Waits until no HTTP connection is open, but at most for `limit`.
    pub async fn await_http_connections(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.0.closed()).await;
    }
}

impl StopWatch {
    /// Returns whether the instance is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() > StopPhase::Running
    }

    /// Waits until the connection has to close as soon as no request is being answered on it.
    pub async fn finishing(mut self) {
        // Fails only when the server has been dropped, which has ended its connections.
        let _ = self.0.wait_for(|phase| *phase == StopPhase::Finishing).await;
    }
}
