//! The extractor in front of every `/auth` handler: charges the rate limit and checks the origin before the body is
//! read.

use std::{
    future::{Ready, ready},
    net::IpAddr,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Data};

use super::{HttpContext, HttpError, forwarded, origin_policy::OriginCheck};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
};

/// The source of a request that has been charged to `limits.handshakes_per_second`: a login costs a password hash, and
/// one address must not use them up.
pub(super) struct RequestSource {
    /// The address of the client.
    pub(super) ip: IpAddr,
    /// The address as limits count it.
    pub(super) address: ClientAddress,
    pub(super) origin_check: OriginCheck,
}

impl RequestSource {
    /// Returns what the audit log says about a request on this path.
    pub(super) fn fields<'a>(&self, path: &'a str) -> AuditFields<'a> {
        AuditFields { address: Some(self.ip), path: Some(path), ..AuditFields::default() }
    }
}

impl FromRequest for RequestSource {
    type Error = HttpError;
    type Future = Ready<Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(context) = request.app_data::<Data<HttpContext>>() else { return ready(Err(HttpError::internal())) };
        let ip = forwarded::client_address(request.head(), &context.config.server);
        let address = ClientAddress::from(ip);
        let charged = context.handshake_rates.charge(&address);
        ready(match charged {
            Ok(()) => Ok(Self { ip, address, origin_check: context.origin_policy.check(request.head()) }),
            Err(wait) => {
                let error = HttpError::too_many("too many requests from this address", wait);
                let (address, path, reason) = (Some(ip), Some(request.path()), Some(error.message()));
                context
                    .audit
                    .record(AuditEvent::Refused, AuditFields { address, path, reason, ..AuditFields::default() });
                Err(error)
            }
        })
    }
}
