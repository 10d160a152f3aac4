//! The admin page's login, and its sessions in requests. A session is in a cookie, which browsers send with every request to the hub,
//! whatever page makes it. So a request has a session only if the admin page can have sent it: it has a header that pages of other
//! origins cannot send, and no `Origin` but the page's own.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{self, CACHE_CONTROL, HeaderValue, SET_COOKIE},
    },
    web::{self, Data},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    HttpContext, HttpError, LOGIN_BODY, ListenerRole, RequestBody, forwarded, login::require_json,
    login_attempt::require_credential, request_source::RequestSource, stream::SEC_FETCH_SITE,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{
        AdminSession, AdminSessions, IssuedSession, VerifiedAdmin, credentials, refusal_log::Refusal,
        users::MAX_PASSWORD_BYTES,
    },
    broker::{RevokeError, revoke_everywhere},
    json,
};

/// The header of every request of the page. A page of another origin may not send it without a CORS preflight, which the hub refuses.
pub const PAGE_HEADER: &str = "x-wardcast-admin";
/// The name of the cookie with the session, without its prefix and without the name of the key ([`cookie_name`]).
const COOKIE_NAME: &str = "wardcast_admin";
/// The prefixes of the names of cookies over TLS (RFC 6265bis §4.1.3), at the root and below a path.
const COOKIE_PREFIXES: [&str; 2] = ["__Host-", "__Secure-"];
const LOGIN_PATH: &str = "/admin/login";
const LOGOUT_PATH: &str = "/admin/logout";

/// The body of a login: a user and a password, or the API key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminLogin {
    username: Option<String>,
    password: Option<String>,
    api_key: Option<String>,
}

/// The credential with which an admin logs in.
enum AdminCredential {
    Password { username: String, password: String },
    ApiKey(String),
}

/// Adds the routes of the login.
pub(super) fn routes(service: &mut web::ServiceConfig) {
    let login = LOGIN_BODY.apply_to(web::resource(LOGIN_PATH));
    service
        .service(login.route(web::post().to(log_in)))
        .service(web::resource(LOGOUT_PATH).route(web::post().to(log_out)))
        .service(web::resource("/admin/session").route(web::get().to(get_session)));
}

/// Returns the valid admin session of a request that only the admin page can have sent.
pub fn session_of(request: &HttpRequest) -> Option<AdminSession> {
    sessions_of(request).into_iter().next()
}

/// Returns the valid admin sessions of a request. Every cookie of a name is tried: a hub at a shorter path of the same host, with the
/// same API key, has the same name, and another host of the domain may have set one that is not valid.
fn sessions_of(request: &HttpRequest) -> Vec<AdminSession> {
    let Some(context) = request.app_data::<Data<HttpContext>>() else { return Vec::new() };
    let Some(sessions) = context.admin_sessions.as_ref() else { return Vec::new() };
    if require_admin_page(request, context).is_err() {
        return Vec::new();
    }
    let start = cookie_name("", request, context);
    let headers: Vec<&[u8]> = request.headers().get_all(header::COOKIE).map(HeaderValue::as_bytes).collect();
    let texts = credentials::cookies(&headers).filter_map(|(name, text)| {
        let key_name = name.strip_prefix(start.as_bytes())?;
        Some((std::str::from_utf8(key_name).ok()?, text))
    });
    texts.filter_map(|(key_name, text)| sessions.decode(key_name, text)).collect()
}

/// Returns whether a cookie of this name may have a session: of this hub, or of another one on the same host.
pub(super) fn is_session_cookie(name: &[u8]) -> bool {
    let bare = COOKIE_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix.as_bytes())).unwrap_or(name);
    bare.starts_with(COOKIE_NAME.as_bytes())
}

/// Answers `POST /admin/login`. Failures count and delay as those of `POST /auth/login` do.
async fn log_in(
    source: RequestSource,
    request: HttpRequest,
    body: RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let sessions = context.admin_sessions.clone().ok_or_else(HttpError::internal)?;
    require_admin_page(&request, &context)?;
    require_json(&request, "a login")?;
    let credential = parse_login(&body.0)?;
    // A name that is no user may be a password, typed into the wrong field.
    let by = match &credential {
        AdminCredential::Password { username, .. } => {
            let is_user = sessions.users().is_some_and(|users| users.has(username));
            is_user.then(|| format!("admin:{username}"))
        }
        AdminCredential::ApiKey(_) => Some("admin".to_owned()),
    };
    let failed = |reason| {
        let fields = AuditFields { by: by.as_deref(), reason: Some(reason), ..source.fields(LOGIN_PATH) };
        context.audit.record(AuditEvent::LoginFailed, fields);
        let by = by.as_deref().unwrap_or("admin");
        context.refusals.record(Refusal::Login(reason), format_args!("address={} by={by:?}", source.address));
    };
    let (account, verify) = verification(credential, sessions.clone());
    let account = (account.as_str(), source.address);
    let admin = require_credential(account, &context, verify, "wrong user, password or API key", failed).await?;
    context.metrics.count_login("succeeded");
    let IssuedSession { session, text, key_name } = sessions.begin(admin).ok_or_else(HttpError::internal)?;
    let by = session.admin.cause();
    let fields = AuditFields {
        by: Some(&by),
        sid: Some(&session.id),
        expires_at: Some(session.expires_at),
        ..source.fields(LOGIN_PATH)
    };
    context.audit.record(AuditEvent::LoggedIn, fields);
    let max_age = context.config.current().admin.session_ttl.as_secs();
    let mut response = HttpResponse::Ok();
    response.insert_header((SET_COOKIE, set_cookie(&key_name, &text, max_age, &request, &context)));
    Ok(response.insert_header((CACHE_CONTROL, "no-store")).json(describe(&session)))
}

/// Returns the check of a credential, and the account for which its failures count. `POST /auth/login` counts for other accounts.
fn verification(
    credential: AdminCredential,
    sessions: std::sync::Arc<AdminSessions>,
) -> (String, Box<dyn FnOnce() -> Option<VerifiedAdmin> + Send>) {
    match credential {
        AdminCredential::Password { username, password } => {
            let account = format!("\nadmin\n{username}");
            let is_possible = password.len() <= MAX_PASSWORD_BYTES;
            (account, Box::new(move || is_possible.then(|| sessions.check_password(&username, &password)).flatten()))
        }
        AdminCredential::ApiKey(key) => ("\napi_key".to_owned(), Box::new(move || sessions.check_api_key(&key))),
    }
}

/// Answers `POST /admin/logout`: revokes the sessions of the request on all nodes, and has the browser forget them.
async fn log_out(
    source: RequestSource,
    request: HttpRequest,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    require_admin_page(&request, &context)?;
    let (sessions, of_task) = (sessions_of(&request), context.clone());
    // A task of its own: a browser that disconnects must not stop the revocation half way.
    let ended = actix_rt::spawn(async move {
        let mut revoked = Ok(());
        // None, if it has ended already.
        for session in sessions {
            revoked = end_session(&session, &source, &of_task).await.and(revoked);
        }
        revoked
    });
    // An error means that the task has panicked.
    let revoked = ended.await.unwrap_or_else(|_| Err(HttpError::internal()));
    let mut response = match revoked {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => HttpResponse::from_error(error),
    };
    // Also if the revocation has failed: this browser is to forget the session in any case.
    for key_name in context.admin_sessions.iter().flat_map(|sessions| sessions.key_names()) {
        if let Ok(cookie) = HeaderValue::from_str(&set_cookie(&key_name, "", 0, &request, &context)) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn end_session(session: &AdminSession, source: &RequestSource, context: &HttpContext) -> Result<(), HttpError> {
    let by = session.admin.cause();
    let fields = AuditFields { by: Some(&by), ..source.fields(LOGOUT_PATH) };
    context.audit.record(AuditEvent::LoggedOut, AuditFields { sid: Some(&session.id), ..fields });
    let cause = (&*context.audit, fields);
    let revoked = revoke_everywhere(&*context.broker, vec![session.revocation()], cause, &context.metrics).await;
    revoked.map_err(|error| match error {
        RevokeError::Broker(_) => HttpError::unavailable("logging out is temporarily unavailable; try again soon"),
        RevokeError::Unconfirmed(_) => {
            HttpError::unavailable("logged out, but some instances have not confirmed it yet")
        }
    })
}

/// Answers `GET /admin/session`: the session of the request, or null, and whether users log in with a password.
async fn get_session(request: HttpRequest, context: Data<HttpContext>) -> Result<HttpResponse, HttpError> {
    let sessions = context.admin_sessions.as_ref().ok_or_else(HttpError::internal)?;
    require_admin_page(&request, &context)?;
    let body = json!({"has_users": sessions.users().is_some(), "session": session_of(&request).as_ref().map(describe)});
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(body))
}

/// Describes a session to its page.
fn describe(session: &AdminSession) -> serde_json::Value {
    json!({
        "name": session.admin.name(),
        "expires_at": session.expires_at.unix_seconds(),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// Requires a request that only the admin page can have sent.
fn require_admin_page(request: &HttpRequest, context: &HttpContext) -> Result<(), HttpError> {
    if !request.headers().contains_key(PAGE_HEADER) {
        return Err(HttpError::forbidden("only the admin page may send this: the header X-Wardcast-Admin is missing"));
    }
    let is_other_site = request.headers().get_all(SEC_FETCH_SITE).any(|site| site.as_bytes() != b"same-origin");
    let is_same_origin = context.origin_policy.is_same_origin(request.head(), scheme(request, context));
    // Browsers leave out the `Origin` of a GET to the page's own origin.
    let may_lack_origin = *request.method() == Method::GET;
    if is_other_site || !is_same_origin.unwrap_or(may_lack_origin) {
        return Err(HttpError::forbidden(
            "only the admin page of this hub may send this; behind a load balancer the hub must know its address: \
             server.public_url, or the Host of the request and server.trusted_proxies",
        ));
    }
    Ok(())
}

/// Returns the scheme by which the browser reaches the listener.
fn scheme(request: &HttpRequest, context: &HttpContext) -> &'static str {
    let role = request.app_data::<ListenerRole>().copied().unwrap_or(ListenerRole::Sole);
    forwarded::client_scheme_at(role, request.head(), &context.config.current().server)
}

/// Returns the name of the cookie with a session that a key has signed. Cookies are shared by all ports of a host; the name of the
/// key keeps those of several hubs apart. No other host of the domain can set a cookie with the prefix `__Host-`, which requires TLS and the
/// path `/` (RFC 6265bis §4.1.3.2). Below `server.path_prefix` the cookie is for that path, so that nothing else on the host gets it.
fn cookie_name(key_name: &str, request: &HttpRequest, context: &HttpContext) -> String {
    let [at_root, below_path] = COOKIE_PREFIXES;
    let prefix = match scheme(request, context) {
        "https" if context.config.current().server.path_prefix.is_empty() => at_root,
        "https" => below_path,
        _ => "",
    };
    format!("{prefix}{COOKIE_NAME}_{key_name}")
}

/// Formats a `Set-Cookie` value: not readable by scripts, not sent for pages of other sites, and over TLS only where there is TLS. The page
/// also sends it to `/api` and `/v1`, so its path is not that of the page.
fn set_cookie(key_name: &str, text: &str, max_age: u64, request: &HttpRequest, context: &HttpContext) -> String {
    let secure = if scheme(request, context) == "https" { " Secure;" } else { "" };
    let config = context.config.current();
    let path = if config.server.path_prefix.is_empty() { "/" } else { &config.server.path_prefix };
    let name = cookie_name(key_name, request, context);
    format!("{name}={text}; HttpOnly;{secure} SameSite=Strict; Path={path}; Max-Age={max_age}")
}

/// Parses the body of a login.
fn parse_login(body: &[u8]) -> Result<AdminCredential, HttpError> {
    match json::parse_object(body) {
        Some(AdminLogin { username: Some(username), password: Some(password), api_key: None }) => {
            Ok(AdminCredential::Password { username, password })
        }
        Some(AdminLogin { username: None, password: None, api_key: Some(key) }) => Ok(AdminCredential::ApiKey(key)),
        _ => Err(HttpError::bad_request("the body must be {\"username\":…,\"password\":…} or {\"api_key\":…}")),
    }
}
