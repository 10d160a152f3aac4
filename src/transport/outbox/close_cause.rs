//! Why a connection was closed, for the audit log and the server API.

use super::{ClosePhase, Outbox};

/// The cause of a close, by either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseCause {
    /// The code of the close frame; `None` if it has none.
    pub code: Option<u16>,
    /// The text of the close frame, or what the client did.
    pub reason: Box<str>,
    /// The client has closed the connection.
    pub is_by_client: bool,
}

impl Outbox {
    /// Notes why the server is about to close the connection. The first cause counts.
    pub fn note_close_cause(&self, code: u16, reason: &str) {
        self.note_cause(CloseCause { code: Some(code), reason: reason.into(), is_by_client: false });
    }

    /// Notes that the client has closed the connection, unless the server has begun to.
    pub fn note_close_by_client(&self, code: Option<u16>) {
        self.note_cause(CloseCause { code, reason: "closed by the client".into(), is_by_client: true });
    }

    fn note_cause(&self, cause: CloseCause) {
        let mut state = self.0.lock();
        if state.phase == ClosePhase::Open && state.close_cause.is_none() {
            state.close_cause = Some(Box::new(cause));
        }
    }

    /// Returns why the connection was closed; `None` if it ended without that.
    pub fn close_cause(&self) -> Option<CloseCause> {
        self.0.lock().close_cause.as_deref().cloned()
    }
}
