//! Measures the duration of another broker's calls (`wardcast_broker_seconds`): of those on which a client or a caller of the server
//! API waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use super::{
    Broker, BrokerFuture, Control, EndedLogin, EventOutbox, HistoryPage, HistoryRequest, Login, LoginLimits,
    LoginRefresh, LoginSelection, NodeIdentity, PositionResult, PresenceCount, PresenceEvent, PresentClient,
    PublishOptions, PublishReceipt, Retention, SharedBroker, SharedLimits, SincePosition, SurveyQuestion, SurveyResult,
};
use crate::{
    channel::Channel,
    clock::WallTime,
    metrics::Metrics,
    position::{Epoch, Position},
    publication::ClientInfo,
    publication::Publication,
    revocation::{LoginId, Revocation},
};

/// A broker whose calls are measured.
pub struct MeasuredBroker {
    inner: SharedBroker,
    publish: Histogram,
    history: Histogram,
    presence: Histogram,
    subscribe: Histogram,
    survey: Histogram,
    revoke: Histogram,
    login: Histogram,
}

impl MeasuredBroker {
    /// Measures this broker.
    pub fn new(inner: SharedBroker, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            inner,
            publish: metrics.broker_seconds_of("publish"),
            history: metrics.broker_seconds_of("history"),
            presence: metrics.broker_seconds_of("presence"),
            subscribe: metrics.broker_seconds_of("subscribe"),
            survey: metrics.broker_seconds_of("survey"),
            revoke: metrics.broker_seconds_of("revoke"),
            login: metrics.broker_seconds_of("login"),
        })
    }
}

/// Notes how long a call takes, from its beginning until it is ready. A call that the caller gives up is not counted.
fn measured<T: Send + 'static>(histogram: &Histogram, call: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
    let (histogram, began) = (histogram.clone(), Instant::now());
    call.inspect(move |_| histogram.observe(began.elapsed().as_secs_f64())).boxed()
}

impl Broker for MeasuredBroker {
    fn publish(&self, publication: Publication, options: PublishOptions) -> BrokerFuture<PublishReceipt> {
        measured(&self.publish, self.inner.publish(publication, options))
    }

    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BrokerFuture<HistoryPage> {
        measured(&self.history, self.inner.read_history(channel, request, retention))
    }

    fn read_missed(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
        known: Option<SincePosition>,
    ) -> BrokerFuture<HistoryPage> {
        measured(&self.history, self.inner.read_missed(channel, request, retention, known))
    }

    fn read_positions(&self, channels: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>> {
        measured(&self.history, self.inner.read_positions(channels))
    }

    fn renew_epoch(&self, channel: Channel, lost: Epoch) -> BrokerFuture<Option<Position>> {
        self.inner.renew_epoch(channel, lost)
    }

    fn remove_history(&self, channel: Channel) -> BrokerFuture<()> {
        measured(&self.history, self.inner.remove_history(channel))
    }

    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        client: Arc<ClientInfo>,
    ) -> BrokerFuture<()> {
        self.inner.publish_presence_event(channel, event, client)
    }

    fn add_presence(&self, channel: Channel, client: Arc<ClientInfo>, ttl: Duration) -> BrokerFuture<()> {
        measured(&self.presence, self.inner.add_presence(channel, client, ttl))
    }

    fn refresh_presence(&self, clients: Vec<PresentClient>, ttl: Duration) -> BrokerFuture<()> {
        measured(&self.presence, self.inner.refresh_presence(clients, ttl))
    }

    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BrokerFuture<()> {
        measured(&self.presence, self.inner.remove_presence(channel, client))
    }

    fn presence(&self, channel: Channel, max_bytes: usize) -> BrokerFuture<Vec<Arc<ClientInfo>>> {
        measured(&self.presence, self.inner.presence(channel, max_bytes))
    }

    fn count_presence(&self, channel: Channel) -> BrokerFuture<PresenceCount> {
        measured(&self.presence, self.inner.count_presence(channel))
    }

    fn subscribe(&self, channel: Channel) -> BrokerFuture<()> {
        measured(&self.subscribe, self.inner.subscribe(channel))
    }

    fn unsubscribe(&self, channel: Channel) {
        self.inner.unsubscribe(channel);
    }

    fn survey(&self, question: SurveyQuestion, timeout: Duration) -> BrokerFuture<SurveyResult> {
        measured(&self.survey, self.inner.survey(question, timeout))
    }

    fn revoke(&self, revocations: Vec<Revocation>, timeout: Duration) -> BrokerFuture<Vec<NodeIdentity>> {
        measured(&self.revoke, self.inner.revoke(revocations, timeout))
    }

    fn confirm_revocations(&self) {
        self.inner.confirm_revocations();
    }

    fn announce_stop(&self) -> BrokerFuture<()> {
        self.inner.announce_stop()
    }

    fn send_control(&self, control: Control) -> BrokerFuture<()> {
        measured(&self.publish, self.inner.send_control(control))
    }

    fn send_commands(&self, node: &str, session: Uuid, message: Bytes) -> BrokerFuture<bool> {
        measured(&self.publish, self.inner.send_commands(node, session, message))
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BrokerFuture<()> {
        measured(&self.login, self.inner.put_ticket(id, value, ttl))
    }

    fn take_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        measured(&self.login, self.inner.take_ticket(id))
    }

    fn start_login(&self, id: LoginId, login: Login, limits: LoginLimits) -> BrokerFuture<Vec<EndedLogin>> {
        measured(&self.login, self.inner.start_login(id, login, limits))
    }

    fn refresh_login(
        &self,
        id: LoginId,
        generation: u32,
        now: WallTime,
        limits: LoginLimits,
    ) -> BrokerFuture<LoginRefresh> {
        measured(&self.login, self.inner.refresh_login(id, generation, now, limits))
    }

    fn end_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<EndedLogin>> {
        measured(&self.login, self.inner.end_logins(user_tag, selection))
    }

    fn shared_limits(&self) -> Option<Arc<dyn SharedLimits>> {
        self.inner.shared_limits()
    }

    fn event_outbox(&self) -> Arc<dyn EventOutbox> {
        self.inner.event_outbox()
    }

    fn check_ready(&self) -> BrokerFuture<()> {
        self.inner.check_ready()
    }
}
