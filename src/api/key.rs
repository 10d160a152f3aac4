//! Authorizes callers of the server API: by the API key, or by a session of the admin page. It is checked before the body of a
//! request is read, and accepted only where the server API is served.

use std::{
    borrow::Cow,
    future::{Ready, ready},
    net::IpAddr,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{AUTHORIZATION, COOKIE, HeaderValue},
    web::Data,
};
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;

use super::ApiContext;
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::AdminSession,
    http::{
        HttpError, ListenerRole, admin,
        connection::{CarriesApiKey, ClientCertificateName},
        forwarded,
        request_id::X_REQUEST_ID,
    },
};

/// The caller of the server API, for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    address: Option<IpAddr>,
    certificate: Option<ClientCertificateName>,
    request_id: Option<HeaderValue>,
    by: Cow<'static, str>,
    session: Option<AdminSession>,
}

impl Caller {
    fn of(request: &HttpRequest, session: Option<AdminSession>) -> Self {
        let api = request.app_data::<Data<ApiContext>>();
        Self {
            address: api.map(|api| forwarded::client_address(request.head(), &api.config.current().server)),
            certificate: request.conn_data::<ClientCertificateName>().cloned(),
            request_id: request.headers().get(X_REQUEST_ID).cloned(),
            by: session.as_ref().map_or(Cow::Borrowed("api_key"), |session| session.admin.cause().into()),
            session,
        }
    }

    /// Returns the session of the admin page by which the caller is authorized; `None`: by the API key.
    pub(super) fn admin_session(&self) -> Option<&AdminSession> {
        self.session.as_ref()
    }

    /// Returns what the audit log says about the caller.
    pub(super) fn fields(&self) -> AuditFields<'_> {
        let certificate = self.certificate.as_ref().map(|name| &*name.0);
        let request = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        AuditFields { address: self.address, certificate, request, by: Some(&self.by), ..AuditFields::default() }
    }
}

/// Proof that a request may use the server API: it carries the API key, or a session of the admin page and no key.
pub(super) struct Authorized {
    pub(super) caller: Caller,
}

impl FromRequest for Authorized {
    type Error = HttpError;
    type Future = Ready<Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::check(request).ok_or_else(|| {
            let reason = refusal(request);
            record_refusal(request, reason);
            HttpError::unauthorized(reason)
        }))
    }
}

impl Authorized {
    /// Returns whether a request may use the server API.
    pub(super) fn is_authorized(request: &HttpRequest) -> bool {
        Self::check(request).is_some()
    }

    /// Checks the API key or the session of a request. One that has it does not count for the number of requests on its connection.
    fn check(request: &HttpRequest) -> Option<Self> {
        if check_key(request) {
            return Some(Self { caller: Caller::of(request, None) });
        }
        let session = admin::session_of(request).filter(|_| accepts_key(request) && !has_key(request))?;
        request.extensions_mut().insert(CarriesApiKey);
        Some(Self { caller: Caller::of(request, Some(session)) })
    }
}

/// Checks the API key of a request. One that has it does not count for the number of requests on its connection.
pub(super) fn check_key(request: &HttpRequest) -> bool {
    let is_valid = accepts_key(request) && has_valid_key(request);
    if is_valid {
        request.extensions_mut().insert(CarriesApiKey);
    }
    is_valid
}

/// Returns whether the listener accepts the key: not the public one beside an internal one.
fn accepts_key(request: &HttpRequest) -> bool {
    request.app_data::<ListenerRole>().is_none_or(|role| role.serves_operators())
}

fn record_refusal(request: &HttpRequest, reason: &str) {
    if let Some(api) = request.app_data::<Data<ApiContext>>() {
        let (caller, path, reason) = (Caller::of(request, None), Some(request.path()), Some(reason));
        api.audit.record(AuditEvent::Refused, AuditFields { path, reason, by: None, ..caller.fields() });
    }
}

fn refusal(request: &HttpRequest) -> &'static str {
    if query_keys(request.query_string()).next().is_some() && !takes_key_in_query(request) {
        "the API key is accepted in the URL only with api.key_in_query; send it as X-API-Key"
    } else if !has_key(request)
        && request.headers().contains_key(COOKIE)
        && request.headers().contains_key(admin::PAGE_HEADER)
    {
        "the admin session has ended; log in again"
    } else {
        "the API key is missing or wrong; send it as X-API-Key"
    }
}

/// Returns whether the request carries one of the API keys exactly once. Without a configured key (`api.key`) no request does.
fn has_valid_key(request: &HttpRequest) -> bool {
    let Some(api) = request.app_data::<Data<ApiContext>>() else { return false };
    let config = api.config.current();
    let mut sent = sent_keys(request);
    match (sent.next(), sent.next()) {
        // In constant time. The length of a random key is no secret.
        (Some(sent), None) => config.api.keys().any(|key| (*sent).ct_eq(key.expose().as_bytes()).into()),
        _ => false,
    }
}

/// Returns whether the request carries any API key, right or wrong.
pub(super) fn has_key(request: &HttpRequest) -> bool {
    sent_keys(request).next().is_some()
}

/// The header with the API key.
pub const X_API_KEY: &str = "x-api-key";

/// Returns the keys in `X-API-Key`, in `Authorization: apikey KEY`, and with `api.key_in_query` in `?api_key=KEY`.
fn sent_keys(request: &HttpRequest) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let headers = request.headers();
    let keys = headers.get_all(X_API_KEY).map(|value| value.as_bytes());
    let keys = keys.chain(headers.get_all(AUTHORIZATION).filter_map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("apikey").then(|| key.trim().as_bytes())
    }));
    let query = if takes_key_in_query(request) { request.query_string() } else { "" };
    keys.map(Cow::Borrowed).chain(query_keys(query))
}

fn takes_key_in_query(request: &HttpRequest) -> bool {
    request.app_data::<Data<ApiContext>>().is_some_and(|api| api.config.current().api.key_in_query)
}

/// Returns the values of the parameter `api_key`, decoded.
fn query_keys(query: &str) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == "api_key").map(|(_, value)| percent_decode_str(value).into())
}
