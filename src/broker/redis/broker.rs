//! Implements the calls of [`Broker`] over Redis, each measured under the name of its operation. [`super::calls`] begins them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, try_join_all};
use uuid::Uuid;

use super::{
    RedisBroker, RedisContext, call_times::Operation, claims, controls, emulation, envelope,
    event_outbox::RedisEventOutbox, heartbeat, history, limits::RedisLimits, logins, presence, presence::PresenceRead,
    revocation_rounds, survey, tickets,
};
use crate::{
    broker::{
        Broker, BrokerFuture, Control, EventOutbox, HistoryPage, HistoryRequest, Login, LoginLimits, LoginRecord,
        LoginRefresh, LoginSelection, NodeIdentity, PositionResult, PresenceCount, PresenceEvent, PresentClient,
        PublishOptions, PublishReceipt, Retention, SharedLimits, SincePosition, SurveyQuestion, SurveyResult,
        completed,
    },
    channel::Channel,
    clock::WallTime,
    metrics::QueueDepth,
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
    revocation::{LoginId, Revocation},
};

impl Broker for RedisBroker {
    fn publish(&self, publication: Publication, options: PublishOptions) -> BrokerFuture<PublishReceipt> {
        self.measured(Operation::Publish, self.when_started(|context| history::publish(context, publication, options)))
    }

    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BrokerFuture<HistoryPage> {
        if request.limit == 0 {
            return self.measured(Operation::History, self.read_position(channel, retention));
        }
        self.measured(
            Operation::History,
            self.spawn(async move |context| {
                let before = context.shared_reads.top(&channel);
                let page = history::read_page(&context, channel.clone(), request, retention).await?;
                context.shared_reads.compare(&channel, before, Some(page.top));
                Ok(page)
            }),
        )
    }

    fn read_missed(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
        known: Option<SincePosition>,
    ) -> BrokerFuture<HistoryPage> {
        if request.limit == 0 {
            return self.measured(Operation::History, self.read_position(channel, retention));
        }
        let (context, runtime) = (self.context.clone(), self.runtime.clone());
        self.measured(
            Operation::History,
            history::read_missed(context, runtime, channel, request, retention, known).boxed(),
        )
    }

    fn read_positions(&self, channels: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>> {
        let count = channels.len();
        let read = self.spawn(async move |context| Ok(history::read_positions(&context, channels).await));
        self.measured(
            Operation::History,
            read.map(move |read| read.unwrap_or_else(|error| vec![Err(error); count])).boxed(),
        )
    }

    fn renew_epoch(&self, channel: Channel, lost: Epoch) -> BrokerFuture<Option<Position>> {
        self.spawn(async move |context| history::renew_epoch(&context, channel, lost).await)
    }

    fn remove_history(&self, channel: Channel) -> BrokerFuture<()> {
        self.measured(Operation::History, self.spawn(async move |context| history::remove(&context, channel).await))
    }

    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        client: Arc<ClientInfo>,
    ) -> BrokerFuture<()> {
        self.when_started(move |context| {
            let name = context.names.publication_channel(&channel);
            let message = context.signer.sign(envelope::encode_presence_event(&channel, event, &client));
            let queued = context.server_of(&channel).map(|server| server.publish(&name, &message));
            async move { queued?.await.map(drop) }.boxed()
        })
    }

    fn add_presence(&self, channel: Channel, client: Arc<ClientInfo>, ttl: Duration) -> BrokerFuture<()> {
        self.measured(
            Operation::Presence,
            self.when_started(move |context| presence::add(context, channel, client, ttl).boxed()),
        )
    }

    fn refresh_presence(&self, clients: Vec<PresentClient>, ttl: Duration) -> BrokerFuture<()> {
        // On the broker's thread, so that all its calls are queued before the first is sent.
        let refresh = presence::refresh(self.context.clone(), clients, ttl);
        self.measured(Operation::Presence, self.spawn(async move |_| refresh.await))
    }

    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BrokerFuture<()> {
        self.measured(Operation::Presence, presence::remove(&self.context, channel, client).boxed())
    }

    fn presence(&self, channel: Channel, max_bytes: usize) -> BrokerFuture<Vec<Arc<ClientInfo>>> {
        let begin = move |context: &RedisContext| PresenceRead::begin(context, channel);
        self.measured(
            Operation::Presence,
            self.spawn_after(begin, async move |context, read| read?.clients(&context, max_bytes).await),
        )
    }

    fn count_presence(&self, channel: Channel) -> BrokerFuture<PresenceCount> {
        let begin = move |context: &RedisContext| PresenceRead::begin(context, channel);
        self.measured(
            Operation::Presence,
            self.spawn_after(begin, async move |context, read| read?.count(&context).await),
        )
    }

    fn subscribe(&self, channel: Channel) -> BrokerFuture<()> {
        self.measured(Operation::Subscribe, self.context.clone().subscribe(channel))
    }

    fn unsubscribe(&self, channel: Channel) {
        let RedisContext { router, names, .. } = &*self.context;
        router.with_subscriptions(names, &channel, |subscriptions| subscriptions.unsubscribe(&channel));
        self.context.shared_reads.forget(&[channel]);
    }

    fn survey(&self, question: SurveyQuestion, timeout: Duration) -> BrokerFuture<SurveyResult> {
        self.measured(
            Operation::Survey,
            self.spawn(async move |context| survey::run_survey(&context, question, timeout).await),
        )
    }

    fn revoke(&self, revocations: Vec<Revocation>, timeout: Duration) -> BrokerFuture<Vec<NodeIdentity>> {
        self.measured(
            Operation::Revoke,
            self.spawn(async move |context| revocation_rounds::revoke(&context, revocations, timeout).await),
        )
    }

    fn confirm_revocations(&self, frozen_for: Duration) {
        self.context.hold_deliveries();
        if self.context.signer.may_refuse_after(frozen_for) {
            self.context.deliver.note_lost_controls();
        }
        self.context.revocations.request();
        // Others may have taken this instance for gone.
        self.context.connections.recount();
    }

    fn announce_stop(&self) -> BrokerFuture<()> {
        self.spawn(async move |context| heartbeat::announce_stop(&context).await)
    }

    fn send_control(&self, control: Control) -> BrokerFuture<()> {
        self.measured(Operation::Publish, self.when_started(move |context| controls::send(context.clone(), &control)))
    }

    fn send_commands(&self, node: &str, session: Uuid, message: Bytes) -> BrokerFuture<bool> {
        let node = node.to_owned();
        self.measured(
            Operation::Publish,
            self.when_started(move |context| emulation::send_commands(context, &node, &session, &message)),
        )
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BrokerFuture<()> {
        self.measured(Operation::Login, self.spawn(async move |context| tickets::put(&context, &id, &value, ttl).await))
    }

    fn read_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        self.measured(Operation::Login, self.spawn(async move |context| tickets::read(&context, &id).await))
    }

    fn take_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        self.measured(Operation::Login, self.spawn(async move |context| tickets::take(&context, &id).await))
    }

    fn start_login(&self, id: LoginId, login: Login, limits: LoginLimits) -> BrokerFuture<Vec<LoginRecord>> {
        self.measured(
            Operation::Login,
            self.spawn(async move |context| logins::start(&context, &id, &login, &limits).await),
        )
    }

    fn refresh_login(
        &self,
        id: LoginId,
        generation: u32,
        now: WallTime,
        limits: LoginLimits,
    ) -> BrokerFuture<LoginRefresh> {
        self.measured(
            Operation::Login,
            self.spawn(async move |context| logins::refresh(&context, &id, generation, now, &limits).await),
        )
    }

    fn find_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>> {
        self.measured(
            Operation::Login,
            self.spawn(async move |context| logins::find(&context, &user_tag, &selection).await),
        )
    }

    fn end_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>> {
        self.measured(
            Operation::Login,
            self.spawn(async move |context| logins::end(&context, &user_tag, &selection).await),
        )
    }

    fn shared_limits(&self) -> Option<Arc<dyn SharedLimits>> {
        Some(Arc::new(RedisLimits { context: self.context.clone(), runtime: self.runtime.clone() }))
    }

    fn event_outbox(&self) -> Arc<dyn EventOutbox> {
        Arc::new(RedisEventOutbox::new(self.context.clone(), self.runtime.clone()))
    }

    fn queue_depths(&self) -> Vec<QueueDepth> {
        let routes = self.context.router.routes();
        let commands = routes.servers().iter().map(|server| server.publishing_depth());
        let fullest = commands.max_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        fullest.into_iter().chain([self.context.surveys.depth()]).collect()
    }

    fn check_ready(&self) -> BrokerFuture<()> {
        let routes = self.context.router.routes();
        let fault_of_a_server = || routes.servers().iter().find_map(|server| server.fault());
        if let Some(fault) = self.context.cluster_health.fault().or_else(fault_of_a_server) {
            return completed(Err(fault));
        }
        self.spawn(async move |context| {
            try_join_all(routes.servers().iter().map(|server| server.check_ready())).await?;
            claims::check(&context).await?;
            context.check_revocations()
        })
    }
}
