//! Errors that answer a command and leave the connection open. Their codes are the protocol's, 100 to 399; what is above
//! belongs to backends.

use serde::Serialize;

use crate::channel::ChannelNameError;

/// Why a command or an API call was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErrorCode {
    /// The broker or the server failed; the same call may work later.
    #[error("internal server error")]
    Internal = 100,
    /// A token is needed.
    #[error("unauthorized")]
    Unauthorized = 101,
    /// The channel's *namespace* is not configured; it says nothing of a channel.
    #[error("unknown channel")]
    UnknownChannel = 102,
    /// Not granted, or not there: the two look the same.
    #[error("permission denied")]
    PermissionDenied = 103,
    /// No such method.
    #[error("method not found")]
    MethodNotFound = 104,
    /// The session has the channel already.
    #[error("already subscribed")]
    AlreadySubscribed = 105,
    /// `limits.channels_per_session`.
    #[error("limit exceeded")]
    LimitExceeded = 106,
    /// The request makes no sense as it stands.
    #[error("bad request")]
    BadRequest = 107,
    /// Not switched on here.
    #[error("not available")]
    NotAvailable = 108,
    /// The token was good once; a new one is needed.
    #[error("token expired")]
    TokenExpired = 109,
    /// Over a rate or a queue limit; slower, the same call will work.
    #[error("too many requests")]
    TooManyRequests = 111,
    /// What a client has missed cannot be had any more, and it wants all or nothing.
    #[error("unrecoverable position")]
    UnrecoverablePosition = 112,
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Whether the same call may work later without a change.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }

    /// Its form on the wire: `{code, message, temporary?}`.
    pub fn body(self) -> WireError {
        WireError { code: self.code(), message: self.to_string(), temporary: self.is_temporary() }
    }
}

impl From<ChannelNameError> for ErrorCode {
    fn from(_: ChannelNameError) -> Self {
        Self::BadRequest
    }
}

/// An error as it is written.
#[derive(Debug, Serialize)]
pub struct WireError {
    code: u32,
    message: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    temporary: bool,
}
