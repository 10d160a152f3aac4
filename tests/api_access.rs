//! The server API over a broker that answers at once: methods that are described as read-only change nothing, all others change
//! something; and requests that wait for nothing still let other tasks run.

use std::{mem, pin::pin};

use actix_http::Request;
use actix_web::{
    App, Error,
    dev::{Service, ServiceResponse},
    test,
    web::Data,
};
use bytes::Bytes;
use serde_json::json;
use wardcast::api::{
    self, Access, ApiContext, BroadcastTurns, CallCounters, LiveTraces, METHODS, SurveyLog, UserRates,
};

use crate::support::{API_KEY, slow_broker::Worker};

/// A worker with a hub, and the server API over its broker, which answers at once.
async fn start_api() -> (Worker, impl Service<Request, Response = ServiceResponse, Error = Error>) {
    let worker = Worker::start(|config| {
        config.channels.history_size = 10;
        config.channels.presence = true;
        config.api.body_bytes = 1 << 20;
        config.api.publication_bytes = 1 << 20;
    });
    worker.broker.answer(1000);
    let (services, config) = (&worker.services, worker.config());
    let context = Data::new(ApiContext {
        broker: worker.broker.clone(),
        verifier: services.verifier.clone(),
        verifications: services.verifications.clone(),
        refusals: services.refusals.clone(),
        audit: services.audit.clone(),
        permissions: services.permissions.clone(),
        revocations: worker.hubs.revocations().clone(),
        rates: UserRates::new(0, &*worker.broker).into(),
        hooks: services.hooks.clone(),
        broadcast_turns: BroadcastTurns::default(),
        live_traces: LiveTraces::new(1, "node"),
        survey_log: SurveyLog::default(),
        config: services.config.clone(),
        clock: worker.clock.clone(),
        call_counters: CallCounters::new(&services.metrics),
        metrics: services.metrics.clone(),
    });
    let routes = move |service: &mut actix_web::web::ServiceConfig| api::routes(&config, service);
    let app = test::init_service(App::new().app_data(context).configure(routes)).await;
    (worker, app)
}

fn post(path: &str, body: impl Into<Bytes>) -> Request {
    test::TestRequest::post().uri(path).insert_header(("X-API-Key", API_KEY)).set_payload(body).to_request()
}

#[actix_rt::test]
async fn methods_described_as_read_only_change_nothing_and_all_others_do() {
    let (worker, app) = start_api().await;
    for method in METHODS {
        let request = post(&format!("/api/{}", method.name), method.example.request);
        let response = test::call_and_read_body(&app, request).await;
        let response = String::from_utf8_lossy(&response);
        assert!(!response.starts_with("{\"error\""), "{}: {response}", method.name);
        let writes = mem::take(&mut *worker.broker.writes.lock());
        let name = method.name;
        match method.access {
            Access::ReadOnly => assert!(writes.is_empty(), "{name} calls {writes:?}: describe it as Access::Write"),
            Access::Write => assert!(!writes.is_empty(), "{name} changes nothing: describe it as Access::ReadOnly"),
        }
    }
}

#[actix_rt::test]
async fn requests_of_many_calls_or_channels_let_other_tasks_run() {
    let (_worker, app) = start_api().await;
    let (data, channels) = ("x".repeat(100_000), vec!["news"; 5000]);
    for (path, body) in [
        ("/api", r#"{"method":"info"}"#.repeat(1000)),
        ("/api/batch", json!({"commands": vec![json!({"info": {}}); 1000]}).to_string()),
        ("/api/batch", json!({"parallel": true, "commands": vec![json!({"info": {}}); 2000]}).to_string()),
        ("/api/broadcast", json!({"channels": channels, "data": data}).to_string()),
    ] {
        let mut response = pin!(test::call_service(&app, post(path, body)));
        let mut turns = 0;
        let response = loop {
            tokio::select! {
                biased;
                response = &mut response => break response,
                () = tokio::task::yield_now() => turns += 1,
            }
        };
        assert_eq!(response.status(), 200, "{path}");
        assert!(turns >= 50, "{turns} turns of other tasks during {path}");
    }
}
