//! Random secrets, for a development run and for `init`.

use std::fmt::Write;

use crate::config::{Config, Secret};

/// 32 random bytes in hexadecimal.
pub(super) fn random_hex() -> Result<String, String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system gives no randomness: {error}"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// A password that can be copied from a terminal: 64 bits, of which a login lets somebody guess a few a minute.
pub(super) fn random_password() -> Result<String, String> {
    Ok(random_hex()?[..16].to_owned())
}

/// Fills what is not set, for this run only. Where other keys are configured they stay the only ones for tokens without a
/// `kid`; our own tokens are signed with a `login.key` then, which has one.
pub(super) fn fill_missing(config: &mut Config) -> Result<(), String> {
    let has_login_id = config.auth.keys.iter().any(|key| key.id == "login");
    let signs = match (config.auth.keys.is_empty(), config.auth.hmac_secret.is_empty()) {
        (true, true) => Some(&mut config.auth.hmac_secret),
        (false, true) if !has_login_id => Some(&mut config.login.key),
        _ => None,
    };
    for secret in signs.into_iter().chain([&mut config.api.key]) {
        if secret.is_empty() {
            *secret = Secret::new(random_hex()?);
        }
    }
    // A login whose tokens are refused would be none.
    let can_sign = !config.auth.hmac_secret.is_empty() || !config.login.key.is_empty();
    if can_sign && !config.login.is_enabled() && config.auth.login_tokens_have_required_claims() {
        config.login.demo_password = Secret::new(random_password()?);
    }
    Ok(())
}
