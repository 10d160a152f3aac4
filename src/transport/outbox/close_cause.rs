//! Why a connection was closed, for the audit log.

use super::{ClosePhase, Outbox};

/// The cause of a close, by either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseCause {
    /// The code of the close frame; `None` if it has none.
    pub code: Option<u16>,
    /// The text of the close frame, or what the client did.
    pub reason: Box<str>,
}

impl Outbox {
    /// Notes why the connection is about to be closed. The first cause counts.
    pub fn note_close_cause(&self, code: Option<u16>, reason: &str) {
        let mut state = self.0.lock();
        if state.phase == ClosePhase::Open && state.close_cause.is_none() {
            state.close_cause = Some(Box::new(CloseCause { code, reason: reason.into() }));
        }
    }

    /// Returns why the connection was closed; `None` if it ended without that.
    pub fn close_cause(&self) -> Option<CloseCause> {
        self.0.lock().close_cause.as_deref().cloned()
    }
}
