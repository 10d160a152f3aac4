//! The tokens of simulated users: signed before any clock runs, one user per connection.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::error::{BenchError, Result};

/// Tokens outlive any run.
const LIFETIME_SECONDS: u64 = 3600;

/// `count` tokens: users `bench-0`, `bench-1` and so on, signed HS256 with the secret.
pub(crate) fn tokens(count: usize, secret: &str) -> Result<Vec<String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let key = EncodingKey::from_secret(secret.as_bytes());
    let sign = |user| {
        let claims = serde_json::json!({"sub": format!("bench-{user}"), "iat": now, "exp": now + LIFETIME_SECONDS});
        encode(&Header::new(Algorithm::HS256), &claims, &key)
            .map_err(|error| BenchError::Usage(format!("signing a token: {error}")))
    };
    (0..count).map(sign).collect()
}
