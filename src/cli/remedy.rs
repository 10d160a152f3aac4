//! Why a token is refused and what to do about it, in the words of whoever holds the configuration. Clients are told less.

use super::format_duration;
use crate::{auth::TokenError, config::Config};

/// Which of the two kinds of token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Opens connections.
    Connection,
    /// Lets its user subscribe to one channel.
    Subscription,
}

/// What to do about refusals whose remedy is the same for every configuration.
const FIXED_REMEDIES: [(&str, &str); 14] = [
    (
        "signature",
        "it was changed on its way, or signed with another secret than the one that is configured here; is this the hub's \
         configuration (--config, WARDCAST_AUTH__HMAC_SECRET)?",
    ),
    (
        "another algorithm than the key's",
        "the key decides the algorithm: sign with that of auth.keys, which for auth.hmac_secret is HS256",
    ),
    (
        "a key for another kind of token",
        "the key's purpose is another: sign connection and subscription tokens with keys that are for them; login.key is \
         for connections",
    ),
    ("a key that is over", "not_after of its key is past: sign with a newer key"),
    ("not valid yet", "nbf or iat is in the future: set the clocks of both machines, or raise auth.clock_skew"),
    ("sub", "sub must be a text of 1 to 255 bytes without control characters; an empty one wants auth.anonymous"),
    ("a subscription token opens no connection", "leave the claim channel out; channels is another claim"),
    ("a connection token is for no single channel", "leave channels, subs and caps out of it"),
    ("no channel", "a subscription token has the claim channel"),
    ("info", "info may have 4096 bytes of JSON"),
    ("info or data too long", "info and data may have 4096 bytes of JSON each"),
    ("too long", "a token may have 8 KiB: put less into info, channels and caps"),
    (
        "form or type of a claim",
        "sub is a text and is always there, dates are seconds since 1970 as numbers, and no claim comes twice",
    ),
    ("two subscriptions to one channel", "name each channel once in channels and subs together"),
];

/// For a token that has come from somewhere.
pub(super) fn for_received_token(refusal: &TokenError, config: &Config) -> String {
    let TokenError::Invalid(reason) = *refusal else {
        return "get a new one from whoever issued it: POST /auth/login, your backend, or wardcast token --user USER"
            .to_owned();
    };
    let fixed = FIXED_REMEDIES.iter().find(|(known, _)| *known == reason).map(|(_, remedy)| (*remedy).to_owned());
    fixed.or_else(|| configured_remedy(reason, config)).unwrap_or_else(|| for_malformed_token(reason).to_owned())
}

/// Remedies that name what is configured.
fn configured_remedy(reason: &str, config: &Config) -> Option<String> {
    let auth = &config.auth;
    let set = |value: &Option<String>| value.as_deref().unwrap_or_default().to_owned();
    let has_keys = !auth.keys.is_empty() || !auth.hmac_secret.is_empty() || !config.login.key.is_empty();
    Some(match reason {
        "no key of this kid, or no kid among several keys" if !has_keys => {
            "no key is configured here, so no token can be judged: name the hub's file with --config, or set \
             WARDCAST_AUTH__HMAC_SECRET. A development hub without one makes its own for each run"
                .to_owned()
        }
        "no key of this kid, or no kid among several keys" => {
            "its header must name (kid) one of auth.keys; without a kid there must be auth.hmac_secret".to_owned()
        }
        "typ" => format!("its header must have the typ {:?} (auth.typ)", set(&auth.typ)),
        "issuer" => format!("its iss must be {:?} (auth.issuer), or that of its key", set(&auth.issuer)),
        "audience" => format!("its aud must have {:?} (auth.audience)", set(&auth.audience)),
        "a claim of auth.required_claims is missing" => {
            let names = auth.required_claims.iter().map(|claim| format!("{claim:?}").to_lowercase());
            format!("it must have all of: {}", names.collect::<Vec<_>>().join(", "))
        }
        "lives longer than auth.max_ttl" => {
            let most = format_duration(auth.max_ttl);
            format!("its exp may be at most {most} from now; give it a shorter life, or raise auth.max_ttl")
        }
        _ => return None,
    })
}

fn for_malformed_token(reason: &str) -> &'static str {
    if reason.contains("channel") {
        "channels must be named as the hub's configuration has them, and #USER only for that user; is its [[namespaces]] \
         known here (--config)?"
    } else if reason.starts_with("caps") {
        "a rule is {\"channels\":[…],\"match\":\"exact|wildcard|regex\",\"allow\":[\"sub\",\"pub\",\"prs\",\"hst\"]}, with at \
         most 32 rules, 128 patterns and 8 regular expressions"
    } else {
        "a token is header.payload.signature, whole, without quotes or line breaks: copy it again"
    }
}

/// For one that this command line has just made.
pub(super) fn for_created_token(refusal: &TokenError, config: &Config) -> String {
    match refusal {
        TokenError::Expired => "--ttl must be at least a second".to_owned(),
        TokenError::Invalid("lives longer than auth.max_ttl") => {
            let most = format_duration(config.auth.max_ttl);
            format!("--ttl may be at most {most}, or raise auth.max_ttl")
        }
        TokenError::Invalid("a claim of auth.required_claims is missing") => {
            "tokens of this command have sub, iat and exp, and iss and aud where they are configured; others have to come \
             from your backend"
                .to_owned()
        }
        TokenError::Invalid("a key for another kind of token") => {
            "subscription tokens are signed with auth.hmac_secret; set it (openssl rand -hex 32)".to_owned()
        }
        _ => for_received_token(refusal, config),
    }
}
