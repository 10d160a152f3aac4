//! Signs tokens, for the login, the command line and the banner of a development run. A token contains only the listed claims,
//! since anyone who holds it can read it.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{key::LOGIN_KEY_ID, users::UserClaims};
use crate::{
    clock::{Clock, WallTime},
    config::{self, KeyRules, KindRules, Secret},
    revocation::LoginId,
};

/// Random bytes of a `jti`: enough that no two tokens have the same.
const JTI_BYTES: usize = 16;

/// Signs tokens with one HMAC secret.
pub struct Signer {
    key: EncodingKey,
    kid: Option<String>,
    rules: KeyRules,
    clock: Clock,
}

/// Why a token could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The system has no randomness for the `jti`.
    #[error("the system provides no random bytes")]
    NoRandomness,
    /// The crypto library fails, which it does not for HS256.
    #[error("signing failed: {0}")]
    Library(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct IssuedClaims<'a, T> {
    sub: &'a str,
    iat: i64,
    exp: i64,
    /// Names this one token.
    jti: String,
    /// The login that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(flatten)]
    claims: &'a T,
}

/// The purpose of a signed token.
enum TokenUse<'a> {
    Connection,
    /// Of a login, issued at this time.
    Login(&'a LoginId, WallTime),
    Subscription(&'a str),
}

impl Signer {
    /// Creates a signer with `auth.hmac_secret` for tokens that the verifier of the same configuration accepts.
    pub fn new(auth: &config::AuthConfig, clock: Clock) -> Self {
        Self::with_key(auth, &auth.hmac_secret, None, clock)
    }

    /// Creates a signer with `login.key`, or with `auth.hmac_secret` if that is not set.
    pub fn for_login(auth: &config::AuthConfig, login_key: &Secret, clock: Clock) -> Self {
        if login_key.is_empty() {
            Self::new(auth, clock)
        } else {
            Self::with_key(auth, login_key, Some(LOGIN_KEY_ID.to_owned()), clock)
        }
    }

    fn with_key(auth: &config::AuthConfig, secret: &Secret, kid: Option<String>, clock: Clock) -> Self {
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        Self { key, kid, rules: auth.rules(None), clock }
    }

    /// Signs a connection token for `user` that expires after `ttl`.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn sign(&self, user: &str, ttl: Duration, claims: &UserClaims) -> Result<String, SigningError> {
        self.sign_with(user, ttl, claims)
    }

    /// Signs a connection token with any claims.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn sign_with(&self, user: &str, ttl: Duration, claims: &impl Serialize) -> Result<String, SigningError> {
        self.encode(user, ttl, claims, TokenUse::Connection)
    }

    /// Signs a connection token of a login, which is its `sid` and part of its `jti`. `issued_at` is when the user has asked for it:
    /// a revocation since then means the token.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn sign_for_login(
        &self,
        user: &str,
        ttl: Duration,
        claims: &UserClaims,
        login: &LoginId,
        issued_at: WallTime,
    ) -> Result<String, SigningError> {
        self.encode(user, ttl, claims, TokenUse::Login(login, issued_at))
    }

    /// Signs a subscription token, which allows `user` to subscribe to `channel`. The verifier accepts no other claim than `info`
    /// in it.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn sign_subscription(
        &self,
        user: &str,
        channel: &str,
        ttl: Duration,
        claims: &UserClaims,
    ) -> Result<String, SigningError> {
        self.encode(user, ttl, claims, TokenUse::Subscription(channel))
    }

    fn encode(
        &self,
        user: &str,
        ttl: Duration,
        claims: &impl Serialize,
        token_use: TokenUse<'_>,
    ) -> Result<String, SigningError> {
        let now = self.clock.now();
        let (rules, login, channel, issued_at) = match token_use {
            TokenUse::Connection => (&self.rules.connection, None, None, now),
            TokenUse::Login(login, issued_at) => (&self.rules.connection, Some(login), None, issued_at),
            TokenUse::Subscription(channel) => (&self.rules.subscription, None, Some(channel), now),
        };
        let KindRules { audience, typ } = rules;
        // The verifier requires the configured type.
        let typ = typ.clone().or_else(|| Some("JWT".to_owned()));
        let header = Header { kid: self.kid.clone(), typ, ..Header::new(Algorithm::HS256) };
        let mut jti = [0; JTI_BYTES];
        getrandom::fill(&mut jti).map_err(|_| SigningError::NoRandomness)?;
        let jti = BASE64_URL_SAFE_NO_PAD.encode(jti);
        let issued_at = issued_at.unix_seconds();
        let claims = IssuedClaims {
            sub: user,
            iat: issued_at,
            exp: issued_at.saturating_add_unsigned(ttl.as_secs()),
            jti: login.map_or_else(|| jti.clone(), |login| login.jti(&jti)),
            sid: login.map(LoginId::as_str),
            iss: self.rules.issuer.as_deref(),
            aud: audience.as_deref(),
            channel,
            claims,
        };
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}
