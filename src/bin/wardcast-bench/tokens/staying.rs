//! Sessions that stay connected while something happens to the tokens of others. They have a thread of their own: otherwise
//! this program would read their deliveries only after the thousands of closes that came before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{MAX_END, join, sessions::Sessions, spawn};
use crate::{error::Result, run::Run};

/// How long the thread waits before it checks again whether it should stop.
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// The sessions.
pub(super) struct StayingSessions {
    is_stopped: Arc<AtomicBool>,
    have_received: Arc<AtomicBool>,
    thread: JoinHandle<Result<Sessions>>,
}

impl StayingSessions {
    /// Starts to read.
    pub(super) fn start(mut sessions: Sessions) -> Result<Self> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let have_received = Arc::new(AtomicBool::new(false));
        let (stopped, received) = (is_stopped.clone(), have_received.clone());
        let thread = spawn("staying", move || {
            while !stopped.load(Ordering::Relaxed) {
                sessions.read(POLL_TIMEOUT)?;
                received.store(sessions.have_received_any(), Ordering::Relaxed);
            }
            Ok(sessions)
        })?;
        Ok(Self { is_stopped, have_received, thread })
    }

    /// Waits until each session has received a publication, so that there are deliveries to compare with.
    pub(super) fn wait_for_publications(&self, run: &Run) {
        let start = Instant::now();
        while !self.have_received.load(Ordering::Relaxed) && start.elapsed() < MAX_END && !run.terminal.is_interrupted()
        {
            run.terminal.wait(POLL_TIMEOUT);
        }
    }

    /// Stops to read, and reports the deliveries before this time and within it.
    pub(super) fn finish(self, during: (u64, u64), run: &mut Run) -> Result<()> {
        self.is_stopped.store(true, Ordering::Relaxed);
        join(self.thread)?.report_deliveries(during, run);
        Ok(())
    }
}
