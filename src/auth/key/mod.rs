//! The keys that verify tokens: from the configuration and the files that it names, each with one algorithm. What is weak
//! or does not fit is refused at start; a token can only choose among them.

mod jwk;
mod material;

use std::{collections::HashSet, fs::File, io::Read, path::Path};

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{
    Deserialize,
    de::{IntoDeserializer, value},
};

use self::{jwk::Jwk, material::KeyMaterial};
use crate::{
    clock::{Millis, NEVER},
    config::{self, KeyAlgorithm, KeyPurpose, Secret},
};

/// The id of `login.key`.
pub(super) const LOGIN_KEY_ID: &str = "login";
/// The longest key file: a set of hundreds of keys.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A key that cannot be used, and what to do about it. Never quotes material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct KeyError {
    /// Its place in the configuration, its id or file.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// A key that verifies tokens.
#[derive(Debug)]
pub(super) struct VerificationKey {
    pub(super) id: Option<String>,
    /// Tokens of this issuer only.
    pub(super) issuer: Option<String>,
    /// The one algorithm that it verifies; what the token says has to agree.
    pub(super) algorithm: Algorithm,
    pub(super) purpose: KeyPurpose,
    /// From here on it verifies nothing, and what it has verified ends.
    pub(super) not_after: Millis,
    pub(super) material: DecodingKey,
}

/// All of them.
pub(super) struct VerificationKeys {
    list: Vec<VerificationKey>,
    /// Whether there are `auth.keys`: then a `kid` has to be one of theirs.
    has_configured: bool,
}

impl VerificationKeys {
    /// Reads and judges the keys of `[auth]` and `[login]`.
    pub(super) fn read(auth: &config::AuthConfig, login_key: &Secret) -> Result<Self, KeyError> {
        let mut list = Vec::new();
        for (place, id, secret, purpose) in [
            ("auth.hmac_secret", None, &auth.hmac_secret, KeyPurpose::Any),
            // What the login gives out opens connections; for single channels a backend decides.
            ("login.key", Some(LOGIN_KEY_ID.to_owned()), login_key, KeyPurpose::Connection),
        ] {
            if !secret.is_empty() {
                let material =
                    KeyMaterial::Secret(secret.expose().as_bytes().to_vec()).into_decoding_key(Algorithm::HS256);
                let material = material.map_err(|problem| KeyError { key: place.to_owned(), problem })?;
                let (algorithm, not_after) = (Algorithm::HS256, NEVER);
                list.push(VerificationKey { id, issuer: None, algorithm, purpose, not_after, material });
            }
        }
        for configured in &auth.keys {
            let read = read_entry(configured);
            list.extend(read.map_err(|problem| KeyError { key: label(configured), problem })?);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = list.iter().find(|key| !seen.insert((&key.issuer, &key.id))) {
            let key = twice.id.as_ref().map_or("a key without an id".to_owned(), |id| format!("the key {id:?}"));
            let problem = "there are two of it for one issuer; give each an id (kid) of its own".to_owned();
            return Err(KeyError { key, problem });
        }
        Ok(Self { list, has_configured: !auth.keys.is_empty() })
    }

    /// What is wrong with any of them, where [`Self::read`] tells the first.
    pub(super) fn errors(auth: &config::AuthConfig, login_key: &Secret) -> Vec<KeyError> {
        let of = |configured| read_entry(configured).err().map(|problem| KeyError { key: label(configured), problem });
        let errors: Vec<KeyError> = auth.keys.iter().filter_map(of).collect();
        if errors.is_empty() { Self::read(auth, login_key).err().into_iter().collect() } else { errors }
    }

    /// The one key for a token with this `kid`. Among keys of one id, `unverified_issuer` decides, which the signature then has
    /// to prove: no token makes us try one key after the other.
    pub(super) fn select(
        &self,
        kid: Option<&str>,
        unverified_issuer: impl FnOnce() -> Option<String>,
    ) -> Option<&VerificationKey> {
        let mut named = self.list.iter().filter(|key| key.id.as_deref() == kid);
        match (named.next(), named.next()) {
            (Some(only), None) => Some(only),
            (Some(_), Some(_)) => {
                let issuer = unverified_issuer();
                let of = |issuer: Option<&str>| {
                    self.list.iter().find(|key| key.id.as_deref() == kid && key.issuer.as_deref() == issuer)
                };
                of(issuer.as_deref()).or_else(|| of(None))
            }
            _ if kid.is_none() => self.list.first().filter(|_| self.list.len() == 1),
            // Issuers with one shared secret put into `kid` what they like.
            _ if !self.has_configured => self.list.iter().find(|key| key.id.is_none()),
            _ => None,
        }
    }
}

/// How a key is called in a fault.
fn label(key: &config::KeyConfig) -> String {
    let path = key.file.as_deref().or(key.jwks.as_deref()).map(Path::display);
    match (key.id.as_str(), path) {
        ("", None) => "auth.keys (jwk)".to_owned(),
        ("", Some(path)) => format!("auth.keys ({path})"),
        (id, None) => format!("auth.keys {id:?}"),
        (id, Some(path)) => format!("auth.keys {id:?} ({path})"),
    }
}

/// One entry of `auth.keys`; a set gives several keys.
fn read_entry(configured: &config::KeyConfig) -> Result<Vec<VerificationKey>, String> {
    let id = Some(configured.id.clone()).filter(|id| !id.is_empty());
    match (&configured.file, &configured.jwks) {
        (Some(path), None) if configured.jwk.is_empty() => {
            let algorithm = configured.algorithm.ok_or("has no algorithm; the key decides it, not the token")?;
            let algorithm = library_algorithm(algorithm);
            let material = KeyMaterial::from_file(&read_file(path)?, algorithm)?.into_decoding_key(algorithm)?;
            let id = Some(id.ok_or("has no id; give it the kid of its tokens")?);
            Ok(vec![verification_key(configured, id, algorithm, material)])
        }
        (None, Some(path)) if configured.jwk.is_empty() && id.is_none() => read_jwk_set(configured, path),
        (None, None) if !configured.jwk.is_empty() => {
            let jwk = Jwk::parse(configured.jwk.expose())?;
            if id.is_some() && jwk.kid.is_some() && id != jwk.kid {
                return Err("has another id than the JWK's kid; leave one of them out".to_owned());
            }
            let id = Some(id.or_else(|| jwk.kid.clone()).ok_or("has no id; give it the kid of its tokens")?);
            let (algorithm, material) = resolve_jwk(&jwk, configured.algorithm)?;
            Ok(vec![verification_key(configured, id, algorithm, material)])
        }
        _ => Err("must have exactly one of file, jwk and jwks, and with jwks no id".to_owned()),
    }
}

/// The usable keys of a set. Others belong there (RFC 7517 §5): for encryption, for algorithms that are not verified here.
fn read_jwk_set(configured: &config::KeyConfig, path: &Path) -> Result<Vec<VerificationKey>, String> {
    let text = String::from_utf8(read_file(path)?).map_err(|_| "is no JSON".to_owned())?;
    let (mut usable, mut skipped) = (Vec::new(), Vec::new());
    for raw in jwk::parse_set(&text)? {
        let jwk = Jwk::parse(raw.get());
        let kid = jwk.as_ref().ok().and_then(|jwk| jwk.kid.clone());
        match jwk.and_then(|jwk| resolve_jwk(&jwk, configured.algorithm)) {
            Ok((algorithm, material)) => usable.push(verification_key(configured, kid, algorithm, material)),
            Err(problem) => skipped.push(format!("{:?} {problem}", kid.unwrap_or_default())),
        }
    }
    if usable.is_empty() {
        return Err(format!("has no key that can be used: {}", skipped.join("; ")));
    }
    for reason in skipped {
        log::warn!("{}: the key {reason}; it is passed over", path.display());
    }
    Ok(usable)
}

fn verification_key(
    configured: &config::KeyConfig,
    id: Option<String>,
    algorithm: Algorithm,
    material: DecodingKey,
) -> VerificationKey {
    let config::KeyConfig { issuer, purpose, not_after, .. } = configured;
    VerificationKey {
        id,
        issuer: issuer.clone(),
        algorithm,
        purpose: *purpose,
        not_after: not_after.unwrap_or(NEVER),
        material,
    }
}

/// The algorithm and the key, when JWK and configuration agree.
fn resolve_jwk(jwk: &Jwk<'_>, configured: Option<KeyAlgorithm>) -> Result<(Algorithm, DecodingKey), String> {
    let said = match jwk.alg.as_deref() {
        None => None,
        Some(alg) => Some(parse_algorithm(alg).ok_or("is for an algorithm that is not verified here")?),
    };
    let algorithm = match (said, configured) {
        (Some(said), Some(configured)) if said != configured => {
            return Err("is for another algorithm (alg) than the one that is configured; they must agree".to_owned());
        }
        (said, configured) => said.or(configured).ok_or("says no alg; set algorithm")?,
    };
    let algorithm = library_algorithm(algorithm);
    Ok((algorithm, jwk.to_key_material()?.into_decoding_key(algorithm)?))
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is longer than {MAX_FILE_BYTES} bytes, and no key is; name another file"));
    }
    Ok(bytes)
}

/// The algorithm of this name (RFC 7518 §3.1), exactly as it is written there.
pub(super) fn parse_algorithm(name: &str) -> Option<KeyAlgorithm> {
    let name: value::StrDeserializer<'_, value::Error> = name.into_deserializer();
    KeyAlgorithm::deserialize(name).ok()
}

pub(super) fn library_algorithm(algorithm: KeyAlgorithm) -> Algorithm {
    match algorithm {
        KeyAlgorithm::HS256 => Algorithm::HS256,
        KeyAlgorithm::HS384 => Algorithm::HS384,
        KeyAlgorithm::HS512 => Algorithm::HS512,
        KeyAlgorithm::RS256 => Algorithm::RS256,
        KeyAlgorithm::RS384 => Algorithm::RS384,
        KeyAlgorithm::RS512 => Algorithm::RS512,
        KeyAlgorithm::PS256 => Algorithm::PS256,
        KeyAlgorithm::PS384 => Algorithm::PS384,
        KeyAlgorithm::PS512 => Algorithm::PS512,
        KeyAlgorithm::ES256 => Algorithm::ES256,
        KeyAlgorithm::ES384 => Algorithm::ES384,
        KeyAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

#[cfg(test)]
pub(super) mod test_key_pairs;
#[cfg(test)]
mod tests;
