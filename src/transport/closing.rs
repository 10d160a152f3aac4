//! How a connection ends: the policies by which it is closed, and the phases that it goes through.

use std::time::{Duration, Instant};

/// Time between the start of a close and the abort of a connection whose peer has not left.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What happens to the queued frames (the backlog) and to the close frame when a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosePolicy {
    /// Sends the backlog and then the close frame.
    SendBacklog,
    /// Drops the backlog and sends the close frame. If part of the backlog has been written, the connection is aborted,
    /// since no close frame may follow half a frame.
    DropBacklog,
    /// Drops the backlog and resets the connection without a close frame. The client sees 1006.
    Abort,
}

/// Where a connection is on its way from open to closed. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClosePhase {
    /// Frames are queued and written.
    Open,
    /// The close frame is queued. When everything is written, the write half of the socket is shut down.
    Closing {
        /// When the connection is aborted if its peer has not left.
        abort_at: Instant,
    },
    /// Nothing more is written: everything is sent, or the connection was aborted.
    Closed {
        /// When the connection is aborted if its peer has not left.
        abort_at: Instant,
    },
}

impl ClosePhase {
    /// Starts the close of an open connection; a close that has started keeps its deadline.
    pub(super) fn closing(self) -> Self {
        Self::Closing { abort_at: self.deadline() }
    }

    /// Ends the close; nothing more is written.
    pub(super) fn closed(self) -> Self {
        Self::Closed { abort_at: self.deadline() }
    }

    /// When the connection is aborted if its peer has not left; `None` while it is open.
    pub(super) fn abort_at(self) -> Option<Instant> {
        match self {
            Self::Open => None,
            Self::Closing { abort_at } | Self::Closed { abort_at } => Some(abort_at),
        }
    }

    fn deadline(self) -> Instant {
        self.abort_at().unwrap_or_else(|| Instant::now() + CLOSE_TIMEOUT)
    }
}
