//! `revoke_token` and `invalidate_user_tokens`: make tokens void before they expire, on all nodes.

use bytes::Bytes;
use serde::Deserialize;

use super::{
    ApiContext,
    description::{Access, ApiMethod, ApiResult, BROKER_BUSY, Example, Field, Handler, JsonType, request_fields},
    key::Caller,
    request::{empty_result, find_channel, parse_object},
    sessions::parse_end,
};
use crate::{
    broker::revoke_with_logins,
    clock::{FIRST_MILLISECONDS, NEVER, WallTime},
    protocol::{ErrorCode, WireError},
    revocation::{IssuerScope, Revocation, RevocationTarget},
};

const EXAMPLE_ANSWER: &str = r#"{"result":{}}"#;

const NOT_CONFIRMED: (ErrorCode, &str) = (
    ErrorCode::Internal,
    "the broker is unavailable, and the revocation is in force only on the node that was asked, until the broker is back, and \
     logins may go on: repeat the call; or some live nodes, which the message names, have not confirmed within 2 s, and the \
     revocation is in force nevertheless",
);
const LIST_FULL: (ErrorCode, &str) = (ErrorCode::LimitExceeded, "`limits.revocations` is reached; nothing is revoked");

/// `revoke_token`.
pub(super) const REVOKE_TOKEN: ApiMethod = ApiMethod {
    name: "revoke_token",
    access: Access::Write,
    summary: "Revokes a token by its `jti`, or all tokens of a session at the identity provider by their `sid`.",
    details: "Sessions whose token is revoked are closed with 3500 on all nodes, and messages that wait for them are dropped; subscriptions \
        with a revoked subscription token end with 2000. From then on the tokens are refused, also by nodes that start later. For a \
        session only the newest token that it has presented counts: revoking the `jti` of an older one does not close it. \
        The answer comes when every live node has confirmed.",
    request: &[RevokeTokenRequest::FIELDS],
    result: &[],
    errors: &[
        NOT_CONFIRMED,
        BROKER_BUSY,
        LIST_FULL,
        (
            ErrorCode::BadRequest,
            "there is not exactly one of `uid`, `jti` and `sid`, it is invalid, or `expire_at` is in the past or in milliseconds",
        ),
    ],
    example: Example { request: r#"{"jti":"0S2bHm4Hk2yqzbzCQ2jBlA"}"#, answer: EXAMPLE_ANSWER },
    handler: Handler::OfCaller(|body, caller, api| Box::pin(revoke_token(body, caller, api))),
};

/// `invalidate_user_tokens`.
pub(super) const INVALIDATE_USER_TOKENS: ApiMethod = ApiMethod {
    name: "invalidate_user_tokens",
    access: Access::Write,
    summary: "Revokes all tokens of a user that were issued before a time, everywhere or in one channel.",
    details: "It works as `revoke_token`, for tokens whose `iat` is before the time and for those without `iat`. `iat` counts whole \
        seconds: without `issued_before`, a token that is issued in the second of the call is revoked, too. Logins of the hub that \
        were started before the time end, with all of their tokens. With `channel`, sessions stay open: these tokens allow nothing in the channel any more, and the user's subscriptions there end with 2000, \
        except those with a newer subscription token and those that the server API gave.",
    request: &[InvalidateRequest::FIELDS],
    result: &[],
    errors: &[
        NOT_CONFIRMED,
        BROKER_BUSY,
        LIST_FULL,
        (ErrorCode::UnknownChannel, "the namespace of `channel` is not configured"),
        (
            ErrorCode::BadRequest,
            "`user`, `issuer` or `channel` is invalid, `issuer` and `channel` are both set, `issued_before` is in milliseconds, or `expire_at` is in the \
             past or in milliseconds",
        ),
    ],
    example: Example { request: r#"{"user":"bob"}"#, answer: EXAMPLE_ANSWER },
    handler: Handler::OfCaller(|body, caller, api| Box::pin(invalidate_user_tokens(body, caller, api))),
};

request_fields! {
    /// A request of `revoke_token`. Some clients of the API write unset fields as `""`.
    struct RevokeTokenRequest {
        /// The token's `jti`, 1 to 255 bytes, as Centrifugo names it.
        uid: Option<String> = (JsonType::String, Some("not used")),
        /// The token's `jti`, 1 to 255 bytes.
        jti: Option<String> = (JsonType::String, Some("not used")),
        /// The `sid` of the tokens, 1 to 255 bytes.
        sid: Option<String> = (JsonType::String, Some("not used")),
        /// Only tokens with this `iss`: providers choose their ids without knowing those of others. At most 255 bytes.
        issuer: Option<String> = (JsonType::String, Some("any")),
        /// When all of these tokens have expired, in seconds since 1970. It must be in the future. Needed if they live longer than `auth.max_ttl`.
        expire_at: Option<i64> = (JsonType::Integer, Some("`auth.max_ttl` and twice `auth.clock_skew` from now")),
    }
}

request_fields! {
    /// A request of `invalidate_user_tokens`.
    struct InvalidateRequest {
        /// User whose tokens are meant: 1 to 255 bytes without control characters.
        user: Option<String> = (JsonType::String, None),
        /// Tokens issued before this time are revoked, in seconds since 1970.
        issued_before: Option<i64> = (JsonType::Integer, Some("`0`: now")),
        /// Only tokens with this `iss`; not with `channel`. At most 255 bytes.
        issuer: Option<String> = (JsonType::String, Some("any")),
        /// Only in this channel.
        channel: Option<String> = (JsonType::String, Some("everywhere")),
        /// When all of these tokens have expired, in seconds since 1970. It must be in the future. Needed if they live longer than `auth.max_ttl`.
        expire_at: Option<i64> = (JsonType::Integer, Some("`auth.max_ttl` and twice `auth.clock_skew` from now")),
    }
}

async fn revoke_token(body: &Bytes, caller: &Caller, api: &ApiContext) -> ApiResult {
    let RevokeTokenRequest { uid, jti, sid, issuer, expire_at } = parse_object(body)?;
    let scope = IssuerScope::of_request(issuer);
    let token = |jti| RevocationTarget::Token(jti, scope.clone());
    let session = |sid| RevocationTarget::Session(sid, scope.clone());
    let set = |id: Option<String>| id.filter(|id| !id.is_empty());
    let mut targets = [set(uid).map(token), set(jti).map(token), set(sid).map(session)].into_iter().flatten();
    let (Some(target), None) = (targets.next(), targets.next()) else {
        return Err(ErrorCode::BadRequest.with_detail("send exactly one of uid, jti and sid").into());
    };
    revoke(target, NEVER, expire_at, caller, api).await
}

async fn invalidate_user_tokens(body: &Bytes, caller: &Caller, api: &ApiContext) -> ApiResult {
    let InvalidateRequest { user, issued_before, issuer, channel, expire_at } = parse_object(body)?;
    let user = user.unwrap_or_default();
    let target = match (channel.filter(|channel| !channel.is_empty()), IssuerScope::of_request(issuer)) {
        (None, scope) => RevocationTarget::User(user, scope),
        (Some(channel), IssuerScope::Any) => RevocationTarget::Channel(user, find_channel(Some(channel), api)?.0),
        (Some(_), IssuerScope::Only(_)) => {
            return Err(ErrorCode::BadRequest.with_detail("channel and issuer cannot be combined").into());
        }
    };
    let issued_before = match issued_before.filter(|seconds| *seconds != 0) {
        None => api.revocations.issued_until_now(),
        Some(seconds) if (0..FIRST_MILLISECONDS).contains(&seconds) => WallTime::from_unix_seconds(seconds),
        Some(seconds) => {
            let detail = format!("issued_before must be a date in seconds since 1970, not {seconds}");
            return Err(ErrorCode::BadRequest.with_detail(detail).into());
        }
    };
    revoke(target, issued_before, expire_at, caller, api).await
}

async fn revoke(
    target: RevocationTarget,
    issued_before: WallTime,
    expire_at: Option<i64>,
    caller: &Caller,
    api: &ApiContext,
) -> ApiResult {
    if !target.is_valid() {
        let detail = "a user, jti, sid or issuer must have 1 to 255 bytes and no control characters";
        return Err(ErrorCode::BadRequest.with_detail(detail).into());
    }
    let expires_at = parse_end(expire_at, api)?.unwrap_or_else(|| api.revocations.default_expiry());
    let revocation = Revocation { target, issued_before, expires_at };
    let ApiContext { broker, config, revocations, audit, metrics, .. } = api;
    let (broker, config, revocations) = (broker.clone(), config.current(), revocations.clone());
    let (audit, metrics, caller) = (audit.clone(), metrics.clone(), caller.clone());
    // A task of its own: a caller that disconnects must not stop the revocation half way.
    let revoked = actix_rt::spawn(async move {
        let audit = (&*audit, caller.fields());
        revoke_with_logins(&*broker, revocation, &config, &revocations, audit, &metrics).await
    });
    // An error means that the task has panicked.
    revoked.await.map_err(|_| WireError::from(ErrorCode::Internal))?.map_err(WireError::from)?;
    empty_result()
}
