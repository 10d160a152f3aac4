//! `[auth]` and `[login]`: which tokens are accepted and how they are sent, and tokens for a user name and a password.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};

use super::{Secret, value};
use crate::clock::WallTime;

/// `[auth]`: which tokens are accepted, and how they are sent.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct AuthConfig {
    pub hmac_secret: Secret,
    pub keys: Vec<KeyConfig>,
    #[serde(deserialize_with = "value::optional_text")]
    pub issuer_url: Option<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub jwks_url: Option<String>,
    #[serde(with = "value::duration")]
    pub key_files_interval: Duration,
    #[serde(deserialize_with = "value::optional_text")]
    pub typ: Option<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub subscription_typ: Option<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub issuer: Option<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub audience: Option<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub subscription_audience: Option<String>,
    pub clients: Vec<String>,
    #[serde(deserialize_with = "value::optional_text")]
    pub user_prefix: Option<String>,
    pub shared_subjects: bool,
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
    pub ticket_bind: Vec<TicketBinding>,
    #[serde(with = "value::duration")]
    pub first_message_timeout: Duration,
    #[serde(with = "value::duration")]
    pub refresh_margin: Duration,
    pub key_sets: KeySetsConfig,
}

/// `[auth.key_sets]`: how JWK sets are fetched.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct KeySetsConfig {
    #[serde(with = "value::duration")]
    pub refresh: Duration,
    #[serde(with = "value::duration")]
    pub retry: Duration,
    #[serde(with = "value::duration")]
    pub unknown_kid_interval: Duration,
    #[serde(with = "value::duration")]
    pub timeout: Duration,
    #[serde(with = "value::duration")]
    pub stale: Duration,
    #[serde(with = "value::duration")]
    pub startup_timeout: Duration,
    pub document_bytes: usize,
    pub keys: usize,
    #[serde(deserialize_with = "value::networks")]
    pub private_networks: Vec<IpNet>,
    #[serde(deserialize_with = "value::optional_path")]
    pub ca: Option<PathBuf>,
}

impl KeySetsConfig {
    /// Returns the file with the certificate authorities of an entry's servers; `None`: those of the system.
    pub fn ca_of<'a>(&'a self, entry: &'a KeyConfig) -> Option<&'a Path> {
        entry.ca.as_deref().or(self.ca.as_deref())
    }

    /// Returns the networks of private addresses from which the keys of an entry may be fetched.
    pub fn private_networks_of<'a>(&'a self, entry: &'a KeyConfig) -> &'a [IpNet] {
        entry.private_networks.as_ref().unwrap_or(&self.private_networks)
    }
}

/// An entry of `[[auth.keys]]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The `kid` of its tokens. The keys of a JWKS file have their own ids.
    #[serde(default)]
    pub id: String,
    /// The only algorithm of the key. Optional if the JWK names it (`alg`).
    pub algorithm: Option<Algorithm>,
    /// PEM file of the public key, or for HS* a file with the secret itself.
    #[serde(default, deserialize_with = "value::optional_path")]
    pub file: Option<PathBuf>,
    /// A JWK (RFC 7517) as JSON.
    #[serde(default)]
    pub jwk: Secret,
    /// A file with a JWK set (RFC 7517 §5).
    #[serde(default, deserialize_with = "value::optional_path")]
    pub jwks: Option<PathBuf>,
    /// The URL of a JWK set.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub jwks_url: Option<String>,
    /// The URL of a provider that supports OpenID Connect Discovery: exactly the `iss` of its tokens.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub issuer_url: Option<String>,
    /// Networks of private addresses from which its keys may be fetched, instead of `auth.key_sets.private_networks`.
    #[serde(default, deserialize_with = "value::optional_networks")]
    pub private_networks: Option<Vec<IpNet>>,
    /// PEM file of the certificate authorities of its server, instead of `auth.key_sets.ca`.
    #[serde(default, deserialize_with = "value::optional_path")]
    pub ca: Option<PathBuf>,
    /// From this time on, in milliseconds since the epoch, its tokens are refused and their sessions end.
    #[serde(default, deserialize_with = "value::optional_instant")]
    pub not_after: Option<WallTime>,
    /// Its tokens must have this issuer, instead of `auth.issuer`.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub issuer: Option<String>,
    /// Precedes `sub` in the names of its users, instead of `auth.user_prefix`.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub user_prefix: Option<String>,
    /// Its tokens must be for this audience, instead of `auth.audience`.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub audience: Option<String>,
    /// Its subscription tokens must be for this audience, instead of `audience`.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub subscription_audience: Option<String>,
    /// Its tokens must be of one of these applications, instead of `auth.clients`.
    pub clients: Option<Vec<String>>,
    /// Its tokens must have this `typ`, instead of `auth.typ`.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub typ: Option<String>,
    /// Its subscription tokens must have this `typ`, instead of `typ`.
    #[serde(default, deserialize_with = "value::optional_text")]
    pub subscription_typ: Option<String>,
    /// The kind of tokens that it verifies.
    #[serde(default)]
    pub purpose: KeyPurpose,
}

/// Where the key or the keys of an entry of `[[auth.keys]]` come from.
#[derive(Clone, Copy, Debug)]
pub enum KeySource<'a> {
    /// A file with one key.
    File(&'a Path),
    /// One key as a JWK.
    Jwk(&'a Secret),
    /// A file with a JWK set.
    SetFile(&'a Path),
    /// The URL of a JWK set.
    SetUrl(&'a str),
    /// The URL of a provider that supports OpenID Connect Discovery.
    Issuer(&'a str),
}

impl<'a> KeySource<'a> {
    /// The settings of an entry that name its source, for errors.
    pub const SETTINGS: &'static str = "file, jwk, jwks, jwks_url and issuer_url";

    /// Returns whether it is a JWK set, whose keys have their own ids.
    pub fn is_set(self) -> bool {
        self.set_place().is_some() || matches!(self, Self::Issuer(_))
    }

    /// Returns the file or URL of a JWK set that names no issuer.
    pub fn set_place(self) -> Option<&'a Path> {
        match self {
            Self::SetFile(path) => Some(path),
            Self::SetUrl(url) => Some(Path::new(url)),
            Self::File(_) | Self::Jwk(_) | Self::Issuer(_) => None,
        }
    }
}

/// Returns a URL for errors and logs: without user name, password and query, which may be secrets.
pub fn url_without_secrets(url: &str) -> String {
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = shown.split_once("://") else { return shown.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
}

impl KeyConfig {
    /// Returns where the keys come from; `None` unless exactly one source is set.
    pub fn source(&self) -> Option<KeySource<'_>> {
        let jwk = Some(&self.jwk).filter(|jwk| !jwk.is_empty());
        let mut sources = [
            self.file.as_deref().map(KeySource::File),
            jwk.map(KeySource::Jwk),
            self.jwks.as_deref().map(KeySource::SetFile),
            self.jwks_url.as_deref().map(KeySource::SetUrl),
            self.issuer_url.as_deref().map(KeySource::Issuer),
        ]
        .into_iter()
        .flatten();
        sources.next().filter(|_| sources.next().is_none())
    }

    /// Returns whether the entry is a JWK set.
    pub fn is_set(&self) -> bool {
        self.source().is_some_and(KeySource::is_set)
    }
}

/// The purpose of a key: which kinds of tokens it may sign.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum KeyPurpose {
    /// Both kinds.
    #[default]
    Any,
    /// Connection tokens: for connections, publishing over REST, and tickets.
    Connection,
    /// Subscription tokens: for subscribing to the channel that the token names.
    Subscription,
}

/// A claim that `auth.required_claims` may list.
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

/// A way to send a token (`auth.doors`).
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// `?token=T` in the URL of the handshake.
    Query,
    /// `?ticket=X` in the URL of the handshake: a random id that is valid once and for `auth.ticket_ttl`.
    Ticket,
    /// An entry of `Sec-WebSocket-Protocol`.
    Subprotocol,
    /// The first message, as the text `Authorization: Bearer T`.
    Message,
    /// The first message, as a `connect` command.
    Connect,
    /// The cookie `auth.cookie`. Browsers send it automatically, so a token sent in any other way takes precedence.
    Cookie,
    /// The header `Authorization: Bearer T` of the handshake.
    Header,
}

/// A property that a connection must have in common with the request for its ticket (`auth.ticket_bind`).
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TicketBinding {
    /// The address of the client.
    Address,
    /// The `Origin` of the page.
    Origin,
}

/// How a handshake with a bad token is refused.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RejectMode {
    /// 401 before the upgrade.
    Http,
    /// 101, then closed 3500 at once.
    Close,
}

/// Which clients get a session without a user.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum AnonymousAccess {
    /// None.
    Never,
    /// Clients with a token that has an empty `sub`.
    Token,
    /// Also clients that send a `connect` command without a token.
    Always,
}

/// `[login]`: tokens for a user name and a password.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct LoginConfig {
    #[serde(deserialize_with = "value::optional_path")]
    pub users_file: Option<PathBuf>,
    #[serde(with = "value::duration")]
    pub users_file_interval: Duration,
    pub demo_password: Secret,
    pub key: Secret,
    #[serde(with = "value::duration")]
    pub token_ttl: Duration,
    #[serde(with = "value::duration")]
    pub refresh_ttl: Duration,
    #[serde(with = "value::duration")]
    pub refresh_idle: Duration,
    #[serde(with = "value::duration")]
    pub refresh_grace: Duration,
    pub logins_per_user: usize,
    pub cookie: bool,
    pub failures: u32,
    #[serde(with = "value::duration")]
    pub backoff: Duration,
    pub concurrency: usize,
}

impl AuthConfig {
    /// Adds the entry of `keys` for which `issuer_url` or `jwks_url` stands.
    pub(super) fn add_provider(&mut self) {
        if self.issuer_url.is_some() || self.jwks_url.is_some() {
            let (issuer_url, jwks_url) = (self.issuer_url.clone(), self.jwks_url.clone());
            self.keys.push(KeyConfig { issuer_url, jwks_url, ..KeyConfig::default() });
        }
    }

    /// Returns whether the tokens of the login have all `required_claims`.
    pub fn login_tokens_have_required_claims(&self) -> bool {
        self.required_claims.iter().all(|claim| match claim {
            RequiredClaim::Exp | RequiredClaim::Iat | RequiredClaim::Jti => true,
            RequiredClaim::Iss => self.issuer.is_some(),
            RequiredClaim::Aud => self.audience.is_some(),
            RequiredClaim::Nbf => false,
        })
    }
}

impl LoginConfig {
    /// Returns whether there are users who can log in.
    pub fn is_enabled(&self) -> bool {
        self.users_file.is_some() || !self.demo_password.is_empty()
    }

    /// Returns whether a login gets a refresh token.
    pub fn gives_refresh_tokens(&self) -> bool {
        self.is_enabled() && !self.refresh_ttl.is_zero()
    }

    /// Returns whether a login may get its token in a cookie: it is enabled, and `doors` (`auth.doors`) accept the
    /// cookie.
    pub fn can_set_cookie(&self, doors: &[Door]) -> bool {
        self.cookie && doors.contains(&Door::Cookie)
    }
}
