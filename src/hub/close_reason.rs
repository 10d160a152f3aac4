//! Why the server closes a connection: the code and text for the client, and the policy for the frames that still wait.
//! Sessions and hubs close connections by these reasons.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    clock::Clock,
    metrics::Metrics,
    protocol::{Disconnect, Format},
    transport::{ClosePolicy, Outbox, PushError},
};

/// The reason of the end of a connection without a close of either side.
pub const CONNECTION_LOST: &str = "the connection was lost";

/// A close code with its text, and what happens to the backlog. A plain [`Disconnect`] sends the backlog first,
/// whatever its code is.
#[derive(Clone, Copy, Debug)]
pub struct CloseReason<'a> {
    disconnect: &'a Disconnect,
    policy: ClosePolicy,
}

impl CloseReason<'static> {
    /// The token has expired. The backlog was queued before that, but must not leave after it.
    pub const EXPIRED: Self = Self { disconnect: &Disconnect::EXPIRED, policy: ClosePolicy::DropBacklog };
    /// The token is revoked. The backlog must not leave any more.
    pub const REVOKED: Self = Self { disconnect: &Disconnect::REVOKED_TOKEN, policy: ClosePolicy::DropBacklog };
    /// A subscription has ended, and the backlog may have publications of its channel, which must not leave any more. The client connects
    /// again, without the channel.
    pub const BACKLOG_OF_ENDED_SUBSCRIPTION: Self =
        Self { disconnect: &Disconnect::INSUFFICIENT_STATE, policy: ClosePolicy::DropBacklog };
    /// Deliveries have been held for too long. What was queued before must not leave: the token may be revoked.
    pub const HELD: Self = Self { disconnect: &Disconnect::INTERNAL, policy: ClosePolicy::DropBacklog };
    /// The client does not read, so a close frame would not reach it either.
    pub const SLOW: Self = Self { disconnect: &Disconnect::SLOW, policy: ClosePolicy::Abort };

    /// Returns why to close a connection whose outbox refused a frame; `None` if it is closing already.
    pub fn from_push_error(error: PushError) -> Option<Self> {
        match error {
            PushError::Expired => Some(Self::EXPIRED),
            PushError::Revoked => Some(Self::REVOKED),
            PushError::Slow => Some(Self::SLOW),
            PushError::Closing => None,
        }
    }
}

impl<'a> From<&'a Disconnect> for CloseReason<'a> {
    fn from(disconnect: &'a Disconnect) -> Self {
        Self { disconnect, policy: ClosePolicy::SendBacklog }
    }
}

impl<'a> CloseReason<'a> {
    /// Returns how the server API closes a connection: by 3000 it cuts it.
    pub fn from_server_api(disconnect: &'a Disconnect) -> Self {
        if disconnect.code() == Disconnect::CONNECTION_CUT.code() {
            Self { disconnect, policy: ClosePolicy::Abort }
        } else {
            disconnect.into()
        }
    }

    /// Closes a connection for this reason, and counts and logs that. Does nothing if the connection is closing
    /// already: the first reason counts.
    pub fn close(self, outbox: &Arc<Outbox>, format: Format, client: Uuid, clock: &Clock, metrics: &Metrics) {
        if !outbox.is_closing() {
            let (code, reason) = (self.disconnect.code(), self.disconnect.reason());
            record_close(client, code, reason, metrics);
            outbox.note_close_cause(code, reason);
            outbox.close(format.encode_close(code, reason), self.policy, clock);
        }
    }
}

/// Counts and logs that the server closes a connection; called before the client can see it.
pub fn record_close(client: Uuid, code: u16, reason: &str, metrics: &Metrics) {
    metrics.count_close(code);
    log::debug!("session closed client={client} code={code} reason={reason:?}");
}
