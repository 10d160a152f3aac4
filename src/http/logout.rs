//! `POST /auth/logout`: revokes the token of the request, so that its sockets are closed on all nodes, and deletes the cookie.
//! With `{"everywhere":true}` it revokes all tokens that the user has now. For that any genuine token of the user is enough, also one that
//! was revoked or whose login has ended: the client of a logout that has stopped half way has no other.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{AUTHORIZATION, COOKIE, HeaderValue},
    },
    web::Data,
};
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, oneshot},
    time::sleep,
};

use super::{
    HttpContext, HttpError, RequestBody,
    login_tokens::{delete_cookies, refresh_cookie},
    request_source::RequestSource,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{Claims, LogoutClaims, RefreshToken, TokenError, credentials, refusal_log::Refusal},
    broker::{
        BrokerError, LoginRecord, LoginSelection, RevokeError, has_logins_of, login_tokens_end, revocation_of_login,
        revoke_with_logins,
    },
    config::Config,
    json,
    protocol::ErrorCode,
    revocation::{IssueTimes, IssuerScope, LoginId, Revocation, RevocationTarget},
};

const PATH: &str = "/auth/logout";

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

/// Handles a logout by a bearer token, by the cookies, or by a refresh token. To log out everywhere, at least one token has to name the
/// user.
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
    // Both are of one login, unless another page has set one of the cookies.
    let of_refresh_token = match refresh_token {
        Some(token) => find_login(token, everywhere, &context).await,
        None => Ok(None),
    };
    let login = of_refresh_token.as_ref().ok().and_then(Option::as_ref).and_then(|logout| logout.subject.login());
    let of_access_token = match token {
        Some(token) => verify_token(token, everywhere, login, has_bearer, &source, &context).await,
        None => Ok(None),
    };
    let (mut logouts, mut refused) = (Vec::new(), Ok(()));
    for found in [of_refresh_token, of_access_token] {
        match found {
            Ok(logout) => logouts.extend(logout),
            Err(error) => refused = refused.and(Err(error)),
        }
    }
    if let [login, token] = &logouts[..]
        && token.includes(login, &config)
    {
        logouts.remove(0);
    }
    let result = match logouts.is_empty() {
        true if everywhere && refused.is_ok() => {
            Err(HttpError::unauthorized("no token of the request names its user; log in to log out everywhere"))
        }
        true => refused,
        false => carry_out(logouts, source, context.clone()).await.and(refused),
    };
    // For another attempt the browser needs the cookies. Otherwise it is to forget the tokens in any case.
    let may_be_repeated = result.as_ref().is_err_and(|error| error.retry_after().is_some());
    let mut response = result.map_or_else(|error| error.error_response(), |()| HttpResponse::NoContent().finish());
    if uses_cookies && !may_be_repeated {
        delete_cookies(&mut response, &context.config.current());
    }
    Ok(response)
}

/// What one token of the request logs out.
struct Logout {
    subject: LogoutSubject,
    /// What is revoked; `None`: the login of a refresh token, which is looked for first.
    revocation: Option<Revocation>,
}

/// Who is logged out, for the audit log.
enum LogoutSubject {
    /// The login of a refresh token, with its user, if that is known.
    Login(LoginId, Option<String>),
    /// The user of an access token.
    Token(Box<LogoutClaims>),
}

impl Logout {
    /// Returns whether this logout of an access token does what that of a refresh token would do.
    fn includes(&self, of_login: &Self, config: &Config) -> bool {
        let LogoutSubject::Token(token) = &self.subject else { return false };
        match (&of_login.subject, &of_login.revocation) {
            (_, Some(revocation)) => self.revocation.as_ref().is_some_and(|own| own.target == revocation.target),
            (LogoutSubject::Login(id, _), None) => {
                let target = revocation_of_login(id, config.login_issuer(), token.claims.expires_at).target;
                RevocationTarget::of_token(&token.ids) == Some(target)
            }
            (LogoutSubject::Token(_), None) => false,
        }
    }
}

impl LogoutSubject {
    /// Returns the login, if a refresh token has named it.
    fn login(&self) -> Option<&LoginId> {
        match self {
            Self::Login(id, _) => Some(id),
            Self::Token(_) => None,
        }
    }

    fn fields<'a>(&'a self, source: &'a RequestSource) -> AuditFields<'a> {
        let fields = source.fields(PATH);
        match self {
            Self::Login(id, user) => AuditFields { sid: Some(id.as_str()), user: user.as_deref(), ..fields },
            Self::Token(token) => fields.with_token(&token.claims.user, &token.ids, token.claims.expires_at),
        }
    }
}

/// Returns the logout of the login of a refresh token, or `everywhere` of its user; `None` if the token is not genuine, or, everywhere, if
/// the login has ended and its user does not exist any more.
async fn find_login(token: &str, everywhere: bool, context: &Data<HttpContext>) -> Result<Option<Logout>, HttpError> {
    let Some(RefreshToken { login: id, .. }) = context.login_keys.load().refresh_tokens.decode(token) else {
        return Ok(None);
    };
    if !everywhere {
        let user = user_in_file(&id, context).await;
        return Ok(Some(Logout { subject: LogoutSubject::Login(id, user), revocation: None }));
    }
    let user = match stored_login(&id, context).await.map_err(|_| unavailable())? {
        Some(login) => login.user,
        None => {
            let Some(user) = user_in_file(&id, context).await else { return Ok(None) };
            charge_void_logout(&user, context)?;
            user
        }
    };
    let revocation = Some(all_of_user(user.clone(), context));
    Ok(Some(Logout { subject: LogoutSubject::Login(id, Some(user)), revocation }))
}

const VOID_LIMIT: &str = "too many logouts of the user by tokens that are void; log in first";

/// Charges a logout by a token that is void.
fn charge_void_logout(user: &str, context: &HttpContext) -> Result<(), HttpError> {
    let charged = context.revocations.charge_void_logout(user);
    charged.map_err(|wait| HttpError::too_many(VOID_LIMIT, wait))
}

/// Returns the user of a login, which has a hash of the user in its name.
async fn user_in_file(id: &LoginId, context: &Data<HttpContext>) -> Option<String> {
    let (users, id) = (context.login_users.clone()?, id.clone());
    let user = tokio::task::spawn_blocking(move || users.find_by_tag(id.split().0)).await;
    user.ok().flatten().map(|user| user.name.clone())
}

/// Returns a login if it has not ended.
async fn stored_login(id: &LoginId, context: &HttpContext) -> Result<Option<LoginRecord>, BrokerError> {
    let found = context.broker.find_logins(id.split().0.to_owned(), LoginSelection::One(id.clone())).await;
    Ok(found?.pop())
}

fn all_of_user(user: String, context: &HttpContext) -> Revocation {
    let target = RevocationTarget::User(user, IssuerScope::Any);
    let issued_before = context.revocations.issued_until_now();
    Revocation { target, issued_before, expires_at: context.revocations.default_expiry() }
}

fn parse_logout(body: &[u8]) -> Result<LogoutRequest, HttpError> {
    let body = body.trim_ascii();
    let parsed = if body.is_empty() { Some(LogoutRequest::default()) } else { json::parse_object(body) };
    parsed.ok_or_else(|| {
        HttpError::bad_request("the body must be empty, or have \"everywhere\":true or \"refresh_token\":…")
    })
}

/// Charges a logout by an access token that is void to its user, or, without one, to the address from which it comes.
fn charge_void_token(claims: &Claims, source: &RequestSource, context: &HttpContext) -> Result<(), HttpError> {
    if claims.is_anonymous() {
        return charge_anonymous_logout(source, context);
    }
    charge_void_logout(&claims.user, context)
}

fn charge_anonymous_logout(source: &RequestSource, context: &HttpContext) -> Result<(), HttpError> {
    let charged = context.revocations.charge_anonymous_logout(&source.address);
    charged.map_err(|wait| HttpError::too_many("too many logouts of anonymous clients of this address", wait))
}

/// Returns the logout of an access token, with the other tokens of its `sid`, or `everywhere` of its user; `None` if there is nothing to end,
/// or the logout of `login`, which a refresh token has named, ends it. An expired token ends the session that it names, because the server API
/// may have extended the session. It does not log its user out everywhere.
async fn verify_token(
    token: &str,
    everywhere: bool,
    login: Option<&LoginId>,
    has_bearer: bool,
    source: &RequestSource,
    context: &HttpContext,
) -> Result<Option<Logout>, HttpError> {
    let verified = context.verifications.verify(source.address, || context.verifier.verify_for_logout(token));
    let token = match verified.await?.and_then(|token| match token.is_expired && everywhere {
        true => Err(TokenError::Expired),
        false => Ok(token),
    }) {
        Ok(token) => token,
        Err(error) => {
            context.refusals.record_from(Refusal::Token(error), &source.fields(PATH));
            // A token that is void already, such as the cookie of an old login, need not be revoked. A token whose key is not there at
            // the moment may be valid again.
            let is_void = matches!(error, TokenError::Expired | TokenError::Revoked);
            let is_void = is_void || (!has_bearer && !error.is_temporary());
            return if is_void { Ok(None) } else { Err(error.into()) };
        }
    };
    let LogoutClaims { claims, ids, is_revoked, is_expired } = &token;
    let revocation = if everywhere {
        if claims.is_anonymous() {
            return Err(HttpError::bad_request("the token has no user"));
        }
        if *is_revoked {
            charge_void_logout(&claims.user, context)?;
        }
        Some(all_of_user(claims.user.to_string(), context))
    } else if *is_revoked {
        revocation_to_repeat(&token, source, context).await?
    } else {
        match RevocationTarget::of_token(ids) {
            _ if *is_expired && login.is_some_and(|login| ids.sid.as_deref() == Some(login.as_str())) => None,
            // Not the limit of the user: above it, an expired token would log the user out everywhere.
            Some(target) if *is_expired => {
                charge_void_token(claims, source, context)?;
                Some(Revocation::of_all(target, context.revocations.default_expiry()))
            }
            Some(target) => Some(revocation_of_token(target, claims, source, context)?),
            None if *is_expired => None,
            None => {
                return Err(HttpError::bad_request(
                    "the token has no jti and no sid by which it could be revoked; {\"everywhere\":true} revokes all of the user's",
                ));
            }
        }
    };
    Ok(revocation.map(|revocation| {
        let subject = LogoutSubject::Token(Box::new(token));
        Logout { subject, revocation: Some(revocation) }
    }))
}

fn revocation_of_token(
    target: RevocationTarget,
    claims: &Claims,
    source: &RequestSource,
    context: &HttpContext,
) -> Result<Revocation, HttpError> {
    if claims.is_anonymous() {
        charge_anonymous_logout(source, context)?;
    }
    let (end, now) = (claims.expires_at, context.clock.now());
    Ok(context.revocations.of_logout(&claims.user, target, end, now..=now, claims.token.issue_times()))
}

/// Returns what a logout by a token that is revoked already has to revoke: some instances may not have confirmed it, or it could not be stored.
/// The same revocation again counts as no further logout of the user, and means no newer tokens.
async fn revocation_to_repeat(
    LogoutClaims { claims, ids, .. }: &LogoutClaims,
    source: &RequestSource,
    context: &HttpContext,
) -> Result<Option<Revocation>, HttpError> {
    let target = RevocationTarget::of_token(ids);
    let mut entry = target.as_ref().and_then(|own| context.revocations.entry(&claims.user, &claims.token, own));
    if let (None, Some(target)) = (&entry, target) {
        // Its login goes on if what has revoked it could not end the login.
        let has_logins = has_logins_of(&*context.broker, &target, &context.config.current()).await;
        if has_logins.map_err(|_| unavailable())? {
            return revocation_of_token(target, claims, source, context).map(Some);
        }
    }
    if entry.is_none() {
        // Such as that of all tokens of the user, which takes the place of a further logout.
        entry = context.revocations.longest_entry(&claims.user, &claims.token);
    }
    if entry.is_some() {
        charge_void_token(claims, source, context)?;
    }
    Ok(entry)
}

/// Time until a logout that has failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of times that it is tried again.
const MAX_RETRIES: u32 = 10;
/// How many requests may have logouts that are tried again. Those of further ones are tried once.
static RETRYING: Semaphore = Semaphore::const_new(256);

/// Carries out logouts in a task of its own, so that a client that goes away stops none of them half way. The response tells how the
/// first attempt has ended. Behind it, what has failed is tried again, because the client may have gone away.
async fn carry_out(logouts: Vec<Logout>, source: RequestSource, context: Data<HttpContext>) -> Result<(), HttpError> {
    let (answer, answered) = oneshot::channel();
    actix_rt::spawn(async move {
        let (result, mut failed) = attempt(logouts, &source, &context).await;
        // An error means that the client has gone away.
        _ = answer.send(result);
        if failed.is_empty() {
            return;
        }
        let Ok(_permit) = RETRYING.try_acquire() else { return };
        let mut retries = 0;
        while !failed.is_empty() && retries < MAX_RETRIES {
            sleep(RETRY_INTERVAL).await;
            failed = attempt(failed, &source, &context).await.1;
            retries += 1;
        }
    });
    let result = answered.await.map_err(|_| HttpError::internal())?;
    result.map_err(|failure| match failure {
        LogoutFailure::Limited(wait) => HttpError::too_many(VOID_LIMIT, wait),
        LogoutFailure::Revoke(RevokeError::Broker(BrokerError::RevocationsFull(_))) => HttpError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::LimitExceeded,
            "limits.revocations is reached, so the token is not revoked; raise it on all instances",
        ),
        LogoutFailure::Revoke(RevokeError::Broker(_)) => unavailable(),
        LogoutFailure::Revoke(RevokeError::Unconfirmed(_)) => {
            HttpError::unavailable("logged out, but some instances have not confirmed it yet")
        }
    })
}

/// Why a logout is not done.
enum LogoutFailure {
    /// The user has logged out by void tokens too often, and has to wait so long.
    Limited(Duration),
    Revoke(RevokeError),
}

impl From<RevokeError> for LogoutFailure {
    fn from(error: RevokeError) -> Self {
        Self::Revoke(error)
    }
}

impl From<BrokerError> for LogoutFailure {
    fn from(error: BrokerError) -> Self {
        Self::Revoke(error.into())
    }
}

/// Carries out logouts once. Returns the first error, and the logouts that may succeed soon.
async fn attempt(
    logouts: Vec<Logout>,
    source: &RequestSource,
    context: &HttpContext,
) -> (Result<(), LogoutFailure>, Vec<Logout>) {
    let (mut result, mut failed) = (Ok(()), Vec::new());
    for mut logout in logouts {
        let revoked = revoke(&mut logout, source, context).await;
        match &revoked {
            // There will hardly be room by then, and too many of a user remain too many.
            Err(
                LogoutFailure::Limited(_) | LogoutFailure::Revoke(RevokeError::Broker(BrokerError::RevocationsFull(_))),
            ) => {}
            Err(LogoutFailure::Revoke(RevokeError::Broker(_))) => failed.push(logout),
            Ok(()) | Err(LogoutFailure::Revoke(RevokeError::Unconfirmed(_))) => {
                context.audit.record(AuditEvent::LoggedOut, logout.subject.fields(source));
            }
        }
        result = result.and(revoked);
    }
    (result, failed)
}

/// Ends the logins of a logout, and has its revocation obeyed by all nodes.
async fn revoke(logout: &mut Logout, source: &RequestSource, context: &HttpContext) -> Result<(), LogoutFailure> {
    if let Logout { subject: LogoutSubject::Login(id, user), revocation: revocation @ None } = logout {
        let config = context.config.current();
        let end = login_tokens_end(context.clock.now(), &config);
        let of_login = revocation_of_login(id, config.login_issuer(), end);
        // One that is not found may have been ended by a logout that could not revoke its tokens.
        *revocation = Some(match stored_login(id, context).await? {
            Some(login) => {
                let (issued, times) = (login.latest_issue(&config), IssueTimes::Known);
                let limited = context.revocations.of_logout(&login.user, of_login.target, end, issued, times);
                *user = Some(login.user);
                limited
            }
            None => {
                let user = user.as_deref().unwrap_or(id.split().0);
                context.revocations.charge_void_logout(user).map_err(LogoutFailure::Limited)?;
                of_login
            }
        });
    }
    // Another attempt has the same one: a later time would mean newer tokens, and count as another logout of the user.
    let Some(revocation) = logout.revocation.clone() else { return Ok(()) };
    let cause = AuditFields { by: Some("logout"), ..source.fields(PATH) };
    let HttpContext { broker, config, revocations, audit, metrics, .. } = context;
    revoke_with_logins(&**broker, revocation, &config.current(), revocations, (audit, cause), metrics).await?;
    Ok(())
}

fn unavailable() -> HttpError {
    HttpError::unavailable("logging out is temporarily unavailable; try again soon")
}
