//! Health endpoints: whether the instance is alive, whether all its parts are ready, and its metrics.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    web::Data,
};
use futures_util::future::join;
use serde::Serialize;
use tokio::time::timeout;

use super::{HttpContext, StopPhase, error::DEFAULT_RETRY_AFTER};
use crate::broker::BrokerError;

/// A part that has not answered within this time is not ready.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct ComponentHealth {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `GET /health/live`: 200 whenever the process can answer.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(serde_json::json!({"status": "live"}))
}

/// `GET /health/ready`: 200 when every part is ready, otherwise 503 with the problems.
pub(super) async fn ready(context: Data<HttpContext>) -> HttpResponse {
    if context.stop.phase() > StopPhase::Running {
        // At once: a load balancer has to know before the listener closes, and a broker may take long to answer.
        return respond(&[ComponentHealth { name: "server", problem: Some("is stopping".to_owned()) }]);
    }
    let server = ComponentHealth { name: "server", problem: None };
    let keys = ComponentHealth { name: "keys", problem: context.verifier.key_sets().problem().map(str::to_owned) };
    let (hubs, broker) = join(check("hubs", check_hubs(&context)), check("broker", check_broker(&context))).await;
    respond(&[server, keys, hubs, broker])
}

fn respond(parts: &[ComponentHealth]) -> HttpResponse {
    let is_ready = parts.iter().all(|part| part.problem.is_none());
    let mut response = if is_ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    if !is_ready {
        response.insert_header((RETRY_AFTER, DEFAULT_RETRY_AFTER.as_secs()));
    }
    let status = if is_ready { "ready" } else { "not ready" };
    response.insert_header((CACHE_CONTROL, "no-store")).json(serde_json::json!({"status": status, "parts": parts}))
}

async fn check(name: &'static str, checked: impl Future<Output = Result<(), String>>) -> ComponentHealth {
    let result = timeout(HEALTH_CHECK_TIMEOUT, checked).await;
    ComponentHealth { name, problem: result.unwrap_or_else(|_| Err("does not respond".to_owned())).err() }
}

async fn check_hubs(context: &HttpContext) -> Result<(), String> {
    if context.hubs.all_respond().await { Ok(()) } else { Err("a hub does not respond".to_owned()) }
}

async fn check_broker(context: &HttpContext) -> Result<(), String> {
    context.broker.check_ready().await.map_err(|error| {
        // The cause is only in the log: anyone may call this endpoint, and the cause names Redis' address.
        log::warn!("broker is not ready error={:?}", error.to_string());
        let problem = if let BrokerError::NotReady { problem, .. } = error { problem } else { "is not ready" };
        format!("{problem}; see the log of this instance")
    })
}

/// `GET /metrics`: all metrics in the OpenMetrics text format.
pub(super) async fn metrics(context: Data<HttpContext>) -> HttpResponse {
    match context.metrics.encode() {
        Ok(text) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
            .body(text),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}
