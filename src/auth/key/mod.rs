//! The keys that verify tokens: of the configuration, of the files that it names, and of the JWK sets that the hub fetches. Each has
//! exactly one algorithm. Weak keys and keys that do not fit their algorithm are refused. A token can only choose among these keys.

mod der;
mod entry;
mod form;
mod jwk;
mod material;
mod ring;
mod shared_secret;

use std::{collections::HashSet, sync::Arc};

use jsonwebtoken::{Algorithm, DecodingKey};

pub use self::ring::KeyChange;
pub(super) use self::{
    entry::{KeySetDocument, read_fetched_set},
    ring::{InheritedSet, KeyRing, SetNumber},
    shared_secret::shared_secrets,
};
use self::{
    entry::{label, read_entry},
    material::{CheckedKey, KeyMaterial},
};
use crate::{
    clock::{NEVER, WallTime},
    config::{self, KeyPurpose, KeyRules, Secret},
    revocation::{KeyInUse, KeyNumber},
};

/// The id of `login.key`.
pub(super) const LOGIN_KEY_ID: &str = "login";
/// Why a key cannot be used, and what to do about it. Never quotes key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct KeyError {
    /// The configuration key, id or file of the key.
    pub key: String,
    /// What is wrong, and the remedy.
    pub problem: String,
}

/// A key that verifies tokens.
#[derive(Debug)]
pub(super) struct VerificationKey {
    pub(super) id: Option<String>,
    /// The only algorithm. `alg` of a token has to be the same.
    pub(super) algorithm: Algorithm,
    /// What its tokens must have.
    pub(super) rules: KeyRules,
    /// From then on the key verifies nothing, and the sessions of its tokens expire.
    pub(super) not_after: WallTime,
    pub(super) material: DecodingKey,
    /// Distinguishes keys with the same id.
    fingerprint: [u8; 32],
    /// In the claims of its tokens.
    pub(super) number: KeyNumber,
    /// The numbers that the key had with another `not_after`, in the claims of tokens that were verified then.
    earlier: Vec<EarlierNumber>,
}

/// A number that a key had until its `not_after` changed.
#[derive(Clone, Copy, Debug)]
struct EarlierNumber {
    number: KeyNumber,
    /// The `not_after` that the key had: the sessions of its tokens expire then.
    expires: WallTime,
    /// The earliest `not_after` that the key has had since.
    ends: WallTime,
}

impl VerificationKey {
    /// Returns whether this is the other key with the same settings. Then its tokens and sessions need not know of a reload.
    fn is_same_as(&self, other: &Self) -> bool {
        self.not_after == other.not_after && self.is_same_but_for_its_end(other)
    }

    /// Returns whether this is the other key, perhaps with another `not_after`.
    fn is_same_but_for_its_end(&self, other: &Self) -> bool {
        let settings = |key: &Self| (key.id.clone(), key.algorithm, key.rules.clone(), key.fingerprint);
        settings(self) == settings(other)
    }

    /// Takes the numbers of the key that this one replaces, which has another `not_after`. Sessions of its tokens go on until the
    /// earlier of both.
    fn succeed(&mut self, old: &Self) {
        let last = EarlierNumber { number: old.number, expires: old.not_after, ends: old.not_after };
        let until = |earlier: EarlierNumber| EarlierNumber { ends: earlier.ends.min(self.not_after), ..earlier };
        self.earlier = old.earlier.iter().copied().chain([last]).map(until).collect();
    }

    /// Returns this key with other rules and another `not_after`.
    fn with_settings(&self, rules: KeyRules, not_after: WallTime) -> Self {
        let (id, material, number) = (self.id.clone(), self.material.clone(), KeyNumber::unique());
        let (algorithm, fingerprint) = (self.algorithm, self.fingerprint);
        Self { id, algorithm, rules, not_after, material, fingerprint, number, earlier: Vec::new() }
    }

    /// Returns all numbers of the key, each with when its tokens are revoked, unless their sessions expire by then.
    fn numbers(&self) -> impl Iterator<Item = KeyInUse> {
        let in_use = |number, ends| KeyInUse { number, rules: self.rules.clone(), ends };
        let earlier = self.earlier.iter().map(move |EarlierNumber { number, expires, ends }| {
            in_use(*number, if ends < expires { *ends } else { NEVER })
        });
        earlier.chain([in_use(self.number, NEVER)])
    }

    /// What a token selects a key by.
    fn selector(&self) -> (Option<&str>, Option<&str>) {
        (self.rules.issuer.as_deref(), self.id.as_deref())
    }
}

/// All keys at one moment.
pub(super) struct VerificationKeys {
    list: Vec<Arc<VerificationKey>>,
    /// Whether `auth.keys` is not empty. Then a `kid` has to be the id of one of them.
    has_auth_keys: bool,
}

impl CheckedKey {
    fn into_key(self, id: Option<String>, rules: KeyRules, not_after: WallTime) -> VerificationKey {
        let Self { algorithm, material, fingerprint } = self;
        let number = KeyNumber::unique();
        VerificationKey { id, algorithm, rules, not_after, material, fingerprint, number, earlier: Vec::new() }
    }
}

impl VerificationKeys {
    /// Reads and checks the keys of `[auth]` and `[login]`, but for those of sets that have to be fetched.
    fn read(auth: &config::AuthConfig, login_key: &Secret) -> Result<Vec<VerificationKey>, KeyError> {
        let mut list = Vec::new();
        for (place, id, secret, purpose) in [
            ("auth.hmac_secret", None, &auth.hmac_secret, KeyPurpose::Any),
            // Tokens of the login open connections. Subscriptions to single channels are decided by a backend.
            ("login.key", Some(LOGIN_KEY_ID.to_owned()), login_key, KeyPurpose::Connection),
        ] {
            if !secret.is_empty() {
                let checked = KeyMaterial::Secret(secret.expose().as_bytes().to_vec()).check_for(Algorithm::HS256);
                let checked = checked.map_err(|problem| KeyError { key: place.to_owned(), problem })?;
                list.push(checked.into_key(id, KeyRules { purpose, ..auth.rules(None) }, NEVER));
            }
        }
        for configured in &auth.keys {
            let read = read_entry(auth, configured);
            list.extend(read.map_err(|problem| KeyError { key: label(configured), problem })?);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = list.iter().find(|key| !seen.insert(key.selector())) {
            let key = twice.id.as_ref().map_or("the key without an id".to_owned(), |id| format!("the key {id:?}"));
            let problem = "configured twice for the same issuer; give each key a different id (kid)".to_owned();
            return Err(KeyError { key, problem });
        }
        Ok(list)
    }

    /// Returns the errors of all keys. [`Self::read`] reports only the first.
    pub(super) fn errors(auth: &config::AuthConfig, login_key: &Secret) -> Vec<KeyError> {
        let of =
            |configured| read_entry(auth, configured).err().map(|problem| KeyError { key: label(configured), problem });
        let errors: Vec<KeyError> = auth.keys.iter().filter_map(of).collect();
        if errors.is_empty() { Self::read(auth, login_key).err().into_iter().collect() } else { errors }
    }

    /// Returns whether no key verifies tokens.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns the key for a token with this `kid`. If several keys have the id, the unverified issuer of the token selects one;
    /// the signature then has to prove the issuer. At most one key is tried for a token.
    pub(super) fn select(
        &self,
        kid: Option<&str>,
        unverified_issuer: impl FnOnce() -> Option<String>,
    ) -> Option<&Arc<VerificationKey>> {
        let mut named = self.list.iter().filter(|key| key.id.as_deref() == kid);
        match (named.next(), named.next()) {
            (Some(only), None) => Some(only),
            (Some(_), Some(_)) => {
                let issuer = unverified_issuer();
                let of = |issuer: Option<&str>| {
                    self.list.iter().find(|key| key.id.as_deref() == kid && key.rules.issuer.as_deref() == issuer)
                };
                of(issuer.as_deref()).or_else(|| of(None))
            }
            _ if kid.is_none() => self.list.first().filter(|_| self.list.len() == 1),
            // With only a shared secret, issuers may put any value into `kid`.
            _ if !self.has_auth_keys => self.list.iter().find(|key| key.id.is_none()),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod test_key_pairs;
#[cfg(test)]
mod tests;
