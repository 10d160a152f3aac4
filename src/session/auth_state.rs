//! Who speaks on a connection, and in which way: the state that decides what a message means. Pure.

use std::sync::Arc;

use crate::{auth::Claims, hub::KeepAlive};

/// The states of a session.
#[derive(Clone, Debug)]
pub(super) enum AuthState {
    /// No token yet.
    Unauthenticated,
    /// Let in to be told that the handshake's token was no good.
    Rejected {
        /// It was good once.
        is_expired: bool,
    },
    /// Let in by a door or the text form: nonsense is answered, native pings keep it alive, three lines of JavaScript do.
    Plain(Arc<Claims>),
    /// Has sent `connect`: speaks as the SDKs do, and what is malformed ends it.
    Sdk(Arc<Claims>),
}

impl AuthState {
    pub(super) fn claims(&self) -> Option<&Arc<Claims>> {
        match self {
            Self::Plain(claims) | Self::Sdk(claims) => Some(claims),
            Self::Unauthenticated | Self::Rejected { .. } => None,
        }
    }

    /// The same somebody, speaking as the SDKs do.
    pub(super) fn as_sdk(&self) -> Self {
        match self {
            Self::Plain(claims) => Self::Sdk(claims.clone()),
            other => other.clone(),
        }
    }

    /// The same way of speaking with newer claims.
    pub(super) fn with_claims(&self, claims: Arc<Claims>) -> Self {
        match self {
            Self::Unauthenticated | Self::Plain(_) => Self::Plain(claims),
            Self::Sdk(_) => Self::Sdk(claims),
            Self::Rejected { .. } => self.clone(),
        }
    }

    pub(super) fn keep_alive(&self) -> KeepAlive {
        match self {
            Self::Plain(_) => KeepAlive::NativePing,
            Self::Sdk(_) => KeepAlive::ProtocolPing,
            Self::Unauthenticated | Self::Rejected { .. } => KeepAlive::Unauthenticated,
        }
    }
}
