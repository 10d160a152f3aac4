//! Checks that users of different issuers are different users, and warns of tokens that are for other applications.

use std::collections::HashSet;

use jsonwebtoken::Algorithm;

use super::ErrorCollector;
use crate::{
    channel::Channel,
    config::{Config, KeyConfig, KeyPurpose, TokenIssuer},
};

/// Maximum length of `user_prefix`. The `sub` of a token has to fit behind it.
const MAX_PREFIX_BYTES: usize = 64;

pub(super) fn check_issuers(config: &Config, errors: &mut ErrorCollector) {
    let auth = &config.auth;
    let prefixes = auth.keys.iter().map(|key| (format!("auth.keys {:?}", key.id), &key.user_prefix));
    for (name, prefix) in prefixes.chain([("auth.user_prefix".to_owned(), &auth.user_prefix)]) {
        let Some(prefix) = prefix else { continue };
        // Each user has a channel of its own, and a comma separates the users in the name of a channel.
        let is_valid = !prefix.contains(',') && Channel::new(&format!("#{prefix}1")).is_ok();
        errors.require(
            is_valid && prefix.len() <= MAX_PREFIX_BYTES,
            &name,
            format!(
                "user_prefix must have at most {MAX_PREFIX_BYTES} bytes, and only characters of channel names without \
                 ',', like \"id:\""
            ),
        );
    }
    if auth.shared_subjects {
        return;
    }
    let mut seen: Vec<(TokenIssuer<'_>, String)> = Vec::new();
    for key in connecting_keys(config) {
        let (issuer, prefix) = (auth.issuer_of(key), auth.rules(key).user_prefix);
        let same = seen.iter().find(|(other, of_other)| *other != issuer && *of_other == prefix);
        if let Some((other, _)) = same {
            errors.add(
                "auth.keys",
                format!(
                    "a sub would name the same user in tokens of {other} and of {issuer}, so that each of the two could act \
                     as the users of the other; set a different user_prefix for the keys of one of them, or \
                     auth.shared_subjects = true if a sub is the same person in both"
                ),
            );
            return;
        }
        seen.push((issuer, prefix));
    }
}

/// Returns the keys whose tokens open connections; `None` stands for `auth.hmac_secret` and `login.key`.
fn connecting_keys(config: &Config) -> impl Iterator<Item = Option<&KeyConfig>> {
    let auth = &config.auth;
    let has_secret = !auth.hmac_secret.is_empty() || !config.login.key.is_empty();
    let keys = auth.keys.iter().filter(|key| key.purpose != KeyPurpose::Subscription).map(Some);
    has_secret.then_some(None).into_iter().chain(keys)
}

/// Returns a warning for each key that verifies tokens for other applications, because no audience is configured.
pub(super) fn audience_warnings(config: &Config) -> Vec<String> {
    let auth = &config.auth;
    let mut seen = HashSet::new();
    let without = auth.keys.iter().filter(|key| {
        let rules = auth.rules(Some(key));
        let is_connecting = key.purpose != KeyPurpose::Subscription && rules.connection.audience.is_none();
        (is_connecting || key.purpose != KeyPurpose::Connection && rules.subscription.audience.is_none())
            && (key.issuer.is_some() || !is_secret(key))
            && (!rules.is_of_key_set || rules.clients.is_empty())
            && seen.insert(auth.issuer_of(Some(key)).to_string())
    });
    let text = |key: &KeyConfig| {
        let risk = if key.is_set() {
            "its tokens that have aud are refused, and those without aud are accepted whatever application they are for"
        } else {
            "its tokens are accepted whatever application they are for"
        };
        let issuer = auth.issuer_of(Some(key));
        format!(
            "no audience is configured for {issuer} in auth.keys: {risk}; set audience to the aud of tokens for \
             this hub, or clients if they have no aud"
        )
    };
    without.map(text).collect()
}

/// Returns whether a key is a secret, which only the hub and one backend have.
fn is_secret(key: &KeyConfig) -> bool {
    let is_hmac = |algorithm| matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    key.algorithm.is_some_and(is_hmac) || key.jwk.expose().contains("\"oct\"")
}
