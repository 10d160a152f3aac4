//! The error of a run or of one connection: one line that says what is wrong and, where possible, what to do.

use std::fmt::Display;

use crate::clock::NO_PROGRESS_TIMEOUT;

/// Why a run, or one of its connections, ended early.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BenchError(pub(crate) String);

/// The result of every fallible step of this program.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// An error with this message.
pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(BenchError(message.into()))
}

/// The error of a run in which nothing happened for [`NO_PROGRESS_TIMEOUT`].
pub(crate) fn no_progress<T>(activity: impl Display) -> Result<T> {
    let seconds = NO_PROGRESS_TIMEOUT.as_secs();
    fail(format!("no progress for {seconds} s while {activity}; the run ends here"))
}

/// Says what was being done when an error occurred.
pub(crate) trait Context<T> {
    /// Puts `what` and a colon before the error. `what` is formatted only if there is an error.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| BenchError(format!("{what}: {error}")))
    }
}
