//! The server API over REST: one file per group of methods. It publishes through the broker and asks all instances through
//! it; sessions are unknown here.

mod channels;
mod key;
mod messages;
mod publish;

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    web::{self, ServiceConfig},
};
use serde::Serialize;

use crate::{
    auth::{Denied, Permissions, Verifier},
    broker::{BrokerError, SharedBroker},
    config::Config,
    metrics::Metrics,
    protocol::ErrorCode,
};

/// What the methods share.
pub struct Shared {
    /// Takes publications and questions.
    pub broker: SharedBroker,
    /// Judges users' tokens on `/v1`.
    pub verifier: Arc<Verifier>,
    /// Judges channels.
    pub permissions: Arc<Permissions>,
    /// What is configured.
    pub config: Arc<Config>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Adds the routes under `/api`. They find [`Shared`] in the application's data.
pub fn routes(config: &Config, service: &mut ServiceConfig) {
    let body_bytes = config.api.body_bytes;
    for (path, method) in [
        ("/api/publish", web::post().to(publish::publish)),
        ("/api/broadcast", web::post().to(publish::broadcast)),
        ("/api/channels", web::post().to(channels::channels)),
    ] {
        service.service(web::resource(path).app_data(web::PayloadConfig::new(body_bytes)).route(method));
    }
}

/// Adds what stands under `/v1`: the plain form, for signed-in users too.
pub fn v1_routes(config: &Config, service: &mut ServiceConfig) {
    let body_bytes = config.api.body_bytes;
    service.service(
        web::resource("/channels/{channel}/messages")
            .app_data(web::PayloadConfig::new(body_bytes))
            .route(web::post().to(messages::post)),
    );
}

/// What a method answers: 200 either way, `{"result":…}` or `{"error":…}`, as clients of this API expect.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Result(T),
    Error(crate::protocol::ErrorBody),
}

/// A result without members.
#[derive(Serialize)]
struct Nothing {}

impl<T: Serialize> Answer<T> {
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

fn failed(error: &BrokerError) -> ErrorCode {
    match error {
        BrokerError::Busy => ErrorCode::TooManyRequests,
        BrokerError::Unavailable(_) | BrokerError::Incomplete { .. } => ErrorCode::Internal,
    }
}

fn denied(denied: Denied) -> ErrorCode {
    match denied {
        Denied::UnknownNamespace => ErrorCode::UnknownChannel,
        Denied::BadName => ErrorCode::BadRequest,
        Denied::NotGranted => ErrorCode::PermissionDenied,
    }
}
