//! `POST /auth/login`: user and password for a token, in the body or, where it is asked for and `login.cookie` allows it, in a
//! cookie instead; and `POST /auth/logout`, which takes the cookie back. The login exists when `login.users_file` is set.

use std::time::Duration;

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{StatusCode, header::SET_COOKIE},
    web::{self, Data},
};
use serde::{Deserialize, Serialize};

use super::{HttpContext, HttpError, RequestBody, request_source::RequestSource};
use crate::{auth::users::MAX_PASSWORD_BYTES, protocol::ErrorCode};

#[derive(Deserialize)]
pub(super) struct LoginRequest {
    username: String,
    password: String,
    /// The token is to be out of reach of scripts: in a cookie, and not in the body.
    #[serde(default)]
    cookie: bool,
}

/// RFC 6749 §5.1.
#[derive(Serialize)]
struct LoginResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    token_type: &'static str,
    expires_in: u64,
}

/// Unknown user and wrong password are alike in status, body, time and in what the next try waits.
pub(super) async fn login(
    source: RequestSource,
    request: HttpRequest,
    body: RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let users = context
        .login_users
        .clone()
        .ok_or_else(|| HttpError::new(StatusCode::NOT_FOUND, ErrorCode::NotAvailable, "there is no login here"))?;
    source.origin_check.require_allowed()?;
    if request.content_type() != "application/json" {
        let message = "the body must be application/json";
        return Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, message));
    }
    let LoginRequest { username, password, cookie: wants_cookie } = parse_login(&body.0)?;
    if wants_cookie {
        if !context.config.login.can_set_cookie(&context.config.auth.doors) {
            let message = "there is no cookie here (login.cookie, and the cookie door); leave \"cookie\" out";
            return Err(HttpError::bad_request(message));
        }
        // A page that makes a browser keep a cookie of ours decides who its user is.
        source.origin_check.require_listed()?;
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(HttpError::unauthorized("wrong user or password"));
    }
    let attempt = context
        .login_backoff
        .begin(context.clock.now(), &username, source.address)
        .map_err(|wait| HttpError::too_many("too many failed logins", wait))?;
    // Whoever cannot be served soon is sent away: hashing is what a flood would make us do.
    let Ok(permit) = context.hashing_permits.clone().try_acquire_owned() else {
        context.login_backoff.withdraw(attempt);
        return Err(HttpError::at_capacity("too many logins at a time; try again soon"));
    };
    let (name, counted) = (username.clone(), context.clone());
    let checked = web::block(move || {
        // Held until the hash is computed, and what came of it counted, also when the client has gone meanwhile.
        let _permit = permit;
        let user = users.verify(&name, &password);
        if user.is_some() {
            counted.login_backoff.succeed(attempt);
        }
        user.map(|user| user.claims.clone())
    })
    .await;
    let claims =
        checked.map_err(|_| HttpError::internal())?.ok_or_else(|| HttpError::unauthorized("wrong user or password"))?;
    let ttl = context.config.login.token_ttl;
    let access_token = context.signer.sign_for_user(&username, ttl, &claims).map_err(|_| HttpError::internal())?;
    let mut response = HttpResponse::Ok();
    if wants_cookie {
        response.insert_header((SET_COOKIE, set_cookie_value(&context.config.auth.cookie, &access_token, ttl)));
    }
    let access_token = (!wants_cookie).then_some(access_token);
    Ok(response.json(LoginResponse { access_token, token_type: "Bearer", expires_in: ttl.as_secs() }))
}

/// serde would also take a list for an object. Its own words are not told: they quote what it found.
fn parse_login(body: &[u8]) -> Result<LoginRequest, HttpError> {
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let credentials = is_object.then(|| serde_json::from_slice(body).ok()).flatten();
    credentials.ok_or_else(|| {
        HttpError::bad_request("the body must be {\"username\":…,\"password\":…}, and \"cookie\":true for a cookie")
    })
}

/// Expires the cookie. The token itself is good until it expires or is revoked.
pub(super) async fn logout(source: RequestSource, context: Data<HttpContext>) -> Result<HttpResponse, HttpError> {
    source.origin_check.require_listed()?;
    let expired = set_cookie_value(&context.config.auth.cookie, "", Duration::ZERO);
    Ok(HttpResponse::NoContent().insert_header((SET_COOKIE, expired)).finish())
}

/// Out of reach of scripts, over TLS only (browsers take localhost for it), not sent by other sites' pages, and with what
/// `__Host-` wants (RFC 6265bis §4.1).
fn set_cookie_value(name: &str, value: &str, max_age: Duration) -> String {
    format!("{name}={value}; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age={}", max_age.as_secs())
}
