//! The keys that verify tokens, from the configuration and from the files that it names. Each has exactly one algorithm. Weak keys
//! and keys that do not fit their algorithm are refused at start. A token can only choose among the configured keys.

mod der;
mod form;
mod jwk;
mod material;
mod shared_secret;

use std::{collections::HashSet, fs::File, io::Read, path::Path};

use jsonwebtoken::{Algorithm, DecodingKey};

pub(super) use self::shared_secret::shared_secrets;
use self::{jwk::Jwk, material::KeyMaterial};
use crate::{
    clock::{NEVER, WallTime},
    config::{self, KeyPurpose, KeyRules, Secret},
};

/// The id of `login.key`.
pub(super) const LOGIN_KEY_ID: &str = "login";
/// Maximum length of a key file. It is enough for a set of hundreds of keys.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
}

/// All keys of the configuration.
pub(super) struct VerificationKeys {
    list: Vec<VerificationKey>,
    /// Whether `auth.keys` is not empty. Then a `kid` has to be the id of one of them.
    has_auth_keys: bool,
}

impl VerificationKeys {
    /// Reads and checks the keys of `[auth]` and `[login]`.
    pub(super) fn read(auth: &config::AuthConfig, login_key: &Secret) -> Result<Self, KeyError> {
        let mut list = Vec::new();
        for (place, id, secret, purpose) in [
            ("auth.hmac_secret", None, &auth.hmac_secret, KeyPurpose::Any),
            // Tokens of the login open connections. Subscriptions to single channels are decided by a backend.
            ("login.key", Some(LOGIN_KEY_ID.to_owned()), login_key, KeyPurpose::Connection),
        ] {
            if !secret.is_empty() {
                let material =
                    KeyMaterial::Secret(secret.expose().as_bytes().to_vec()).into_decoding_key(Algorithm::HS256);
                let material = material.map_err(|problem| KeyError { key: place.to_owned(), problem })?;
                let rules = KeyRules { purpose, ..auth.rules(None) };
                list.push(VerificationKey { id, algorithm: Algorithm::HS256, rules, not_after: NEVER, material });
            }
        }
        for configured in &auth.keys {
            let read = read_entry(auth, configured);
            list.extend(read.map_err(|problem| KeyError { key: label(configured), problem })?);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = list.iter().find(|key| !seen.insert((&key.rules.issuer, &key.id))) {
            let key = twice.id.as_ref().map_or("the key without an id".to_owned(), |id| format!("the key {id:?}"));
            let problem = "configured twice for the same issuer; give each key a different id (kid)".to_owned();
            return Err(KeyError { key, problem });
        }
        Ok(Self { list, has_auth_keys: !auth.keys.is_empty() })
    }

    /// Returns the errors of all keys. [`Self::read`] reports only the first.
    pub(super) fn errors(auth: &config::AuthConfig, login_key: &Secret) -> Vec<KeyError> {
        let of =
            |configured| read_entry(auth, configured).err().map(|problem| KeyError { key: label(configured), problem });
        let errors: Vec<KeyError> = auth.keys.iter().filter_map(of).collect();
        if errors.is_empty() { Self::read(auth, login_key).err().into_iter().collect() } else { errors }
    }

    /// Returns the key for a token with this `kid`. If several keys have the id, the unverified issuer of the token selects one;
    /// the signature then has to prove the issuer. At most one key is tried for a token.
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

/// Names a key in errors.
fn label(key: &config::KeyConfig) -> String {
    let path = key.file.as_deref().or(key.jwks.as_deref()).map(Path::display);
    match (key.id.as_str(), path) {
        ("", None) => "auth.keys (jwk)".to_owned(),
        ("", Some(path)) => format!("auth.keys ({path})"),
        (id, None) => format!("auth.keys {id:?}"),
        (id, Some(path)) => format!("auth.keys {id:?} ({path})"),
    }
}

/// Reads one entry of `auth.keys`. A JWK set yields several keys.
fn read_entry(auth: &config::AuthConfig, configured: &config::KeyConfig) -> Result<Vec<VerificationKey>, String> {
    let id = Some(configured.id.clone()).filter(|id| !id.is_empty());
    match (&configured.file, &configured.jwks) {
        (Some(path), None) if configured.jwk.is_empty() => {
            let algorithm =
                configured.algorithm.ok_or("has no algorithm; set it, since it is never taken from a token")?;
            let material = KeyMaterial::from_file(&read_file(path)?, path, algorithm)?.into_decoding_key(algorithm)?;
            let id = Some(id.ok_or("has no id; set it to the kid of its tokens")?);
            Ok(vec![verification_key(auth, configured, id, algorithm, material)])
        }
        (None, Some(path)) if configured.jwk.is_empty() && id.is_none() => read_jwk_set(auth, configured, path),
        (None, None) if !configured.jwk.is_empty() => {
            let jwk = Jwk::parse(configured.jwk.expose())?;
            if id.is_some() && jwk.kid.is_some() && id != jwk.kid {
                return Err("id differs from the JWK's kid; leave one of them out".to_owned());
            }
            let id = Some(id.or_else(|| jwk.kid.clone()).ok_or("has no id; set it to the kid of its tokens")?);
            let (algorithm, material) = resolve_jwk(&jwk, configured.algorithm)?;
            Ok(vec![verification_key(auth, configured, id, algorithm, material)])
        }
        _ => Err("must have exactly one of file, jwk and jwks, and no id with jwks".to_owned()),
    }
}

/// Reads the usable keys of a JWK set. A set may contain others (RFC 7517 §5): for encryption, or for algorithms that the hub does
/// not support. They are skipped with a warning.
fn read_jwk_set(
    auth: &config::AuthConfig,
    configured: &config::KeyConfig,
    path: &Path,
) -> Result<Vec<VerificationKey>, String> {
    let text = String::from_utf8(read_file(path)?).map_err(|_| "is not JSON".to_owned())?;
    let (mut usable, mut skipped) = (Vec::new(), Vec::new());
    for raw in jwk::parse_set(&text)? {
        let jwk = Jwk::parse(raw.get());
        let kid = jwk.as_ref().ok().and_then(|jwk| jwk.kid.clone());
        match jwk.and_then(|jwk| resolve_jwk(&jwk, configured.algorithm)) {
            Ok((algorithm, material)) => usable.push(verification_key(auth, configured, kid, algorithm, material)),
            Err(problem) => skipped.push((kid.unwrap_or_default(), problem)),
        }
    }
    if usable.is_empty() {
        let reasons = skipped.iter().map(|(kid, problem)| format!("{kid:?} {problem}")).collect::<Vec<_>>();
        return Err(format!("contains no usable key: {}", reasons.join("; ")));
    }
    for (kid, problem) in skipped {
        log::warn!("skipped key of a JWK set file={path:?} kid={kid:?} error={problem:?}");
    }
    Ok(usable)
}

fn verification_key(
    auth: &config::AuthConfig,
    configured: &config::KeyConfig,
    id: Option<String>,
    algorithm: Algorithm,
    material: DecodingKey,
) -> VerificationKey {
    let not_after = configured.not_after.unwrap_or(NEVER);
    VerificationKey { id, algorithm, rules: auth.rules(Some(configured)), not_after, material }
}

/// Returns the algorithm and the key of a JWK, if they agree with the configuration.
fn resolve_jwk(jwk: &Jwk<'_>, configured: Option<Algorithm>) -> Result<(Algorithm, DecodingKey), String> {
    let own = jwk.alg.as_deref().map(str::parse::<Algorithm>).transpose();
    let algorithm = match (own.map_err(|_| "alg is not supported")?, configured) {
        (Some(own), Some(configured)) if own != configured => {
            return Err("alg differs from the configured algorithm; they must agree".to_owned());
        }
        (own, configured) => own.or(configured).ok_or("has no alg; set algorithm")?,
    };
    Ok((algorithm, jwk.to_key_material()?.into_decoding_key(algorithm)?))
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| match path.to_str() {
        Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
            format!("is a URL, but keys are read from files; save it with: curl -fsS {url} -o keys.json")
        }
        _ => format!("cannot be read: {error}"),
    })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is longer than {MAX_FILE_BYTES} bytes, so it cannot be a key; name another file"));
    }
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod test_key_pairs;
#[cfg(test)]
mod tests;
