//! `POST /auth/login`: user and password for a token. Exists when `login.users_file` is set.

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{StatusCode, header::CACHE_CONTROL},
    web::{self, Data},
};
use serde::{Deserialize, Serialize};

use super::{Body, Failure, Shared};
use crate::{auth::login::PASSWORD_BYTES, protocol::ErrorCode};

#[derive(Deserialize)]
pub(super) struct Credentials {
    username: String,
    password: String,
}

/// RFC 6749 §5.1.
#[derive(Serialize)]
struct Issued {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
}

/// Unknown user and wrong password are alike in status, body and time.
pub(super) async fn login(request: HttpRequest, body: Body, shared: Data<Shared>) -> Result<HttpResponse, Failure> {
    let users = shared
        .login_users
        .clone()
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, ErrorCode::NotAvailable, "there is no login here"))?;
    if request.content_type() != "application/json" {
        let message = "the body must be application/json";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, message));
    }
    // Not serde's own words: they quote what they found.
    let Credentials { username, password } = serde_json::from_slice(&body.0)
        .map_err(|_| Failure::bad_request("the body must be {\"username\":…,\"password\":…}"))?;
    if password.len() > PASSWORD_BYTES {
        return Err(Failure::unauthorized("wrong user or password"));
    }
    // Whoever cannot be served soon is sent away: hashing is what a flood would make us do.
    let permit = shared
        .hashing
        .clone()
        .try_acquire_owned()
        .map_err(|_| Failure::full("too many logins at a time; try again soon"))?;
    let name = username.clone();
    let checked = web::block(move || {
        // Held until the hash is computed, also when the client has gone meanwhile.
        let _permit = permit;
        users.check(&name, &password).map(|user| user.claims.clone())
    })
    .await;
    let claims = checked.map_err(|_| internal())?.ok_or_else(|| Failure::unauthorized("wrong user or password"))?;
    let ttl = shared.config.login.token_ttl;
    let access_token = shared.signer.sign_for_user(&username, ttl, &claims).map_err(|_| internal())?;
    let issued = Issued { access_token, token_type: "Bearer", expires_in: ttl.as_secs() };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(issued))
}

fn internal() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, "internal server error")
}
