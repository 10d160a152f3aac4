//! Finds secrets that can be guessed: too short, too repetitive, or published in documentation.

/// Secrets from documentation and tutorials, which an attacker tries first. Compared without case.
const PUBLISHED_SAMPLES: [&str; 27] = [
    "secret",
    "changeme",
    "password",
    "supersecret",
    "my-secret-key",
    "your-secret-key",
    "your_jwt_secret",
    "your-256-bit-secret",
    "your-384-bit-secret",
    "your-512-bit-secret",
    // jwt.io
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-384-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    "qwertyuiopasdfghjklzxcvbnm123456",
    "your-very-long-and-secure-secret-key",
    "this-is-a-very-long-secret-key-that-is-at-least-256-bits",
    "replace-this-with-a-secret-of-at-least-32-characters",
    "change-this-to-a-long-random-string",
    "12345678901234567890123456789012",
    // FastAPI's tutorial
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    // Spring's tutorials
    "404e635266556a586e3272357538782f413f4428472b4b6250645367566b5970",
    // Supabase's self-hosting guide
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    // Mercure's and Centrifugo's documentation
    "!changethismercurehubjwtsecretkey!",
    "bbe7d157-a253-4094-9759-06a8236543f9",
    // RFC 7515 A.1, as a JWK has it
    "aym1sysppbydfgzld3umj1qzkobwvmkoqq-estjqlr_t-1qs0gzh75aktmn3yj0ips4hcguutwjazzr1z9caow",
    // express-jwt's readme
    "shhhhhhared-secret",
];

/// A secret that repeats a text of at most this many bytes is weak.
const MAX_REPEATED_BYTES: usize = 8;

/// Returns why a secret could be guessed, without quoting it. It must have `min_bytes`.
pub(crate) fn find_weakness(secret: &[u8], min_bytes: usize) -> Option<String> {
    if is_published_sample(secret) {
        Some("is published in documentation as an example".to_owned())
    } else if secret.starts_with(b"-----BEGIN") {
        Some("is a PEM file, which may be public, and not a secret".to_owned())
    } else if secret.len() < min_bytes {
        Some(format!("has {} bytes and must have at least {min_bytes}", secret.len()))
    } else if (1..=MAX_REPEATED_BYTES)
        .any(|period| secret.iter().zip(secret.iter().skip(period)).all(|(one, next)| one == next))
    {
        Some("is one short text repeated".to_owned())
    } else {
        None
    }
}

/// Returns whether the text is published as an example.
pub(crate) fn is_published_sample(secret: &[u8]) -> bool {
    PUBLISHED_SAMPLES.iter().any(|sample| secret.eq_ignore_ascii_case(sample.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_repetitive_and_published_secrets_are_weak() {
        for weak in PUBLISHED_SAMPLES.iter().map(|sample| sample.to_uppercase()).chain([
            String::new(),
            "x".repeat(31),
            "x".repeat(64),
            "secret".repeat(8),
            "\0".repeat(32),
            format!("-----BEGIN PUBLIC KEY-----\n{}", "MFkw".repeat(20)),
        ]) {
            assert!(find_weakness(weak.as_bytes(), 32).is_some(), "{weak}");
        }
        assert_eq!(find_weakness(b"0123456789abcdef0123456789abcdef", 32), None);
        assert!(find_weakness(b"0123456789abcdef0123456789abcdef", 48).is_some(), "too short for SHA-384");
    }
}
