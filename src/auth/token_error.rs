//! The reasons to refuse a token: for each one the text for operators, the remedy, and the error that a client receives.

use serde_json::json;

use super::{
    grants::{CAPS_FORM, MAX_PATTERNS, MAX_REGEXES, MAX_RULES},
    json::MAX_DEPTH,
    verifier::MAX_TOKEN_BYTES,
};
use crate::{
    channel::{ChannelNameError, PatternError},
    clock::format_duration,
    config::{Config, MAX_KEY_ID_BYTES, RequiredClaim},
    publication::{MAX_INFO_BYTES, MAX_USER_BYTES},
};

/// Why a token is refused. The text is for operators: in logs, and in the errors of `check-token` and the login file.
///
/// A client learns only whether it should get another token (RFC 8725 §3):
///
/// | | [`Self::needs_new_token`] | any other error |
/// |---|---|---|
/// | HTTP request, handshake | 401, code 109 | 401, code 101 |
/// | handshake with `auth.reject = "close"` | closed 3500, "token expired" | closed 3500, "invalid token" |
/// | token in a command | error 109 | closed 3500 |
/// | token as the text of a message | closed 3500 | closed 3500 |
/// | subscription token in a command | error 109 | error 103 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// `exp` or `expire_at` has passed. The only error of a token that was valid once.
    #[error("expired")]
    Expired,
    /// `nbf` is further ahead than `auth.clock_skew`. The only error of a token that will be valid.
    #[error("nbf is in the future")]
    NotYetValid,
    /// A ticket for which no token is stored.
    #[error("the ticket is unknown, has expired or was used before")]
    UnknownTicket,
    /// Longer than `MAX_TOKEN_BYTES`.
    #[error("longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not `header.payload.signature`.
    #[error("not three parts with dots between them")]
    NotThreeParts,
    /// A part that is not base64url, has padding, or has bits to spare (RFC 7515 §2).
    #[error("a part is not base64url without padding")]
    NotBase64Url,
    /// JSON is UTF-8 (RFC 7515 §5.2).
    #[error("the header is not UTF-8")]
    HeaderNotUtf8,
    /// Arrays and objects within one another in the header.
    #[error("the header is nested more than {MAX_DEPTH} levels deep")]
    HeaderTooDeep,
    /// Not a JSON object, without `alg`, or with a member that is refused.
    #[error("the header is malformed, or has a member that is refused")]
    MalformedHeader,
    /// A `kid` longer than an id in `auth.keys` can be.
    #[error("kid is longer than {MAX_KEY_ID_BYTES} bytes")]
    KeyIdTooLong,
    /// `typ` is not the one in `auth.typ`.
    #[error("typ is not auth.typ")]
    WrongType,
    /// `kid` names no key, or is absent although there are several keys.
    #[error("no key has this kid, or there is no kid and several keys")]
    UnknownKey,
    /// `alg` differs from the algorithm of the key.
    #[error("alg is not the algorithm of the key")]
    WrongAlgorithm,
    /// The key's `purpose` is the other kind of token.
    #[error("the key is for another kind of token")]
    WrongKeyPurpose,
    /// The key's `not_after` has passed.
    #[error("the key's not_after has passed")]
    KeyExpired,
    /// The signature does not match header and payload.
    #[error("wrong signature")]
    WrongSignature,
    /// JSON is UTF-8 (RFC 7519 §7.2).
    #[error("the payload is not UTF-8")]
    PayloadNotUtf8,
    /// Arrays and objects within one another in the payload.
    #[error("the payload is nested more than {MAX_DEPTH} levels deep")]
    PayloadTooDeep,
    /// The payload is not a JSON object, or has a claim twice or of a wrong type.
    #[error("the payload is malformed, or a claim has a wrong type or appears twice")]
    MalformedPayload,
    /// A claim of `auth.required_claims` is absent or empty.
    #[error("the claim {} of auth.required_claims is missing", json!(.0))]
    MissingClaim(RequiredClaim),
    /// `exp` is further ahead than `auth.max_ttl`.
    #[error("exp is later than auth.max_ttl allows")]
    TtlTooLong,
    /// `iat` is further ahead than `auth.clock_skew`.
    #[error("iat is in the future")]
    IssuedInFuture,
    /// `iss` is not `auth.issuer`, or not the issuer of the key.
    #[error("iss is not the configured issuer")]
    WrongIssuer,
    /// `aud` does not contain `auth.audience`.
    #[error("aud does not contain auth.audience")]
    WrongAudience,
    /// `sub` is absent or empty, although every session needs a user (`auth.anonymous`).
    #[error("sub is absent or empty, and auth.anonymous is \"never\"")]
    MissingUser,
    /// `sub` is too long or has control characters.
    #[error("sub is longer than {MAX_USER_BYTES} bytes or has control characters")]
    InvalidUser,
    /// `info` is longer than [`MAX_INFO_BYTES`].
    #[error("info is longer than {MAX_INFO_BYTES} bytes")]
    InfoTooLong,
    /// A token with the claim `channel`, where a connection token is needed.
    #[error("this is a subscription token, which opens no connection")]
    IsSubscriptionToken,
    /// A token with `channels`, `subs` or `caps`, where a subscription token is needed.
    #[error("this is a connection token, not a subscription token")]
    IsConnectionToken,
    /// A subscription token without `channel`.
    #[error("no claim channel")]
    MissingChannel,
    /// A text that is not a channel name, in `channel`, `channels` or `subs`.
    #[error("invalid channel name: {0}")]
    InvalidChannelName(#[from] ChannelNameError),
    /// A channel that the user may not be subscribed to, in `channel`, `channels` or `subs`.
    #[error("a channel is in an unknown namespace, does not match its channel_regex, or is limited to other users")]
    ForbiddenChannel,
    /// `channels` is not a list of strings.
    #[error("channels is not a list of strings")]
    MalformedChannels,
    /// `subs` is not an object of objects, or an option has a wrong type.
    #[error("subs is not an object of channels with their options")]
    MalformedSubs,
    /// More channels in `channels` and `subs` than a session may have.
    #[error("more subscriptions than limits.channels_per_session")]
    TooManySubscriptions,
    /// A channel that appears twice in `channels` and `subs`.
    #[error("two subscriptions to one channel")]
    DuplicateSubscription,
    /// `info` or `data` in `subs` is longer than [`MAX_INFO_BYTES`].
    #[error("info or data of a subscription is longer than {MAX_INFO_BYTES} bytes")]
    SubscriptionInfoTooLong,
    /// `b64info` or `b64data` is not JSON in standard Base64.
    #[error("b64info or b64data is not JSON in Base64")]
    InvalidBase64,
    /// `override` is not an object of options, each with its value in an object.
    #[error("override is not an object of options with their values")]
    MalformedOverride,
    /// `caps` is not a list of rules.
    #[error("caps is malformed")]
    MalformedCaps,
    /// More than `MAX_RULES`, `MAX_PATTERNS` or `MAX_REGEXES`.
    #[error("caps has more than {MAX_RULES} rules, {MAX_PATTERNS} patterns or {MAX_REGEXES} regular expressions")]
    TooManyPatterns,
    /// A pattern that is too long, or a regular expression that is broken or too large.
    #[error("caps has an invalid pattern: {0}")]
    InvalidPattern(#[from] PatternError),
}

impl TokenError {
    /// Returns whether the client should get another token: this one has expired, or is not valid yet.
    pub fn needs_new_token(self) -> bool {
        matches!(self, Self::Expired | Self::NotYetValid)
    }

    /// Returns the remedy, for an operator who has this configuration.
    pub fn remedy(self, config: &Config) -> String {
        let Config { auth, limits, .. } = config;
        let quoted = |value: &Option<String>| json!(value).to_string();
        match self {
            Self::Expired => "get a new token: POST /auth/login, your backend, or wardcast token --user USER",
            Self::UnknownTicket => "get a new ticket: POST /auth/ticket",
            Self::TooLong => "put less into info, channels and caps",
            Self::NotThreeParts | Self::NotBase64Url | Self::HeaderNotUtf8 | Self::PayloadNotUtf8 => {
                "a token is header.payload.signature, whole, without quotes or line breaks: copy it again"
            }
            Self::HeaderTooDeep | Self::MalformedHeader => {
                "sign with a plain header: alg, and kid and typ where needed"
            }
            Self::KeyIdTooLong => "shorten the id of the key, and kid in the header of its tokens",
            Self::WrongType => return format!("the header must have the typ {} (auth.typ)", quoted(&auth.typ)),
            Self::UnknownKey if has_keys(config) => "name one of auth.keys in kid, or set auth.hmac_secret for no kid",
            Self::UnknownKey => NO_KEY,
            Self::WrongAlgorithm => "sign with the algorithm of the key in auth.keys, or HS256 for auth.hmac_secret",
            Self::WrongKeyPurpose => "sign with a key whose purpose allows it; login.key is for connection tokens only",
            Self::KeyExpired => "sign with a newer key",
            Self::WrongSignature => OTHER_SECRET,
            Self::PayloadTooDeep => "nest info and the other claims less deeply",
            Self::MalformedPayload => {
                "sub must be a string, dates numbers of seconds since 1970, and each claim there once"
            }
            Self::MissingClaim(_) => {
                return format!("put all of {} into the token", json!(auth.required_claims));
            }
            Self::TtlTooLong => {
                let max = format_duration(auth.max_ttl);
                return format!("exp may be at most {max} from now; choose an earlier one, or raise auth.max_ttl");
            }
            Self::NotYetValid | Self::IssuedInFuture => "set the clocks of both machines, or raise auth.clock_skew",
            Self::WrongIssuer => return format!("iss must be {}, or that of its key", quoted(&auth.issuer)),
            Self::WrongAudience => return format!("aud must contain {}", quoted(&auth.audience)),
            Self::MissingUser => {
                "name the user in sub, or set auth.anonymous = \"token\": tokens without a user then open anonymous sessions"
            }
            Self::InvalidUser => "name the user in sub by a shorter id without control characters",
            Self::InfoTooLong | Self::SubscriptionInfoTooLong => "put less into it",
            Self::IsSubscriptionToken => "leave out the claim channel; channels is another claim",
            Self::IsConnectionToken => "leave out channels, subs and caps",
            Self::MissingChannel => "name the channel in the claim channel",
            Self::InvalidChannelName(_) => "use the names with which clients subscribe",
            Self::ForbiddenChannel => {
                "configure the namespace here (--config), and name #USER only in that user's tokens"
            }
            Self::MalformedChannels => r#"write channels as a list: ["news","chat:1"]"#,
            Self::MalformedSubs => r#"write subs as an object: {"news":{"info":…,"data":…,"expire_at":SECONDS,"override":{…}}}"#,
            Self::TooManySubscriptions => return format!("name at most {} channels", limits.channels_per_session),
            Self::DuplicateSubscription => "name each channel once in channels and subs together",
            Self::InvalidBase64 => {
                "encode JSON with standard Base64 and padding, or use info and data: publications are JSON in both formats"
            }
            Self::MalformedOverride => r#"write override as an object: {"presence":{"value":false}}"#,
            Self::MalformedCaps => CAPS_FORM,
            Self::TooManyPatterns => "combine rules with wildcards, or let namespaces allow more",
            Self::InvalidPattern(_) => "correct or shorten the pattern",
        }
        .to_owned()
    }
}

fn has_keys(config: &Config) -> bool {
    !config.auth.keys.is_empty() || !config.auth.hmac_secret.is_empty() || !config.login.key.is_empty()
}

const NO_KEY: &str = "no key is configured here, so no token can be verified: name the hub's file with --config, or set \
    WARDCAST_AUTH__HMAC_SECRET. A development hub without one generates a new one for each run";

const OTHER_SECRET: &str = "the token was changed on its way, or signed with another secret than the one configured here; \
    is this the hub's configuration (--config, WARDCAST_AUTH__HMAC_SECRET)?";
