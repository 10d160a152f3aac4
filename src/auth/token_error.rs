//! The reasons to refuse a token: for each one the text for operators, and the error that a client receives.

use serde_json::json;

use super::{
    grants::{MAX_PATTERNS, MAX_REGEXES, MAX_RULES},
    logout_token::MAX_LOGOUT_TOKEN_AGE,
};
use crate::{
    channel::{ChannelNameError, PatternError},
    config::{MAX_KEY_ID_BYTES, RequiredClaim},
    json::MAX_DEPTH,
    publication::{MAX_INFO_BYTES, MAX_USER_BYTES},
    revocation::MAX_TOKEN_ID_BYTES,
};

/// Why a token is refused. The text is for operators: in logs, and in the errors of `check-token` and the login file.
///
/// A client learns only whether it should get another token, or try this one again (RFC 8725 §3):
///
/// | | [`Self::needs_new_token`] | [`Self::is_temporary`] | any other error |
/// |---|---|---|---|
/// | HTTP request, handshake | 401, code 109 | 503, code 100 | 401, code 101 |
/// | handshake with `auth.reject = "close"` | closed 3500, "token expired" | 503, code 100 | closed 3500, "invalid token" |
/// | token in a command | error 109 | error 100 | closed 3500, "invalid token" |
/// | token as the text of a message | closed 3500, "token expired" | closed 3004 | closed 3500, "invalid token" |
/// | subscription token in a command | error 109 | error 100 | error 103 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// `exp` or `expire_at` has passed. The only error of a token that was valid once.
    #[error("expired")]
    Expired,
    /// `nbf` is further ahead than `auth.clock_skew`. The only error of a token that will be valid.
    #[error("nbf is in the future")]
    NotYetValid,
    /// The token, its `sid`, its user or its channel has been revoked.
    #[error("revoked")]
    Revoked,
    /// The list of revocations has not been loaded since the start, so the token may be revoked.
    #[error("this instance has not loaded the list of revocations yet")]
    RevocationsPending,
    /// A token of the login whose user is not in `login.users_file`.
    #[error("its user is not in login.users_file")]
    UnknownLoginUser,
    /// The same, but another instance may have read a newer file.
    #[error("its user has just logged in, and is not in login.users_file of this instance")]
    LoginUserPending,
    /// A ticket for which no token is stored.
    #[error("the ticket is unknown, has expired or was used before")]
    UnknownTicket,
    /// Longer than `limits.token_bytes`.
    #[error("longer than {0} bytes (limits.token_bytes)")]
    TooLong(usize),
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
    /// `typ` is not the one that is configured for the key or in `auth.typ`.
    #[error("typ is not auth.typ or, if that is not set, neither \"JWT\" nor \"at+jwt\"")]
    WrongType,
    /// `kid` names no key, or is absent although there are several keys.
    #[error("no key has this kid, or there is no kid and several keys")]
    UnknownKey,
    /// `kid` names no key, but the keys of the token's issuer are about to be fetched.
    #[error("no key has this kid yet; the keys of the issuer are about to be fetched")]
    KeyPending,
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
    /// `exp` is further ahead, of now or of `iat`, than `auth.max_ttl`.
    #[error("exp is later than auth.max_ttl allows")]
    TtlTooLong,
    /// `iat` is further ahead than `auth.clock_skew`.
    #[error("iat is in the future")]
    IssuedInFuture,
    /// `iss` is not the issuer of the key, or `auth.issuer`.
    #[error("iss is not the configured issuer")]
    WrongIssuer,
    /// `iss` is the configured issuer, but for a slash at the end. Issuers are compared as they are (RFC 7519 §4.1.1).
    #[error("iss differs from the configured issuer by the slash at the end")]
    IssuerSlash,
    /// `aud` does not contain the audience of the key, or `auth.audience`.
    #[error("aud does not contain the configured audience")]
    WrongAudience,
    /// `aud` names an audience, none is configured, and the key is from a JWK set.
    #[error("aud names an audience, but no audience is configured, and other applications share the provider's keys")]
    UnexpectedAudience,
    /// `azp` and `client_id` name none of `clients` of the key or of `[auth]`.
    #[error("azp and client_id are absent, or name an application that clients does not list")]
    WrongClient,
    /// `sub` is absent or empty, although every session needs a user (`auth.anonymous`).
    #[error("sub is absent or empty, and auth.anonymous is \"never\"")]
    MissingUser,
    /// `sub` is too long or has control characters.
    #[error("sub is longer than {MAX_USER_BYTES} bytes or has control characters")]
    InvalidUser,
    /// With the prefix of the key, the user begins with the longer `user_prefix` of another one.
    #[error("sub names a user of another issuer: it begins with the user_prefix of that issuer's keys")]
    ForeignUser,
    /// A security event token (RFC 8417), where a token that opens connections or permits a subscription is needed.
    #[error("this is a logout token or another event of a provider, which grants nothing")]
    IsEventToken,
    /// A token without the event, where a logout token is needed.
    #[error("this is not a logout token: events has no back-channel logout")]
    IsNoLogoutToken,
    /// A logout token with `nonce`, which makes it usable as an ID token.
    #[error("a logout token must not have nonce")]
    LogoutTokenWithNonce,
    /// A claim that every logout token has.
    #[error("the logout token has no {0}")]
    IncompleteLogoutToken(&'static str),
    /// `aud` of a logout token names an application that is not this one, or none.
    #[error("aud of the logout token names an application that is neither in clients nor the audience")]
    ForeignLogoutToken,
    /// A logout token of a key without a configured issuer: a `sub` or `sid` is one of its issuer.
    #[error("the key of the logout token has no configured issuer")]
    LogoutTokenWithoutIssuer,
    /// A logout token without `exp` whose `iat` is longer ago than [`MAX_LOGOUT_TOKEN_AGE`].
    #[error("the logout token has no exp, and was issued more than {} s ago", MAX_LOGOUT_TOKEN_AGE.as_secs())]
    OldLogoutToken,
    /// `jti` or `sid` of a logout token are longer than a revocation can name.
    #[error("jti or sid of the logout token are longer than {MAX_TOKEN_ID_BYTES} bytes or have control characters")]
    InvalidLogoutId,
    /// A logout token whose `jti` was accepted before.
    #[error("the logout token was used before")]
    UsedLogoutToken,
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
    #[error("the claim channel is missing")]
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
    /// A subscription has an option that restricts it and that the hub does not have.
    #[error("server_tags_filter is not supported; without it the client would receive too much")]
    ServerTagsFilter,
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

    /// Returns whether honest clients send such tokens, too: those of yesterday, or of before a logout.
    pub fn may_be_honest(self) -> bool {
        self.needs_new_token() || self.is_temporary() || matches!(self, Self::Revoked | Self::UnknownLoginUser)
    }

    /// Returns whether a key has signed what the token says, before it was refused.
    pub fn is_of_signed_token(self) -> bool {
        !matches!(
            self,
            Self::UnknownTicket
                | Self::TooLong(_)
                | Self::NotThreeParts
                | Self::NotBase64Url
                | Self::HeaderNotUtf8
                | Self::HeaderTooDeep
                | Self::MalformedHeader
                | Self::KeyIdTooLong
                | Self::WrongType
                | Self::UnknownKey
                | Self::KeyPending
                | Self::WrongAlgorithm
                | Self::WrongKeyPurpose
                | Self::KeyExpired
                | Self::WrongSignature
        )
    }

    /// Returns whether the same token may be accepted a little later.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::KeyPending | Self::RevocationsPending | Self::LoginUserPending)
    }
}
