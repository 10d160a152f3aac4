//! `POST /auth/logout`: revokes the token of the request, so that its sockets are closed on all nodes, and deletes the cookie.
//! With `{"everywhere":true}` it revokes all tokens that the user has now.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, COOKIE, HeaderValue},
    web::Data,
};
use serde::Deserialize;

use super::{
    HttpContext, HttpError, RequestBody,
    login_tokens::{delete_cookies, refresh_cookie},
    request_source::RequestSource,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{RefreshToken, TokenError, credentials, refusal_log::Refusal},
    broker::{BrokerError, EndedLogin, LoginSelection, RevokeError, revocation_of_login, revoke_with_logins},
    protocol::ErrorCode,
    revocation::{IssueTimes, IssuerScope, Revocation, RevocationTarget},
};

/// The body, which may be missing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogoutRequest {
    /// Also all other logins of the user.
    #[serde(default)]
    everywhere: bool,
    /// The refresh token of the login, whose access token may have expired.
    refresh_token: Option<String>,
}

/// Handles a logout by a bearer token, by the cookies, or by a refresh token. A token that has expired or was revoked needs no
/// revocation.
pub(super) async fn logout(
    source: RequestSource,
    request: HttpRequest,
    body: RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let header = |name| request.headers().get_all(name).map(HeaderValue::as_bytes).collect::<Vec<&[u8]>>();
    let (authorization, cookies) = (header(AUTHORIZATION), header(COOKIE));
    let LogoutRequest { everywhere, refresh_token } = parse_logout(&body.0)?;
    let config = context.config.current();
    let (has_bearer, cookie) = (!authorization.is_empty(), &config.auth.cookie);
    let uses_cookies = !has_bearer && refresh_token.is_none();
    if uses_cookies {
        // The browser sends the cookies for any page: otherwise any page could log its visitor out.
        source.origin_check.require_listed()?;
    } else {
        source.origin_check.require_allowed()?;
    }
    let token = match has_bearer {
        true => Some(credentials::bearer_token(&authorization).map_err(|_| HttpError::invalid_token(false))?),
        false if uses_cookies => credentials::cookie_value(&cookies, cookie)?,
        false => None,
    };
    let refresh_token = match &refresh_token {
        Some(token) => Some(token.as_str()),
        None if uses_cookies => credentials::cookie_value(&cookies, &refresh_cookie(cookie))?,
        None => None,
    };
    let revoked = async {
        // Both are of one login, unless another page has set one of the cookies.
        let ended = match refresh_token {
            Some(token) => end_login(token, everywhere, &source, &context).await,
            None => Ok(()),
        };
        let revoked = match token {
            Some(token) => revoke(token, everywhere, has_bearer, &source, &context).await,
            None => Ok(()),
        };
        ended.and(revoked)
    };
    let mut response = match revoked.await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => actix_web::ResponseError::error_response(&error),
    };
    if uses_cookies {
        // Also if the revocation failed: this browser is to forget the tokens in any case.
        delete_cookies(&mut response, &context.config.current());
    }
    Ok(response)
}

/// Ends the login of a refresh token, and revokes its tokens, or `everywhere` all of its user. One that is not valid needs nothing.
async fn end_login(
    token: &str,
    everywhere: bool,
    source: &RequestSource,
    context: &HttpContext,
) -> Result<(), HttpError> {
    let Some(RefreshToken { login, .. }) = context.login_keys.load().refresh_tokens.decode(token) else {
        return Ok(());
    };
    let ended = context.broker.end_logins(login.split().0.to_owned(), LoginSelection::One(login.clone())).await;
    let end = context.clock.now().saturating_add(context.config.current().login.token_ttl);
    let Some(EndedLogin { id, user, .. }) = ended.map_err(|_| unavailable())?.pop() else {
        // It may have been ended by a logout that could not revoke its tokens.
        let revocation = revocation_of_login(&login, context.config.current().login_issuer(), end);
        return revoke_all(revocation, source, context).await;
    };
    let revocation = if everywhere {
        all_of_user(user.clone(), context)
    } else {
        let revocation = revocation_of_login(&id, context.config.current().login_issuer(), end);
        context.revocations.of_logout(&user, revocation.target, end, IssueTimes::Known)
    };
    let fields = AuditFields { sid: Some(id.as_str()), user: Some(&user), ..source.fields("/auth/logout") };
    context.audit.record(AuditEvent::LoggedOut, fields);
    revoke_all(revocation, source, context).await
}

fn all_of_user(user: String, context: &HttpContext) -> Revocation {
    let target = RevocationTarget::User(user, IssuerScope::Any);
    let issued_before = context.revocations.issued_until_now();
    Revocation { target, issued_before, expires_at: context.revocations.default_expiry() }
}

fn parse_logout(body: &[u8]) -> Result<LogoutRequest, HttpError> {
    let body = body.trim_ascii();
    let parsed = match body.first() {
        None => Some(LogoutRequest::default()),
        Some(b'{') => serde_json::from_slice(body).ok(),
        Some(_) => None,
    };
    parsed.ok_or_else(|| {
        HttpError::bad_request("the body must be empty, or have \"everywhere\":true or \"refresh_token\":…")
    })
}

/// Revokes a token, with the other tokens of its `sid`, or `everywhere` with all of its user.
async fn revoke(
    token: &str,
    everywhere: bool,
    has_bearer: bool,
    source: &RequestSource,
    context: &HttpContext,
) -> Result<(), HttpError> {
    let verified = context.verifications.verify(source.address, || context.verifier.verify_with_ids(token));
    let (claims, ids) = match verified.await? {
        Ok(verified) => verified,
        Err(error) => {
            context.refusals.record_from(Refusal::Token(error), &source.fields("/auth/logout"));
            // A token that is void already, such as the cookie of an old login, need not be revoked. A token whose key is not there at
            // the moment may be valid again.
            let is_void =
                matches!(error, TokenError::Expired | TokenError::Revoked) || (!has_bearer && !error.is_temporary());
            return if is_void { Ok(()) } else { Err(error.into()) };
        }
    };
    let revocation = if everywhere {
        if claims.is_anonymous() {
            return Err(HttpError::bad_request("the token has no user"));
        }
        all_of_user(claims.user.to_string(), context)
    } else {
        let Some(target) = RevocationTarget::of_token(&ids) else {
            return Err(HttpError::bad_request(
                "the token has no jti and no sid by which it could be revoked; {\"everywhere\":true} revokes all of the user's",
            ));
        };
        context.revocations.of_logout(&claims.user, target, claims.expires_at, claims.token.issue_times())
    };
    let fields = source.fields("/auth/logout");
    context.audit.record(AuditEvent::LoggedOut, fields.with_token(&claims.user, &ids, claims.expires_at));
    revoke_all(revocation, source, context).await
}

/// Ends the logins that a revocation means, and has it obeyed by all nodes.
async fn revoke_all(revocation: Revocation, source: &RequestSource, context: &HttpContext) -> Result<(), HttpError> {
    let cause = AuditFields { by: Some("logout"), ..source.fields("/auth/logout") };
    let HttpContext { broker, config, revocations, audit, metrics, .. } = context;
    let revoked =
        revoke_with_logins(&**broker, revocation, &config.current(), revocations, (audit, cause), metrics).await;
    revoked.map_err(|error| match error {
        RevokeError::Broker(BrokerError::RevocationsFull(_)) => HttpError::new(
            actix_web::http::StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::LimitExceeded,
            "limits.revocations is reached, so the token is not revoked; raise it on all instances",
        ),
        RevokeError::Broker(_) => unavailable(),
        RevokeError::Unconfirmed(_) => {
            HttpError::unavailable("logged out, but some instances have not confirmed it yet")
        }
    })
}

fn unavailable() -> HttpError {
    HttpError::unavailable("logging out is temporarily unavailable; try again soon")
}
