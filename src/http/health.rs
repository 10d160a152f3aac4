//! Health endpoints: whether the instance is alive, whether all its parts are ready, and its metrics.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    web::Data,
};
use futures_util::future::join;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::timeout;

use super::{HttpContext, StopPhase, error::DEFAULT_RETRY_AFTER};
use crate::{
    broker::BrokerError,
    metrics::{Queue, QueueDepth},
};

/// The path of the endpoint that says whether the instance is ready.
pub const READY_PATH: &str = "/health/ready";
/// A part that has not answered within this time is not ready.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// The health of a part of the instance.
#[derive(Serialize)]
struct ComponentHealth {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The cause for the log. Anyone may call the endpoint, and a cause names, for example, the address of Redis.
    #[serde(skip)]
    cause: Option<String>,
}

impl ComponentHealth {
    fn new(name: &'static str, problem: Option<String>) -> Self {
        Self { name, problem, cause: None }
    }
}

/// Logs the readiness when it changes, however often it is asked for.
#[derive(Default)]
pub struct ReadinessLog {
    /// The problem of each part that was not ready at the last request.
    problems: Mutex<Vec<(&'static str, String)>>,
}

impl ReadinessLog {
    fn record(&self, parts: &[ComponentHealth]) {
        for line in self.changes(parts) {
            match line {
                Some(line) => log::warn!("not ready {line}"),
                None => log::info!("ready again"),
            }
        }
    }

    /// Returns what to log: a line for each part with another problem than before; `None`: the last problem has ended.
    fn changes(&self, parts: &[ComponentHealth]) -> Vec<Option<String>> {
        let problem_of = |part: &ComponentHealth| part.problem.clone().map(|problem| (part.name, problem));
        let problems: Vec<_> = parts.iter().filter_map(problem_of).collect();
        let before = std::mem::replace(&mut *self.problems.lock(), problems.clone());
        if problems.is_empty() {
            return if before.is_empty() { Vec::new() } else { vec![None] };
        }
        let is_new = |part: &&ComponentHealth| problem_of(part).is_some_and(|problem| !before.contains(&problem));
        let line = |part: &ComponentHealth| {
            let error = part.cause.as_ref().or(part.problem.as_ref());
            format!("part={} error={:?}", part.name, error.map_or("", String::as_str))
        };
        parts.iter().filter(is_new).map(|part| Some(line(part))).collect()
    }
}

/// `GET /health/live`: 200 whenever the process can answer.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(serde_json::json!({"status": "live"}))
}

/// `GET /health/ready`: 200 when every part is ready, otherwise 503 with the problems.
pub(super) async fn ready(context: Data<HttpContext>) -> HttpResponse {
    if context.stop.phase() > StopPhase::Running {
        // At once: a load balancer has to know before the listener closes, and a broker may take long to answer.
        return respond(&[ComponentHealth::new("server", Some("is stopping".to_owned()))]);
    }
    let server = ComponentHealth::new("server", None);
    let keys = ComponentHealth::new("keys", context.verifier.key_sets().problem().map(str::to_owned));
    let (hubs, broker) = join(check("hubs", check_hubs(&context)), check("broker", check_broker(&context))).await;
    let parts = [server, keys, hubs, broker];
    context.readiness_log.record(&parts);
    respond(&parts)
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

/// The problem of a part, and its cause if that is for the log only.
type Problem = (String, Option<String>);

async fn check(name: &'static str, checked: impl Future<Output = Result<(), Problem>>) -> ComponentHealth {
    let result = timeout(HEALTH_CHECK_TIMEOUT, checked).await;
    let (problem, cause) = result.unwrap_or_else(|_| Err(("does not respond".to_owned(), None))).err().unzip();
    ComponentHealth { name, problem, cause: cause.flatten() }
}

async fn check_hubs(context: &HttpContext) -> Result<(), Problem> {
    if context.hubs.all_respond().await { Ok(()) } else { Err(("a hub does not respond".to_owned(), None)) }
}

async fn check_broker(context: &HttpContext) -> Result<(), Problem> {
    context.broker.check_ready().await.map_err(|error| {
        let cause = error.to_string();
        let problem = if let BrokerError::NotReady { problem, .. } = error { problem } else { "is not ready" };
        (format!("{problem}; see the log of this instance"), Some(cause))
    })
}

/// `GET /metrics`: all metrics in the OpenMetrics text format. Most are counted where something happens; the depths of queues
/// are read here. Nothing of it grows with channels or sessions, except with those whose sockets are full.
pub(super) async fn metrics(context: Data<HttpContext>) -> HttpResponse {
    context.hubs.measure().await;
    context.metrics.set_queue_depths(queue_depths(&context));
    match context.metrics.encode() {
        Ok(text) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
            .body(text),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

/// Returns how full the queues are that are not the hubs' own.
fn queue_depths(context: &HttpContext) -> Vec<QueueDepth> {
    let HttpContext { config, hubs, broker, verifications, hooks, audit, hashing_permits, .. } = context;
    let max_hashes = config.current().login.concurrency;
    let hashes = max_hashes.saturating_sub(hashing_permits.available_permits());
    let mut depths = broker.queue_depths();
    depths.extend(hooks.queue_depths());
    depths.extend(audit.queue_depth());
    depths.push(verifications.depth(hubs.count()));
    depths.push(QueueDepth::of_entries(Queue::PasswordHashes, hashes, max_hashes));
    depths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_logged_when_it_changes() {
        let log = ReadinessLog::default();
        let changes = |hubs: Option<&str>, broker: Option<(&str, &str)>| {
            let broker = broker.map(|(problem, cause)| (problem.to_owned(), cause.to_owned()));
            let (problem, cause) = broker.unzip();
            let hubs = ComponentHealth::new("hubs", hubs.map(str::to_owned));
            log.changes(&[hubs, ComponentHealth { name: "broker", problem, cause }])
        };
        let line = |line: &str| Some(line.to_owned());
        assert_eq!(changes(None, None), []);
        let refused = Some(("cannot publish", "refused by 10.0.0.1"));
        assert_eq!(changes(None, refused), [line("part=broker error=\"refused by 10.0.0.1\"")]);
        assert_eq!(changes(None, refused), []);
        assert_eq!(changes(None, Some(("cannot publish", "refused after 3 s"))), [], "the same problem");
        assert_eq!(changes(Some("stuck"), refused), [line("part=hubs error=\"stuck\"")]);
        assert_eq!(changes(Some("stuck"), Some(("deaf", "silent"))), [line("part=broker error=\"silent\"")]);
        assert_eq!(changes(None, Some(("deaf", "silent"))), []);
        assert_eq!(changes(None, None), [None]);
        assert_eq!(changes(None, None), []);
    }
}
