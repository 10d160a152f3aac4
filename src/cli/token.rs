//! `token`: makes one and shows it to the hub's own verifier first: what no hub would take is not printed.

use std::{fmt::Display, sync::Arc};

use serde_json::value::RawValue;

use super::{
    CommandResult,
    arguments::{GrantArguments, TokenArguments},
    remedy::{self, TokenKind},
};
use crate::{
    auth::{Permissions, Signer, Verifier, users::UserClaims},
    clock::Clock,
    config::Config,
};

/// What to do where nothing is configured that could sign.
const NO_SIGNING_KEY: &str = "auth.hmac_secret is not set, so no hub would take the token. Give the hub and this command the same \
    one: WARDCAST_AUTH__HMAC_SECRET=$(openssl rand -hex 32), or --config FILE with the hub's file. A development hub without one \
    makes its own for each run, and prints a token that is good for that run";

const KEYS_ONLY: &str = "auth.keys verify tokens, and whoever has the private keys signs them: your backend. For tokens of this \
    command set auth.hmac_secret too (openssl rand -hex 32)";

/// The signer of this configuration's tokens.
pub(super) fn signer(config: &Config) -> Option<Signer> {
    if !config.auth.hmac_secret.is_empty() {
        return Some(Signer::new(&config.auth, Clock::default()));
    }
    // Its tokens open connections only; the verifier refuses others.
    let login_key = &config.login.key;
    (!login_key.is_empty()).then(|| Signer::for_login(&config.auth, login_key, Clock::default()))
}

/// `token`.
pub(super) fn create(config: &Config, arguments: &TokenArguments) -> CommandResult {
    let why_not = if config.auth.keys.is_empty() { NO_SIGNING_KEY } else { KEYS_ONLY };
    let signer = signer(config).ok_or(why_not)?;
    let claims = claims_from_arguments(&arguments.grants)?;
    let TokenArguments { user, ttl, subscription, .. } = arguments;
    let (token, kind) = match subscription {
        Some(channel) => {
            (signer.sign_subscription(user, channel, *ttl, claims.info.as_deref()), TokenKind::Subscription)
        }
        None => (signer.sign_for_user(user, *ttl, &claims), TokenKind::Connection),
    };
    let token = token.map_err(|error| error.to_string())?;
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(config, permissions, Clock::default()).map_err(|bad| bad.to_string())?;
    let verified = match kind {
        TokenKind::Connection => verifier.verify(&token).map(drop),
        TokenKind::Subscription => verifier.verify_subscription(&token).map(drop),
    };
    match verified {
        Ok(()) => Ok(format!("{token}\n")),
        Err(refusal) => {
            let remedy = remedy::for_created_token(&refusal, config);
            Err(format!("no hub with this configuration would take the token ({refusal}): {remedy}").into())
        }
    }
}

/// What `--channel`, `--caps` and `--info` come to; whether a token may say it is for the verifier, or for the login file.
pub(super) fn claims_from_arguments(grants: &GrantArguments) -> Result<UserClaims, String> {
    let raw = |what: &str, json: &str| {
        let wrong = |error: &dyn Display| format!("{what} is no JSON: {error}");
        RawValue::from_string(json.to_owned()).map_err(|error| wrong(&error))
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
