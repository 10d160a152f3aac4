//! The state of an outbox whose socket is full: which tasks are woken when it has room again.

use std::{task::Waker, time::Instant};

use bytes::Bytes;

/// Exists while a task waits for a full socket.
pub(super) struct Blocked {
    /// The waker of that task. The runtime keeps one write waker per socket, so every write must use this one.
    pub(super) write_waker: Waker,
    /// When the last byte left the outbox, or the socket became full.
    pub(super) progress_at: Instant,
    /// The answer to the client's latest ping. It is sent when some of what waits has left.
    pub(super) pong: Option<Bytes>,
    /// The waker of the task that reads, if the reading is paused.
    pub(super) read_waker: Option<Waker>,
}

impl Blocked {
    /// Creates the state of a socket that has just become full.
    pub(super) fn new() -> Self {
        Self { write_waker: Waker::noop().clone(), progress_at: Instant::now(), pong: None, read_waker: None }
    }
}
