//! `[auth]` and `[login]`: which tokens open a connection, through which doors, and who gets one for a password.

use std::{path::PathBuf, time::Duration};

use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};

use super::{Secret, value};
use crate::clock::Millis;

/// `[auth]`: which tokens open a connection, and through which doors.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct AuthConfig {
    pub hmac_secret: Secret,
    pub keys: Vec<KeyConfig>,
    #[serde(deserialize_with = "value::optional_text")]
    pub typ: Option<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub issuer: Option<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub audience: Option<String>,
    pub required_claims: Vec<RequiredClaim>,
    #[serde(with = "value::duration")]
    pub max_ttl: Duration,
    #[serde(with = "value::duration")]
    pub clock_skew: Duration,
    pub doors: Vec<Door>,
    pub cookie: String,
    pub reject: RejectMode,
    pub anonymous: AnonymousAccess,
    pub require_token_per_message: bool,
    #[serde(with = "value::duration")]
    pub ticket_ttl: Duration,
    #[serde(with = "value::duration")]
    pub first_message_timeout: Duration,
    #[serde(with = "value::duration")]
    pub refresh_margin: Duration,
}

/// One of `[[auth.keys]]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// `kid` of the tokens it verifies. A JWKS file brings the ids of its keys.
    #[serde(default)]
    pub id: String,
    /// The one algorithm of the key; may be left out where a JWK says it (`alg`).
    pub algorithm: Option<Algorithm>,
    /// PEM of the public key, or the secret itself for HS*.
    #[serde(default, deserialize_with = "value::optional_path")]
    pub file: Option<PathBuf>,
    /// A JWK (RFC 7517) as JSON.
    #[serde(default)]
    pub jwk: Secret,
    /// File of a JWK set (RFC 7517 §5).
    #[serde(default, deserialize_with = "value::optional_path")]
    pub jwks: Option<PathBuf>,
    /// From here on the key verifies nothing and what it has verified ends, in milliseconds since the epoch.
    #[serde(default, deserialize_with = "value::optional_instant")]
    pub not_after: Option<Millis>,
    /// Tokens of this issuer only.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub issuer: Option<String>,
    /// Which kind of token it verifies.
    #[serde(default)]
    pub purpose: KeyPurpose,
}

/// What the tokens of a key may be used for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum KeyPurpose {
    /// Both of the below.
    #[default]
    Any,
    /// Opening connections, publishing over REST, tickets.
    Connection,
    /// Subscribing to the channel that the token names.
    Subscription,
}

/// A claim that may be made mandatory.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of RFC 7519 §4.1")]
pub enum RequiredClaim {
    Exp,
    Nbf,
    Iat,
    Jti,
    Iss,
    Aud,
}

/// A way for a token to get in.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// `?token=T` on the handshake's URL.
    Query,
    /// `?ticket=X` on the handshake's URL: opaque, good once and for a short time.
    Ticket,
    /// An entry of `Sec-WebSocket-Protocol`.
    Subprotocol,
    /// The first message, as the text `Authorization: Bearer T`.
    Message,
    /// The first message, as a `connect` command.
    Connect,
    /// `auth.cookie`. Ambient: browsers send it without anybody's will, so any other door wins over it.
    Cookie,
    /// `Authorization: Bearer T` on the handshake.
    Header,
}

/// How a handshake with a bad token is refused.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RejectMode {
    /// 401 before the upgrade.
    Http,
    /// 101, and closed 3500 at once.
    Close,
}

/// Who gets a session without being a user.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum AnonymousAccess {
    /// Nobody.
    Never,
    /// Whoever has a token with an empty `sub`.
    Token,
    /// Also who sends a `connect` without a token.
    Always,
}

/// `[login]`: tokens for user and password.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct LoginConfig {
    #[serde(deserialize_with = "value::optional_path")]
    pub users_file: Option<PathBuf>,
    pub demo_password: Secret,
    pub key: Secret,
    #[serde(with = "value::duration")]
    pub token_ttl: Duration,
    pub cookie: bool,
    pub failures: u32,
    #[serde(with = "value::duration")]
    pub backoff: Duration,
    pub concurrency: usize,
}

impl AuthConfig {
    /// Whether tokens of our own login have all of `required_claims`.
    pub fn login_tokens_have_required_claims(&self) -> bool {
        self.required_claims.iter().all(|claim| match claim {
            RequiredClaim::Exp | RequiredClaim::Iat => true,
            RequiredClaim::Iss => self.issuer.is_some(),
            RequiredClaim::Aud => self.audience.is_some(),
            RequiredClaim::Nbf | RequiredClaim::Jti => false,
        })
    }
}

impl LoginConfig {
    /// Whether anybody can log in.
    pub fn is_enabled(&self) -> bool {
        self.users_file.is_some() || !self.demo_password.is_empty()
    }

    /// Whether a login may ask for the cookie: it is allowed, and a door of `doors` takes it.
    pub fn can_set_cookie(&self, doors: &[Door]) -> bool {
        self.cookie && doors.contains(&Door::Cookie)
    }
}
