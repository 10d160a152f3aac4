//! The claims of a token: what is kept of it once it is checked.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error};

use crate::{
    channel::{Channel, Pattern},
    clock::{Millis, NEVER, millis},
};

/// What a session keeps of its token. Shared, and small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`; empty for a session without a user.
    pub user: Arc<str>,
    /// `exp`, `expire_at` or the end of the key, whichever comes first: from here on nothing is taken and nothing is sent.
    /// [`NEVER`] without.
    pub expires_at: Millis,
    /// `info`: raw JSON that others see.
    pub info: Option<Bytes>,
    /// `caps`, `channels` and `subs`, which most tokens do not have.
    pub grants: Option<Box<Grants>>,
}

/// What a token grants by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// `caps`.
    pub caps: Vec<Capability>,
    /// `channels` and `subs`: what the session is subscribed to without asking.
    pub subscriptions: Vec<ServerSideSubscription>,
}

/// One rule of `caps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The channels it is about.
    pub channels: Vec<Pattern>,
    /// `sub` is among `allow`.
    pub subscribe: bool,
    /// `pub` is.
    pub publish: bool,
    /// `prs` is.
    pub presence: bool,
    /// `hst` is.
    pub history: bool,
}

/// A subscription that a token brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSideSubscription {
    /// Its channel.
    pub channel: Channel,
    /// `info`: raw JSON that others see beside that of the connection.
    pub info: Option<Bytes>,
    /// `data`: raw JSON for the client itself.
    pub data: Option<Bytes>,
    /// `expire_at`, or [`NEVER`].
    pub expires_at: Millis,
}

/// What a subscription token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionClaims {
    /// `sub`: the user of the connection that may use it.
    pub user: Arc<str>,
    /// `channel`.
    pub channel: Channel,
    /// `info`: raw JSON that others see beside that of the connection.
    pub info: Option<Bytes>,
    /// `exp` or `expire_at`, or [`NEVER`].
    pub expires_at: Millis,
}

impl Claims {
    /// A session without token and user (`auth.anonymous = "always"`), which never ends by itself.
    pub fn anonymous() -> Self {
        Self { user: "".into(), expires_at: NEVER, info: None, grants: None }
    }

    /// Whether there is no user.
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty()
    }
}

/// Seconds since the epoch (RFC 7519 §2), fractions floored, from 1970 to a year that arithmetic can bear.
#[derive(Clone, Copy)]
pub(super) struct NumericDate(Millis);

impl NumericDate {
    pub(super) fn millis(self) -> Millis {
        self.0
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const LATEST: f64 = 1e12;
        let seconds = f64::deserialize(deserializer)?;
        if !(0.0..=LATEST).contains(&seconds) {
            return Err(D::Error::custom("no date"));
        }
        Ok(Self(millis(std::time::Duration::from_secs(seconds.floor() as u64))))
    }
}
