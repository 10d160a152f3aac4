//! What can end a run early: each variant is one line that tells its reader what to do next.

use std::io;

/// Why a run was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// An option that cannot be used as given.
    #[error("{0}")]
    Usage(String),
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The server answered, but not what a measurement needs.
    #[error("{0}")]
    Failed(String),
    /// Nothing moved for as long as a run waits.
    #[error("no progress for 30 s while {0}; the run is given up")]
    NoProgress(String),
    /// A thread of this program ended without its result.
    #[error("a thread of the load generator panicked")]
    ThreadPanicked,
}

/// The result of every fallible step here.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// Says what was being done when an I/O error came.
pub(crate) trait IoContext<T> {
    /// Wraps the error with `what`, which is only built when there is one.
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|source| BenchError::Io { what: what().into(), source })
    }
}
