//! `POST /auth/login`: exchanges a user name and a password for the tokens of a login. The response has them in its body
//! or, if the request asks for it and `login.cookie` allows it, in cookies instead.
//! The login is enabled when `login.users_file` is set, or in development `login.demo_password`.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpMessage, HttpRequest, HttpResponse, http::StatusCode, rt::time::sleep, web::Data};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{
    HttpContext, HttpError, RequestBody,
    ended_logins::{revoke_replaced_logins, undo_start},
    login_attempt::require_credential,
    login_tokens::{IssuedTokens, TokenPlace, login_limits, sign_access_token, token_response},
    request_source::RequestSource,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{
        LoginKeys, TokenError,
        refusal_log::Refusal,
        users::{MAX_PASSWORD_BYTES, User, Users},
    },
    broker::{BrokerError, Login, LoginSelection},
    clock::{Clock, WallTime},
    json,
    protocol::ErrorCode,
    revocation::{LoginId, TokenIdentity, TokenIds},
};

const PATH: &str = "/auth/login";
const WRONG_CREDENTIAL: &str = "wrong user or password";

#[derive(Deserialize)]
pub(super) struct LoginRequest {
    username: String,
    password: String,
    /// Asks for the tokens in cookies and not in the body, so that no script can read them.
    #[serde(default)]
    cookie: bool,
}

/// Handles a login. An unknown user and a wrong password have the same status, body and duration, and the same delay of
/// the next attempt.
pub(super) async fn login(
    source: RequestSource,
    request: HttpRequest,
    body: RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let asked_at = context.clock.now();
    let users = context.login_users.clone().ok_or_else(|| {
        HttpError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotAvailable,
            "the login is disabled: login.users_file is not set",
        )
    })?;
    source.origin_check.require_allowed()?;
    require_json(&request, "a login")?;
    let LoginRequest { username, password, cookie } = parse_login(&body.0)?;
    let place = if cookie { TokenPlace::Cookies } else { TokenPlace::Body };
    if place == TokenPlace::Cookies {
        require_cookies(&source, &context)?;
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(HttpError::unauthorized(WRONG_CREDENTIAL));
    }
    if !context.revocations.is_loaded() {
        // Before a login is stored, which may replace an older one: its access token could not be verified.
        return Err(TokenError::RevocationsPending.into());
    }
    let revoked_until = revoked_until(&users.name_of(&username), asked_at, &context);
    let (list, name) = (users.clone(), username.clone());
    let verify = move || list.verify(&name, &password);
    let failed = |reason| {
        // A name that is no user may be a password, typed into the wrong field.
        let user = Some(&*username).filter(|username| users.has(username));
        let fields = AuditFields { user, reason: Some(reason), ..source.fields(PATH) };
        context.audit.record(AuditEvent::LoginFailed, fields);
        context.refusals.record(
            Refusal::Login(reason),
            format_args!("address={} user={:?}", source.address, user.unwrap_or_default()),
        );
    };
    let account = (username.as_str(), source.address);
    let user = require_credential(account, &context, verify, WRONG_CREDENTIAL, failed).await?;
    let requested = RequestedLogin { asked_at, revoked_until };
    let started = start_login_for_client(user, requested, users.clone(), (&source, &context)).await;
    let outcome = match &started {
        Ok(_) => "succeeded",
        Err(StartFailure::PasswordChanged) => "failed",
        Err(StartFailure::Unavailable(_)) => "unavailable",
    };
    context.metrics.count_login(outcome);
    let started = started.map(|(tokens, keys)| token_response(place, &tokens, (&keys, &context)));
    started.map_err(|failure| match failure {
        StartFailure::PasswordChanged => {
            failed("right password, but meanwhile the user was removed or the password was changed");
            HttpError::unauthorized(WRONG_CREDENTIAL)
        }
        StartFailure::Unavailable(error) => error,
    })
}

/// Checks that a request may have its tokens in cookies.
fn require_cookies(source: &RequestSource, context: &HttpContext) -> Result<(), HttpError> {
    if !context.config.current().login.can_set_cookie(&context.config.current().auth.doors) {
        let message =
            "cookies are disabled (login.cookie, and \"cookie\" in auth.doors); send the request without \"cookie\"";
        return Err(HttpError::bad_request(message));
    }
    // Otherwise any page could log its visitor's browser in as a user of the page's choice.
    source.origin_check.require_listed()
}

/// Why a login whose password is right gets no tokens.
enum StartFailure {
    /// While the password was checked, the user was removed or the password was changed.
    PasswordChanged,
    /// The login may succeed later.
    Unavailable(HttpError),
}

impl From<HttpError> for StartFailure {
    fn from(error: HttpError) -> Self {
        Self::Unavailable(error)
    }
}

/// Maximum time for which a login waits because the user's tokens are revoked up to a time in the future: the rest of the second, and
/// the time by which the clock of the revoking instance is ahead.
const MAX_REVOCATION_WAIT: Duration = Duration::from_secs(2);

/// Logs why the broker did not store, find or change a login, and returns the error for the client.
pub(super) fn login_store_unavailable(error: &BrokerError) -> HttpError {
    log::warn!("login store unavailable error={:?}", error.to_string());
    logins_unavailable()
}

/// Logs why the access token of a login is not accepted, which is a fault of the hub or of its configuration, and returns the error for
/// the client.
pub(super) fn access_token_refused(error: &TokenError) -> HttpError {
    log::error!("access token of a login would be refused error={:?}", error.to_string());
    logins_unavailable()
}

fn logins_unavailable() -> HttpError {
    HttpError::unavailable("logins are temporarily unavailable; try again soon")
}

fn tokens_being_revoked() -> HttpError {
    HttpError::unavailable("the tokens of the user are being revoked; try again soon")
}

/// Returns the time up to which the tokens of the user's logins are revoked, if a token that is issued at `at` is among them.
fn revoked_until(user: &str, at: WallTime, context: &HttpContext) -> Option<WallTime> {
    let issuer = Some(context.config.current().login_issuer().to_owned());
    // Each token of a login has a `sid`. That of this one will be new.
    let sid = LoginId::random(user).map(|id| id.as_str().to_owned());
    let ids = TokenIds { issuer, jti: None, sid };
    context.revocations.revoked_until(user, &TokenIdentity::new(&ids, Some(at)))
}

/// Waits until a token that is issued now is not among the revoked ones. Returns the time at which the login starts: never before its
/// request, and at the begin of a second, because `iat` has whole seconds: a token of the second in which the user's tokens were revoked
/// is revoked with them.
async fn wait_for_revocation(
    revoked_until: WallTime,
    asked_at: WallTime,
    clock: &Clock,
) -> Result<WallTime, HttpError> {
    let second_ends = revoked_until.saturating_add(Duration::from_millis(999)).unix_seconds();
    let started_at = WallTime::from_unix_seconds(second_ends);
    if started_at.saturating_duration_since(asked_at) > MAX_REVOCATION_WAIT {
        return Err(tokens_being_revoked());
    }
    sleep(started_at.saturating_duration_since(clock.now())).await;
    Ok(started_at)
}

/// What is known of a login before its password is checked.
struct RequestedLogin {
    /// When the request came. Its tokens are no newer, however long it takes: a revocation meanwhile means them.
    asked_at: WallTime,
    /// The time up to which the user's tokens had been revoked before the request.
    revoked_until: Option<WallTime>,
}

/// Requires the media type that a form of another page cannot send without asking first. `what` is the request: "a login".
///
/// # Errors
/// 415.
pub(super) fn require_json(request: &HttpRequest, what: &str) -> Result<(), HttpError> {
    if request.content_type() == "application/json" {
        return Ok(());
    }
    let message = format!("the Content-Type of {what} must be application/json");
    Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, message))
}

/// The tokens of a new login, and the keys with which they are made.
type StartedLogin = (IssuedTokens, Arc<LoginKeys>);

/// Starts a login in a task of its own, so that the logins that it replaces are revoked even if the client disconnects. The new login then
/// ends, too: no client has received its tokens.
async fn start_login_for_client(
    user: Arc<User>,
    requested: RequestedLogin,
    users: Arc<Users>,
    (source, context): (&RequestSource, &Data<HttpContext>),
) -> Result<StartedLogin, StartFailure> {
    let (answer, answered) = oneshot::channel();
    let (source, context) = (source.clone(), context.clone());
    actix_rt::spawn(async move {
        let started = start_login(&user, requested, &users, &source, &context).await;
        if let Err(Ok((tokens, _))) = answer.send(started) {
            undo_start(tokens.login, &source, &context);
        }
    });
    answered.await.unwrap_or_else(|_| Err(HttpError::internal().into()))
}

/// Gives the user the tokens of a new login.
async fn start_login(
    user: &User,
    RequestedLogin { asked_at, revoked_until }: RequestedLogin,
    users: &Users,
    source: &RequestSource,
    context: &Data<HttpContext>,
) -> Result<StartedLogin, StartFailure> {
    let id = LoginId::random(&user.name).ok_or_else(HttpError::internal)?;
    let started_at = match revoked_until {
        Some(revoked_until) => wait_for_revocation(revoked_until, asked_at, &context.clock).await?,
        None => asked_at,
    };
    let keys = context.login_keys.load_full();
    let access_token = sign_access_token(user, &id, started_at, (&keys, context))?;
    let config = context.config.current();
    let config = &config.login;
    let lifetime = if config.gives_refresh_tokens() { config.refresh_ttl } else { config.token_ttl };
    let ends_at = started_at.saturating_add(lifetime);
    let login = Login { user: user.name.clone(), password: user.password_name.clone(), started_at, ends_at };
    let stored_at = context.clock.now();
    let stored = context.broker.start_login(id.clone(), login, login_limits(&context.config.current())).await;
    let replaced = stored.map_err(|error| {
        undo_start(id.clone(), source, context);
        login_store_unavailable(&error)
    })?;
    revoke_replaced_logins(replaced, source, context);
    let verified = match context.verifier.verify(&access_token) {
        // The login was not stored yet when those with the old password were ended.
        _ if !users.has_password(&user.sub, &user.password_name) => Err(StartFailure::PasswordChanged),
        Ok(claims) => Ok(claims.expires_at),
        // The user's tokens were revoked while the login was under way.
        Err(TokenError::Revoked) => Err(tokens_being_revoked().into()),
        // The key of the login was changed while the login was under way, or the configuration is at fault.
        Err(error) => Err(access_token_refused(&error).into()),
    };
    if verified.is_err() {
        // Its refresh token was not sent.
        _ = context.broker.end_logins(id.split().0.to_owned(), LoginSelection::One(id.clone())).await;
    }
    let expires_at = verified?;
    let (user, sid) = (Some(user.name.as_str()), Some(id.as_str()));
    let fields = AuditFields { user, sid, ..source.fields(PATH) };
    context.audit.record(AuditEvent::LoggedIn, fields);
    let refresh_ends_at = ends_at.min(stored_at.saturating_add(config.refresh_idle));
    let tokens = IssuedTokens { access_token, expires_at, login: id, generation: 0, refresh_ends_at };
    Ok((tokens, keys))
}

/// Parses the body of a login.
fn parse_login(body: &[u8]) -> Result<LoginRequest, HttpError> {
    json::parse_object(body).ok_or_else(|| {
        HttpError::bad_request("the body must be {\"username\":…,\"password\":…}, with \"cookie\":true to get a cookie")
    })
}
