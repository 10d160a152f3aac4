//! Looks at the servers from outside while a run lasts: their greatest memory, and when they let stalled sockets go.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{BenchError, IoContext, Result};
use crate::process::{ports_closed_by_server, resident_bytes};
use crate::run_clock::RunClock;

/// Often enough to see a burst, seldom enough to cost nothing (the socket table of 20,000 sockets is read each time).
const INTERVAL: Duration = Duration::from_millis(500);

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct MonitorResult {
    /// The greatest resident memory of all servers together, in bytes.
    pub(crate) resident_max: u64,
    /// Stalled sockets whose server side is in this machine's socket table, so that they can be watched at all.
    pub(crate) watched_sockets: usize,
    /// The clock when each of those was found let go.
    pub(crate) closed_at: Vec<u64>,
}

/// A thread that looks.
#[derive(Debug)]
pub(crate) struct ServerMonitor {
    /// Dropped to stop it.
    stop: mpsc::Sender<()>,
    handle: JoinHandle<MonitorResult>,
}

impl ServerMonitor {
    /// Begins to look at `pids`, and at the server side of the connections from `ports`.
    pub(crate) fn start(pids: Vec<u32>, ports: Vec<u16>, clock: RunClock) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let look = move || {
            let gone = if ports.is_empty() { Vec::new() } else { ports_closed_by_server(&ports) };
            let mut held: Vec<u16> = ports.into_iter().filter(|port| !gone.contains(port)).collect();
            let mut seen = MonitorResult { watched_sockets: held.len(), ..MonitorResult::default() };
            loop {
                seen.resident_max = seen.resident_max.max(resident_bytes(&pids).unwrap_or(0));
                if !held.is_empty() {
                    let gone = ports_closed_by_server(&held);
                    seen.closed_at.extend(gone.iter().map(|_| clock.now()));
                    held.retain(|port| !gone.contains(port));
                }
                if stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Disconnected) {
                    return seen;
                }
            }
        };
        let handle = std::thread::Builder::new().name("watch".to_owned()).spawn(look);
        Ok(Self { stop, handle: handle.context(|| "starting the watching thread")? })
    }

    /// Stops looking.
    pub(crate) fn finish(self) -> Result<MonitorResult> {
        drop(self.stop);
        self.handle.join().map_err(|_| BenchError::ThreadPanicked)
    }
}
