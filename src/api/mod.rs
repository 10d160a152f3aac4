//! The server API over REST: one file per group of methods. It publishes through the broker, and asks and orders all
//! instances through it; sessions are unknown here.

mod batch;
mod channel_state;
mod channels;
mod info;
mod key;
mod messages;
mod methods;
mod publish;
mod request;
mod sessions;

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    web::{self, ServiceConfig},
};
use serde::Serialize;

use crate::{
    auth::{Permissions, Verifier},
    broker::SharedBroker,
    clock::Clock,
    config::Config,
    http::HttpError,
    metrics::Metrics,
    protocol::ErrorCode,
    rate_limit::KeyedRateLimiter,
};

/// What the methods share.
pub struct ApiContext {
    /// Takes publications, orders and questions.
    pub broker: SharedBroker,
    /// Judges users' tokens on `/v1`.
    pub verifier: Arc<Verifier>,
    /// Judges channels.
    pub permissions: Arc<Permissions>,
    /// How fast each user may publish.
    pub rates: KeyedRateLimiter,
    /// What is configured.
    pub config: Arc<Config>,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Adds the routes under `/api`. They find [`ApiContext`] in the application's data.
pub fn routes(config: &Config, service: &mut ServiceConfig) {
    let body_bytes = config.api.body_bytes;
    service.service(
        web::resource("/api/{method}")
            .app_data(web::PayloadConfig::new(body_bytes))
            .route(web::post().to(methods::post_method)),
    );
}

/// Adds what stands under `/v1`: the plain form, for signed-in users too.
pub fn v1_routes(config: &Config, service: &mut ServiceConfig) {
    let body_bytes = config.api.body_bytes;
    service.service(
        web::resource("/channels/{channel}/messages")
            .app_data(web::PayloadConfig::new(body_bytes))
            .route(web::post().to(messages::post_message)),
    );
}

/// What a method answers: 200 either way, `{"result":…}` or `{"error":…}`, as clients of this API expect.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum ApiResponse<T> {
    Result(T),
    Error(crate::protocol::WireError),
}

/// A result without members.
#[derive(Serialize)]
struct EmptyResult {}

impl<T: Serialize> ApiResponse<T> {
    fn new(result: Result<T, ErrorCode>, metrics: &Metrics) -> Self {
        result.map_or_else(
            |error| {
                metrics.count_error(error.code());
                Self::Error(error.body())
            },
            Self::Result,
        )
    }

    fn respond(self) -> HttpResponse {
        HttpResponse::Ok().json(self)
    }
}

/// Why a method was not done.
enum ApiError {
    /// An answer like any other (200): what was asked is not possible.
    Code(ErrorCode),
    /// The request is none (400).
    Http(HttpError),
}

impl<E: Into<ErrorCode>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self::Code(error.into())
    }
}

impl From<HttpError> for ApiError {
    fn from(failure: HttpError) -> Self {
        Self::Http(failure)
    }
}
