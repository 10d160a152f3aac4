//! The cost of verifying tokens: verifications per second on one core, by algorithm, with all checks of the hub's own
//! `Verifier`; and what the list of revocations adds to it, by its length. `cargo run --release --example verify`
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::{
    error::Error,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use wardcast::{
    auth::{Permissions, Verifier},
    clock::Clock,
    config::Config,
    revocation::{IssuerScope, Revocation, RevocationTarget, Revocations, TokenIdentity, TokenIds},
};

/// How long each algorithm is measured, and how often. The best result counts: others are slowed down by other programs.
const SPAN: Duration = Duration::from_millis(500);
const SPANS: usize = 5;

/// The key that signs, and the content of the key file for verifying.
type SigningPair = (EncodingKey, Vec<u8>);

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:<10} {:>8} {:>12} {:>12}", "algorithm", "bytes", "per second", "µs each");
    let secret = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/".to_vec();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let rsa = || key_pair(&rsa, EncodingKey::from_rsa_pem);
    for (algorithm, pair) in [
        (Algorithm::HS256, (EncodingKey::from_secret(&secret), secret)),
        (Algorithm::RS256, rsa()?),
        (Algorithm::PS256, rsa()?),
        (Algorithm::ES256, key_pair(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, EncodingKey::from_ec_pem)?),
        (Algorithm::ES384, key_pair(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?, EncodingKey::from_ec_pem)?),
        (Algorithm::EdDSA, key_pair(&KeyPair::generate_for(&PKCS_ED25519)?, EncodingKey::from_ed_pem)?),
    ] {
        let (bytes, per_second) = measure(algorithm, &pair)?;
        println!("{:<10} {bytes:>8} {per_second:>12.0} {:>12.2}", format!("{algorithm:?}"), 1e6 / per_second);
    }
    println!("\n{:<12} {:>17}", "revocations", "ns for a check");
    for count in [0, 1, 1000, 100_000] {
        println!("{count:<12} {:>17.0}", measure_revocations(count)?);
    }
    Ok(())
}

/// Returns the nanoseconds that a check of a token against this many revocations takes. A handshake has two: in the verifier, and
/// when the hub registers the session.
fn measure_revocations(count: usize) -> Result<f64, Box<dyn Error>> {
    const TOKENS: usize = 10_000;
    let clock = Clock::default();
    let revocations = Revocations::new(&Config::default(), clock.clone(), Arc::default());
    let target = |number: usize| RevocationTarget::Token(format!("revoked-{number}"), IssuerScope::Any);
    revocations.add((0..count).map(|number| Revocation::of_all(target(number), revocations.default_expiry())))?;
    // Of different users, since the entries that a check looks for are in the caches otherwise.
    let token = |number: usize| {
        let ids = TokenIds { jti: Some(number.to_string()), sid: Some(format!("s{number}")), ..TokenIds::default() };
        (format!("user-{number}"), TokenIdentity::new(&ids, Some(clock.now())))
    };
    let tokens: Vec<(String, TokenIdentity)> = (0..TOKENS).map(token).collect();
    let mut best = f64::INFINITY;
    for _ in 0..SPANS {
        let (begin, mut checks) = (Instant::now(), 0_u32);
        while begin.elapsed() < SPAN {
            let is_revoked = |(user, token): &(String, TokenIdentity)| revocations.is_revoked(user, token);
            if tokens.iter().any(is_revoked) {
                return Err("a token is revoked that nobody has revoked".into());
            }
            checks += TOKENS as u32;
        }
        best = best.min(begin.elapsed().as_nanos() as f64 / f64::from(checks));
    }
    Ok(best)
}

fn key_pair(
    pair: &KeyPair,
    private: fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>,
) -> Result<SigningPair, Box<dyn Error>> {
    Ok((private(pair.serialize_pem().as_bytes())?, pair.public_key_pem().into_bytes()))
}

/// The claims of a typical token: issuer, audience, user, times, presence info, channels and capabilities.
fn claims(now: i64) -> Value {
    json!({
        "iss": "https://id.example.com",
        "aud": ["hub", "api"],
        "sub": "0b5cf1f4-6a0b-4b0e-9c0e-0e5d3c1f6a52",
        "iat": now,
        "exp": now + 3600,
        "jti": "7f9d6c1e2b3a4d5f",
        "info": {"name": "Ann Example", "avatar": "https://cdn.example.com/a/7f9d.png"},
        "channels": ["news", "chat:lobby", "#0b5cf1f4-6a0b-4b0e-9c0e-0e5d3c1f6a52"],
        "caps": [{"channels": ["chat:*"], "match": "wildcard", "allow": ["sub", "pub"]}],
    })
}

fn measure(algorithm: Algorithm, (private, public): &SigningPair) -> Result<(usize, f64), Box<dyn Error>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(&file, public)?;
    let mut config = Config { namespaces: vec![toml::from_str("name = \"chat\"")?], ..Config::default() };
    config.auth.issuer = Some("https://id.example.com".to_owned());
    config.auth.audience = Some("hub".to_owned());
    let key = format!("id = \"k\"\nalgorithm = \"{algorithm:?}\"\nfile = {:?}", file.path());
    config.auth.keys = vec![toml::from_str(&key)?];
    let clock = Clock::default();
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(&config, permissions, clock.clone())?;
    let header = Header { kid: Some("k".to_owned()), ..Header::new(algorithm) };
    let token = jsonwebtoken::encode(&header, &claims(clock.now().unix_seconds()), private)?;
    let mut best = 0.0_f64;
    for _ in 0..SPANS {
        let begin = Instant::now();
        let mut verified = 0_u32;
        while begin.elapsed() < SPAN {
            for _ in 0..64 {
                black_box(verifier.verify(black_box(&token)))?;
            }
            verified += 64;
        }
        best = best.max(f64::from(verified) / begin.elapsed().as_secs_f64());
    }
    Ok((token.len(), best))
}
