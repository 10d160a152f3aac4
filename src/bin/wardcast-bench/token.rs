//! The tokens of simulated users: signed before any clock runs, one user per connection.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::args::or_variable;
use crate::error::{BenchError, Result};

/// Where the secret is looked for when it is not an option.
const SECRET_VARIABLE: &str = "WARDCAST_BENCH_SECRET";
/// Tokens outlive any run.
const LIFETIME_SECONDS: u64 = 3600;

/// `count` tokens: users `bench-0`, `bench-1` and so on, signed HS256 with the secret, or `token` for everyone.
pub(crate) fn tokens(count: usize, token: Option<&str>, secret: Option<&str>) -> Result<Vec<String>> {
    if let Some(token) = token {
        return Ok(vec![token.to_owned()]);
    }
    let secret = or_variable(secret, SECRET_VARIABLE)
        .ok_or_else(|| BenchError::Usage(format!("a token is needed: give --secret, {SECRET_VARIABLE} or --token")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let key = EncodingKey::from_secret(secret.as_bytes());
    let sign = |user| {
        let claims = serde_json::json!({"sub": format!("bench-{user}"), "iat": now, "exp": now + LIFETIME_SECONDS});
        encode(&Header::new(Algorithm::HS256), &claims, &key)
            .map_err(|error| BenchError::Usage(format!("signing a token: {error}")))
    };
    (0..count).map(sign).collect()
}
