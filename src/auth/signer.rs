//! Signs tokens, for the login, the command line and the banner of a development run. A token contains only the listed claims,
//! since anyone who holds it can read it.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, errors::Error};
use serde::Serialize;

use super::{key::LOGIN_KEY_ID, users::UserClaims};
use crate::{
    clock::Clock,
    config::{self, Secret},
};

/// Signs tokens with one HMAC secret.
pub struct Signer {
    key: EncodingKey,
    header: Header,
    issuer: Option<String>,
    audience: Option<String>,
    clock: Clock,
}

#[derive(Serialize)]
struct IssuedClaims<'a> {
    sub: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(flatten)]
    claims: &'a UserClaims,
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
        // The verifier requires `auth.typ` if it is set.
        let typ = auth.typ.clone().or_else(|| Some("JWT".to_owned()));
        Self {
            key: EncodingKey::from_secret(secret.expose().as_bytes()),
            header: Header { kid, typ, ..Header::new(Algorithm::HS256) },
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            clock,
        }
    }

    /// Signs a connection token for `user` that expires after `ttl`.
    ///
    /// # Errors
    /// If the crypto library fails, which it does not for HS256.
    pub fn sign(&self, user: &str, ttl: Duration, claims: &UserClaims) -> Result<String, Error> {
        self.encode(user, ttl, claims, None)
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
    ) -> Result<String, Error> {
        self.encode(user, ttl, claims, Some(channel))
    }

    fn encode(&self, user: &str, ttl: Duration, claims: &UserClaims, channel: Option<&str>) -> Result<String, Error> {
        let now = self.clock.now().unix_seconds();
        let claims = IssuedClaims {
            sub: user,
            iat: now,
            exp: now.saturating_add_unsigned(ttl.as_secs()),
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
            channel,
            claims,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key)
    }
}
