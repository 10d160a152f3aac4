//! Cross-origin resource sharing (CORS): the pages that may connect may also read HTTP responses.

use std::sync::Arc;

use actix_cors::Cors;
use actix_service::Service as _;
use actix_web::{
    Error, Scope,
    body::MessageBody,
    dev::{HttpServiceFactory, ServiceFactory, ServiceRequest, ServiceResponse},
    http::header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER,
        WWW_AUTHENTICATE,
    },
    web::Data,
};

use super::{
    HttpContext,
    channel_events::LAST_EVENT_ID,
    origin_policy::{self, OriginCheck, OriginPolicy},
};

/// Seconds for which a browser may cache a preflight response. A change of `origins.allowed` takes effect within this
/// time.
const PREFLIGHT_MAX_AGE: usize = 600;

/// The header with which a request to publish can be repeated.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Adds CORS to `scope`. Only listed origins may send cookies: a browser adds them to the requests of every page, so
/// `"*"` must not allow them.
pub fn wrap<T, B>(origin_policy: &Arc<OriginPolicy>, scope: Scope<T>) -> impl HttpServiceFactory + use<T, B>
where
    T: ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<B>, Error = Error, InitError = ()>
        + 'static,
    B: MessageBody + 'static,
{
    let may_read = origin_policy.clone();
    let cors = Cors::default()
        .allowed_origin_fn(move |_, head| matches!(may_read.check(head), OriginCheck::Listed | OriginCheck::Wildcard))
        .allowed_methods(["GET", "POST"])
        // The last two are what replacements of EventSource send.
        .allowed_headers([AUTHORIZATION, CONTENT_TYPE, IDEMPOTENCY_KEY])
        .allowed_headers([CACHE_CONTROL, LAST_EVENT_ID])
        .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
        .supports_credentials()
        .max_age(PREFLIGHT_MAX_AGE);
    let policy = origin_policy.clone();
    scope.wrap(cors).wrap_fn(move |request, service| {
        let origin_check = policy.check(request.head());
        if let (Some(refusal), Some(context)) = (origin_check.refusal(), request.app_data::<Data<HttpContext>>()) {
            origin_policy::record_refusal(context, refusal, request.head());
        }
        let response = service.call(request);
        async move {
            let mut response = response.await?;
            if origin_check != OriginCheck::Listed {
                // actix-cors sends this header to all origins or to none.
                response.headers_mut().remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
            }
            Ok(response)
        }
    })
}
