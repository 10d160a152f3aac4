//! Verifies tokens: form, header and signature by RFC 7515 and RFC 8725, then the claims. The key decides the algorithm, never
//! the header of the token. Pure after construction, which reads the key files.

mod header;

use std::sync::Arc;

use jsonwebtoken::Algorithm;

use self::header::{JoseHeader, TokenParts, decode_part};
use super::{
    Permissions, TokenError,
    claims::{Claims, SubscriptionClaims},
    key::{KeyError, VerificationKey, VerificationKeys},
    payload::{Expectations, Payload, unverified_issuer},
};
use crate::{
    clock::Clock,
    config::{self, Config, KeyPurpose},
};

/// Maximum length of a token. It limits how much an unauthenticated client can make the hub decode.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Verifies tokens against the configured keys, issuer, audience, namespaces and the clock.
pub struct Verifier {
    keys: VerificationKeys,
    auth: config::AuthConfig,
    permissions: Arc<Permissions>,
    max_subscriptions: usize,
    clock: Clock,
}

impl Verifier {
    /// Creates a verifier for the tokens that `[auth]` describes, and for those that the login signs with `login.key`. Reads
    /// the key files.
    ///
    /// # Errors
    /// [`KeyError`] for a key that is unreadable, weak, not for its algorithm, or configured twice.
    pub fn new(config: &Config, permissions: Arc<Permissions>, clock: Clock) -> Result<Self, KeyError> {
        Ok(Self {
            keys: VerificationKeys::read(&config.auth, &config.login.key)?,
            auth: config.auth.clone(),
            permissions,
            max_subscriptions: config.limits.channels_per_session,
            clock,
        })
    }

    /// Returns every error for which [`Self::new`] would fail.
    pub fn key_errors(config: &Config) -> Vec<KeyError> {
        VerificationKeys::errors(&config.auth, &config.login.key)
    }

    /// Returns the claims of a valid connection token. They expire with the token, or at `not_after` of its key if that is
    /// earlier: a key is retired because someone else may have it.
    ///
    /// # Errors
    /// [`TokenError`]. With a wrong signature, nothing in the payload is reported.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let (key, payload) = self.verify_signature(token, KeyPurpose::Connection)?;
        let claims = Payload::parse(&payload)?.into_claims(&self.expectations(key.issuer.as_deref()))?;
        Ok(Claims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// Returns the claims of a valid subscription token. The caller checks that they are for the right channel and user.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify_subscription(&self, token: &str) -> Result<SubscriptionClaims, TokenError> {
        let (key, payload) = self.verify_signature(token, KeyPurpose::Subscription)?;
        let expected = self.expectations(key.issuer.as_deref());
        let claims = Payload::parse(&payload)?.into_subscription_claims(&expected)?;
        Ok(SubscriptionClaims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// Returns what [`Self::verify`] would return for this payload with a valid signature. For fuzzing only: **nothing proves
    /// the origin of the payload**.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn claims_of_unsigned(&self, payload: &[u8]) -> Result<Claims, TokenError> {
        Payload::parse(payload)?.into_claims(&self.expectations(None))
    }

    /// Returns the decoded payload, whose claims are not yet checked, and the key that verified its signature.
    fn verify_signature(&self, token: &str, purpose: KeyPurpose) -> Result<(&VerificationKey, Vec<u8>), TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let parts = TokenParts::split(token).ok_or(TokenError::NotThreeParts)?;
        let header = JoseHeader::parse(&decode_part(parts.header)?)?;
        if self.auth.typ.as_deref().is_some_and(|typ| !header.has_type(typ)) {
            return Err(TokenError::WrongType);
        }
        let unverified_issuer = || decode_part(parts.payload).ok().and_then(|payload| unverified_issuer(&payload));
        let key = self.keys.select(header.kid.as_deref(), unverified_issuer).ok_or(TokenError::UnknownKey)?;
        if header.alg.parse::<Algorithm>().ok() != Some(key.algorithm) {
            return Err(TokenError::WrongAlgorithm);
        }
        if key.purpose != KeyPurpose::Any && key.purpose != purpose {
            return Err(TokenError::WrongKeyPurpose);
        }
        if self.clock.now() >= key.not_after {
            return Err(TokenError::KeyExpired);
        }
        let message = parts.message.as_bytes();
        match jsonwebtoken::crypto::verify(parts.signature, message, &key.material, key.algorithm) {
            Ok(true) => Ok((key, decode_part(parts.payload)?)),
            Ok(false) | Err(_) => Err(TokenError::WrongSignature),
        }
    }

    fn expectations<'a>(&'a self, issuer: Option<&'a str>) -> Expectations<'a> {
        Expectations {
            now: self.clock.now(),
            auth: &self.auth,
            issuer,
            permissions: &self.permissions,
            max_subscriptions: self.max_subscriptions,
        }
    }
}

#[cfg(test)]
mod tests;
