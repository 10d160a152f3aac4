//! The entries of `auth.keys`, and the keys in their files and sets.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use jsonwebtoken::Algorithm;

use super::{
    VerificationKey, jwk,
    jwk::Jwk,
    material::{CheckedKey, KeyMaterial},
};
use crate::{
    clock::NEVER,
    config::{self, KeySource, MAX_KEY_ID_BYTES},
};

/// Maximum length of a key file. It is enough for a set of hundreds of keys.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Maximum number of keys of a set for which the log says why they are skipped.
const MAX_REASONS: usize = 10;
/// Maximum number of characters of a `kid` in the log.
const MAX_QUOTED_KID: usize = 64;

/// Names an entry in errors.
pub(super) fn label(key: &config::KeyConfig) -> String {
    let place = match key.source() {
        Some(KeySource::File(path) | KeySource::SetFile(path)) => Some(path.display().to_string()),
        Some(KeySource::SetUrl(url) | KeySource::Issuer(url)) => Some(config::url_without_secrets(url)),
        Some(KeySource::Jwk(_)) | None => None,
    };
    match (key.id.as_str(), place) {
        ("", None) => "auth.keys (jwk)".to_owned(),
        ("", Some(place)) => format!("auth.keys ({place})"),
        (id, None) => format!("auth.keys {id:?}"),
        (id, Some(place)) => format!("auth.keys {id:?} ({place})"),
    }
}

/// Reads one entry of `auth.keys`. A JWK set yields several keys; one that has to be fetched none.
pub(super) fn read_entry(
    auth: &config::AuthConfig,
    configured: &config::KeyConfig,
) -> Result<Vec<VerificationKey>, String> {
    let id = Some(configured.id.clone()).filter(|id| !id.is_empty());
    let key = |id, checked: CheckedKey| {
        checked.into_key(id, auth.rules(Some(configured)), configured.not_after.unwrap_or(NEVER))
    };
    match configured.source() {
        Some(KeySource::File(path)) => {
            let algorithm =
                configured.algorithm.ok_or("has no algorithm; set it, since it is never taken from a token")?;
            let checked = KeyMaterial::from_file(&read_file(path)?, path, algorithm)?.check_for(algorithm)?;
            let id = Some(id.ok_or("has no id; set it to the kid of its tokens")?);
            Ok(vec![key(id, checked)])
        }
        Some(KeySource::Jwk(json)) => {
            let jwk = Jwk::parse(json.expose())?;
            if id.is_some() && jwk.kid.is_some() && id != jwk.kid {
                return Err("id differs from the JWK's kid; leave one of them out".to_owned());
            }
            let id = Some(id.or_else(|| jwk.kid.clone()).ok_or("has no id; set it to the kid of its tokens")?);
            Ok(vec![key(id, check_jwk(&jwk, configured.algorithm, None)?)])
        }
        Some(KeySource::SetFile(path)) if id.is_none() => {
            let text = String::from_utf8(read_file(path)?).map_err(|_| "is not JSON".to_owned())?;
            let found = jwk::parse_set(&text)?.into_iter().map(|raw| {
                let jwk = Jwk::parse(raw.get());
                let kid = jwk.as_ref().ok().and_then(|jwk| jwk.kid.clone());
                (kid, jwk.and_then(|jwk| check_jwk(&jwk, configured.algorithm, None)))
            });
            let (usable, skipped) = usable_keys(found)?;
            for reason in skipped {
                log::warn!("skipped key of a JWK set place={path:?} {reason}");
            }
            Ok(usable.into_iter().map(|(kid, checked)| key(kid, checked)).collect())
        }
        Some(KeySource::SetUrl(_) | KeySource::Issuer(_)) if id.is_none() => Ok(Vec::new()),
        _ => Err(format!("must have exactly one of {}, and no id with a JWK set", KeySource::SETTINGS)),
    }
}

/// The content of a fetched JWK set.
pub(in crate::auth) struct KeySetDocument {
    /// The keys that can be used.
    pub(in crate::auth) keys: Vec<VerificationKey>,
    /// For the log: `kid` and fault of each of the others, up to [`MAX_REASONS`].
    pub(in crate::auth) skipped: Vec<String>,
}

/// Reads the usable keys of a JWK set that an identity provider publishes. A key without `alg` has the algorithm that OpenID
/// Connect prescribes for its type. Secrets are refused: everyone can fetch the set. A `kid` of two different keys is refused, too.
///
/// # Errors
/// If the document is no JWK set, has more than `max_keys`, or none that can be used.
pub(in crate::auth) fn read_fetched_set(
    auth: &config::AuthConfig,
    configured: &config::KeyConfig,
    document: &str,
) -> Result<KeySetDocument, String> {
    let max_keys = auth.key_sets.keys;
    let set = jwk::parse_set(document)?;
    if set.len() > max_keys {
        return Err(format!("has {} keys, more than {max_keys} (auth.key_sets.keys)", set.len()));
    }
    let mut found: Vec<(Option<String>, Result<CheckedKey, String>)> = Vec::new();
    let mut seen: HashMap<Option<String>, usize> = HashMap::new();
    for raw in set {
        let jwk = Jwk::parse(raw.get());
        let kid = jwk.as_ref().ok().and_then(|jwk| jwk.kid.clone());
        let checked = jwk.and_then(|jwk| match jwk.is_secret() {
            true => Err("is a secret, but everyone can fetch the set; use keys with a public part".to_owned()),
            false if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) => {
                Err(format!("has a kid of more than {MAX_KEY_ID_BYTES} bytes, which no token can name"))
            }
            false => check_jwk(&jwk, configured.algorithm, jwk.usual_algorithm()),
        });
        let Ok(checked) = checked else {
            found.push((kid, checked));
            continue;
        };
        match seen.get(&kid).map(|at| &mut found[*at].1) {
            None => {
                seen.insert(kid.clone(), found.len());
                found.push((kid, Ok(checked)));
            }
            Some(Ok(earlier)) if earlier.fingerprint == checked.fingerprint => {}
            Some(earlier) => *earlier = Err("has the kid of another key, so its tokens are ambiguous".to_owned()),
        }
    }
    let (rules, not_after) = (auth.rules(Some(configured)), configured.not_after.unwrap_or(NEVER));
    let (usable, skipped) = usable_keys(found)?;
    let keys = usable.into_iter().map(|(kid, checked)| checked.into_key(kid, rules.clone(), not_after)).collect();
    Ok(KeySetDocument { keys, skipped })
}

/// The usable keys of a JWK set with their `kid`, and for the log why others are skipped.
type UsableKeys = (Vec<(Option<String>, CheckedKey)>, Vec<String>);

/// Returns the usable keys of a JWK set, and for the log why others are skipped. A set may contain others (RFC 7517 §5): for
/// encryption, or for algorithms that the hub does not support.
///
/// # Errors
/// If no key is usable: why.
fn usable_keys(
    found: impl IntoIterator<Item = (Option<String>, Result<CheckedKey, String>)>,
) -> Result<UsableKeys, String> {
    let (mut usable, mut skipped) = (Vec::new(), Vec::new());
    for (kid, checked) in found {
        match checked {
            Ok(checked) => usable.push((kid, checked)),
            Err(problem) => skipped.push((kid, problem)),
        }
    }
    // A document of someone else must not fill the log.
    let shortened = |kid: Option<String>| kid.unwrap_or_default().chars().take(MAX_QUOTED_KID).collect::<String>();
    if usable.is_empty() {
        let reasons = skipped.into_iter().take(MAX_REASONS);
        let reasons = reasons.map(|(kid, problem)| format!("{:?} {problem}", shortened(kid))).collect::<Vec<_>>();
        return Err(format!("contains no usable key: {}", reasons.join("; ")));
    }
    let reasons = skipped.into_iter().take(MAX_REASONS);
    let reasons = reasons.map(|(kid, problem)| format!("kid={:?} error={problem:?}", shortened(kid)));
    Ok((usable, reasons.collect()))
}

/// Returns the key of a JWK with its algorithm, if that agrees with the configured one. `usual`: the one without either.
fn check_jwk(jwk: &Jwk<'_>, configured: Option<Algorithm>, usual: Option<Algorithm>) -> Result<CheckedKey, String> {
    let own = jwk.alg.as_deref().map(str::parse::<Algorithm>).transpose();
    let algorithm = match (own.map_err(|_| "alg is not supported")?, configured) {
        (Some(own), Some(configured)) if own != configured => {
            return Err("alg differs from the configured algorithm; they must agree".to_owned());
        }
        (own, configured) => own.or(configured).or(usual).ok_or("has no alg; set algorithm")?,
    };
    jwk.to_key_material()?.check_for(algorithm)
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| match path.to_str() {
        Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
            format!("is a URL; name it with jwks_url instead: jwks_url = {url:?}")
        }
        _ => format!("cannot be read: {error}"),
    })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is longer than {MAX_FILE_BYTES} bytes, so it cannot be a key; name another file"));
    }
    Ok(bytes)
}
