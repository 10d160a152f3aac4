//! `POST /auth/refresh`: exchanges a refresh token for a new access token and the next refresh token (RFC 6749 §6, rotated as RFC
//! 9700 §4.14.2 says). Each works once. A spent one ends its login, because two parties have it.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{COOKIE, HeaderValue},
    },
    web::Data,
};
use serde::Deserialize;

use super::{
    HttpContext, HttpError, RequestBody,
    ended_logins::{remove_ended_logins, revoke_ended_logins},
    login::{access_token_refused, login_store_unavailable, require_json},
    login_tokens::{IssuedTokens, TokenPlace, login_limits, refresh_cookie, sign_access_token, token_response},
    request_source::RequestSource,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{
        Claims, LoginKeys, RefreshToken, TokenError,
        credentials::cookie_value,
        refusal_log::{RefreshRefusal, Refusal},
        users::Users,
    },
    broker::{
        BrokerError, LoginRefresh, LoginSelection, RevokeError, login_tokens_end, revocation_of_login,
        revoke_everywhere,
    },
    clock::WallTime,
    json,
    protocol::ErrorCode,
    revocation::{LoginId, TokenIdentity},
};

const PATH: &str = "/auth/refresh";

/// The body, which is missing if the token is in the cookie.
#[derive(Default, Deserialize)]
struct RefreshRequest {
    refresh_token: Option<String>,
}

/// Handles a refresh. The user's claims are those that the users file has now.
pub(super) async fn refresh(
    source: RequestSource,
    request: HttpRequest,
    body: RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let asked_at = context.clock.now();
    let users =
        context.login_users.as_ref().filter(|_| context.config.current().login.gives_refresh_tokens()).ok_or_else(
            || {
                let message = "refresh tokens are disabled: login.users_file is not set, or login.refresh_ttl is 0";
                HttpError::new(StatusCode::NOT_FOUND, ErrorCode::NotAvailable, message)
            },
        )?;
    let (token, place) = find_refresh_token(&source, &request, &body.0, &context)?;
    // A task of its own: what a refresh ends is revoked and recorded, even if the client disconnects.
    let refreshed = actix_rt::spawn(answer_refresh(token, place, asked_at, users.clone(), source, context.clone()));
    refreshed.await.unwrap_or_else(|_| Err(HttpError::internal()))
}

/// Carries out a refresh, records it, and returns its response.
async fn answer_refresh(
    token: String,
    place: TokenPlace,
    asked_at: WallTime,
    users: Arc<Users>,
    source: RequestSource,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let keys = context.login_keys.load_full();
    match refresh_login(&token, asked_at, &users, &source, (&keys, &context)).await {
        Ok(tokens) => {
            context.metrics.count_login_refresh("refreshed");
            record(AuditEvent::RefreshTokenUsed, &tokens.login, &source, &context);
            Ok(token_response(place, &tokens, (&keys, &context)))
        }
        Err(RefreshFailure::Refused(refusal)) => {
            context.metrics.count_login_refresh(refusal.outcome());
            let (login, fields) = (keys.refresh_tokens.decode(&token), source.fields(PATH));
            let fields = AuditFields { sid: login.as_ref().map(|token| token.login.as_str()), ..fields };
            if refusal.is_reuse() {
                context.audit.record(AuditEvent::RefreshTokenReused, fields);
                context.refusals.record(Refusal::RefreshToken(refusal), format_args!("{fields}"));
            } else {
                context.refusals.record_from(Refusal::RefreshToken(refusal), &fields);
            }
            Err(HttpError::unauthorized("invalid refresh token; log in again"))
        }
        Err(RefreshFailure::Failed(error)) => {
            context.metrics.count_login_refresh("unavailable");
            Err(error)
        }
    }
}

fn record(event: AuditEvent, login: &LoginId, source: &RequestSource, context: &HttpContext) {
    context.audit.record(event, AuditFields { sid: Some(login.as_str()), ..source.fields(PATH) });
}

/// Finds the refresh token of a request, and where its response puts the next one.
fn find_refresh_token(
    source: &RequestSource,
    request: &HttpRequest,
    body: &[u8],
    context: &HttpContext,
) -> Result<(String, TokenPlace), HttpError> {
    let body = body.trim_ascii();
    if !body.is_empty() {
        source.origin_check.require_allowed()?;
        require_json(request, "a refresh")?;
        let RefreshRequest { refresh_token } = json::parse_object(body).ok_or_else(invalid_body)?;
        if let Some(token) = refresh_token {
            return Ok((token, TokenPlace::Body));
        }
    }
    // The browser sends the cookie for any page.
    source.origin_check.require_listed()?;
    let cookies: Vec<&[u8]> = request.headers().get_all(COOKIE).map(HeaderValue::as_bytes).collect();
    let token = cookie_value(&cookies, &refresh_cookie(&context.config.current().auth.cookie))?;
    token.map(|token| (token.to_owned(), TokenPlace::Cookies)).ok_or_else(invalid_body)
}

fn invalid_body() -> HttpError {
    HttpError::bad_request("the body must be {\"refresh_token\":…}, or empty if the refresh token is in the cookie")
}

/// Why no tokens were given.
enum RefreshFailure {
    Refused(RefreshRefusal),
    Failed(HttpError),
}

/// Why the new access token would not be accepted.
impl From<TokenError> for RefreshFailure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Revoked => return Self::Refused(RefreshRefusal::Ended),
            // The users file was read again meanwhile.
            TokenError::UnknownLoginUser | TokenError::LoginUserPending => {
                return Self::Refused(RefreshRefusal::UserChanged);
            }
            _ => {}
        }
        // A fault of the hub or of its configuration, or temporary: another login would not help, and the refresh may be repeated.
        Self::Failed(access_token_refused(&error))
    }
}

impl From<BrokerError> for RefreshFailure {
    fn from(error: BrokerError) -> Self {
        Self::Failed(login_store_unavailable(&error))
    }
}

/// Returns what the audit log says about a revocation because a refresh token was used twice.
fn cause_of_reuse(source: &RequestSource) -> AuditFields<'_> {
    AuditFields { by: Some("refresh_token_reuse"), ..source.request_fields() }
}

/// Revokes the tokens of a login whose refresh token was used twice, and then removes it from the broker: until it is removed, each
/// further refresh comes here again.
async fn end_reused_login(login: LoginId, source: &RequestSource, context: &Data<HttpContext>) -> RefreshRefusal {
    if !context.revocations.may_revoke_reused_login(login.split().0) {
        log::warn!(
            "not revoking the tokens of another login whose refresh token was used twice sid={:?}",
            login.as_str()
        );
        remove_ended_logins([login], context).await;
        return RefreshRefusal::SpentUnrevoked;
    }
    let config = context.config.current();
    let end = login_tokens_end(context.clock.now(), &config);
    let revocation = revocation_of_login(&login, config.login_issuer(), end);
    let audit = (&*context.audit, cause_of_reuse(source));
    let revoked = revoke_everywhere(&*context.broker, vec![revocation.clone()], audit, &context.metrics).await;
    if let Err(RevokeError::Broker(_)) = revoked {
        let (source, context) = (source.clone(), context.clone());
        actix_rt::spawn(async move {
            revoke_ended_logins([login], vec![revocation], &cause_of_reuse(&source), &context).await;
        });
    } else {
        remove_ended_logins([login], context).await;
    }
    RefreshRefusal::Spent
}

/// Exchanges a refresh token for new tokens.
async fn refresh_login(
    token: &str,
    asked_at: WallTime,
    users: &Users,
    source: &RequestSource,
    (keys, context): (&LoginKeys, &Data<HttpContext>),
) -> Result<IssuedTokens, RefreshFailure> {
    let refuse = RefreshFailure::Refused;
    let RefreshToken { login, generation } =
        keys.refresh_tokens.decode(token).ok_or(refuse(RefreshRefusal::Invalid))?;
    if !context.revocations.is_loaded() {
        // Before the broker counts the refresh: its access token could not be verified, and a repetition after `login.refresh_grace` would
        // end the login.
        return Err(RefreshFailure::Failed(TokenError::RevocationsPending.into()));
    }
    let limits = login_limits(&context.config.current());
    let refreshed_at = context.clock.now();
    match context.broker.refresh_login(login.clone(), generation, refreshed_at, limits).await? {
        LoginRefresh::Refreshed { user, password, started_at, ends_at, generation } => {
            // The login is not ended here: this instance may be the last one that has not read the users file again.
            let user = users.find(&user).filter(|user| user.password_name == password);
            let user = user.ok_or(refuse(RefreshRefusal::UserChanged))?;
            let access_token =
                sign_access_token(&user, &login, asked_at, (keys, context)).map_err(RefreshFailure::Failed)?;
            let verified =
                context.verifier.verify(&access_token).and_then(|Claims { user, token, expires_at, .. }| {
                    // A login that was under way while the tokens of its user were revoked.
                    let at_start = TokenIdentity { issued_at: started_at, ..token };
                    if context.revocations.is_revoked(&user, &at_start) {
                        Err(TokenError::Revoked)
                    } else {
                        Ok(expires_at)
                    }
                });
            if verified == Err(TokenError::Revoked) {
                // Otherwise its next refresh would be accepted when the revocation has expired.
                let one = LoginSelection::One(login.clone());
                context.broker.end_logins(login.split().0.to_owned(), one).await?;
            }
            let expires_at = verified?;
            let refresh_ends_at = ends_at.min(refreshed_at.saturating_add(limits.idle));
            Ok(IssuedTokens { access_token, expires_at, login, generation, refresh_ends_at })
        }
        LoginRefresh::Spent => Err(refuse(end_reused_login(login, source, context).await)),
        LoginRefresh::Unknown => Err(refuse(RefreshRefusal::Ended)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_revoked_access_token_means_that_the_login_has_ended() {
        assert!(matches!(TokenError::Revoked.into(), RefreshFailure::Refused(RefreshRefusal::Ended)));
        for error in [TokenError::KeyPending, TokenError::IssuedInFuture, TokenError::WrongIssuer] {
            let RefreshFailure::Failed(failure) = error.into() else {
                panic!("{error}: the client has to log in again")
            };
            assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE, "{error}");
        }
    }
}
