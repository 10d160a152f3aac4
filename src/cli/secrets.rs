//! Random secrets, for development runs and for `init`.

use std::fmt::Write;

use crate::config::{Config, Secret};

/// Returns 32 random bytes in hexadecimal.
pub(super) fn random_hex() -> Result<String, String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system provides no random bytes: {error}"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Returns a random password that is easy to copy: 64 bits, of which a login permits a few guesses per minute.
pub(super) fn random_password() -> Result<String, String> {
    Ok(random_hex()?[..16].to_owned())
}

/// Generates the secrets that are not set, for a development run. If `auth.keys` are configured, generates `login.key`
/// instead of `auth.hmac_secret`: its tokens have a `kid`, so tokens without one are still verified with the configured
/// keys.
pub(super) fn fill_missing(config: &mut Config) -> Result<(), String> {
    let has_login_id = config.auth.keys.iter().any(|key| key.id == "login");
    let signing_secret = match (config.auth.keys.is_empty(), config.auth.hmac_secret.is_empty()) {
        (true, true) => Some(&mut config.auth.hmac_secret),
        (false, true) if !has_login_id => Some(&mut config.login.key),
        _ => None,
    };
    for secret in signing_secret.into_iter().chain([&mut config.api.key]) {
        if secret.is_empty() {
            *secret = Secret::new(random_hex()?);
        }
    }
    // No demo user if the hub would refuse the tokens of the login.
    let can_sign = !config.auth.hmac_secret.is_empty() || !config.login.key.is_empty();
    if can_sign && !config.login.is_enabled() && config.auth.login_tokens_have_required_claims() {
        config.login.demo_password = Secret::new(random_password()?);
    }
    Ok(())
}
