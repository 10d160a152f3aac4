//! The API key, asked of every method before its body is read.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::AUTHORIZATION, web::Data};
use subtle::ConstantTimeEq;

use super::Shared;
use crate::http::Failure;

/// Proof that the request carried the key.
pub(super) struct Authorized;

impl FromRequest for Authorized {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(if is_authorized(request) {
            Ok(Self)
        } else {
            Err(Failure::unauthorized("the API key is missing or wrong; send it as X-API-Key"))
        })
    }
}

/// Whether the request carries the key, once. Without a configured key nobody is authorized.
pub(super) fn is_authorized(request: &HttpRequest) -> bool {
    let Some(shared) = request.app_data::<Data<Shared>>() else { return false };
    let key = shared.config.api.key.expose().as_bytes();
    let mut offered = offered(request);
    match (offered.next(), offered.next()) {
        // Compared in constant time; the length of a random key is no secret.
        (Some(offered), None) if !key.is_empty() => offered.ct_eq(key).into(),
        _ => false,
    }
}

/// Whether the request offers a key at all.
pub(super) fn is_offered(request: &HttpRequest) -> bool {
    offered(request).next().is_some()
}

fn offered(request: &HttpRequest) -> impl Iterator<Item = &[u8]> {
    let headers = request.headers();
    let own = headers.get_all("x-api-key").map(|value| value.as_bytes());
    own.chain(headers.get_all(AUTHORIZATION).filter_map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("apikey").then(|| key.trim().as_bytes())
    }))
}
