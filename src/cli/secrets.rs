//! Random secrets, for a development run and for `init`.

use std::fmt::Write;

use crate::config::{Config, Secret};

/// 32 random bytes in hexadecimal.
pub(super) fn random() -> Result<String, String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system gives no randomness: {error}"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Fills what is not set, for this run only. Where other keys are configured they stay the only ones: a secret of ours
/// beside them would be the key of tokens without a `kid`.
pub(super) fn fill(config: &mut Config) -> Result<(), String> {
    let tokens = config.auth.keys.is_empty().then_some(&mut config.auth.hmac_secret);
    for secret in tokens.into_iter().chain([&mut config.api.key]) {
        if secret.is_empty() {
            *secret = Secret::new(random()?);
        }
    }
    Ok(())
}
