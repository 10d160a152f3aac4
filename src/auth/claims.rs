//! The claims of a verified token, or of an answer of the connect hook.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

use crate::{
    channel::{Channel, Pattern},
    clock::{NEVER, WallTime},
    config::OptionOverrides,
    revocation::TokenIdentity,
};

/// The claims of a connection token that a session keeps. Small, and shared by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`; empty for a session without a user.
    pub user: Arc<str>,
    /// `exp`, `expire_at` or `not_after` of the key, whichever is first; [`NEVER`] without any of them. From then on the
    /// session accepts and sends nothing.
    pub expires_at: WallTime,
    /// `jti`, `sid` and `iat`: what a revocation can name.
    pub token: TokenIdentity,
    /// `info`: raw JSON, visible to other clients.
    pub info: Option<Bytes>,
    /// `caps`, `channels` and `subs`, which most tokens do not have.
    pub grants: Option<Box<Grants>>,
    /// What the connect hook has said beside, if it and no token made these claims.
    pub hook: Option<Box<HookClaims>>,
}

/// The part of an answer of the connect hook that tokens do not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookClaims {
    /// Raw JSON for later calls of hooks about the session.
    pub meta: Option<Bytes>,
}

/// The grants of a connection token beyond the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// `caps`.
    pub caps: Vec<Capability>,
    /// `channels` and `subs`: the session is subscribed to them without a request.
    pub subscriptions: Vec<ServerSideSubscription>,
}

/// One rule of `caps`: rights in the channels that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The channels it applies to.
    pub channels: Vec<Pattern>,
    /// Whether `allow` contains `sub`.
    pub subscribe: bool,
    /// Whether `allow` contains `pub`.
    pub publish: bool,
    /// Whether `allow` contains `prs`.
    pub presence: bool,
    /// Whether `allow` contains `hst`.
    pub history: bool,
}

/// A server-side subscription from a connection token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSideSubscription {
    /// Its channel.
    pub channel: Channel,
    /// `info`: raw JSON, visible to other clients in addition to that of the connection.
    pub info: Option<Bytes>,
    /// `data`: raw JSON for the client itself.
    pub data: Option<Bytes>,
    /// `expire_at`, or [`NEVER`].
    pub expires_at: WallTime,
    /// `override`.
    pub overrides: OptionOverrides,
}

/// The claims of a subscription token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionClaims {
    /// `sub`: the user of the connection that may use the token.
    pub user: Arc<str>,
    /// `channel`.
    pub channel: Channel,
    /// `info`: raw JSON, visible to other clients in addition to that of the connection.
    pub info: Option<Bytes>,
    /// `data`: raw JSON for the client itself.
    pub data: Option<Bytes>,
    /// `exp`, `expire_at` or `not_after` of the key, whichever is first; [`NEVER`] without any of them.
    pub expires_at: WallTime,
    /// `jti`, `sid` and `iat`: what a revocation can name.
    pub token: TokenIdentity,
    /// `override`.
    pub overrides: OptionOverrides,
}

impl Claims {
    /// Returns the claims of a session without token and user (`auth.anonymous = "always"`), which never expires.
    pub fn anonymous() -> Self {
        let (user, token) = ("".into(), TokenIdentity::default());
        Self { user, expires_at: NEVER, token, info: None, grants: None, hook: None }
    }

    /// Returns what the connect hook wants to hear in later calls about the session.
    pub fn meta(&self) -> Option<&RawValue> {
        let meta = self.hook.as_ref()?.meta.as_ref()?;
        serde_json::from_slice(meta).ok()
    }

    /// Returns whether the session ends when it would by `other`, and the same side, a token or the backend, decides when.
    pub fn ends_as(&self, other: &Self) -> bool {
        self.expires_at == other.expires_at && self.hook.is_some() == other.hook.is_some()
    }

    /// Returns whether there is no user.
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty()
    }
}

/// Seconds since the epoch (RFC 7519 §2), rounded down, from 0 to [`Self::LATEST`].
#[derive(Clone, Copy)]
pub(super) struct NumericDate(WallTime);

impl NumericDate {
    /// Far beyond any real date, and far enough below [`NEVER`] that arithmetic cannot overflow.
    const LATEST: f64 = 1e12;

    pub(super) fn time(self) -> WallTime {
        self.0
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !(0.0..=Self::LATEST).contains(&seconds) {
            return Err(D::Error::custom("no date"));
        }
        Ok(Self(WallTime::from_unix_seconds(seconds.floor() as i64)))
    }
}
