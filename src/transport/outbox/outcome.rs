//! The results of queueing a frame and of flushing an outbox, and whether a connection may be read.

/// The result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushOutcome {
    /// The kernel has everything, or a task waits for the full socket already.
    Done,
    /// The socket is full. A task was started that writes the rest.
    Pending,
}

/// Whether a connection may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum ReadState {
    /// It may.
    Open,
    /// It may again: the reading was paused until now.
    Drained,
    /// The connection is closing. What arrives is discarded.
    Closing,
}

/// Why a frame was not queued, or the queue not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The token has expired.
    #[error("token expired")]
    Expired,
    /// The token is revoked.
    #[error("token revoked")]
    Revoked,
    /// The peer reads too slowly: the frame would exceed the limit.
    #[error("outbox limit exceeded")]
    Slow,
    /// The connection is closing, or has failed.
    #[error("connection closing")]
    Closing,
}
