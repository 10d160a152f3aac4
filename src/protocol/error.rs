//! Errors that answer a command or a call of the server API and leave the connection open. Their codes are those of the
//! Centrifuge protocol, 100 to 399. Higher ones are left to backends.

use std::{borrow::Cow, fmt};

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::codes::{code_enum, error_reaction};
use crate::channel::{Channel, ChannelNameError};

code_enum! {
    /// An error that a client or a caller of the server API gets.
    pub enum ErrorCode {
        /// The broker is unavailable or did not answer in time, the keys of the token's issuer are about to be fetched, a hook
        /// did not answer as it should, or the server failed. A publication may have been delivered nevertheless.
        Internal = 100, "internal server error", error_reaction(100, true),
            "Repeat the call a little later; a publish with the same `idempotency_key`.";
        /// The command has no token although `auth.require_token_per_message` is set; over HTTP (401), there are no valid
        /// credentials.
        Unauthorized = 101, "unauthorized", error_reaction(101, false),
            "Send a valid token with the command, or valid credentials with the request.";
        /// The namespace of the channel is not configured. This says nothing about the channel itself.
        UnknownChannel = 102, "unknown channel", error_reaction(102, false),
            "Add the namespace to `[[namespaces]]`, or use another name. Names without a colon need no namespace.";
        /// Neither the configuration nor a token grants it, or the subscription token is invalid, or there is no such subscription. The error does not say which of these it is.
        PermissionDenied = 103, "permission denied", error_reaction(103, false),
            "Grant it in the configuration (`channels.allow_subscribe`, `channels.allow_publish`, `channels.allow_history`, \
             `channels.allow_presence`) or by `caps` in the token.";
        /// The server API has no such method, or a command of a batch does not name exactly one.
        MethodNotFound = 104, "method not found", error_reaction(104, false),
            "Use a method of the server API.";
        /// The session is subscribed to the channel already.
        AlreadySubscribed = 105, "already subscribed", error_reaction(105, false),
            "Subscribe to a channel once for each connection.";
        /// A limit on size or number, which the message names with its value: `limits.channels_per_session`,
        /// `limits.filter_nodes_per_channel`, `limits.publication_bytes`, `api.publication_bytes`,
        /// `limits.reply_bytes`, `limits.broadcast_channels`, `api.replies_bytes`, or `api.body_bytes` (413).
        LimitExceeded = 106, "limit exceeded", error_reaction(106, false),
            "Send less or subscribe to fewer channels, or raise the limit.";
        /// The request is malformed or contradicts itself; the message names the field. A plain session gets it for invalid
        /// messages, too, up to `limits.errors` of them.
        BadRequest = 107, "bad request", error_reaction(107, false),
            "Correct the request.";
        /// A feature is off or not offered, which the message names: history or presence of the channel, `rpc`, a `type`
        /// other than 0, or a channel with binary data on a connection that uses JSON.
        NotAvailable = 108, "not available", error_reaction(108, false),
            "Enable it in the channel's options (`channels.history_size`, `channels.presence`) or `hooks.rpc`, or do without. \
             For binary data connect with Protobuf.";
        /// The token has expired, or is not valid yet (`nbf`).
        TokenExpired = 109, "token expired", error_reaction(109, false),
            "Get a new token and repeat the call.";
        /// A rate limit (`limits.commands_per_second`, `limits.publications_per_second`), a full delivery queue
        /// (`limits.hub_queue_bytes`), calls of a hook that wait (`hooks.waiting`), more clients that connect than can be verified (`limits.verification_queue`), or, over HTTP (429, 503), a limit on handshakes, connections, logins or tickets.
        TooManyRequests = 111, "too many requests", error_reaction(111, true),
            "Repeat the call later and more slowly, over HTTP after `Retry-After`.";
        /// The history no longer has the publications that the client missed, and the client or the caller has asked for an error in this case.
        UnrecoverablePosition = 112, "unrecoverable position", error_reaction(112, false),
            "Load the state from the backend, and subscribe again without a position.";
    }
}

impl ErrorCode {
    /// Returns whether the same call may succeed later without a change.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }

    /// Returns the error with a message that says more than its text: the field that is wrong, the limit that is exceeded.
    /// Nothing secret goes in.
    pub fn with_detail(self, detail: impl fmt::Display) -> WireError {
        WireError { message: format!("{}: {detail}", self.text()).into(), ..self.into() }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ErrorCode {}

impl From<ChannelNameError> for WireError {
    fn from(error: ChannelNameError) -> Self {
        ErrorCode::BadRequest.with_detail(format_args!("channel: {error}"))
    }
}

/// A channel whose data is not JSON, for a connection or a command that cannot carry anything else. Error 108 says so.
#[derive(Clone, Copy, Debug)]
pub struct BinaryChannel;

impl From<BinaryChannel> for WireError {
    fn from(_: BinaryChannel) -> Self {
        let detail = "the channel has binary data (data_format), which needs a Protobuf connection";
        ErrorCode::NotAvailable.with_detail(detail)
    }
}

/// An option of a channel that is off. Error 108 names it.
#[derive(Clone, Copy, Debug)]
pub struct DisabledOption<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// The option.
    pub name: &'static str,
}

impl From<DisabledOption<'_>> for WireError {
    fn from(DisabledOption { channel, name }: DisabledOption<'_>) -> Self {
        let off = ErrorCode::NotAvailable;
        match channel.namespace() {
            None => off.with_detail(format_args!("channels.{name} is off")),
            Some(namespace) => off.with_detail(format_args!("{name} of namespace {namespace:?} is off")),
        }
    }
}

/// An error as its receiver gets it. In JSON: `{code, message, temporary?}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    code: u32,
    is_temporary: bool,
    message: Cow<'static, str>,
}

impl WireError {
    /// An error that a backend gives. `None` if its code is not 100 to 1999: those above are close codes.
    pub fn custom(code: u32, message: impl Into<Cow<'static, str>>, is_temporary: bool) -> Option<Self> {
        (100..2000).contains(&code).then(|| Self { code, is_temporary, message: message.into() })
    }

    /// Returns the number on the wire.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// Returns whether the error has this code.
    pub fn has_code(&self, code: ErrorCode) -> bool {
        self.code == code.code()
    }

    /// Returns whether the same call may succeed later without a change.
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The error with the text of its code as message.
impl<E: Into<ErrorCode>> From<E> for WireError {
    fn from(error: E) -> Self {
        let code = error.into();
        Self { code: code.code(), is_temporary: code.is_temporary(), message: code.text().into() }
    }
}

impl Serialize for WireError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_temporary = self.is_temporary;
        let mut object = serializer.serialize_struct("WireError", 2 + usize::from(is_temporary))?;
        object.serialize_field("code", &self.code)?;
        object.serialize_field("message", self.message())?;
        if is_temporary {
            object.serialize_field("temporary", &true)?;
        }
        object.end()
    }
}

/// A limit that a request exceeds. Error 106 names it with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value}")]
pub struct ExceededLimit {
    /// Its configuration key, or what a limit without a key counts.
    pub name: &'static str,
    /// The maximum.
    pub value: usize,
}

impl ExceededLimit {
    /// Returns the limit as an error if `actual` exceeds it.
    ///
    /// # Errors
    /// The limit.
    pub fn check(name: &'static str, value: usize, actual: usize) -> Result<(), Self> {
        if actual > value { Err(Self { name, value }) } else { Ok(()) }
    }
}

impl From<ExceededLimit> for WireError {
    fn from(limit: ExceededLimit) -> Self {
        ErrorCode::LimitExceeded.with_detail(limit)
    }
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

    #[test]
    fn exceeded_limit_is_error_106_with_its_name_and_value() {
        assert_eq!(ExceededLimit::check("limits.connections", 7, 7), Ok(()));
        let error = WireError::from(ExceededLimit::check("limits.connections", 7, 8).unwrap_err());
        let json = r#"{"code":106,"message":"limit exceeded: limits.connections = 7"}"#;
        assert_eq!(serde_json::to_string(&error).unwrap(), json);
        let json = r#"{"code":100,"message":"internal server error","temporary":true}"#;
        assert_eq!(serde_json::to_string(&WireError::from(ErrorCode::Internal)).unwrap(), json);
    }
}
