//! Tokens on their way in: form, header and signature by RFC 7515 and RFC 8725, then the claims. The key decides the
//! algorithm, never the token's header. Pure once it stands: keys are read when it is made.

mod header;

use std::sync::Arc;

use self::header::{Header, Parts, decoded};
use super::{
    Permissions,
    claims::{Claims, SubscriptionClaims},
    key::{self, BadKey, Key, Keys},
    payload::{Expectations, Payload, claimed_issuer},
};
use crate::{
    clock::Clock,
    config::{self, Config, Purpose},
};

/// The longest token that is looked at. It bounds what a stranger can make us decode.
const TOKEN_BYTES: usize = 8 * 1024;

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was good once.
    #[error("expired")]
    Expired,
    /// It never was. The reason is for our own debug log: outward it is not told (RFC 8725 §3).
    #[error("invalid: {0}")]
    Invalid(&'static str),
}

/// Checks tokens against the configured keys, issuer, audience, namespaces and clock.
pub struct Verifier {
    keys: Keys,
    auth: config::Auth,
    permissions: Arc<Permissions>,
    channels: usize,
    clock: Clock,
}

impl Verifier {
    /// A verifier for the tokens that `[auth]` describes, and for those that the login signs with a key of its own. Reads
    /// the key files.
    ///
    /// # Errors
    /// [`BadKey`]: unreadable, weak, not for its algorithm, or there twice.
    pub fn new(config: &Config, permissions: Arc<Permissions>, clock: Clock) -> Result<Self, BadKey> {
        Ok(Self {
            keys: Keys::read(&config.auth, &config.login.key)?,
            auth: config.auth.clone(),
            permissions,
            channels: config.limits.channels_per_session,
            clock,
        })
    }

    /// Everything that [`Self::new`] would refuse.
    pub fn faults(config: &Config) -> Vec<BadKey> {
        Keys::faults(&config.auth, &config.login.key)
    }

    /// The claims of a good token that opens connections. They end with the token, or with its key if that is over sooner:
    /// a key is taken out of service because somebody may have it.
    ///
    /// # Errors
    /// [`Refusal`]. Nothing is told of a token whose signature is wrong.
    pub fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let (key, payload) = self.signed(token, Purpose::Connection)?;
        let claims = Payload::read(&payload)?.judge(&self.expectations(key.issuer.as_deref()))?;
        Ok(Claims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// The claims of a good subscription token. Whether it is for the channel and the user at hand is for who asks to see.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify_subscription(&self, token: &str) -> Result<SubscriptionClaims, Refusal> {
        let (key, payload) = self.signed(token, Purpose::Subscription)?;
        let claims = Payload::read(&payload)?.judge_subscription(&self.expectations(key.issuer.as_deref()))?;
        Ok(SubscriptionClaims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// What [`Self::verify`] says of a payload behind a good signature, for fuzzing: **nothing proves who wrote it**.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge_unsigned(&self, payload: &[u8]) -> Result<Claims, Refusal> {
        Payload::read(payload)?.judge(&self.expectations(None))
    }

    /// The payload, decoded and not yet judged, and the key whose signature it has.
    fn signed(&self, token: &str, purpose: Purpose) -> Result<(&Key, Vec<u8>), Refusal> {
        if token.len() > TOKEN_BYTES {
            return Err(Refusal::Invalid("too long"));
        }
        let parts = Parts::of(token).ok_or(Refusal::Invalid("not three parts"))?;
        let header = decoded(parts.header)?;
        let header = Header::read(&header)?;
        if self.auth.typ.as_deref().is_some_and(|typ| !header.is_of(typ)) {
            return Err(Refusal::Invalid("typ"));
        }
        let claimed_issuer = || decoded(parts.payload).ok().and_then(|payload| claimed_issuer(&payload));
        let key = self.keys.choose(header.kid.as_deref(), claimed_issuer);
        let key = key.ok_or(Refusal::Invalid("no key of this kid, or no kid among several keys"))?;
        let algorithm = key::algorithm(&header.alg).map(key::library_name);
        if algorithm != Some(key.algorithm) {
            return Err(Refusal::Invalid("another algorithm than the key's"));
        }
        if key.purpose != Purpose::Any && key.purpose != purpose {
            return Err(Refusal::Invalid("a key for another kind of token"));
        }
        if self.clock.now() >= key.not_after {
            return Err(Refusal::Invalid("a key that is over"));
        }
        let message = parts.message.as_bytes();
        match jsonwebtoken::crypto::verify(parts.signature, message, &key.material, key.algorithm) {
            Ok(true) => Ok((key, decoded(parts.payload)?)),
            Ok(false) | Err(_) => Err(Refusal::Invalid("signature")),
        }
    }

    fn expectations<'a>(&'a self, issuer: Option<&'a str>) -> Expectations<'a> {
        Expectations {
            now: self.clock.now(),
            auth: &self.auth,
            issuer,
            permissions: &self.permissions,
            channels: self.channels,
        }
    }
}

#[cfg(test)]
mod tests;
