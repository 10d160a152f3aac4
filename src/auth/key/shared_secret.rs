//! Finds a secret that is used for several purposes: a program that knows it for one purpose could act in the others.

use jsonwebtoken::Algorithm;

use super::{
    KeyError,
    entry::{label, read_file},
    jwk,
    jwk::Jwk,
    material::KeyMaterial,
};
use crate::config::{self, Config, KeyConfig, KeyPurpose, KeySource, TokenIssuer};

/// The purpose of a secret.
#[derive(PartialEq, Eq)]
enum SecretUse<'a> {
    ServerApi,
    Login,
    Tokens(TokenIssuer<'a>, KeyPurpose),
}

/// Returns an error for each secret that has two uses, without quoting it. Unreadable keys are skipped: they have errors of
/// their own.
pub(in crate::auth) fn shared_secrets(config: &Config) -> Vec<KeyError> {
    let auth = &config.auth;
    let own = |secret: &config::Secret| secret.expose().as_bytes().to_vec();
    let mut secrets = vec![
        ("api.key".to_owned(), SecretUse::ServerApi, own(&config.api.key)),
        ("api.previous_key".to_owned(), SecretUse::ServerApi, own(&config.api.previous_key)),
        ("login.key".to_owned(), SecretUse::Login, own(&config.login.key)),
        (
            "auth.hmac_secret".to_owned(),
            SecretUse::Tokens(auth.issuer_of(None), KeyPurpose::Any),
            own(&auth.hmac_secret),
        ),
    ];
    for key in &auth.keys {
        let uses = |secret| (label(key), SecretUse::Tokens(auth.issuer_of(Some(key)), key.purpose), secret);
        secrets.extend(key_secrets(key).into_iter().map(uses));
    }
    secrets.retain(|(.., secret)| !secret.is_empty());
    let mut errors = Vec::new();
    for (at, (key, used_for, secret)) in secrets.iter().enumerate() {
        let same = secrets[..at].iter().find(|(_, other, of_other)| of_other == secret && other != used_for);
        if let Some((other, ..)) = same {
            let problem = format!(
                "is the same secret as {other}: a program that knows one of the two could act as the other; generate a \
                 separate one with: openssl rand -hex 32"
            );
            errors.push(KeyError { key: key.clone(), problem });
        }
    }
    errors
}

/// Returns the HMAC secrets of an entry of `auth.keys`.
fn key_secrets(key: &KeyConfig) -> Vec<Vec<u8>> {
    let is_hmac = |algorithm| matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    let of_jwk = |json: &str| Jwk::parse(json).and_then(|jwk| jwk.to_key_material()).ok();
    let materials: Vec<KeyMaterial> = match key.source() {
        Some(KeySource::File(path)) => {
            let algorithm = key.algorithm.filter(|algorithm| is_hmac(*algorithm));
            let file = algorithm.and_then(|algorithm| Some((read_file(path).ok()?, algorithm)));
            file.and_then(|(bytes, algorithm)| KeyMaterial::from_file(&bytes, path, algorithm).ok())
                .into_iter()
                .collect()
        }
        Some(KeySource::SetFile(path)) => {
            let text = read_file(path).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            jwk::parse_set(&text).unwrap_or_default().into_iter().filter_map(|raw| of_jwk(raw.get())).collect()
        }
        Some(KeySource::Jwk(json)) => of_jwk(json.expose()).into_iter().collect(),
        // A fetched set has no secrets.
        Some(KeySource::SetUrl(_) | KeySource::Issuer(_)) | None => Vec::new(),
    };
    let secret = |material| if let KeyMaterial::Secret(secret) = material { Some(secret) } else { None };
    materials.into_iter().filter_map(secret).collect()
}
