//! The claims of a token: read from a closed list, checked here and not by the library, which lets wrong types pass.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

use super::verifier::Refusal;
use crate::{
    channel::{Channel, Pattern},
    clock::{Millis, NEVER, millis},
};

/// The longest user, in bytes.
const USER_BYTES: usize = 255;
/// The longest `info`, in bytes: it is shown to others with each publication of its owner.
const INFO_BYTES: usize = 4096;

/// What a session keeps of its token. Shared, and small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`; empty for a session without a user.
    pub user: Arc<str>,
    /// `exp`, or `expire_at` where that is earlier: from here on nothing is taken and nothing is sent. [`NEVER`] without.
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
    pub caps: Vec<Cap>,
    /// `channels` and `subs`: what the session is subscribed to without asking.
    pub subscriptions: Vec<ServerSide>,
}

/// One rule of `caps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
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
pub struct ServerSide {
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

/// The payload as it stands in the token. Members that are not listed are passed over; a listed one that comes twice or
/// has a wrong type refuses the token.
#[derive(Deserialize)]
pub(super) struct Payload {
    sub: String,
    exp: NumericDate,
    #[serde(default)]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    aud: Audience,
    #[serde(default)]
    info: Option<Box<RawValue>>,
}

/// What a payload is held against.
pub(super) struct Expectations<'a> {
    pub(super) now: Millis,
    pub(super) skew: Millis,
    pub(super) max_ttl: Millis,
    pub(super) issuer: Option<&'a str>,
    pub(super) audience: Option<&'a str>,
}

impl Payload {
    /// RFC 7519 §4.1, without leeway for `exp`.
    pub(super) fn judge(self, expected: &Expectations<'_>) -> Result<Claims, Refusal> {
        let now = expected.now;
        if self.exp.0 <= now {
            return Err(Refusal::Expired);
        }
        if self.exp.0 - now > expected.max_ttl {
            return Err(Refusal::Invalid("lives longer than auth.max_ttl"));
        }
        if [self.nbf, self.iat].into_iter().flatten().any(|begin| begin.0 > now.saturating_add(expected.skew)) {
            return Err(Refusal::Invalid("not valid yet"));
        }
        if expected.issuer.is_some() && self.iss.as_deref() != expected.issuer {
            return Err(Refusal::Invalid("issuer"));
        }
        if expected.audience.is_some_and(|audience| !self.aud.contains(audience)) {
            return Err(Refusal::Invalid("audience"));
        }
        if self.sub.is_empty() || self.sub.len() > USER_BYTES || self.sub.chars().any(char::is_control) {
            return Err(Refusal::Invalid("sub"));
        }
        let info = self.info.map(|info| Bytes::copy_from_slice(info.get().replace(['\n', '\r'], " ").as_bytes()));
        if info.as_ref().is_some_and(|info| info.len() > INFO_BYTES) {
            return Err(Refusal::Invalid("info"));
        }
        Ok(Claims { user: self.sub.into(), expires_at: self.exp.0, info, grants: None })
    }
}

/// Seconds since the epoch (RFC 7519 §2), fractions floored, from 1970 to a year that arithmetic can bear.
#[derive(Clone, Copy)]
struct NumericDate(Millis);

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

/// `aud`: one or several (RFC 7519 §4.1.3).
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    #[default]
    Nobody,
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}
