//! `POST /auth/logout`: revokes the token of the request, so that its sockets are closed on all nodes, and deletes the cookie.
//! With `{"everywhere":true}` it revokes all tokens that the user has now.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, COOKIE, HeaderValue, SET_COOKIE},
    web::Data,
};
use serde::Deserialize;

use super::{HttpContext, HttpError, RequestBody, login::set_cookie_value, request_source::RequestSource};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{TokenError, credentials, refusal_log::Refusal},
    broker::{BrokerError, RevokeError, revoke_everywhere},
    protocol::ErrorCode,
    revocation::{IssuerScope, Revocation, RevocationTarget},
};

/// The body, which may be missing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogoutRequest {
    /// Also all other logins of the user.
    #[serde(default)]
    everywhere: bool,
}

/// Handles a logout by a bearer token or by the cookie. A token that has expired or was revoked needs no revocation.
pub(super) async fn logout(
    source: RequestSource,
    request: HttpRequest,
    body: RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let header = |name| request.headers().get_all(name).map(HeaderValue::as_bytes).collect::<Vec<&[u8]>>();
    let (authorization, cookies) = (header(AUTHORIZATION), header(COOKIE));
    let has_bearer = !authorization.is_empty();
    let token = if has_bearer {
        source.origin_check.require_allowed()?;
        Some(credentials::bearer_token(&authorization).map_err(|_| HttpError::invalid_token(false))?)
    } else {
        // The browser sends the cookie for any page: otherwise any page could log its visitor out.
        source.origin_check.require_listed()?;
        credentials::cookie_value(&cookies, &context.config.auth.cookie)?
    };
    let LogoutRequest { everywhere } = parse_logout(&body.0)?;
    let revoked = match token {
        Some(token) => revoke(token, everywhere, has_bearer, &source, &context).await,
        None => Ok(()),
    };
    let mut response = match revoked {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => actix_web::ResponseError::error_response(&error),
    };
    if !has_bearer {
        // Also if the revocation failed: this browser is to forget the token in any case.
        let expired = set_cookie_value(&context.config.auth.cookie, "", Duration::ZERO);
        if let Ok(expired) = HeaderValue::from_str(&expired) {
            response.headers_mut().insert(SET_COOKIE, expired);
        }
    }
    Ok(response)
}

fn parse_logout(body: &[u8]) -> Result<LogoutRequest, HttpError> {
    let body = body.trim_ascii();
    let parsed = match body.first() {
        None => Some(LogoutRequest::default()),
        Some(b'{') => serde_json::from_slice(body).ok(),
        Some(_) => None,
    };
    parsed.ok_or_else(|| HttpError::bad_request("the body must be empty or {\"everywhere\":true}"))
}

/// Revokes a token, with the other tokens of its `sid`, or `everywhere` with all of its user.
async fn revoke(
    token: &str,
    everywhere: bool,
    has_bearer: bool,
    source: &RequestSource,
    context: &HttpContext,
) -> Result<(), HttpError> {
    let (claims, ids) = match context.verifier.verify_with_ids(token) {
        Ok(verified) => verified,
        Err(error) => {
            context.refusals.record_from(Refusal::Token(error), &source.fields("/auth/logout"));
            // What is void already, the cookie of an old login for one, need not be revoked. A token whose key is not there at
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
        let issued_before = context.revocations.issued_until_now();
        let expires_at = context.revocations.default_expiry();
        let target = RevocationTarget::User(claims.user.to_string(), IssuerScope::Any);
        Revocation { target, issued_before, expires_at }
    } else {
        let Some(target) = RevocationTarget::of_token(&ids) else {
            return Err(HttpError::bad_request(
                "the token has no jti and no sid by which it could be revoked; {\"everywhere\":true} revokes all of the user's",
            ));
        };
        context.revocations.of_logout(&claims.user, target, claims.expires_at)
    };
    let fields = AuditFields { by: Some("logout"), ..source.fields("/auth/logout") };
    context.audit.record(AuditEvent::LoggedOut, fields.with_token(&claims.user, &ids, claims.expires_at));
    revoke_everywhere(&*context.broker, vec![revocation], (&context.audit, fields), &context.metrics).await.map_err(
        |error| match error {
            RevokeError::Broker(BrokerError::RevocationsFull(_)) => HttpError::new(
                actix_web::http::StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::LimitExceeded,
                "limits.revocations is reached, so the token is not revoked; raise it on all instances",
            ),
            RevokeError::Broker(_) => HttpError::unavailable("logging out is temporarily unavailable; try again soon"),
            RevokeError::Unconfirmed(_) => {
                HttpError::unavailable("logged out, but some instances have not confirmed it yet")
            }
        },
    )
}
