//! Keys for tokens that are not signed with the hub's secret.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::ValueEnum;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use crate::error::{Context, Result};
use crate::hub_under_test::token_claims;

/// The id of the key, and the audience of its tokens: without an audience the hub would warn.
const ID: &str = "bench";

/// An algorithm that signs tokens.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenAlgorithm {
    /// The cheapest to check
    Hs256,
    /// The most expensive of the common ones
    Es256,
}

impl TokenAlgorithm {
    /// A new key; `None` for HS256, which uses the secret of the hub.
    pub(crate) fn new_key(self) -> Result<Option<Es256Key>> {
        match self {
            Self::Hs256 => Ok(None),
            Self::Es256 => Es256Key::generate().map(Some),
        }
    }
}

/// A key of ES256.
pub(crate) struct Es256Key {
    signing: EncodingKey,
    jwk: String,
}

impl Es256Key {
    fn generate() -> Result<Self> {
        const WHAT: &str = "making a key";
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).context(WHAT)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).context(WHAT)?;
        // An uncompressed point: a byte that says so, x and y.
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y}).to_string();
        Ok(Self { signing: EncodingKey::from_ec_der(pkcs8.as_ref()), jwk })
    }

    /// The setting of a hub that accepts its tokens, beside those of its secret.
    pub(crate) fn hub_setting(&self) -> String {
        format!("auth.keys={}", json!([{"id": ID, "algorithm": "ES256", "jwk": self.jwk, "audience": ID}]))
    }

    /// Signs `count` tokens, for the users `bench-0`, `bench-1` and so on.
    pub(crate) fn sign_tokens(&self, count: usize) -> Result<Vec<String>> {
        let header = Header { kid: Some(ID.to_owned()), ..Header::new(Algorithm::ES256) };
        let sign = |user| {
            let mut claims = token_claims(user);
            claims["aud"] = ID.into();
            encode(&header, &claims, &self.signing).context("signing a token")
        };
        (0..count).map(sign).collect()
    }
}
