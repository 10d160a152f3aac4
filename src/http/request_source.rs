//! The extractor in front of every `/auth` handler: charges the rate limit and checks the origin before the body is
//! read.

use std::{
    future::{Ready, ready},
    net::IpAddr,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::HeaderValue, web::Data};

use super::{
    HttpContext, HttpError, forwarded,
    origin_policy::OriginCheck,
    request_id::{X_REQUEST_ID, id_of},
};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
};

/// The source of a request that has been charged to `limits.handshakes_per_second`: a login costs a password hash, and
/// one address must not use them up.
#[derive(Clone)]
pub(super) struct RequestSource {
    /// The address of the client.
    pub(super) ip: IpAddr,
    /// The address as limits count it.
    pub(super) address: ClientAddress,
    pub(super) origin_check: OriginCheck,
    /// The id of the request.
    request_id: Option<HeaderValue>,
}

impl RequestSource {
    /// Returns what the audit log says about a request on this path.
    pub(super) fn fields<'a>(&'a self, path: &'a str) -> AuditFields<'a> {
        AuditFields { address: Some(self.ip), path: Some(path), ..self.request_fields() }
    }

    /// Returns what the audit log says about what the request has caused elsewhere: its id.
    pub(super) fn request_fields(&self) -> AuditFields<'_> {
        let request = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        AuditFields { request, ..AuditFields::default() }
    }
}

impl FromRequest for RequestSource {
    type Error = HttpError;
    type Future = Ready<Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(context) = request.app_data::<Data<HttpContext>>() else { return ready(Err(HttpError::internal())) };
        let ip = forwarded::client_address(request.head(), &context.config.current().server);
        let address = ClientAddress::from(ip);
        let charged = context.handshake_rates.load().charge(&address);
        ready(match charged {
            Ok(()) => Ok(Self {
                ip,
                address,
                origin_check: context.origin_policy.check(request.head()),
                request_id: request.headers().get(X_REQUEST_ID).cloned(),
            }),
            Err(wait) => {
                let error = HttpError::too_many("too many requests from this address", wait);
                let (address, path, reason) = (Some(ip), Some(request.path()), Some(error.message()));
                let request = id_of(request.head());
                let fields = AuditFields { address, path, request, reason, ..AuditFields::default() };
                context.audit.record(AuditEvent::Refused, fields);
                Err(error)
            }
        })
    }
}
