//! The API key. It is checked before the body of a request is read.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::AUTHORIZATION, web::Data};
use subtle::ConstantTimeEq;

use super::ApiContext;
use crate::http::HttpError;

/// Proof that a request carries the API key.
pub(super) struct ValidApiKey;

impl FromRequest for ValidApiKey {
    type Error = HttpError;
    type Future = Ready<Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(if has_valid_key(request) {
            Ok(Self)
        } else {
            Err(HttpError::unauthorized("the API key is missing or wrong; send it as X-API-Key"))
        })
    }
}

/// Returns whether the request carries the API key exactly once. Without a configured key (`api.key`) no request does.
pub(super) fn has_valid_key(request: &HttpRequest) -> bool {
    let Some(api) = request.app_data::<Data<ApiContext>>() else { return false };
    let key = api.config.api.key.expose().as_bytes();
    let mut sent = sent_keys(request);
    match (sent.next(), sent.next()) {
        // In constant time. The length of a random key is no secret.
        (Some(sent), None) if !key.is_empty() => sent.ct_eq(key).into(),
        _ => false,
    }
}

/// Returns whether the request carries any API key, right or wrong.
pub(super) fn has_key(request: &HttpRequest) -> bool {
    sent_keys(request).next().is_some()
}

/// Returns the keys in `X-API-Key` and `Authorization: apikey KEY`.
fn sent_keys(request: &HttpRequest) -> impl Iterator<Item = &[u8]> {
    let headers = request.headers();
    let keys = headers.get_all("x-api-key").map(|value| value.as_bytes());
    keys.chain(headers.get_all(AUTHORIZATION).filter_map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("apikey").then(|| key.trim().as_bytes())
    }))
}
