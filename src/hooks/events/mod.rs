//! Events for the operator's backend, about sessions, subscriptions and channels that begin and end. The backend gets them in
//! batches, at least once, those of a user and those of a channel in their order.
//!
//! ```text
//!  session, hub ─▶ reporter: tables of sessions and channels, bounded queues   (never waits, never fails)
//!                     │ transfer: lane by lane
//!                     ▼
//!                  outbox in the broker: lanes                                 (survives the node, with Redis)
//!                     │ sender: one task per lane, on the node that holds it
//!                     ▼
//!                  POST to `hooks.events.endpoint`
//! ```
//!
//! The transfer also renews the registration of the node; beside it, the takeover appends the events of nodes that were lost.

mod event;
mod refused_call;
mod reporter;
mod sender;
mod takeover;
mod transfer;

use std::{sync::Arc, time::Duration};

use actix_rt::task::JoinHandle;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

pub use self::reporter::{EventReporter, ReportedSession};
use self::{sender::EventSender, transfer::Transfer};
use crate::{
    broker::event_outbox::EventOutbox, certificate::CertificateError, clock::Clock, config::HooksConfig,
    metrics::Metrics,
};

/// How far the stop of the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StopStage {
    Running,
    /// No session is left: what is queued goes to the outbox.
    Transferring,
    /// Everything is in the outbox: the lanes are sent once more, and given up.
    Sending,
}

/// The tasks that send events.
pub struct EventService {
    outbox: Arc<dyn EventOutbox>,
    stop: watch::Sender<StopStage>,
    transfer: Mutex<Option<JoinHandle<()>>>,
    lanes: Mutex<Vec<JoinHandle<()>>>,
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
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, CertificateError> {
        let Some(sender) = EventSender::from_config(config, outbox.clone(), clock, metrics)? else { return Ok(None) };
        let sender = Arc::new(sender);
        let (stop, stopping) = watch::channel(StopStage::Running);
        let lanes = sender.clone().start(&stopping);
        let transfer = Transfer::new(config, reporter, outbox.clone(), sender);
        let transfer = Mutex::new(Some(actix_rt::spawn(transfer.run(stopping))));
        Ok(Some(Self { outbox, stop, transfer, lanes: Mutex::new(lanes) }))
    }

    /// Moves what is queued to the outbox, tries to send the outbox, and ends the tasks. To be called when all sessions have ended.
    pub async fn stop(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.stop.send_replace(StopStage::Transferring);
        let transfer = self.transfer.lock().take();
        if let Some(mut transfer) = transfer
            && timeout_at(deadline, &mut transfer).await.is_err()
        {
            transfer.abort();
            log::warn!("could not move all events to the outbox before the stop");
        }
        self.stop.send_replace(StopStage::Sending);
        let lanes = std::mem::take(&mut *self.lanes.lock());
        for (number, mut lane) in lanes.into_iter().enumerate() {
            if timeout_at(deadline, &mut lane).await.is_err() {
                lane.abort();
                // Another node can go on at once. If this fails, the lease ends by itself.
                _ = timeout_at(Instant::now() + RELEASE_TIMEOUT, self.outbox.release(number)).await;
            }
        }
    }
}

/// How long a stop waits until a lane is given up.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(100);
