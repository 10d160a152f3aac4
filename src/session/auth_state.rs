//! The authentication state of a session: whether it is authenticated, and as a plain session or an SDK session. It decides
//! what a message means. Pure.

use std::sync::Arc;

use crate::{auth::Claims, hub::KeepAlive, protocol::Disconnect};

/// The states of a session.
#[derive(Clone, Debug)]
pub(super) enum AuthState {
    /// The client has sent no token yet.
    Unauthenticated,
    /// The client has sent `connect` with a token that has expired or is not valid yet, and was answered with error 109; or with one
    /// that there was no time to verify, and was answered with error 111. It may have sent other commands with it, and may send
    /// `connect` again.
    NeedsNewToken,
    /// The client has sent `connect` without a token, and the connect hook has refused it or did not answer. The client was answered
    /// with the error, as after [`Self::NeedsNewToken`]. To be asked about again, it has to open another connection, which counts for
    /// the limits of handshakes.
    NotApproved,
    /// The client was refused in the handshake. The connection was accepted so that the client learns why. Boxed: few sessions are in
    /// this state, and all would pay for the memory.
    Rejected(Box<Disconnect>),
    /// A plain session: its token came with the handshake or as text. Protocol errors are answered, and native pings keep it
    /// alive, so that a client needs three lines of JavaScript.
    Plain(Arc<Claims>),
    /// An SDK session: it has sent `connect`. A protocol error closes it.
    Sdk(Arc<Claims>),
}

impl AuthState {
    pub(super) fn claims(&self) -> Option<&Arc<Claims>> {
        match self {
            Self::Plain(claims) | Self::Sdk(claims) => Some(claims),
            Self::Unauthenticated | Self::NeedsNewToken | Self::NotApproved | Self::Rejected(_) => None,
        }
    }

    /// Returns the state after `connect`, with the same claims.
    pub(super) fn as_sdk(&self) -> Self {
        match self {
            Self::Plain(claims) => Self::Sdk(claims.clone()),
            other => other.clone(),
        }
    }

    /// Returns the state with newer claims, of the same kind of session.
    pub(super) fn with_claims(&self, claims: Arc<Claims>) -> Self {
        match self {
            Self::Unauthenticated | Self::NeedsNewToken | Self::NotApproved | Self::Plain(_) => Self::Plain(claims),
            Self::Sdk(_) => Self::Sdk(claims),
            Self::Rejected(_) => self.clone(),
        }
    }

    pub(super) fn keep_alive(&self) -> KeepAlive {
        match self {
            Self::Plain(_) => KeepAlive::NativePing,
            Self::Sdk(_) => KeepAlive::ProtocolPing,
            Self::Unauthenticated | Self::NeedsNewToken | Self::NotApproved | Self::Rejected(_) => {
                KeepAlive::Unauthenticated
            }
        }
    }
}
