//! The description of the codes on the wire: when each is sent, what SDKs do, and what to do about it. `docs/codes.md` is
//! generated from it. The codes themselves are declared in `error.rs` and `disconnect.rs`, each with its description.

/// The description of a code.
#[derive(Clone, Copy, Debug)]
pub struct CodeInfo {
    /// The number on the wire.
    pub code: u32,
    /// The message or reason on the wire. Empty if it differs from case to case.
    pub text: &'static str,
    /// When the hub sends it.
    pub sent_when: &'static str,
    /// What an SDK does when it gets it.
    pub sdk_reaction: &'static str,
    /// What the user of the hub can do about it.
    pub advice: &'static str,
}

/// Returns what an SDK does with an error reply.
pub(super) const fn error_reaction(code: u32, is_temporary: bool) -> &'static str {
    match code {
        109 => "gets a new token and repeats `connect` or `subscribe`",
        112 => "ends the subscription, unless the application has a function that loads the state (`getState`)",
        _ if is_temporary => "repeats `connect`, `subscribe` and refreshes with backoff; other calls fail",
        _ => {
            "gives up: `connect` and refreshes end the connection, `subscribe` ends the subscription; other calls fail"
        }
    }
}

/// Returns what an SDK does with an unsubscribe push.
pub(super) const fn unsubscribe_reaction(code: u32) -> &'static str {
    if code >= 2500 { "subscribes again" } else { "stays unsubscribed" }
}

/// Returns whether SDKs reconnect when the connection is closed with a code of the protocol or of the server API.
pub const fn may_reconnect(code: u16) -> bool {
    !matches!(code, 3500..=3999 | 4500..=4999)
}

/// Returns what an SDK does when the connection is closed with a code.
pub(super) const fn close_reaction(code: u16) -> &'static str {
    match code {
        1009 => "npm `centrifuge` does not reconnect, the others do",
        _ if may_reconnect(code) => "reconnects with backoff",
        _ => "does not reconnect",
    }
}

/// Declares an enum of codes with their descriptions. A variant's doc comment says when it is sent.
macro_rules! code_enum {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident {
            $(
                $(#[doc = $sent_when:literal])+
                $variant:ident = $code:literal, $text:literal, $reaction:expr, $advice:literal;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $sent_when])+ $variant = $code,)+
        }

        impl $name {
            /// All codes with their descriptions.
            pub const ALL: &'static [(Self, $crate::protocol::CodeInfo)] = &[$((
                Self::$variant,
                $crate::protocol::CodeInfo {
                    code: $code,
                    text: $text,
                    sent_when: concat!($($sent_when),+).trim_ascii(),
                    sdk_reaction: $reaction,
                    advice: $advice,
                },
            ),)+];

            /// Returns the number on the wire.
            pub fn code(self) -> u32 {
                self as u32
            }

            /// Returns the text on the wire.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}
pub(super) use code_enum;
