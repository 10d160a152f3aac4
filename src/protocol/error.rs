//! Errors that answer a command or a call of the server API and leave the connection open. Their codes are those of the
//! Centrifuge protocol, 100 to 399. Higher ones are left to backends.

use std::fmt;

use serde::Serialize;

use super::codes::{code_enum, error_reaction};
use crate::channel::ChannelNameError;

code_enum! {
    /// An error that a client or a caller of the server API gets.
    pub enum ErrorCode {
        /// The broker is unavailable or did not answer in time, or the server failed. A publication may have been delivered
        /// nevertheless.
        Internal = 100, "internal server error", error_reaction(100, true),
            "Repeat the call a little later; a publish with the same `idempotency_key`, where the broker supports it.";
        /// The command has no token although `auth.require_token_per_message` is set; over HTTP (401), there are no valid
        /// credentials.
        Unauthorized = 101, "unauthorized", error_reaction(101, false),
            "Send a valid token with the command, or valid credentials with the request.";
        /// The namespace of the channel is not configured. This says nothing about the channel itself.
        UnknownChannel = 102, "unknown channel", error_reaction(102, false),
            "Add the namespace to `[[namespaces]]`, or use another name. Names without a colon need no namespace.";
        /// Neither the configuration nor a token grants it, or the subscription token is invalid, or there is no such
        /// subscription: the cases look the same.
        PermissionDenied = 103, "permission denied", error_reaction(103, false),
            "Grant it in the configuration (`channels.allow_subscribe`, `channels.allow_publish`, `channels.allow_history`, \
             `channels.allow_presence`) or by `caps` in the token.";
        /// The server API has no such method, or a command of a batch does not name exactly one.
        MethodNotFound = 104, "method not found", error_reaction(104, false),
            "Use a method of the server API.";
        /// The session is subscribed to the channel already.
        AlreadySubscribed = 105, "already subscribed", error_reaction(105, false),
            "Subscribe to a channel once for each connection.";
        /// A limit on size or number: `limits.channels_per_session`, `limits.filter_nodes_per_channel`,
        /// `limits.publication_bytes`, `limits.reply_bytes`, `limits.broadcast_channels`, or `api.body_bytes` (413).
        LimitExceeded = 106, "limit exceeded", error_reaction(106, false),
            "Send less or subscribe to fewer channels, or raise the limit.";
        /// The request is malformed or contradicts itself. A plain session gets it for invalid messages, too, up to
        /// `limits.errors` of them.
        BadRequest = 107, "bad request", error_reaction(107, false),
            "Correct the request.";
        /// The feature is not enabled: history or presence of the channel, `rpc`, or something that the broker does not
        /// support.
        NotAvailable = 108, "not available", error_reaction(108, false),
            "Enable it in the channel's options (`channels.history_size`, `channels.presence`), or do without.";
        /// The token has expired, or is not valid yet (`nbf`).
        TokenExpired = 109, "token expired", error_reaction(109, false),
            "Get a new token and repeat the call.";
        /// A rate limit (`limits.commands_per_second`, `limits.publications_per_second`), a full delivery queue
        /// (`limits.hub_queue_bytes`), or, over HTTP (429, 503), a limit on handshakes, connections, logins or tickets.
        TooManyRequests = 111, "too many requests", error_reaction(111, true),
            "Repeat the call later and more slowly, over HTTP after `Retry-After`.";
        /// The history no longer has the publications that the client missed, and the client or the caller insists on them.
        UnrecoverablePosition = 112, "unrecoverable position", error_reaction(112, false),
            "Load the state from the backend, and subscribe again without a position.";
    }
}

impl ErrorCode {
    /// Returns whether the same call may succeed later without a change.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }

    /// Returns its form in JSON: `{code, message, temporary?}`.
    pub fn body(self) -> WireError {
        WireError { code: self.code(), message: self.text(), temporary: self.is_temporary() }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ErrorCode {}

impl From<ChannelNameError> for ErrorCode {
    fn from(_: ChannelNameError) -> Self {
        Self::BadRequest
    }
}

/// An error as JSON.
#[derive(Debug, Serialize)]
pub struct WireError {
    code: u32,
    message: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    temporary: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdk_reaction_of_temporary_errors_is_to_repeat() {
        for (error, info) in ErrorCode::ALL {
            assert_eq!(info.sdk_reaction, error_reaction(error.code(), error.is_temporary()), "{error}");
        }
    }
}
