//! `POST /auth/login`: exchanges a user name and a password for a token. The response has the token in its body or, if
//! the request asks for it and `login.cookie` allows it, in a cookie instead.
//! The login is enabled when `login.users_file` is set, or in development `login.demo_password`.

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
    /// Asks for the token in a cookie and not in the body, so that no script can read it.
    #[serde(default)]
    cookie: bool,
}

/// The body of a successful response (RFC 6749 §5.1).
#[derive(Serialize)]
struct LoginResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    token_type: &'static str,
    expires_in: u64,
}

/// Handles a login. An unknown user and a wrong password have the same status, body and duration, and the same delay of
/// the next attempt.
pub(super) async fn login(
    source: RequestSource,
    request: HttpRequest,
    body: RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let users = context.login_users.clone().ok_or_else(|| {
        HttpError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotAvailable,
            "the login is disabled: login.users_file is not set",
        )
    })?;
    source.origin_check.require_allowed()?;
    if request.content_type() != "application/json" {
        let message = "the Content-Type of a login must be application/json";
        return Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, message));
    }
    let LoginRequest { username, password, cookie: wants_cookie } = parse_login(&body.0)?;
    if wants_cookie {
        if !context.config.login.can_set_cookie(&context.config.auth.doors) {
            let message = "cookies are disabled (login.cookie, and \"cookie\" in auth.doors); send the request without \"cookie\"";
            return Err(HttpError::bad_request(message));
        }
        // Otherwise any page could log its visitor's browser in as a user of the page's choice.
        source.origin_check.require_listed()?;
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(HttpError::unauthorized("wrong user or password"));
    }
    let attempt = context
        .login_backoff
        .begin(context.clock.monotonic_now(), &username, source.address)
        .map_err(|wait| HttpError::too_many("too many failed logins", wait))?;
    // No queue: a flood of logins would fill it, and each one costs a hash.
    let Ok(permit) = context.hashing_permits.clone().try_acquire_owned() else {
        context.login_backoff.withdraw(attempt);
        return Err(HttpError::at_capacity("too many logins at the same time; try again soon"));
    };
    let (name, hashing_context) = (username.clone(), context.clone());
    let checked = web::block(move || {
        // Held until the hash is computed and the result counted, also if the client disconnects meanwhile.
        let _permit = permit;
        let user = users.verify(&name, &password);
        if user.is_some() {
            hashing_context.login_backoff.succeed(attempt);
        }
        user.map(|user| user.claims.clone())
    })
    .await;
    let claims =
        checked.map_err(|_| HttpError::internal())?.ok_or_else(|| HttpError::unauthorized("wrong user or password"))?;
    let ttl = context.config.login.token_ttl;
    let access_token = context.signer.sign(&username, ttl, &claims).map_err(|_| HttpError::internal())?;
    let mut response = HttpResponse::Ok();
    if wants_cookie {
        response.insert_header((SET_COOKIE, set_cookie_value(&context.config.auth.cookie, &access_token, ttl)));
    }
    let access_token = (!wants_cookie).then_some(access_token);
    Ok(response.json(LoginResponse { access_token, token_type: "Bearer", expires_in: ttl.as_secs() }))
}

/// Parses the body of a login. serde alone would also accept a list, and its error messages would quote the password.
fn parse_login(body: &[u8]) -> Result<LoginRequest, HttpError> {
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let credentials = is_object.then(|| serde_json::from_slice(body).ok()).flatten();
    credentials.ok_or_else(|| {
        HttpError::bad_request("the body must be {\"username\":…,\"password\":…}, with \"cookie\":true to get a cookie")
    })
}

/// Formats a `Set-Cookie` value: not readable by scripts, only over TLS (browsers also accept localhost), not sent for
/// pages of other sites, and with the attributes that a `__Host-` name requires (RFC 6265bis §4.1).
pub(super) fn set_cookie_value(name: &str, value: &str, max_age: Duration) -> String {
    format!("{name}={value}; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age={}", max_age.as_secs())
}
