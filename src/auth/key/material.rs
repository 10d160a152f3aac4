//! Key material from PEM (RFC 7468) or the members of a JWK. Checks that it fits the algorithm and is strong enough (RFC 7518 §3,
//! RFC 8725 §3.5). Errors contain a remedy, and never key material.

use std::path::Path;

use aws_lc_rs::{
    digest,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey},
};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use super::{
    der::{BIT_STRING, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, single_element, take_element},
    form,
};
use crate::config::find_weakness;

/// Shorter RSA keys can be broken with enough money; aws-lc does not verify with longer ones.
const ALLOWED_RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Key material without an algorithm. It has no `Debug`, so that nothing can print a secret.
pub(super) enum KeyMaterial {
    /// For HS*.
    Secret(Vec<u8>),
    /// For RS* and PS*: modulus and exponent, big-endian.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// For ES256: a point of P-256, uncompressed (SEC 1 §2.3.3).
    P256(Vec<u8>),
    /// For ES384: a point of P-384.
    P384(Vec<u8>),
    /// For EdDSA.
    Ed25519(Vec<u8>),
}

/// Key material that fits its algorithm.
pub(super) struct CheckedKey {
    pub(super) algorithm: Algorithm,
    pub(super) material: DecodingKey,
    pub(super) fingerprint: [u8; 32],
}

impl KeyMaterial {
    /// Parses the content of a key file: the secret itself for HS*, PEM for all other algorithms. The path is for the remedy.
    pub(super) fn from_file(bytes: &[u8], path: &Path, algorithm: Algorithm) -> Result<Self, String> {
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
                Ok(Self::Secret(text.strip_suffix(b"\r").unwrap_or(text).to_vec()))
            }
            _ => Self::from_pem(bytes).ok_or_else(|| form::describe(bytes, path)),
        }
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            return None;
        }
        from_spki(&SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?)
    }

    /// Converts the material to a key for `algorithm`.
    ///
    /// # Errors
    /// What is wrong, and the remedy.
    pub(super) fn check_for(self, algorithm: Algorithm) -> Result<CheckedKey, String> {
        let fingerprint = self.fingerprint();
        Ok(CheckedKey { algorithm, material: self.into_decoding_key(algorithm)?, fingerprint })
    }

    /// Returns a hash of the material.
    fn fingerprint(&self) -> [u8; 32] {
        let (kind, parts): (u8, [&[u8]; 2]) = match self {
            Self::Secret(secret) => (0, [secret, &[]]),
            Self::Rsa { n, e } => (1, [n, e]),
            Self::P256(point) => (2, [point, &[]]),
            Self::P384(point) => (3, [point, &[]]),
            Self::Ed25519(x) => (4, [x, &[]]),
        };
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&[kind]);
        for part in parts {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn into_decoding_key(self, algorithm: Algorithm) -> Result<DecodingKey, String> {
        use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
        let off_curve = || "is not a point on its curve; export the public key again".to_owned();
        match (algorithm, self) {
            (HS256 | HS384 | HS512, Self::Secret(secret)) => {
                let at_least = min_secret_bytes(algorithm);
                match find_weakness(&secret, at_least) {
                    None => Ok(DecodingKey::from_secret(&secret)),
                    Some(problem) => Err(format!("{problem}; create one with: openssl rand -hex {at_least}")),
                }
            }
            (RS256 | RS384 | RS512 | PS256 | PS384 | PS512, Self::Rsa { n, e }) => {
                check_rsa(&n, &e)?;
                Ok(DecodingKey::from_rsa_raw_components(&n, &e))
            }
            (ES256, Self::P256(point)) => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| off_curve())?;
                Ok(DecodingKey::from_ec_der(&point))
            }
            (ES384, Self::P384(point)) => {
                ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point).map_err(|_| off_curve())?;
                Ok(DecodingKey::from_ec_der(&point))
            }
            (EdDSA, Self::Ed25519(x)) if x.len() == 32 => {
                if is_of_small_order(&x) {
                    return Err(
                        "is a point of small order, for which anyone can forge signatures; create a real key with: \
                                openssl genpkey -algorithm ed25519"
                            .to_owned(),
                    );
                }
                Ok(DecodingKey::from_ed_der(&x))
            }
            (algorithm, other) => {
                let (kind, algorithms) = other.kind();
                Err(format!("is {kind}, but {algorithm:?} needs another type of key; set algorithm to {algorithms}"))
            }
        }
    }

    /// Returns the type of the key, and the algorithms for it.
    fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::Secret(_) => ("a secret", "HS256, HS384 or HS512"),
            Self::Rsa { .. } => {
                ("an RSA key", "RS256 (or 384, 512), or PS256 (or 384, 512), as its tokens have it in alg")
            }
            Self::P256(_) => ("a P-256 key", "ES256"),
            Self::P384(_) => ("a P-384 key", "ES384"),
            Self::Ed25519(_) => ("an Ed25519 key", "EdDSA"),
        }
    }
}

/// Returns the minimum length of a secret: that of the hash (RFC 7518 §3.2).
fn min_secret_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}

/// The points of Ed25519 whose order divides 8, as RFC 8032 §5.1.2 encodes their `y`, without the bit for the sign of `x`. The
/// last two encode 0 and 1 as p and p + 1. With such a key one signature fits every message, or every eighth one.
pub(super) const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

fn is_of_small_order(x: &[u8]) -> bool {
    let mut y = x.to_vec();
    y.iter_mut().last().into_iter().for_each(|last| *last &= 0x7f);
    let hex: String = y.iter().map(|byte| format!("{byte:02x}")).collect();
    SMALL_ORDER.contains(&hex.as_str())
}

fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), String> {
    let leading = n.first().map_or(0, |first| first.leading_zeros() as usize);
    let bits = (8 * n.len()).saturating_sub(leading);
    if !ALLOWED_RSA_BITS.contains(&bits) {
        return Err(format!(
            "has {bits} bits, but must have {} to {}; create one with: openssl genrsa 2048",
            ALLOWED_RSA_BITS.start(),
            ALLOWED_RSA_BITS.end()
        ));
    }
    // With e = 1 every message is its own signature. aws-lc does not accept more than 33 bits.
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !is_odd(n) || !is_odd(e) || e == [1] || e.len() > 4 {
        return Err(
            "is not a valid RSA key (modulus and exponent must be odd; the exponent is usually 65537)".to_owned()
        );
    }
    Ok(())
}

/// Parses a SubjectPublicKeyInfo (RFC 5280 §4.1, RFC 3279 §2.3, RFC 8410 §4).
fn from_spki(der: &[u8]) -> Option<KeyMaterial> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

    let mut info = single_element(SEQUENCE, der)?;
    let mut algorithm = take_element(SEQUENCE, &mut info)?;
    // The first byte is the number of unused bits at the end.
    let key = single_element(BIT_STRING, info)?.strip_prefix(&[0])?;
    match take_element(OBJECT_IDENTIFIER, &mut algorithm)? {
        RSA => {
            let mut numbers = single_element(SEQUENCE, key)?;
            let n = take_element(INTEGER, &mut numbers)?;
            let e = single_element(INTEGER, numbers)?;
            Some(KeyMaterial::Rsa { n: without_leading_zeros(n).to_vec(), e: without_leading_zeros(e).to_vec() })
        }
        EC => match single_element(OBJECT_IDENTIFIER, algorithm)? {
            P256 => Some(KeyMaterial::P256(key.to_vec())),
            P384 => Some(KeyMaterial::P384(key.to_vec())),
            _ => None,
        },
        ED25519 => Some(KeyMaterial::Ed25519(key.to_vec())),
        _ => None,
    }
}

/// Returns a big-endian number without leading zeros.
pub(super) fn without_leading_zeros(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}
