//! The events of the audit log and the fields of a line. docs/deploying.md lists both, generated from here.

use std::{fmt, net::IpAddr, time::Duration};

use serde::ser::SerializeMap;
use uuid::Uuid;

use crate::{
    clock::{NEVER, WallTime},
    config::Door,
    revocation::{Revocation, RevocationTarget, TokenIds},
};

/// Maximum bytes of a text in a line. Clients choose some of them.
const MAX_TEXT_BYTES: usize = 255;

/// What limits the rate of the lines about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RateKey {
    /// Nothing: each occurrence requires a valid credential or the API key.
    None,
    /// The address of the client, or without one its id, and all refusals together: anyone can cause it.
    Address,
    /// The session: its client can cause it many times a second.
    Client,
    /// The address of a client without a user: where `auth.anonymous` lets clients in, they need no credential. With a user, nothing.
    AddressWithoutUser,
}

/// Declares the events, each with its name in a line and the limit of its rate. Doc comments are the documentation.
macro_rules! audit_events {
    ($($(#[doc = $meaning:literal])+ $event:ident = $name:literal, $rate_key:ident;)*) => {
        /// Something that the audit log records.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AuditEvent {
            $($(#[doc = $meaning])+ $event,)*
        }

        impl AuditEvent {
            /// All events, each with its name and its meaning.
            pub const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$event, $name, concat!($($meaning),+).trim_ascii()),)*];

            /// Returns the name of the event in a line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$event => $name,)*
                }
            }

            pub(super) fn rate_key(self) -> RateKey {
                match self {
                    $(Self::$event => RateKey::$rate_key,)*
                }
            }
        }
    };
}

audit_events! {
    /// A client was let in: the credential of its handshake or of its first message was accepted, or the connect hook has named its
    /// user.
    Connected = "connected", AddressWithoutUser;
    /// A session of a client that was let in has ended, `seconds` after its handshake. `code` and `reason` are those of the close,
    /// by either side; without a `code` the connection was lost.
    Disconnected = "disconnected", AddressWithoutUser;
    /// A session presented another valid token, which replaces the one before.
    Refreshed = "refreshed", Client;
    /// A credential, a page, a handshake or a request was refused; `reason` says why.
    Refused = "refused", Address;
    /// A user logged in with a password. The token has the given `jti` and `sid`. With the path `/admin/login`: an admin logged in to
    /// the admin page, and the session has the given `sid`.
    LoggedIn = "logged_in", None;
    /// A login failed, or was not tried because of earlier failures.
    LoginFailed = "login_failed", Address;
    /// A user logged out. Lines with `revoked` follow for what was revoked.
    LoggedOut = "logged_out", None;
    /// A refresh token was exchanged for new tokens.
    RefreshTokenUsed = "refresh_token_used", None;
    /// A refresh token was presented that had been used before. Its whole login has ended, and a line with `revoked` is about its tokens, unless
    /// `limits.logouts_per_user` was reached.
    RefreshTokenReused = "refresh_token_reused", Address;
    /// A ticket was issued for a token.
    TicketIssued = "ticket_issued", None;
    /// A ticket was used up: its client is let in (`connected` follows) or refused (`refused` follows).
    TicketUsed = "ticket_used", None;
    /// Tokens were revoked: those of the given `jti`, `sid` or `user`; `by` says who revoked them. With `reason` the revocation failed: it is in
    /// force on this node only, until the broker is back, or nowhere if the list is full. `count` is the number of nodes that have not confirmed it.
    Revoked = "revoked", None;
    /// An identity provider reported a logout. Lines with `revoked` follow for what was revoked.
    BackChannelLogout = "back_channel_logout", None;
    /// A call of the server API that changes something, except publications with the API key.
    ApiCall = "api_call", None;
    /// The audit log was opened at the start of the hub.
    Started = "started", None;
    /// The configuration was read again (SIGHUP). `options` are the keys of those that have changed; with `reason` the new configuration was
    /// refused, and nothing has changed.
    ConfigReloaded = "config_reloaded", None;
    /// The hub stops; the last line of this run.
    Stopped = "stopped", None;
    /// Lines could not be written: the queue (`audit.queue`) was full, or the file could not be written. `count` says how many.
    LinesLost = "lines_lost", None;
    /// Lines were left out because of `audit.lines_per_second` or `audit.refusals_per_second`. `count` says how many.
    LinesSuppressed = "lines_suppressed", None;
}

/// Declares the fields of a line. Doc comments are the documentation.
macro_rules! audit_fields {
    ($($(#[doc = $meaning:literal])+ $field:ident: $type:ty,)*) => {
        /// What a line says beside time, node and event. Fields that are not set are left out. Never put a token, a ticket, a
        /// password or a key into one.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct AuditFields<'a> {
            $($(#[doc = $meaning])+ pub $field: Option<$type>,)*
        }

        /// `key=value` for each field that is set, for the log on stderr.
        impl fmt::Display for AuditFields<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                $(
                    if let Some(value) = &self.$field {
                        write!(f, "{separator}{}={}", stringify!($field), value.in_log())?;
                        separator = " ";
                    }
                )*
                let _ = separator;
                Ok(())
            }
        }

        impl AuditFields<'_> {
            /// The names of all fields, each with its meaning.
            pub const ALL: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($meaning),+).trim_ascii()),)*];

            pub(super) fn serialize_into<M: SerializeMap>(&self, object: &mut M) -> Result<(), M::Error> {
                $(
                    if let Some(value) = &self.$field {
                        value.serialize_into(stringify!($field), object)?;
                    }
                )*
                Ok(())
            }
        }
    };
}

audit_fields! {
    /// Address of the client, as it is known behind `server.trusted_proxies`.
    address: IpAddr,
    /// Client id of the session.
    client: Uuid,
    /// Way in which the credential was sent, as in `auth.doors`.
    door: Door,
    /// Path of the HTTP request.
    path: &'a str,
    /// Id of the HTTP request, which the response has as `X-Request-Id`. Lines about a session have that of the handshake, or of the
    /// request for a stream.
    request: &'a str,
    /// Origin of the page.
    origin: &'a str,
    /// Method of the server API.
    method: &'a str,
    /// Who caused it: `admin:NAME` (a user of `admin.users_file`), `admin` (the API key on the admin page), `api_key` (with `certificate`, if the internal listener asks for one), `logout`, `back_channel_logout`, `refresh_token_reuse`, `logins_per_user`, `users_file` or `connect_hook`.
    by: &'a str,
    /// Certificate of the caller of the server API (`server.internal_tls.client_ca`): its first DNS name, or else the SHA-256 of it.
    certificate: &'a str,
    /// Name of the user: `sub`, after the `user_prefix` of its issuer.
    user: &'a str,
    /// `iss` of the token.
    issuer: &'a str,
    /// `jti` of the token.
    jti: &'a str,
    /// `sid` of the token.
    sid: &'a str,
    /// Channel.
    channel: &'a str,
    /// When the token, the ticket or the revocation expires.
    expires_at: WallTime,
    /// Only tokens that were issued before this time are revoked.
    issued_before: WallTime,
    /// Error code of the answer to a call, none if it has succeeded; close code of a session, none without a close frame.
    code: u32,
    /// Why it was refused or what failed.
    reason: &'a str,
    /// Number of lines, or of nodes that have not confirmed a revocation.
    count: u64,
    /// Keys of changed options, separated by commas.
    options: &'a str,
    /// How long a session existed, in seconds.
    seconds: Duration,
}

impl<'a> AuditFields<'a> {
    /// Returns the fields with those that name a token and its user.
    pub fn with_token(self, user: &'a str, ids: &'a TokenIds, expires_at: WallTime) -> Self {
        Self {
            user: Some(user).filter(|user| !user.is_empty()),
            issuer: ids.issuer.as_deref(),
            jti: ids.jti.as_deref(),
            sid: ids.sid.as_deref(),
            expires_at: Some(expires_at).filter(|end| *end != NEVER),
            ..self
        }
    }

    /// Returns the fields with those that name what is revoked.
    pub fn with_revocation(self, Revocation { target, issued_before, expires_at }: &'a Revocation) -> Self {
        let fields = Self {
            issuer: target.issuer(),
            issued_before: Some(*issued_before).filter(|time| *time != NEVER),
            expires_at: Some(*expires_at),
            ..self
        };
        match target {
            RevocationTarget::Token(jti, _) => Self { jti: Some(jti), ..fields },
            RevocationTarget::Session(sid, _) => Self { sid: Some(sid), ..fields },
            RevocationTarget::User(user, _) | RevocationTarget::UserWithoutSession(user, _) => {
                Self { user: Some(user), ..fields }
            }
            RevocationTarget::Channel(user, channel) => {
                Self { user: Some(user), channel: Some(channel.as_str()), ..fields }
            }
        }
    }
}

/// A value of a line.
pub(super) trait AuditValue {
    /// Adds the value to a JSON object.
    fn serialize_into<M: SerializeMap>(&self, name: &'static str, object: &mut M) -> Result<(), M::Error>;

    /// Returns the value as a line of the log on stderr has it: texts in quotes.
    fn in_log(&self) -> String;
}

impl AuditValue for &str {
    fn in_log(&self) -> String {
        format!("{:?}", &self[..self.floor_char_boundary(MAX_TEXT_BYTES)])
    }

    fn serialize_into<M: SerializeMap>(&self, name: &'static str, object: &mut M) -> Result<(), M::Error> {
        object.serialize_entry(name, &self[..self.floor_char_boundary(MAX_TEXT_BYTES)])
    }
}

impl AuditValue for Uuid {
    fn in_log(&self) -> String {
        self.to_string()
    }

    fn serialize_into<M: SerializeMap>(&self, name: &'static str, object: &mut M) -> Result<(), M::Error> {
        let mut buffer = Self::encode_buffer();
        let text: &str = self.hyphenated().encode_lower(&mut buffer);
        object.serialize_entry(name, text)
    }
}

impl AuditValue for WallTime {
    fn in_log(&self) -> String {
        self.to_string()
    }

    fn serialize_into<M: SerializeMap>(&self, name: &'static str, object: &mut M) -> Result<(), M::Error> {
        object.serialize_entry(name, &self.to_string())
    }
}

/// In seconds, with three decimals.
impl AuditValue for Duration {
    fn in_log(&self) -> String {
        format!("{:.3}", self.as_secs_f64())
    }

    fn serialize_into<M: SerializeMap>(&self, name: &'static str, object: &mut M) -> Result<(), M::Error> {
        object.serialize_entry(name, &((self.as_secs_f64() * 1000.0).round() / 1000.0))
    }
}

macro_rules! serialize_as_is {
    ($($type:ty),*) => {
        $(impl AuditValue for $type {
            fn in_log(&self) -> String {
                self.to_string()
            }

            fn serialize_into<M: SerializeMap>(&self, name: &'static str, object: &mut M) -> Result<(), M::Error> {
                object.serialize_entry(name, self)
            }
        })*
    };
}

serialize_as_is!(IpAddr, u32, u64);

impl AuditValue for Door {
    fn in_log(&self) -> String {
        serde_json::json!(self).to_string()
    }

    fn serialize_into<M: SerializeMap>(&self, name: &'static str, object: &mut M) -> Result<(), M::Error> {
        object.serialize_entry(name, self)
    }
}
