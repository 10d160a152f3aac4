//! Looks at the servers from outside while a run lasts: their greatest memory, and when they let stalled sockets go.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{BenchError, Result, While};
use crate::process::{ports_let_go, resident_bytes};

/// Often enough to see a burst, seldom enough to cost nothing (the socket table of 20,000 sockets is read each time).
const INTERVAL: Duration = Duration::from_millis(500);

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The greatest resident memory of all servers together, in bytes.
    pub(crate) resident_max: u64,
    /// Stalled sockets whose server side is in this machine's socket table, so that they can be watched at all.
    pub(crate) watched: usize,
    /// The clock when each of those was found let go.
    pub(crate) let_go_at: Vec<u64>,
}

/// A thread that looks.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Dropped to stop it.
    stop: mpsc::Sender<()>,
    handle: JoinHandle<Seen>,
}

impl Watch {
    /// Begins to look at `pids`, and at the server side of the connections from `ports`.
    pub(crate) fn start(pids: Vec<u32>, ports: Vec<u16>, clock: Clock) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let look = move || {
            let gone = if ports.is_empty() { Vec::new() } else { ports_let_go(&ports) };
            let mut held: Vec<u16> = ports.into_iter().filter(|port| !gone.contains(port)).collect();
            let mut seen = Seen { watched: held.len(), ..Seen::default() };
            loop {
                seen.resident_max = seen.resident_max.max(resident_bytes(&pids).unwrap_or(0));
                if !held.is_empty() {
                    let gone = ports_let_go(&held);
                    seen.let_go_at.extend(gone.iter().map(|_| clock.now()));
                    held.retain(|port| !gone.contains(port));
                }
                if stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Disconnected) {
                    return seen;
                }
            }
        };
        let handle = std::thread::Builder::new().name("watch".to_owned()).spawn(look);
        Ok(Self { stop, handle: handle.during(|| "starting the watching thread")? })
    }

    /// Stops looking.
    pub(crate) fn finish(self) -> Result<Seen> {
        drop(self.stop);
        self.handle.join().map_err(|_| BenchError::Thread)
    }
}
