//! JSON Web Keys (RFC 7517, RFC 8037). Only known members are read, and their lengths are checked before a library uses them.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::material::{KeyMaterial, without_leading_zeros};
use crate::config::is_published_sample;

/// The members that are read. Others, such as `x5c`, are ignored.
#[derive(Deserialize)]
pub(super) struct Jwk<'a> {
    #[serde(borrow)]
    kty: Cow<'a, str>,
    pub(super) kid: Option<String>,
    pub(super) alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    k: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    d: bool,
}

fn is_present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl<'a> Jwk<'a> {
    /// Parses a JWK.
    ///
    /// # Errors
    /// What is wrong. serde's own error is not shown: it may quote the key.
    pub(super) fn parse(json: &'a str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|_| match json {
            pem if pem.contains("-----BEGIN") => {
                "is PEM, not a JWK; save it as a file, and name that with file".to_owned()
            }
            set if set.contains("\"keys\"") => "is a JWK set; save it as a file, and name that with jwks".to_owned(),
            _ => "is not a JWK: a JSON object whose members are strings (RFC 7517)".to_owned(),
        })
    }

    /// Returns whether the key is a secret.
    pub(super) fn is_secret(&self) -> bool {
        self.kty == "oct"
    }

    /// Returns the algorithm of a key of this type without `alg`: the only one of its curve, or for RSA the default of OpenID
    /// Connect (Core 1.0 §3.1.3.7).
    pub(super) fn usual_algorithm(&self) -> Option<Algorithm> {
        match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => Some(Algorithm::RS256),
            ("EC", Some("P-256")) => Some(Algorithm::ES256),
            ("EC", Some("P-384")) => Some(Algorithm::ES384),
            ("OKP", Some("Ed25519")) => Some(Algorithm::EdDSA),
            _ => None,
        }
    }

    /// Converts the members to key material.
    ///
    /// # Errors
    /// What is wrong, and the remedy.
    pub(super) fn to_key_material(&self) -> Result<KeyMaterial, String> {
        if self.usage.as_ref().is_some_and(|usage| usage != "sig")
            || self.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify"))
        {
            return Err("is not for verifying signatures (use, key_ops); name one that is".to_owned());
        }
        if self.d {
            return Err(
                "contains a private key, but verifying needs only the public members; leave out the others".to_owned()
            );
        }
        match (&*self.kty, self.crv.as_deref()) {
            ("oct", _) => {
                let secret = KeyMaterial::Secret(member_bytes(&self.k, "k", None)?);
                if self.k.as_ref().is_some_and(|k| is_published_sample(k.as_bytes())) {
                    return Err(
                        "is a published sample that everyone knows; create one with: openssl rand -hex 32".to_owned()
                    );
                }
                Ok(secret)
            }
            ("RSA", _) => {
                let (n, e) = (member_bytes(&self.n, "n", None)?, member_bytes(&self.e, "e", None)?);
                Ok(KeyMaterial::Rsa { n: without_leading_zeros(&n).to_vec(), e: without_leading_zeros(&e).to_vec() })
            }
            ("EC", Some("P-256")) => self.point(32).map(KeyMaterial::P256),
            ("EC", Some("P-384")) => self.point(48).map(KeyMaterial::P384),
            ("OKP", Some("Ed25519")) => member_bytes(&self.x, "x", Some(32)).map(KeyMaterial::Ed25519),
            _ => {
                Err("has a kty or crv that is not supported; use oct, RSA, EC (P-256, P-384) or OKP (Ed25519)"
                    .to_owned())
            }
        }
    }

    /// Returns the uncompressed point (SEC 1 §2.3.3).
    fn point(&self, length: usize) -> Result<Vec<u8>, String> {
        let (x, y) = (member_bytes(&self.x, "x", Some(length))?, member_bytes(&self.y, "y", Some(length))?);
        Ok([&[4][..], &x, &y].concat())
    }
}

/// Decodes a member, which must have exactly `length` bytes if that is given.
fn member_bytes(member: &Option<String>, name: &str, length: Option<usize>) -> Result<Vec<u8>, String> {
    let text = member.as_ref().ok_or_else(|| format!("has no {name}; export the key again"))?;
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| format!("has a {name} that is not base64url without padding (RFC 7515 §2)"))?;
    match length {
        Some(length) if bytes.len() != length => {
            Err(format!("has a {name} of {} bytes, but it must have {length}; export the key again", bytes.len()))
        }
        _ => Ok(bytes),
    }
}

/// Splits a JWK set (RFC 7517 §5) into its keys.
///
/// # Errors
/// If the text is not a JWK set.
pub(super) fn parse_set(json: &str) -> Result<Vec<&RawValue>, String> {
    #[derive(Deserialize)]
    struct Set<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let set: Result<Set<'_>, _> = serde_json::from_str(json);
    set.map(|set| set.keys).map_err(|_| {
        let remedy = if json.contains("\"jwks_uri\"") {
            "; it is the provider's configuration: download the file that its jwks_uri names"
        } else if json.contains("-----BEGIN CERTIFICATE") {
            "; it has certificates: download the provider's JWK set instead"
        } else if json.contains("-----BEGIN") {
            "; it is PEM: name it with file, and set id and algorithm"
        } else if json.contains("\"kty\"") {
            "; it is a single JWK: write {\"keys\":[…]} around it, or put it into jwk"
        } else {
            ""
        };
        format!("is not a JWK set: {{\"keys\":[…]}} (RFC 7517 §5){remedy}")
    })
}
