//! Tells an operator what to do about a refused token.

use std::collections::BTreeSet;

use serde_json::json;

use super::{TokenError, grants::CAPS_FORM};
use crate::{
    clock::format_duration,
    config::{AuthConfig, Config, KeyRules, KindRules},
};

impl TokenError {
    /// Returns the remedy, for an operator who has this configuration.
    pub fn remedy(self, config: &Config) -> String {
        let Config { auth, limits, .. } = config;
        match self {
            Self::Expired => "get a new token: POST /auth/login, your backend, or wardcast token --user USER",
            Self::Revoked => "log in again; the backend has revoked the token, or its user has logged out",
            Self::RevocationsPending => "nothing, if it passes; otherwise see in the log why Redis cannot be read",
            Self::UnknownLoginUser => "add the user to login.users_file again, if the user should be able to log in",
            Self::LoginUserPending => "give all instances the same login.users_file",
            Self::UnknownTicket => "get a new ticket: POST /auth/ticket",
            Self::TooLong(_) => TOO_LONG,
            Self::NotThreeParts | Self::NotBase64Url | Self::HeaderNotUtf8 | Self::PayloadNotUtf8 => DAMAGED,
            Self::HeaderTooDeep | Self::MalformedHeader => PLAIN_HEADER,
            Self::KeyIdTooLong => "shorten the id of the key, and kid in the header of its tokens",
            Self::WrongType => return wrong_type(auth),
            Self::UnknownKey if has_keys(config) => OTHER_KEY,
            Self::UnknownKey => NO_KEY,
            Self::KeyPending => KEY_PENDING,
            Self::WrongAlgorithm => "sign with the algorithm of the key in auth.keys, or HS256 for auth.hmac_secret",
            Self::WrongKeyPurpose => "sign with a key whose purpose allows it; login.key is for connection tokens only",
            Self::KeyExpired => "sign with a newer key",
            Self::WrongSignature => OTHER_SECRET,
            Self::PayloadTooDeep => "nest info and the other claims less deeply",
            Self::MalformedPayload => CLAIM_TYPES,
            Self::MissingClaim(_) => return format!("put all of {} into the token", json!(auth.required_claims)),
            Self::TtlTooLong => return ttl_too_long(auth),
            Self::NotYetValid | Self::IssuedInFuture => "set the clocks of both machines, or raise auth.clock_skew",
            Self::WrongIssuer => return format!("iss must be {}", issuers(auth)),
            Self::IssuerSlash => return issuer_slash(auth),
            Self::WrongAudience => return wrong_audience(auth),
            Self::UnexpectedAudience => UNEXPECTED_AUDIENCE,
            Self::WrongClient => WRONG_CLIENT,
            Self::MissingUser => MISSING_USER,
            Self::InvalidUser => "use a shorter id of the user without control characters in sub",
            Self::ForeignUser => FOREIGN_USER,
            Self::IsEventToken => "it belongs to POST /auth/backchannel-logout; connections need an access token",
            Self::IsNoLogoutToken => OTHER_LOGOUT_ENDPOINT,
            Self::LogoutTokenWithNonce | Self::IncompleteLogoutToken(_) | Self::InvalidLogoutId => LOGOUT_TOKEN_FORM,
            Self::ForeignLogoutToken => FOREIGN_LOGOUT_TOKEN,
            Self::LogoutTokenWithoutIssuer => "set issuer of the key in auth.keys, or auth.issuer",
            Self::OldLogoutToken => "set the clocks of both machines; the provider must send logout tokens at once",
            Self::UsedLogoutToken => LOGOUT_TOKEN_USED,
            Self::InfoTooLong | Self::SubscriptionInfoTooLong => "put less into it",
            Self::IsSubscriptionToken => "leave out the claim channel; channels is another claim",
            Self::IsConnectionToken => "leave out channels, subs and caps",
            Self::MissingChannel => "name the channel in the claim channel",
            Self::InvalidChannelName(_) => "use the names with which clients subscribe",
            Self::ForbiddenChannel => FORBIDDEN_CHANNEL,
            Self::MalformedChannels => r#"write channels as a list: ["news","chat:1"]"#,
            Self::MalformedSubs => SUBS_FORM,
            Self::TooManySubscriptions => return format!("name at most {} channels", limits.channels_per_session),
            Self::ServerTagsFilter => OWN_CHANNEL,
            Self::DuplicateSubscription => "name each channel once in channels and subs together",
            Self::InvalidBase64 => INVALID_BASE64,
            Self::MalformedOverride => r#"write override as an object: {"presence":{"value":false}}"#,
            Self::MalformedCaps => CAPS_FORM,
            Self::TooManyPatterns => "combine rules with wildcards, or let namespaces allow more",
            Self::InvalidPattern(_) => "correct or shorten the pattern",
        }
        .to_owned()
    }
}

/// Lists the values that are configured for tokens, each once: with several, the key of the token decides which one applies.
fn configured(auth: &AuthConfig, value: fn(&KindRules) -> Option<&String>) -> Option<String> {
    let rules: Vec<KeyRules> = all_rules(auth).collect();
    let values = rules.iter().flat_map(|rules| [&rules.connection, &rules.subscription]).filter_map(value);
    either_of(values)
}

fn issuers(auth: &AuthConfig) -> String {
    let rules: Vec<KeyRules> = all_rules(auth).collect();
    either_of(rules.iter().filter_map(|rules| rules.issuer.as_ref())).unwrap_or_default()
}

fn all_rules(auth: &AuthConfig) -> impl Iterator<Item = KeyRules> {
    // The login may have a key of its own, too; its tokens come from the hub itself.
    let has_secret = auth.keys.is_empty() || !auth.hmac_secret.is_empty();
    auth.keys.iter().map(Some).chain(has_secret.then_some(None)).map(|key| auth.rules(key))
}

fn either_of<'a>(values: impl Iterator<Item = &'a String>) -> Option<String> {
    let quoted: BTreeSet<String> = values.map(|value| json!(value).to_string()).collect();
    (!quoted.is_empty()).then(|| quoted.into_iter().collect::<Vec<_>>().join(" or "))
}

fn has_keys(config: &Config) -> bool {
    !config.auth.keys.is_empty() || !config.auth.hmac_secret.is_empty() || !config.login.key.is_empty()
}

const OTHER_LOGOUT_ENDPOINT: &str =
    "have the provider send logout tokens to /auth/backchannel-logout, and no other tokens";

const LOGOUT_TOKEN_USED: &str =
    "do nothing: the provider sent it twice, or another party has repeated it, which has no effect";

const SUBS_FORM: &str = r#"write subs as an object: {"news":{"info":…,"data":…,"expire_at":SECONDS,"override":{…}}}"#;

const OWN_CHANNEL: &str =
    "leave server_tags_filter out; use a channel of their own for publications that not all may see";

const NO_KEY: &str = "no key is configured here, so no token can be verified: name the hub's file with --config, or set \
    WARDCAST_AUTH__HMAC_SECRET. A development hub without one generates a secret, and keeps it for this user unless it runs with --ephemeral";

const OTHER_KEY: &str =
    "put the id of one of auth.keys into kid of the header, or set auth.hmac_secret for tokens without kid";

const OTHER_SECRET: &str = "the token was changed on its way, or signed with another secret than the one configured here; \
    is this the hub's configuration (--config, WARDCAST_AUTH__HMAC_SECRET)? the key is the text of auth.hmac_secret itself, not \
    the bytes that its hexadecimal digits stand for";

const TOO_LONG: &str = "raise limits.token_bytes, or put less into the token: a provider that lists all groups of a user can \
    usually leave them out";

const DAMAGED: &str = "a token is header.payload.signature, whole, without quotes or line breaks: copy it again";

const PLAIN_HEADER: &str = "sign with a plain header: alg, and kid and typ where needed";

const CLAIM_TYPES: &str =
    "sub must be a string, dates must be numbers of seconds since 1970, and no claim may occur twice";

const UNEXPECTED_AUDIENCE: &str = "if aud is this hub, set it as audience of the key in auth.keys; otherwise the token is for \
    another application of the provider";

const KEY_PENDING: &str = "wait a little: the hub fetches the provider's keys again; if it cannot, its log says why";

const WRONG_CLIENT: &str = "add the azp or client_id of your application's tokens to clients (auth.clients, or clients of the key \
    in auth.keys); otherwise the token is for another application of the provider";

const FOREIGN_LOGOUT_TOKEN: &str = "add the client id of your application at the provider to clients (auth.clients, or clients of the \
    key in auth.keys); otherwise the token is for another application of the provider";

const LOGOUT_TOKEN_FORM: &str = "the provider does not follow OpenID Connect Back-Channel Logout 1.0 §2.4";

const MISSING_USER: &str = "name the user in sub, or set auth.anonymous = \"token\": tokens without a user then open anonymous \
    sessions";

const FOREIGN_USER: &str = "name users of this issuer only; a key with purpose = \"subscription\" may name the users of all \
    issuers";

const FORBIDDEN_CHANNEL: &str = "configure the namespace here (--config), and name #USER only in that user's tokens";

const INVALID_BASE64: &str = "encode JSON with standard Base64 and padding, or use info and data: publications are JSON in both \
    formats";

fn wrong_type(auth: &AuthConfig) -> String {
    let typ = configured(auth, |rules| rules.typ.as_ref());
    let typ = typ.unwrap_or_else(|| "\"JWT\" or \"at+jwt\", or absent".to_owned());
    format!("send another token: typ in the header says what a token is for, and must be {typ}")
}

fn ttl_too_long(auth: &AuthConfig) -> String {
    let max = format_duration(auth.max_ttl);
    format!("exp may be at most {max} from now, and from iat; choose an earlier one, or raise auth.max_ttl")
}

fn issuer_slash(auth: &AuthConfig) -> String {
    let issuers = issuers(auth);
    format!("set issuer to exactly the iss of the tokens: one of the two ends with a slash; configured is {issuers}")
}

fn wrong_audience(auth: &AuthConfig) -> String {
    let audience = configured(auth, |rules| rules.audience.as_ref());
    format!("aud must contain {}", audience.unwrap_or_default())
}
