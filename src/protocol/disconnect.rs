//! The reasons for which the hub closes a connection or ends a subscription. The range of a close code tells the client what to
//! do: after 3500 to 3999 and 4500 to 4999 it stays away, after every other code it reconnects with backoff.

use std::borrow::Cow;

use super::{
    codes::{CodeInfo, close_reaction, code_enum, unsubscribe_reaction},
    frame::MAX_CONTROL_BYTES,
};

/// Maximum length of a reason: a close frame has the code, too (RFC 6455 §5.5.1).
const MAX_REASON_BYTES: usize = MAX_CONTROL_BYTES - 2;

/// The reason for which the hub closes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    code: u16,
    reason: Cow<'static, str>,
}

/// Declares the close codes as constants, with their descriptions. A constant's doc comment says when it is sent.
macro_rules! disconnects {
    ($($(#[doc = $sent_when:literal])+ $name:ident = $code:literal, $reason:literal, $advice:literal;)+) => {
        impl Disconnect {
            $(
                $(#[doc = $sent_when])+
                pub const $name: Self = Self { code: $code, reason: Cow::Borrowed($reason) };
            )+

            /// The descriptions of all close codes of the protocol.
            pub const ALL: &'static [CodeInfo] = &[$(CodeInfo {
                code: $code,
                text: $reason,
                sent_when: concat!($($sent_when),+).trim_ascii(),
                sdk_reaction: close_reaction($code),
                advice: $advice,
            },)+];
        }
    };
}

disconnects! {
    /// The server API has cut the connection (`disconnect` with code 3000), as if the network had failed: without a close frame,
    /// so the client sees code 1006; log and metrics have 3000.
    CONNECTION_CUT = 3000, "connection closed",
        "Reconnect.";
    /// The node shuts down.
    SHUTDOWN = 3001, "shutdown",
        "Reconnect; another node takes the client.";
    /// A channel that the token grants could not be subscribed to, because the broker is unavailable. Or an `unsubscribe` or
    /// `refresh` of the server API found too many controls waiting for the session, because the broker is slow. Or the keys of the
    /// issuer of a token sent as text are about to be fetched. Or the node has held back its deliveries for 15 s, because it cannot load the list of revocations.
    INTERNAL = 3004, "internal server error",
        "Reconnect a little later.";
    /// The token has expired, `refresh` brought an expired one, or the server API has ended the session.
    EXPIRED = 3005, "connection expired",
        "Reconnect with a new token. Refresh the token before it expires: the `ttl` of the connect reply or push says when.";
    /// A subscription that the token or the server API brought has expired.
    SUBSCRIPTION_EXPIRED = 3006, "subscription expired",
        "Reconnect with a new token.";
    /// The client reads more slowly than its channels publish: more than `limits.outbox_bytes` wait for it. Or messages wait for it, and it has read nothing for `limits.outbox_stall`. The connection is reset without a close frame, so the client sees code
    /// 1006; log and metrics have 3008.
    SLOW = 3008, "slow",
        "Reconnect; subscribe to less, publish less, or raise `limits.outbox_bytes`.";
    /// A publication is missing in a subscription that the token or the server API brought and that has positions.
    /// Or a subscription was revoked, has expired or may not go on, while frames waited for the client: publications of its channel may be
    /// among them.
    INSUFFICIENT_STATE = 3010, "insufficient state",
        "Reconnect; the client recovers what it has missed, or learns that it cannot.";
    /// The client has not answered a ping within `server.pong_timeout`.
    NO_PONG = 3012, "no pong",
        "Reconnect. If it happens often, look for a proxy that cuts silent connections.";
    /// The client went on sending over `limits.commands_per_second`, or sent its token as text while more clients connected than can
    /// be verified (`limits.verification_queue`), or sent a second `connect` without a token after the connect hook had refused it.
    TOO_MANY_REQUESTS = 3013, "too many requests",
        "Reconnect, and send more slowly.";
    /// The token has a wrong signature or wrong claims or is another user's, or a subscription token is for another channel or
    /// user. In a handshake only with `auth.reject = "close"`.
    INVALID_TOKEN = 3500, "invalid token",
        "Get a valid token: `wardcast check-token` says what is wrong with one.";
    /// A token sent as text has expired, or with `auth.reject = "close"` the token of the handshake.
    EXPIRED_TOKEN = 3500, "token expired",
        "Get a new token and connect again.";
    /// The token, its `sid` or the tokens of its user have been revoked.
    REVOKED_TOKEN = 3500, "token revoked",
        "Log in again.";
    /// A message is not a command of the protocol, `connect` or `refresh` is out of place or without a token, or a message took
    /// longer than `limits.message_age` to arrive.
    BAD_REQUEST = 3501, "bad request",
        "Correct the client.";
    /// The client has not sent a token within `auth.first_message_timeout`.
    STALE = 3502, "stale",
        "Send the token in the handshake or at once after it.";
    /// The server API has closed the connection and named no other code.
    FORCED = 3503, "force disconnect",
        "Ask the backend why.";
    /// The user had `limits.connections_per_user` connections when the client sent its token, in `connect` or as text.
    CONNECTION_LIMIT = 3504, "connection limit",
        "Close another connection of the user, or raise the limit.";
    /// The token, with the personal channels of its user, brings more channels than `limits.channels_per_session` allows.
    CHANNEL_LIMIT = 3505, "channel limit",
        "Issue tokens with fewer channels, or raise the limit.";
    /// The client sent text on a Protobuf connection, or binary data on a JSON connection.
    INAPPROPRIATE_PROTOCOL = 3506, "inappropriate protocol",
        "Correct the client.";
    /// The client sent `send`, and there is no hook for it.
    NOT_AVAILABLE = 3508, "not available",
        "Set `hooks.send`, or send to the backend directly.";
    /// A plain session sent more than `limits.errors` invalid messages.
    TOO_MANY_ERRORS = 3509, "too many errors",
        "Correct the client.";
}

/// The close codes of RFC 6455 that the hub sends when a client breaks its rules. A reason that is left out names the broken rule.
pub const VIOLATIONS: &[CodeInfo] = &[
    CodeInfo {
        code: PROTOCOL_ERROR as u32,
        text: "",
        sent_when: "A frame is not valid (RFC 6455 §5).",
        sdk_reaction: close_reaction(PROTOCOL_ERROR),
        advice: "Correct the client, or the proxy in between.",
    },
    CodeInfo {
        code: INVALID_UTF8 as u32,
        text: INVALID_UTF8_REASON,
        sent_when: "A text message is not UTF-8.",
        sdk_reaction: close_reaction(INVALID_UTF8),
        advice: "Correct the client.",
    },
    CodeInfo {
        code: MESSAGE_TOO_BIG as u32,
        text: MESSAGE_TOO_BIG_REASON,
        sent_when: "A message is larger than `limits.message_bytes` or has more than `limits.message_fragments` fragments.",
        sdk_reaction: close_reaction(MESSAGE_TOO_BIG),
        advice: "Send smaller messages, or raise the limit.",
    },
];

/// Close code for invalid frames (RFC 6455 §7.4.1).
pub const PROTOCOL_ERROR: u16 = 1002;
/// Close code for text that is not UTF-8.
pub const INVALID_UTF8: u16 = 1007;
/// Its reason.
pub const INVALID_UTF8_REASON: &str = "text must be UTF-8";
/// Close code for a message that is too big.
pub const MESSAGE_TOO_BIG: u16 = 1009;
/// Its reason.
pub const MESSAGE_TOO_BIG_REASON: &str = "message exceeds the limit";

impl Disconnect {
    /// A reason that a backend gives through the server API. `None` if it must not be on the wire: a code is 3000 to 4999, a
    /// reason is at most 123 bytes of text that is not valid JSON, since SDKs expect a certain object in JSON.
    pub fn custom(code: u16, reason: &str) -> Option<Self> {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(reason).is_ok();
        let is_valid = (3000..=4999).contains(&code) && reason.len() <= MAX_REASON_BYTES && !is_json;
        is_valid.then(|| Self { code, reason: Cow::Owned(reason.to_owned()) })
    }

    /// Returns the close code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Returns the reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

code_enum! {
    /// The reason for which the hub ends a subscription, in an unsubscribe push.
    pub enum UnsubscribeCode {
        /// The server API has ended the subscription, or new claims no longer allow it.
        ByServer = 2000, "unsubscribed by the server", unsubscribe_reaction(2000),
            "Subscribe again when the user may.";
        /// A publication is missing, and the subscription has positions.
        InsufficientState = 2500, "insufficient state", unsubscribe_reaction(2500),
            "Subscribe again with the last position; the client recovers the publication, or learns that it cannot.";
        /// The subscription token has expired, or `sub_refresh` brought an expired one.
        Expired = 2501, "subscription expired", unsubscribe_reaction(2501),
            "Subscribe again with a new subscription token.";
    }
}

impl UnsubscribeCode {
    /// Returns the reason.
    pub fn reason(self) -> &'static str {
        self.text()
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
