//! The server API over REST. It publishes through the broker, and asks and controls the sessions of all nodes through it.
//!
//! Each method is described next to its code by an [`ApiMethod`], and listed in [`METHODS`]. To add one: write both, add it to
//! the list, and run the tests; they name what is missing.

mod audit;
mod batch;
mod call_counts;
mod channel_info;
mod channels;
mod connections;
mod description;
mod explain;
mod history;
mod info;
mod key;
mod lines;
mod messages;
mod methods;
mod presence;
mod publish;
mod reference;
mod request;
mod revocation;
mod sessions;
mod survey;
mod trace;
mod user_rates;

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    http::header::RETRY_AFTER,
    web::{self, ServiceConfig},
};
use arc_swap::ArcSwap;
use serde::Serialize;

pub use self::{
    call_counts::CallCounters,
    description::{Access, ApiMethod, Example, Field, JsonType},
    key::X_API_KEY,
    methods::METHODS,
    publish::BroadcastTurns,
    survey::SurveyLog,
    trace::LiveTraces,
    user_rates::UserRates,
};
use crate::{
    audit::AuditLog,
    auth::{Permissions, VerificationQueue, Verifier, refusal_log::RefusalLog},
    broker::SharedBroker,
    clock::Clock,
    config::{Config, LiveConfig},
    hooks::Hooks,
    http::{BodyLimit, HttpError},
    metrics::Metrics,
    protocol::WireError,
    revocation::Revocations,
};

/// Everything that the methods need.
pub struct ApiContext {
    /// Carries publications, controls and surveys.
    pub broker: SharedBroker,
    /// Verifies the tokens of users on `/v1`.
    pub verifier: Arc<Verifier>,
    /// When workers verify tokens of users.
    pub verifications: Arc<VerificationQueue>,
    /// Logs refused tokens.
    pub refusals: Arc<RefusalLog>,
    /// The audit log.
    pub audit: Arc<AuditLog>,
    /// Knows the options of channels, and what users may do there.
    pub permissions: Arc<Permissions>,
    /// The revocations of this instance.
    pub revocations: Arc<Revocations>,
    /// Limits the publications of each user on `/v1` (`limits.publications_per_second`).
    pub rates: ArcSwap<UserRates>,
    /// Backend hooks.
    pub hooks: Arc<Hooks>,
    /// Lets broadcasts publish in turns.
    pub broadcast_turns: BroadcastTurns,
    /// The live traces that this node serves.
    pub live_traces: LiveTraces,
    /// Limits the log lines about surveys.
    pub survey_log: SurveyLog,
    /// The configuration.
    pub config: Arc<LiveConfig>,
    /// The clock by which tokens expire.
    pub clock: Clock,
    /// Counts publications and errors.
    pub metrics: Arc<Metrics>,
    /// The counters of calls, by method and result.
    pub call_counters: CallCounters,
}

/// Adds `/api` and the routes below it. They find an [`ApiContext`] in the data of the application.
pub fn routes(config: &Config, service: &mut ServiceConfig) {
    let limit = body_limit(config);
    service.service(limit.apply_to(web::resource("/api")).route(web::post().to(lines::post_calls)));
    // Each method has a path of its own, since paths without a parameter are compared as texts. A path with one is a regular
    // expression, which costs each request half a microsecond, so it comes last: it answers the names of unknown methods.
    for method in methods::METHODS {
        let resource = web::resource(format!("/api/{}", method.name)).app_data(method);
        service.service(limit.apply_to(resource).route(web::post().to(methods::post_method)));
    }
    let unknown = web::resource("/api/{method}");
    service.service(limit.apply_to(unknown).route(web::post().to(methods::post_method)));
}

/// Adds the routes below `/v1`: plain publishing, which users may do with their tokens, too.
pub fn v1_routes(config: &Config, service: &mut ServiceConfig) {
    let messages = web::resource("/channels/{channel}/messages");
    service.service(body_limit(config).apply_to(messages).route(web::post().to(messages::post_message)));
}

/// Adds the routes below `/v1` for operators: live traces, and the reference.
pub fn operator_routes(service: &mut ServiceConfig) {
    service.service(web::resource("/trace").route(web::get().to(trace::get_trace)));
    reference::reference_routes(service);
}

fn body_limit(config: &Config) -> BodyLimit {
    BodyLimit { name: "api.body_bytes", bytes: config.api.body_bytes }
}

/// `Retry-After` of a temporary error. A rate limit has room again after less, and a broker may be back.
const RETRY_AFTER_SECONDS: u64 = 1;

/// The body of an answer: `{"result":…}` or `{"error":…}`. The HTTP status is 200 for both, as clients of this API expect.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum ApiResponse<T> {
    Result(T),
    Error(WireError),
}

impl<T: Serialize> ApiResponse<T> {
    fn new(result: Result<T, WireError>, metrics: &Metrics) -> Self {
        match result {
            Ok(result) => Self::Result(result),
            Err(error) => {
                metrics.count_error(error.code());
                Self::Error(error)
            }
        }
    }

    fn respond(self) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        if let Self::Error(error) = &self
            && error.is_temporary()
        {
            response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        response.json(self)
    }
}

/// An error of a method.
enum ApiError {
    /// The request is well-formed but cannot be fulfilled. HTTP status 200.
    Failed(WireError),
    /// The request is malformed. HTTP status 400.
    Http(HttpError),
}

impl<E: Into<WireError>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<HttpError> for ApiError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}
