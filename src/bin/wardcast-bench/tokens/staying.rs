//! Sessions that stay while something happens to the tokens of others. They have a thread of their own: otherwise this program
//! would read their deliveries only after the thousands of closes that came before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{join, sessions::Sessions, spawn};
use crate::{error::Result, run::Run};

/// How long the thread waits before it checks again whether it should stop.
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// The sessions.
pub(super) struct StayingSessions {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<Result<Sessions>>,
}

impl StayingSessions {
    /// Starts to read.
    pub(super) fn start(mut sessions: Sessions) -> Result<Self> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let thread = spawn("staying", move || {
            while !stopped.load(Ordering::Relaxed) {
                sessions.read(POLL_TIMEOUT)?;
            }
            Ok(sessions)
        })?;
        Ok(Self { is_stopped, thread })
    }

    /// Stops to read, and reports the deliveries before this time and within it.
    pub(super) fn finish(self, during: (u64, u64), run: &mut Run) -> Result<()> {
        self.is_stopped.store(true, Ordering::Relaxed);
        join(self.thread)?.report_deliveries(during, run);
        Ok(())
    }
}
