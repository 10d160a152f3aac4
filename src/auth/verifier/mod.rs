//! Tokens on their way in: form, header and signature by RFC 7515 and RFC 8725, then the claims. The key decides the
//! algorithm, never the token's header. Pure once it stands: keys are read when it is made.

mod header;

use std::sync::Arc;

use self::header::{JoseHeader, TokenParts, decode_part};
use super::{
    Permissions,
    claims::{Claims, SubscriptionClaims},
    key::{self, KeyError, VerificationKey, VerificationKeys},
    payload::{Expectations, Payload, unverified_issuer},
};
use crate::{
    clock::Clock,
    config::{self, Config, KeyPurpose},
};

/// The longest token that is looked at. It context what a stranger can make us decode.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was good once.
    #[error("expired")]
    Expired,
    /// It never was. The reason is for our own debug log: outward it is not told (RFC 8725 §3).
    #[error("invalid: {0}")]
    Invalid(&'static str),
}

/// Checks tokens against the configured keys, issuer, audience, namespaces and clock.
pub struct Verifier {
    keys: VerificationKeys,
    auth: config::AuthConfig,
    permissions: Arc<Permissions>,
    max_subscriptions: usize,
    clock: Clock,
}

impl Verifier {
    /// A verifier for the tokens that `[auth]` describes, and for those that the login signs with a key of its own. Reads
    /// the key files.
    ///
    /// # Errors
    /// [`KeyError`]: unreadable, weak, not for its algorithm, or there twice.
    pub fn new(config: &Config, permissions: Arc<Permissions>, clock: Clock) -> Result<Self, KeyError> {
        Ok(Self {
            keys: VerificationKeys::read(&config.auth, &config.login.key)?,
            auth: config.auth.clone(),
            permissions,
            max_subscriptions: config.limits.channels_per_session,
            clock,
        })
    }

    /// Everything that [`Self::new`] would refuse.
    pub fn key_errors(config: &Config) -> Vec<KeyError> {
        VerificationKeys::errors(&config.auth, &config.login.key)
    }

    /// The claims of a good token that opens connections. They end with the token, or with its key if that is over sooner:
    /// a key is taken out of service because somebody may have it.
    ///
    /// # Errors
    /// [`TokenError`]. Nothing is told of a token whose signature is wrong.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let (key, payload) = self.verify_signature(token, KeyPurpose::Connection)?;
        let claims = Payload::read(&payload)?.into_claims(&self.expectations(key.issuer.as_deref()))?;
        Ok(Claims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// The claims of a good subscription token. Whether it is for the channel and the user at hand is for who asks to see.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify_subscription(&self, token: &str) -> Result<SubscriptionClaims, TokenError> {
        let (key, payload) = self.verify_signature(token, KeyPurpose::Subscription)?;
        let claims = Payload::read(&payload)?.into_subscription_claims(&self.expectations(key.issuer.as_deref()))?;
        Ok(SubscriptionClaims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// What [`Self::verify`] says of a payload behind a good signature, for fuzzing: **nothing proves who wrote it**.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn claims_of_unsigned(&self, payload: &[u8]) -> Result<Claims, TokenError> {
        Payload::read(payload)?.into_claims(&self.expectations(None))
    }

    /// The payload, decoded and not yet judged, and the key whose signature it has.
    fn verify_signature(&self, token: &str, purpose: KeyPurpose) -> Result<(&VerificationKey, Vec<u8>), TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid("too long"));
        }
        let parts = TokenParts::split(token).ok_or(TokenError::Invalid("not three parts"))?;
        let header = decode_part(parts.header)?;
        let header = JoseHeader::read(&header)?;
        if self.auth.typ.as_deref().is_some_and(|typ| !header.has_type(typ)) {
            return Err(TokenError::Invalid("typ"));
        }
        let unverified_issuer = || decode_part(parts.payload).ok().and_then(|payload| unverified_issuer(&payload));
        let key = self.keys.select(header.kid.as_deref(), unverified_issuer);
        let key = key.ok_or(TokenError::Invalid("no key of this kid, or no kid among several keys"))?;
        let algorithm = key::parse_algorithm(&header.alg).map(key::library_algorithm);
        if algorithm != Some(key.algorithm) {
            return Err(TokenError::Invalid("another algorithm than the key's"));
        }
        if key.purpose != KeyPurpose::Any && key.purpose != purpose {
            return Err(TokenError::Invalid("a key for another kind of token"));
        }
        if self.clock.now() >= key.not_after {
            return Err(TokenError::Invalid("a key that is over"));
        }
        let message = parts.message.as_bytes();
        match jsonwebtoken::crypto::verify(parts.signature, message, &key.material, key.algorithm) {
            Ok(true) => Ok((key, decode_part(parts.payload)?)),
            Ok(false) | Err(_) => Err(TokenError::Invalid("signature")),
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
