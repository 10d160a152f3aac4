//! The table of all methods, and the route that calls them.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, http::StatusCode, web::Data};

use super::{
    ApiContext, ApiError, ApiResponse, audit, batch, channel_info, channels, connections,
    description::{ApiMethod, Handler},
    explain, history, info,
    key::Authorized,
    presence, publish, revocation, sessions,
};
use crate::{
    http::{HttpError, RequestBody},
    protocol::ErrorCode,
};

/// All methods, in the order of the documentation.
pub static METHODS: &[ApiMethod] = &[
    publish::PUBLISH,
    publish::BROADCAST,
    history::HISTORY,
    history::HISTORY_REMOVE,
    presence::PRESENCE,
    presence::PRESENCE_STATS,
    sessions::SUBSCRIBE,
    sessions::UNSUBSCRIBE,
    sessions::DISCONNECT,
    sessions::REFRESH,
    revocation::REVOKE_TOKEN,
    revocation::INVALIDATE_USER_TOKENS,
    channels::CHANNELS,
    channel_info::CHANNEL_INFO,
    connections::CONNECTIONS,
    explain::EXPLAIN,
    info::INFO,
    batch::BATCH,
];

/// Returns the method with this name.
pub(super) fn find_method(name: &str) -> Option<&'static ApiMethod> {
    METHODS.iter().find(|method| method.name == name)
}

/// The method of the route, found before the body of the request is read.
pub(super) struct RequestedMethod(&'static ApiMethod);

impl FromRequest for RequestedMethod {
    type Error = HttpError;
    type Future = Ready<Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let method = request.app_data::<&'static ApiMethod>().copied();
        ready(method.map(Self).ok_or_else(|| {
            if let Some(api) = request.app_data::<Data<ApiContext>>().filter(|_| Authorized::is_authorized(request)) {
                api.call_counters.count_unknown();
            }
            HttpError::new(StatusCode::NOT_FOUND, ErrorCode::MethodNotFound, "the server API has no such method")
        }))
    }
}

/// Answers `POST /api/{method}`.
pub(super) async fn post_method(
    Authorized { caller }: Authorized,
    RequestedMethod(method): RequestedMethod,
    RequestBody(body): RequestBody,
    api: Data<ApiContext>,
) -> Result<HttpResponse, HttpError> {
    let result = match method.handler {
        Handler::Single(call) => call(&body, &api).await,
        Handler::OfCaller(call) => call(&body, &caller, &api).await,
        Handler::Batch => match batch::run_batch(&body, &caller, &api).await {
            // The answer of a batch is not wrapped in `result`.
            Ok(replies) => {
                api.call_counters.count(method, true);
                return Ok(HttpResponse::Ok().json(replies));
            }
            Err(error) => Err(error),
        },
    };
    api.call_counters.count(method, result.is_ok());
    audit::record_call(method, &body, &result, &caller, &api);
    match result {
        Ok(result) => Ok(ApiResponse::new(Ok(result), &api.metrics).respond()),
        Err(ApiError::Failed(error)) => Ok(ApiResponse::<()>::new(Err(error), &api.metrics).respond()),
        Err(ApiError::Http(error)) => Err(error),
    }
}
