//! Reasons for which a connection is closed. The range of the code tells a client what to do: 3500–3999 and 4500–4999 stay
//! away, everything else come back with backoff. 1002–1011 are RFC 6455's own and come from the transport.

use std::borrow::Cow;

/// The longest reason, in bytes (RFC 6455 §5.5.1).
pub(super) const MAX_REASON_BYTES: usize = 123;

/// Why a connection is closed by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    code: u16,
    reason: Cow<'static, str>,
}

impl Disconnect {
    /// This instance is going; another will take the client.
    pub const SHUTDOWN: Self = Self::new(3001, "shutdown");
    /// What the session needs could not be had, for now.
    pub const INTERNAL: Self = Self::new(3004, "internal server error");
    /// The token's time is over.
    pub const EXPIRED: Self = Self::new(3005, "connection expired");
    /// The time of a subscription that the token brought is over.
    pub const SUBSCRIPTION_EXPIRED: Self = Self::new(3006, "subscription expired");
    /// The client reads more slowly than its channels speak (`limits.outbox_bytes`).
    pub const SLOW: Self = Self::new(3008, "slow");
    /// A publication of a channel that the token brought is missing, and the client was promised to be told.
    pub const INSUFFICIENT_STATE: Self = Self::new(3010, "insufficient state");
    /// No pong within `server.pong_timeout`.
    pub const NO_PONG: Self = Self::new(3012, "no pong");
    /// Went on asking over `limits.commands_per_second`.
    pub const TOO_MANY_REQUESTS: Self = Self::new(3013, "too many requests");
    /// Token refused: signature, claims, or another user's.
    pub const INVALID_TOKEN: Self = Self::new(3500, "invalid token");
    /// The same for a handshake's token that was good once (`auth.reject = "close"`): a script learns to get a new one.
    pub const EXPIRED_TOKEN: Self = Self::new(3500, "token expired");
    /// What came makes no sense in this protocol.
    pub const BAD_REQUEST: Self = Self::new(3501, "bad request");
    /// Nothing said who this is within `auth.first_message_timeout`.
    pub const STALE: Self = Self::new(3502, "stale");
    /// The server API has closed the connection and named no other code.
    pub const FORCED: Self = Self::new(3503, "force disconnect");
    /// The user has `limits.connections_per_user` already.
    pub const CONNECTION_LIMIT: Self = Self::new(3504, "connection limit");
    /// The token brings more channels than `limits.channels_per_session` leaves room for.
    pub const CHANNEL_LIMIT: Self = Self::new(3505, "channel limit");
    /// Text on a connection that speaks Protobuf, or the other way round.
    pub const INAPPROPRIATE_PROTOCOL: Self = Self::new(3506, "inappropriate protocol");
    /// Asked for what is not switched on.
    pub const NOT_AVAILABLE: Self = Self::new(3508, "not available");
    /// More nonsense than `limits.errors`.
    pub const TOO_MANY_ERRORS: Self = Self::new(3509, "too many errors");

    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// A backend's own, from the server API; `None` when it may not be on the wire: codes are 3000 to 4999, a reason is
    /// plain text of at most [`MAX_REASON_BYTES`], and never valid JSON, since clients that expect an object there fail loudly.
    pub fn custom(code: u16, reason: &str) -> Option<Self> {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(reason).is_ok();
        let is_fine = (3000..=4999).contains(&code) && reason.len() <= MAX_REASON_BYTES && !is_json;
        is_fine.then(|| Self { code, reason: Cow::Owned(reason.to_owned()) })
    }

    /// The close code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Plain text.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Reasons for which a subscription is ended by us, told in an `unsubscribe` push. From 2500 on the client may subscribe again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsubscribeCode {
    /// By the server API, or because the claims allow it no more: stay away.
    ByServer = 2000,
    /// A publication is missing, and the client was promised to be told.
    InsufficientState = 2500,
    /// The subscription token's time is over.
    Expired = 2501,
}

impl UnsubscribeCode {
    /// The code on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Plain text.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ByServer => "unsubscribed by the server",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_disconnect_rejects_codes_and_reasons_invalid_on_the_wire() {
        assert!(Disconnect::custom(4500, "go away").is_some());
        for (code, reason) in
            [(1000, "x"), (2999, "x"), (5000, "x"), (3503, "{}"), (3503, "1"), (3503, &"x".repeat(124))]
        {
            assert_eq!(Disconnect::custom(code, reason), None, "{code} {reason}");
        }
    }
}
