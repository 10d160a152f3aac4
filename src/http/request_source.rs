//! Who comes to `/auth`, asked before anything of the request is read: what is there costs us hashes, and guesses cost
//! nobody else.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Data};

use super::{HttpContext, HttpError, forwarded, origin_policy::OriginCheck};
use crate::address::ClientAddress;

/// Where a request comes from, counted against `limits.handshakes_per_second`.
pub(super) struct RequestSource {
    pub(super) address: ClientAddress,
    pub(super) origin_check: OriginCheck,
}

impl FromRequest for RequestSource {
    type Error = HttpError;
    type Future = Ready<Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(context) = request.app_data::<Data<HttpContext>>() else { return ready(Err(HttpError::internal())) };
        let address = ClientAddress::from(forwarded::client_address(request.head(), &context.config.server));
        let charged = context.handshake_rates.charge(&address);
        ready(match charged {
            Ok(()) => Ok(Self { address, origin_check: context.origin_policy.check(request.head()) }),
            Err(wait) => Err(HttpError::too_many("too many requests from this address", wait)),
        })
    }
}
