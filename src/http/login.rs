//! `POST /auth/login`: user and password for a token, in the body or, where it is asked for and `login.cookie` allows it, in a
//! cookie instead; and `POST /auth/logout`, which takes the cookie back. The login exists when `login.users_file` is set.

use std::time::Duration;

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{StatusCode, header::SET_COOKIE},
    web::{self, Data},
};
use serde::{Deserialize, Serialize};

use super::{Body, Failure, Shared, visitor::Visitor};
use crate::{auth::login::PASSWORD_BYTES, protocol::ErrorCode};

#[derive(Deserialize)]
pub(super) struct Credentials {
    username: String,
    password: String,
    /// The token is to be out of reach of scripts: in a cookie, and not in the body.
    #[serde(default)]
    cookie: bool,
}

/// RFC 6749 §5.1.
#[derive(Serialize)]
struct Issued {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    token_type: &'static str,
    expires_in: u64,
}

/// Unknown user and wrong password are alike in status, body, time and in what the next try waits.
pub(super) async fn login(
    visitor: Visitor,
    request: HttpRequest,
    body: Body,
    shared: Data<Shared>,
) -> Result<HttpResponse, Failure> {
    let users = shared
        .login_users
        .clone()
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, ErrorCode::NotAvailable, "there is no login here"))?;
    visitor.standing.admit()?;
    if request.content_type() != "application/json" {
        let message = "the body must be application/json";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, message));
    }
    let Credentials { username, password, cookie: wants_cookie } = read(&body.0)?;
    if wants_cookie {
        if !shared.config.login.has_cookie(&shared.config.auth.doors) {
            let message = "there is no cookie here (login.cookie, and the cookie door); leave \"cookie\" out";
            return Err(Failure::bad_request(message));
        }
        // A page that makes a browser keep a cookie of ours decides who its user is.
        visitor.standing.admit_with_cookies()?;
    }
    if password.len() > PASSWORD_BYTES {
        return Err(Failure::unauthorized("wrong user or password"));
    }
    let it = shared
        .backoff
        .begin(shared.clock.now(), &username, visitor.address)
        .map_err(|wait| Failure::too_many("too many failed logins", wait))?;
    // Whoever cannot be served soon is sent away: hashing is what a flood would make us do.
    let Ok(permit) = shared.hashing.clone().try_acquire_owned() else {
        shared.backoff.withdraw(it);
        return Err(Failure::full("too many logins at a time; try again soon"));
    };
    let (name, counted) = (username.clone(), shared.clone());
    let checked = web::block(move || {
        // Held until the hash is computed, and what came of it counted, also when the client has gone meanwhile.
        let _permit = permit;
        let user = users.check(&name, &password);
        if user.is_some() {
            counted.backoff.succeed(it);
        }
        user.map(|user| user.claims.clone())
    })
    .await;
    let claims =
        checked.map_err(|_| Failure::internal())?.ok_or_else(|| Failure::unauthorized("wrong user or password"))?;
    let ttl = shared.config.login.token_ttl;
    let access_token = shared.signer.sign_for_user(&username, ttl, &claims).map_err(|_| Failure::internal())?;
    let mut response = HttpResponse::Ok();
    if wants_cookie {
        response.insert_header((SET_COOKIE, cookie(&shared.config.auth.cookie, &access_token, ttl)));
    }
    let access_token = (!wants_cookie).then_some(access_token);
    Ok(response.json(Issued { access_token, token_type: "Bearer", expires_in: ttl.as_secs() }))
}

/// serde would also take a list for an object. Its own words are not told: they quote what it found.
fn read(body: &[u8]) -> Result<Credentials, Failure> {
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let credentials = is_object.then(|| serde_json::from_slice(body).ok()).flatten();
    credentials.ok_or_else(|| {
        Failure::bad_request("the body must be {\"username\":…,\"password\":…}, and \"cookie\":true for a cookie")
    })
}

/// Expires the cookie. The token itself is good until it expires or is revoked.
pub(super) async fn logout(visitor: Visitor, shared: Data<Shared>) -> Result<HttpResponse, Failure> {
    visitor.standing.admit_with_cookies()?;
    let expired = cookie(&shared.config.auth.cookie, "", Duration::ZERO);
    Ok(HttpResponse::NoContent().insert_header((SET_COOKIE, expired)).finish())
}

/// Out of reach of scripts, over TLS only (browsers take localhost for it), not sent by other sites' pages, and with what
/// `__Host-` wants (RFC 6265bis §4.1).
fn cookie(name: &str, value: &str, max_age: Duration) -> String {
    format!("{name}={value}; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age={}", max_age.as_secs())
}
