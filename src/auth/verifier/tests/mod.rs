//! Attacks on form, header and signature, one per test. Attacks on the claims are in `payload/tests`.

mod form;
mod issuers;
mod key_selection;
mod logout;
mod signature;

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::*;
use crate::{
    auth::{
        Signer,
        key::test_key_pairs::{self, ED25519, P256, RSA},
        users::UserClaims,
    },
    config::{KeyPurpose, Secret},
};

const SECRET: &str = "a secret of the tests, 32 bytes at least";
const OTHER: &str = "another secret of at least 32 bytes, too";

fn config() -> Config {
    let mut config = Config::default();
    config.auth.hmac_secret = Secret::new(SECRET);
    config
}

/// A configuration whose only keys are these entries of `auth.keys`.
fn with_keys(keys: &[String]) -> Config {
    let mut config = Config::default();
    config.auth.keys = keys.iter().map(|key| toml::from_str(key).expect("a key")).collect();
    config
}

/// A configuration whose only keys are these PEM files, each an id, an algorithm and the content. The files exist as long as the
/// returned directory.
fn with_pems(keys: &[(&str, &str, &str)]) -> (Config, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let entries = keys.iter().map(|(id, algorithm, pem)| {
        let path = dir.path().join(id);
        std::fs::write(&path, pem).expect("a file");
        format!("id = {id:?}\nalgorithm = {algorithm:?}\nfile = {path:?}")
    });
    (with_keys(&entries.collect::<Vec<_>>()), dir)
}

fn verifier(config: &Config) -> Verifier {
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    Verifier::new(config, permissions, Clock::default()).expect("good keys")
}

fn part(json: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json)
}

fn payload() -> Value {
    json!({"sub": "ann", "exp": Clock::default().now().unix_seconds() + 60})
}

fn secret(text: &str) -> EncodingKey {
    EncodingKey::from_secret(text.as_bytes())
}

/// Signs a token with exactly this header and payload.
fn signed(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", part(header), part(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).expect("a signature");
    format!("{message}.{signature}")
}

fn hs256(header: &str) -> String {
    signed(header, payload().to_string(), &secret(SECRET), Algorithm::HS256)
}

fn is_good(verifier: &Verifier, token: &str) -> bool {
    match verifier.verify(token) {
        Ok(claims) => &*claims.user == "ann",
        Err(error) => {
            assert_ne!(error, TokenError::Expired);
            false
        }
    }
}

const GOOD: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
