//! The server API over a broker that answers at once: methods that are described as read-only change nothing, all others change
//! something; and requests that wait for nothing still let other tasks run.

use std::{
    mem,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix_http::Request;
use actix_web::{
    App, Error,
    dev::{Service, ServiceResponse},
    test,
    web::Data,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use serde_json::json;
use wardcast::{
    api::{self, Access, ApiContext, BroadcastTurns, CallCounters, LiveTraces, METHODS, UserRates},
    audit::AuditLog,
    auth::{Permissions, VerificationQueue, Verifier, refusal_log::RefusalLog},
    broker::{
        Broker, BrokerError, Control, EventOutbox, HistoryPage, HistoryRequest, Login, LoginLimits, LoginRecord,
        LoginRefresh, LoginSelection, NodeIdentity, PositionResult, PresenceCount, PresenceEvent, PresentClient,
        PublishOptions, PublishReceipt, Retention, SharedLimits, SincePosition, SurveyQuestion, SurveyResult,
    },
    channel::Channel,
    clock::{Clock, WallTime},
    config::LiveConfig,
    metrics::{Metrics, QueueDepth},
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
    revocation::{LoginId, Revocation, Revocations},
};

use crate::support::{self, API_KEY};

async fn start_api(broker: Arc<WriteRecorder>) -> impl Service<Request, Response = ServiceResponse, Error = Error> {
    let mut config = support::config();
    config.channels.history_size = 10;
    config.channels.presence = true;
    config.api.body_bytes = 1 << 20;
    config.api.publication_bytes = 1 << 20;
    let (live, clock) = (LiveConfig::new(config), Clock::default());
    let config = live.snapshot();
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let context = Data::new(ApiContext {
        broker,
        verifier: Arc::new(Verifier::new(&config, permissions.clone(), clock.clone()).unwrap()),
        verifications: VerificationQueue::new(&config.limits, Arc::default()),
        refusals: RefusalLog::new(live.clone(), AuditLog::disabled()),
        audit: AuditLog::disabled(),
        permissions,
        revocations: Revocations::new(&config, clock.clone(), Arc::default()),
        rates: UserRates::new(0, &WriteRecorder::default()).into(),
        hooks: Arc::default(),
        broadcast_turns: BroadcastTurns::default(),
        live_traces: LiveTraces::new(1, "node"),
        config: live,
        clock,
        call_counters: CallCounters::new(&Metrics::default()),
        metrics: Arc::default(),
    });
    let routes = move |service: &mut actix_web::web::ServiceConfig| api::routes(&config, service);
    test::init_service(App::new().app_data(context).configure(routes)).await
}

fn post(path: &str, body: impl Into<Bytes>) -> Request {
    test::TestRequest::post().uri(path).insert_header(("X-API-Key", API_KEY)).set_payload(body).to_request()
}

#[actix_rt::test]
async fn methods_described_as_read_only_change_nothing_and_all_others_do() {
    let broker = Arc::new(WriteRecorder::default());
    let app = start_api(broker.clone()).await;
    for method in METHODS {
        let request = post(&format!("/api/{}", method.name), method.example.request);
        let response = test::call_and_read_body(&app, request).await;
        let response = String::from_utf8_lossy(&response);
        assert!(!response.starts_with("{\"error\""), "{}: {response}", method.name);
        let writes = mem::take(&mut *broker.0.lock().unwrap());
        let name = method.name;
        match method.access {
            Access::ReadOnly => assert!(writes.is_empty(), "{name} calls {writes:?}: describe it as Access::Write"),
            Access::Write => assert!(!writes.is_empty(), "{name} changes nothing: describe it as Access::ReadOnly"),
        }
    }
}

#[actix_rt::test]
async fn requests_of_many_calls_or_channels_let_other_tasks_run() {
    let app = start_api(Arc::default()).await;
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

/// A broker that carries nothing out and records the calls that would change something.
#[derive(Default)]
struct WriteRecorder(Mutex<Vec<&'static str>>);

impl WriteRecorder {
    fn record<T: Send + 'static>(&self, call: &'static str, answer: T) -> BoxFuture<'static, Result<T, BrokerError>> {
        self.0.lock().unwrap().push(call);
        ready(Ok(answer)).boxed()
    }
}

impl Broker for WriteRecorder {
    fn publish(&self, _: Publication, _: PublishOptions) -> BoxFuture<'static, Result<PublishReceipt, BrokerError>> {
        self.record("publish", PublishReceipt::default())
    }

    fn read_history(
        &self,
        _: Channel,
        _: HistoryRequest,
        _: Retention,
    ) -> BoxFuture<'static, Result<HistoryPage, BrokerError>> {
        let top = Position { offset: 0, epoch: Epoch::random().unwrap() };
        ready(Ok(HistoryPage { publications: Vec::new(), top })).boxed()
    }

    fn read_missed(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
        _: Option<SincePosition>,
    ) -> BoxFuture<'static, Result<HistoryPage, BrokerError>> {
        self.read_history(channel, request, retention)
    }

    fn read_positions(&self, channels: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>> {
        ready(vec![Ok(None); channels.len()]).boxed()
    }

    fn renew_epoch(&self, _: Channel, _: Epoch) -> BoxFuture<'static, Result<Option<Position>, BrokerError>> {
        self.record("renew_epoch", None)
    }

    fn remove_history(&self, _: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("remove_history", ())
    }

    fn publish_presence_event(
        &self,
        _: Channel,
        _: PresenceEvent,
        _: Arc<ClientInfo>,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("publish_presence_event", ())
    }

    fn add_presence(&self, _: Channel, _: Arc<ClientInfo>, _: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("add_presence", ())
    }

    fn refresh_presence(&self, _: Vec<PresentClient>, _: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("refresh_presence", ())
    }

    fn remove_presence(&self, _: Channel, _: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("remove_presence", ())
    }

    fn presence(&self, _: Channel, _: usize) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn count_presence(&self, _: Channel) -> BoxFuture<'static, Result<PresenceCount, BrokerError>> {
        ready(Ok(PresenceCount::default())).boxed()
    }

    fn subscribe(&self, _: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("subscribe", ())
    }

    fn unsubscribe(&self, _: Channel) {
        self.0.lock().unwrap().push("unsubscribe");
    }

    fn survey(&self, _: SurveyQuestion, _: Duration) -> BoxFuture<'static, Result<SurveyResult, BrokerError>> {
        ready(Ok(SurveyResult::default())).boxed()
    }

    fn revoke(&self, _: Vec<Revocation>, _: Duration) -> BoxFuture<'static, Result<Vec<NodeIdentity>, BrokerError>> {
        self.record("revoke", Vec::new())
    }

    fn confirm_revocations(&self) {}

    fn announce_stop(&self) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Ok(())).boxed()
    }

    fn send_control(&self, _: Control) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("send_control", ())
    }

    fn send_commands(&self, _: &str, _: uuid::Uuid, _: Bytes) -> BoxFuture<'static, Result<bool, BrokerError>> {
        self.record("send_commands", true)
    }

    fn put_ticket(&self, _: String, _: Bytes, _: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.record("put_ticket", ())
    }

    fn read_ticket(&self, _: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        ready(Ok(None)).boxed()
    }

    fn take_ticket(&self, _: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        self.record("take_ticket", None)
    }

    fn start_login(
        &self,
        _: LoginId,
        _: Login,
        _: LoginLimits,
    ) -> BoxFuture<'static, Result<Vec<LoginRecord>, BrokerError>> {
        self.record("start_login", Vec::new())
    }

    fn refresh_login(
        &self,
        _: LoginId,
        _: u32,
        _: WallTime,
        _: LoginLimits,
    ) -> BoxFuture<'static, Result<LoginRefresh, BrokerError>> {
        self.record("refresh_login", LoginRefresh::Unknown)
    }

    fn find_logins(&self, _: String, _: LoginSelection) -> BoxFuture<'static, Result<Vec<LoginRecord>, BrokerError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn end_logins(&self, _: String, _: LoginSelection) -> BoxFuture<'static, Result<Vec<LoginRecord>, BrokerError>> {
        self.record("end_logins", Vec::new())
    }

    fn shared_limits(&self) -> Option<Arc<dyn SharedLimits>> {
        None
    }

    fn event_outbox(&self) -> Arc<dyn EventOutbox> {
        unreachable!("no test asks for it")
    }

    fn queue_depths(&self) -> Vec<QueueDepth> {
        Vec::new()
    }

    fn check_ready(&self) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Ok(())).boxed()
    }
}
