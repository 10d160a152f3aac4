//! Whether the instance lives (it answers), whether it is ready (its parts answer too), and what it has counted.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    web::Data,
};
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::HttpContext;

/// A part of the instance, asked whether it works; with the reason in the operator's words if not.
pub type HealthCheck = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The parts by name, in the order in which they are told.
pub type HealthChecks = Vec<(&'static str, HealthCheck)>;

/// A part that answers later than this does not work.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct ComponentHealth {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// 200 as long as there is anybody to answer.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(serde_json::json!({"status": "live"}))
}

/// 200 when every part works, 503 with the reasons otherwise.
pub(super) async fn ready(context: Data<HttpContext>) -> HttpResponse {
    let asked = context.health_checks.iter().map(|(name, check)| {
        let asked = tokio::time::timeout(HEALTH_CHECK_TIMEOUT, check());
        async move {
            let problem = asked.await.unwrap_or_else(|_| Err("does not answer".to_owned())).err();
            ComponentHealth { name, problem }
        }
    });
    let parts: Rc<[ComponentHealth]> = futures_util::future::join_all(asked).await.into();
    let is_ready = parts.iter().all(|part| part.problem.is_none());
    let mut response = if is_ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let status = if is_ready { "ready" } else { "not ready" };
    response.insert_header((CACHE_CONTROL, "no-store")).json(serde_json::json!({"status": status, "parts": &*parts}))
}

/// OpenMetrics text.
pub(super) async fn metrics(context: Data<HttpContext>) -> HttpResponse {
    match context.metrics.encode() {
        Ok(text) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
            .body(text),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}
