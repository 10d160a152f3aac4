//! Events for the operator's backend, about sessions, subscriptions and channels that begin and end. The backend gets them in
//! batches, at least once, those of a user and those of a channel in their order.
//!
//! ```text
//!  session, hub ─▶ reporter: tables of sessions and channels, bounded queues   (never waits, never fails)
//!                     │ transfer
//!                     ▼
//!                  outbox in the broker: lanes                                 (survives the node, with Redis)
//!                     │ sender: on the node that holds the lane
//!                     ▼
//!                  POST to `hooks.events.endpoint`
//! ```
//!
//! The transfer also renews the registration of the node; beside it, the takeover appends the events of nodes that were lost. Each lane
//! has one task with a transfer, a takeover and a sender of its own.

mod event;
mod lane;
mod refused_call;
mod reporter;
mod sender;
mod takeover;
mod transfer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::reporter::{EventReporter, ReportedSession};
use self::{lane::LaneTask, sender::EventSender, transfer::Transfer};
use crate::{
    broker::event_outbox::{EVENT_LANES, EventOutbox},
    certificate::CertificateError,
    clock::Clock,
    config::HooksConfig,
    hooks::signature::CallSigner,
    metrics::Metrics,
};

/// The tasks that send events.
pub struct EventService {
    /// Cancelled when the server stops and no session is left.
    stopping: CancellationToken,
    lanes: Mutex<Vec<LaneTask>>,
}

impl EventService {
    /// Starts the tasks on the current thread.
    ///
    /// # Errors
    /// If the certificate authorities for an https endpoint cannot be read.
    pub fn start(
        config: &HooksConfig,
        reporter: Arc<EventReporter>,
        outbox: Arc<dyn EventOutbox>,
        signer: &Arc<CallSigner>,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, CertificateError> {
        let Some(sender) = EventSender::from_config(config, outbox.clone(), signer, clock, metrics)? else {
            return Ok(None);
        };
        let transfer = Arc::new(Transfer::new(config, reporter, outbox, sender, metrics.clone()));
        let stopping = CancellationToken::new();
        let lanes = (0..EVENT_LANES).map(|lane| LaneTask::start(lane, transfer.clone(), stopping.clone())).collect();
        Ok(Some(Self { stopping, lanes: Mutex::new(lanes) }))
    }

    /// Moves what is queued to the outbox, tries to send the outbox, and ends the tasks. Each lane has the whole time for it. To be called
    /// when all sessions have ended.
    pub async fn stop(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.stopping.cancel();
        let lanes = std::mem::take(&mut *self.lanes.lock());
        join_all(lanes.into_iter().map(|lane| lane.stop(deadline))).await;
    }
}
