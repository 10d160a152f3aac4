//! Who comes to `/auth`, asked before anything of the request is read: what is there costs us hashes, and guesses cost
//! nobody else.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Data};

use super::{Failure, Shared, origin::Standing, peer};
use crate::address::Address;

/// Where a request comes from, counted against `limits.handshakes_per_second`.
pub(super) struct Visitor {
    pub(super) address: Address,
    pub(super) standing: Standing,
}

impl FromRequest for Visitor {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(shared) = request.app_data::<Data<Shared>>() else { return ready(Err(Failure::internal())) };
        let address = Address::from(peer::address(request.head(), &shared.config.server));
        let counted = shared.rates.take(&address);
        ready(match counted {
            Ok(()) => Ok(Self { address, standing: shared.pages.judge(request.head()) }),
            Err(wait) => Err(Failure::too_many("too many requests from this address", wait)),
        })
    }
}
