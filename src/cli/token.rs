//! `token`: creates a token and has the hub's own verifier check it. A token that no hub would accept is not printed.

use std::{fmt::Display, sync::Arc};

use serde_json::value::RawValue;

use super::{
    CommandResult,
    arguments::{GrantArguments, TokenArguments},
};
use crate::{
    auth::{Permissions, Signer, TokenError, Verifier, users::UserClaims},
    clock::{Clock, format_duration},
    config::Config,
};

const NO_SIGNING_KEY: &str = "auth.hmac_secret is not set, and this user has run no development hub that kept its secrets, so no \
    hub would accept the token. Give this command the configuration of the hub (--config FILE), start a development hub \
    (wardcast), or give hub and command the same secret: WARDCAST_AUTH__HMAC_SECRET=$(openssl rand -hex 32)";

const PUBLIC_KEYS_ONLY: &str = "the keys in auth.keys can only verify tokens; the owner of the private keys, your backend, signs \
    them. To create tokens with this command set auth.hmac_secret, too (openssl rand -hex 32)";

/// Returns the signer for this configuration's tokens, if it has a secret to sign with.
pub(super) fn signer(config: &Config) -> Option<Signer> {
    if !config.auth.hmac_secret.is_empty() {
        return Some(Signer::new(&config.auth, Clock::default()));
    }
    // Its tokens only open connections; the verifier refuses subscription tokens.
    let login_key = &config.login.key;
    (!login_key.is_empty()).then(|| Signer::for_login(&config.auth, login_key, Clock::default()))
}

/// Runs `token`.
pub(super) fn create(config: &Config, arguments: &TokenArguments) -> CommandResult {
    let no_signer = if config.auth.keys.is_empty() { NO_SIGNING_KEY } else { PUBLIC_KEYS_ONLY };
    let signer = signer(config).ok_or(no_signer)?;
    let claims = claims_from_arguments(&arguments.grants)?;
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(config, permissions, Clock::default()).map_err(|error| error.to_string())?;
    let TokenArguments { user, ttl, subscription, .. } = arguments;
    let token = match subscription {
        Some(channel) => signer.sign_subscription(user, channel, *ttl, &claims),
        None => signer.sign(user, *ttl, &claims),
    };
    let token = token.map_err(|error| error.to_string())?;
    let verified = match subscription {
        Some(_) => verifier.verify_subscription(&token).map(drop),
        None => verifier.verify(&token).map(drop),
    };
    verified.map_err(|error| {
        format!("a hub with this configuration would refuse the token ({error}): {}", remedy(error, config))
    })?;
    Ok(format!("{token}\n"))
}

/// Returns what to do about a token that this command has created and the verifier refuses.
fn remedy(error: TokenError, config: &Config) -> String {
    match error {
        TokenError::Expired => "--ttl must be at least a second".to_owned(),
        TokenError::TtlTooLong => {
            format!("--ttl may be at most {}, or raise auth.max_ttl", format_duration(config.auth.max_ttl))
        }
        TokenError::MissingClaim(_) => {
            "this command sets sub, iat, exp and jti, and iss and aud if they are configured; tokens with other claims have \
             to come from your backend"
                .to_owned()
        }
        TokenError::WrongKeyPurpose => {
            "subscription tokens are signed with auth.hmac_secret; set it (openssl rand -hex 32)".to_owned()
        }
        _ => error.remedy(config),
    }
}

/// Parses `--channel`, `--caps` and `--info`. Whether a token may contain them is checked by the verifier, or by the login
/// file.
pub(super) fn claims_from_arguments(grants: &GrantArguments) -> Result<UserClaims, String> {
    let raw = |option: &str, json: &str| {
        let invalid = |error: &dyn Display| format!("{option} is not valid JSON: {error}");
        RawValue::from_string(json.to_owned()).map_err(|error| invalid(&error))
    };
    let channels = serde_json::value::to_raw_value(&grants.channels).map_err(|error| error.to_string())?;
    let mut rules: Vec<Box<RawValue>> = Vec::new();
    for json in &grants.caps {
        match serde_json::from_str::<Vec<Box<RawValue>>>(json) {
            Ok(several) => rules.extend(several),
            Err(_) => rules.push(raw("--caps", json)?),
        }
    }
    let caps = serde_json::value::to_raw_value(&rules).map_err(|error| error.to_string())?;
    Ok(UserClaims {
        info: grants.info.as_deref().map(|json| raw("--info", json)).transpose()?,
        channels: (!grants.channels.is_empty()).then_some(channels),
        caps: (!rules.is_empty()).then_some(caps),
    })
}
