//! Puts the tokens of a login into a response: into its body (RFC 6749 §5.1), or into cookies that no script can read.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::header::{HeaderValue, SET_COOKIE},
};
use serde::Serialize;

use super::{HttpContext, HttpError};
use crate::{
    auth::{LoginKeys, users::User},
    broker::LoginLimits,
    clock::WallTime,
    config::Config,
    revocation::LoginId,
};

/// The body of a successful response.
#[derive(Serialize)]
struct TokenResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<&'a str>,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// Where the tokens of a response go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenPlace {
    Body,
    Cookies,
}

/// Signs an access token of a login, for a request that has come at `issued_at`. What happens to the request later, also a freeze of
/// this instance, makes the token no newer: all tokens of the user that are revoked meanwhile include it. A request has the same `keys` from
/// its begin to its end: when they change meanwhile, nothing of the old ones is signed with the new ones.
pub(super) fn sign_access_token(
    user: &User,
    login: &LoginId,
    issued_at: WallTime,
    (keys, context): (&LoginKeys, &HttpContext),
) -> Result<String, HttpError> {
    let ttl = context.config.current().login.token_ttl;
    keys.signer.sign_for_login(&user.sub, ttl, &user.claims, login, issued_at).map_err(|_| HttpError::internal())
}

/// Returns the limits of logins.
pub(super) fn login_limits(config: &Config) -> LoginLimits {
    let login = &config.login;
    // Without refresh tokens a login lasts as long as its only access token.
    let idle = if login.gives_refresh_tokens() { login.refresh_idle } else { login.token_ttl };
    LoginLimits { idle, grace: login.refresh_grace, per_user: login.logins_per_user }
}

/// The tokens of a login.
pub(super) struct IssuedTokens {
    pub(super) access_token: String,
    /// When the verifier refuses the access token: its `exp`, or the end of the key if that is earlier.
    pub(super) expires_at: WallTime,
    pub(super) login: LoginId,
    /// How often the login was refreshed.
    pub(super) generation: u32,
    /// When the refresh token ends if it is not used.
    pub(super) refresh_ends_at: WallTime,
}

/// Builds the response with the tokens of a login. It says how long they last from now on: a password that took its time, or a
/// frozen process, has shortened that.
pub(super) fn token_response(
    place: TokenPlace,
    tokens: &IssuedTokens,
    (keys, context): (&LoginKeys, &HttpContext),
) -> HttpResponse {
    let IssuedTokens { access_token, expires_at, login, generation, refresh_ends_at } = tokens;
    let (config, now) = (context.config.current(), context.clock.now());
    let refresh_token = config.login.gives_refresh_tokens().then(|| keys.refresh_tokens.encode(login, *generation));
    let (is_in_body, lifetime) = (place == TokenPlace::Body, expires_at.saturating_duration_since(now));
    let mut response = HttpResponse::Ok().json(TokenResponse {
        access_token: Some(access_token.as_str()).filter(|_| is_in_body),
        token_type: "Bearer",
        expires_in: lifetime.as_secs(),
        refresh_token: refresh_token.as_deref().filter(|_| is_in_body),
    });
    if place == TokenPlace::Cookies {
        let refresh = refresh_token.map(|token| (token, refresh_ends_at.saturating_duration_since(now)));
        add_cookies(&mut response, (access_token, lifetime), refresh, &config);
    }
    response
}

/// Has the browser forget the tokens.
pub(super) fn delete_cookies(response: &mut HttpResponse, config: &Config) {
    let refresh = config.login.is_enabled().then(|| (String::new(), Duration::ZERO));
    add_cookies(response, ("", Duration::ZERO), refresh, config);
}

fn add_cookies(
    response: &mut HttpResponse,
    (access_token, max_age): (&str, Duration),
    refresh: Option<(String, Duration)>,
    config: &Config,
) {
    let (cookie, prefix) = (&config.auth.cookie, &config.server.path_prefix);
    // A `__Host-` name requires the path "/" (RFC 6265bis §4.1.3.2). Any other is sent only to where it is needed.
    let path_of = |path: String| if cookie.starts_with("__Host-") { "/".to_owned() } else { path };
    // Without a slash at its end, so that the prefix itself is included.
    let all = if prefix.is_empty() { "/" } else { prefix };
    let access = set_cookie_value(cookie, access_token, &path_of(all.to_owned()), max_age);
    let refresh = refresh.map(|(token, max_age)| {
        set_cookie_value(&refresh_cookie(cookie), &token, &path_of(format!("{prefix}/auth")), max_age)
    });
    for value in [Some(access), refresh].into_iter().flatten() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
}

/// Returns the name of the cookie with the refresh token.
pub(super) fn refresh_cookie(cookie: &str) -> String {
    format!("{cookie}_refresh")
}

/// Formats a `Set-Cookie` value: not readable by scripts, only over TLS (browsers also accept localhost), not sent for
/// pages of other sites, and with the attributes that a `__Host-` name requires (RFC 6265bis §4.1).
fn set_cookie_value(name: &str, value: &str, path: &str, max_age: Duration) -> String {
    format!("{name}={value}; HttpOnly; Secure; SameSite=Strict; Path={path}; Max-Age={}", max_age.as_secs())
}
