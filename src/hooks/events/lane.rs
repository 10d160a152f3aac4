//! The task of a lane: its transfer, its takeovers and its sender. A lane that waits or panics holds up no other one.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_rt::task::JoinHandle;
use futures_util::future::{FutureExt, join};
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    takeover::Takeover,
    transfer::{LaneTransfer, Transfer},
};
use crate::metrics::Metrics;

/// Pause after a panic.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long a stop waits until a lane is given up.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(100);

/// The task.
pub(super) struct LaneTask {
    lane: usize,
    transfer: Arc<Transfer>,
    task: JoinHandle<()>,
    /// Cancelled when the server stops and everything of the lane is in the outbox.
    transferred: CancellationToken,
}

impl LaneTask {
    /// Starts it on the current thread. `stopping` is cancelled when the server stops and no session is left.
    pub(super) fn start(lane: usize, transfer: Arc<Transfer>, stopping: CancellationToken) -> Self {
        let transferred = CancellationToken::new();
        let task = actix_rt::spawn(run(lane, transfer.clone(), stopping, transferred.clone()));
        Self { lane, transfer, task, transferred }
    }

    /// Waits until the lane has ended, and aborts it at the deadline. `stopping` is cancelled.
    pub(super) async fn stop(mut self, deadline: Instant) {
        if timeout_at(deadline.into(), &mut self.task).await.is_ok() {
            return;
        }
        self.task.abort();
        let Self { lane, transfer, transferred, .. } = self;
        if !transferred.is_cancelled() {
            log::warn!("could not move all events to the outbox before the stop lane={lane}");
        }
        // Another node can go on at once. If this fails, the lease ends by itself.
        _ = timeout(RELEASE_TIMEOUT, transfer.outbox.release(lane)).await;
    }
}

/// Runs a lane until the server has stopped, everything is in the outbox, and the outbox has been sent.
async fn run(lane: usize, shared: Arc<Transfer>, stopping: CancellationToken, transferred: CancellationToken) {
    let (sender, metrics) = (&shared.sender, &*shared.metrics);
    let mut transfer = LaneTransfer::new(&shared, lane);
    let (lost, takeover) = (transfer.lost.clone(), Takeover { transfer: &shared, lane });
    let store = async {
        // Neither waits for the other. What a stop leaves of a lost node is for other nodes.
        tokio::select! {
            () = restart_after_panics("transfer", lane, metrics, async || transfer.run(&stopping).await) => {}
            () = restart_after_panics("takeover", lane, metrics, async || takeover.run(lost.subscribe()).await) => {}
        }
        transferred.cancel();
    };
    let send = restart_after_panics("sender", lane, metrics, async || sender.run_lane(lane, &transferred).await);
    join(store, send).await;
}

/// Runs a part of a lane until it ends. If it panics, runs it again after a pause.
async fn restart_after_panics(part: &str, lane: usize, metrics: &Metrics, mut run: impl AsyncFnMut()) {
    // Unwind safe: the parts change what outlives their futures in steps that leave it valid.
    while let Err(panic) = AssertUnwindSafe(run()).catch_unwind().await {
        metrics.hook_event_restarts.inc();
        log::error!("restarting events after a panic lane={lane} part={part} error={:?}", panic_message(&*panic));
        sleep(RESTART_DELAY).await;
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown")
}
