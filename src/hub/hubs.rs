//! The handle of all hubs of this instance, one per worker. The broker delivers to it, and the server asks it.

use std::{collections::HashMap, sync::Arc, time::Instant};

use actix::{Addr, Handler, Message};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use prometheus_client::metrics::histogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    ApiGrants, CheckHealth, CloseAllSessions, Hub, RefusedAttempts,
    control::{ApplyControl, QueuedControl},
    delivery::Delivery,
    fanout::{DeliverySender, DrainQueue},
    gap::{NoteInterrupted, NoteResubscribed},
    inspection::{self, NodeTotals},
    measurements::NoteProbe,
    presence::RestorePresence,
    reload::ApplyConfig,
    revocation::ObeyRevocations,
    subscription::FilterTracks,
    traces::Traces,
};
use crate::{
    broker::{Control, Deliver, NodeIdentity, NodeInfo, PresenceEvent, QueueFull, SurveyQuestion},
    channel::Channel,
    config::Config,
    emulation::{EmulatedSessions, SendCommandsError},
    metrics::{MAX_QUEUED_CONTROLS, Metrics, Queue, QueueDepth},
    protocol,
    publication::{ClientInfo, Publication},
    revocation::{ListFull, Revocation, RevocationTarget, Revocations},
};

/// All hubs of this instance that have started.
pub struct Hubs {
    hubs: ArcSwap<Vec<(DeliverySender, Addr<Hub>)>>,
    metrics: Arc<Metrics>,
    node: NodeIdentity,
    started_at: Instant,
    /// One for each control that not every hub has applied yet.
    control_permits: Arc<Semaphore>,
    api_grants: Arc<ApiGrants>,
    filter_tracks: Arc<FilterTracks>,
    revocations: Arc<Revocations>,
    emulated_sessions: Arc<EmulatedSessions>,
    traces: Arc<Traces>,
    refused_attempts: Arc<RefusedAttempts>,
}

impl Hubs {
    /// Creates the handle without hubs; each worker starts its own. `uid` is the id of this run of the instance.
    pub fn new(
        metrics: Arc<Metrics>,
        uid: &str,
        api_grants: Arc<ApiGrants>,
        revocations: Arc<Revocations>,
        refused_attempts: Arc<RefusedAttempts>,
    ) -> Arc<Self> {
        let node = NodeIdentity { uid: uid.to_owned(), name: host_name().unwrap_or_else(|| uid.to_owned()) };
        Arc::new(Self {
            hubs: ArcSwap::default(),
            metrics,
            node,
            started_at: Instant::now(),
            control_permits: Arc::new(Semaphore::new(MAX_QUEUED_CONTROLS)),
            api_grants,
            filter_tracks: Arc::default(),
            revocations,
            emulated_sessions: Arc::default(),
            traces: Arc::default(),
            refused_attempts,
        })
    }

    pub(super) fn add(&self, sender: DeliverySender, hub: Addr<Hub>) {
        self.hubs.rcu(|hubs| hubs.iter().cloned().chain([(sender.clone(), hub.clone())]).collect::<Vec<_>>());
    }

    /// Returns the number of hubs that have started: one per worker.
    pub fn count(&self) -> usize {
        self.hubs.load().len()
    }

    /// Returns all hubs, each with its queue of deliveries.
    pub(super) fn all(&self) -> Arc<Vec<(DeliverySender, Addr<Hub>)>> {
        self.hubs.load_full()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns how many controls not every hub has applied.
    pub(super) fn controls_depth(&self) -> QueueDepth {
        let queued = MAX_QUEUED_CONTROLS.saturating_sub(self.control_permits.available_permits());
        QueueDepth::of_entries(Queue::Controls, queued, MAX_QUEUED_CONTROLS)
    }

    /// Returns whether there are hubs and all of them answer. The health check needs this because a panic ends a hub
    /// without a trace.
    pub async fn all_respond(&self) -> bool {
        let hubs = self.hubs.load_full();
        let answers = join_all(hubs.iter().map(|(_, hub)| hub.send(CheckHealth))).await;
        !answers.is_empty() && answers.iter().all(Result::is_ok)
    }

    /// Returns what the server API has subscribed users to.
    pub fn api_grants(&self) -> &Arc<ApiGrants> {
        &self.api_grants
    }

    /// Returns the revocations that the hubs obey.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Returns the clients that were refused last.
    pub fn refused_attempts(&self) -> &Arc<RefusedAttempts> {
        &self.refused_attempts
    }

    /// Returns the id of this run of the instance.
    pub fn node_id(&self) -> &str {
        &self.node.uid
    }

    /// Returns the sessions that get commands by requests.
    pub fn emulated_sessions(&self) -> &Arc<EmulatedSessions> {
        &self.emulated_sessions
    }

    /// Returns what the hubs know of filters.
    pub(super) fn filter_tracks(&self) -> Arc<FilterTracks> {
        self.filter_tracks.clone()
    }

    /// Returns the live traces of this node.
    pub(super) fn traces(&self) -> Arc<Traces> {
        self.traces.clone()
    }

    /// Has every hub apply a reloaded configuration. `has_new_rules`: the rules of channels are others, so the sessions check their
    /// subscriptions.
    pub fn apply_config(&self, config: &Arc<Config>, has_new_rules: bool) {
        let apply = ApplyConfig { config: config.clone(), has_new_rules };
        self.hubs.load().iter().for_each(|(_, hub)| hub.do_send(apply.clone()));
    }

    /// Has every hub close its sessions, because the instance stops.
    pub fn shut_down(&self, shutdown: CloseAllSessions) {
        self.traces.stop();
        self.hubs.load().iter().for_each(|(_, hub)| hub.do_send(shutdown));
    }
}

impl Hubs {
    /// Forgets what the server API has granted to users whose tokens are revoked, as after a `disconnect` that keeps the user away.
    fn forget_grants(&self, revocations: &[Revocation]) {
        for revocation in revocations {
            if let RevocationTarget::User(user, _) = &revocation.target {
                self.api_grants.forget_user(user);
            }
        }
    }

    /// Sends channels to every hub.
    fn send_channels<M>(&self, channels: &[Channel], message: impl Fn(Arc<[Channel]>) -> M)
    where
        M: Message<Result = ()> + Send + 'static,
        Hub: Handler<M>,
    {
        if !channels.is_empty() {
            let channels: Arc<[Channel]> = channels.into();
            self.hubs.load().iter().for_each(|(_, hub)| hub.do_send(message(channels.clone())));
        }
    }

    /// Queues a delivery to every hub, or to none if one queue is full.
    fn enqueue_for_all(&self, delivery: Arc<Delivery>) -> Result<(), QueueFull> {
        let hubs = self.hubs.load();
        for (index, (sender, _)) in hubs.iter().enumerate() {
            if sender.reserve(delivery.cost_bytes()).is_err() {
                hubs[..index].iter().for_each(|(sender, _)| sender.release(delivery.cost_bytes()));
                self.metrics.deliveries_dropped.inc();
                return Err(QueueFull);
            }
        }
        for (sender, hub) in hubs.iter() {
            if sender.send(delivery.clone()) {
                hub.do_send(DrainQueue);
            }
        }
        Ok(())
    }
}

impl Deliver for Hubs {
    fn deliver_publication(&self, publication: Publication) -> Result<(), QueueFull> {
        self.enqueue_for_all(Delivery::new(publication))
    }

    fn deliver_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        who: Arc<ClientInfo>,
    ) -> Result<(), QueueFull> {
        self.enqueue_for_all(Delivery::presence_event(channel, event, who))
    }

    fn deliver_control(&self, control: Control) -> Result<(), QueueFull> {
        let Ok(permit) = self.control_permits.clone().try_acquire_owned() else {
            self.api_grants.forget_user(&control.user);
            return Err(QueueFull);
        };
        let queued = Arc::new(QueuedControl { control, _permit: permit });
        self.api_grants.apply(&queued.control, || {
            self.hubs.load().iter().for_each(|(_, hub)| hub.do_send(ApplyControl(queued.clone())));
        });
        Ok(())
    }

    fn deliver_commands(&self, session: &Uuid, message: Bytes) -> Result<(), SendCommandsError> {
        self.emulated_sessions.send(session, message)
    }

    fn note_probe(&self, sent_at: Instant, lag: Histogram) {
        let probe = NoteProbe { sent_at, lag };
        self.hubs.load().iter().for_each(|(_, hub)| hub.do_send(probe.clone()));
    }

    fn note_lost_controls(&self) {
        self.api_grants.forget_all();
    }

    fn note_interrupted(&self, channels: &[Channel]) {
        self.send_channels(channels, NoteInterrupted);
    }

    fn note_resubscribed(&self, channels: &[Channel]) {
        self.send_channels(channels, NoteResubscribed);
        self.send_channels(channels, |_| RestorePresence);
    }

    fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    fn add_revocations(&self, revocations: Vec<Revocation>) -> Result<(), ListFull> {
        self.forget_grants(&revocations);
        self.revocations.add(revocations).map(drop)
    }

    fn add_revocations_or_none(&self, revocations: Vec<Revocation>) -> Result<(), ListFull> {
        self.revocations.add_all(revocations.clone())?;
        self.forget_grants(&revocations);
        Ok(())
    }

    fn release_deliveries(&self) {
        if self.revocations.release() {
            self.hubs.load().iter().for_each(|(_, hub)| hub.do_send(DrainQueue));
        }
    }

    fn node(&self) -> NodeIdentity {
        self.node.clone()
    }

    fn answer_survey(&self, question: SurveyQuestion) -> BoxFuture<'static, Vec<u8>> {
        let hubs: Vec<Addr<Hub>> = self.hubs.load().iter().map(|(_, hub)| hub.clone()).collect();
        match question {
            SurveyQuestion::Channels => channels_json(hubs).boxed(),
            SurveyQuestion::Inspect(inspection) => {
                let (traces, refused) = (self.traces.clone(), self.refused_attempts.clone());
                inspection::answer(hubs, self.node.clone(), traces, refused, inspection).boxed()
            }
            SurveyQuestion::Revoked(_) => async move {
                join_all(hubs.iter().map(|hub| hub.send(ObeyRevocations))).await;
                Vec::new()
            }
            .boxed(),
            SurveyQuestion::Info => {
                let (node, started_at, metrics) = (self.node.clone(), self.started_at, self.metrics.clone());
                async move { node_info_json(hubs, node, started_at, &metrics).await }.boxed()
            }
        }
    }
}

async fn channels_json(hubs: Vec<Addr<Hub>>) -> Vec<u8> {
    let counts = inspection::subscribers(&hubs).await;
    let encode = move || {
        let counts: HashMap<&str, usize> = counts.iter().map(|(channel, count)| (channel.as_str(), *count)).collect();
        serde_json::to_vec(&counts).unwrap_or_default()
    };
    // Outside of the workers: 100,000 channels take several milliseconds.
    tokio::task::spawn_blocking(encode).await.unwrap_or_default()
}

async fn node_info_json(hubs: Vec<Addr<Hub>>, node: NodeIdentity, started_at: Instant, metrics: &Metrics) -> Vec<u8> {
    let NodeTotals { clients, users, subs, channels } = inspection::totals(&hubs).await;
    let info = NodeInfo {
        node,
        version: protocol::VERSION.to_owned(),
        num_clients: clients,
        num_users: users,
        num_subs: subs,
        num_channels: channels,
        uptime: started_at.elapsed().as_secs(),
        num_publications: metrics.publications.get(),
        num_deliveries: metrics.deliveries.get(),
        cpu_ms: processor_milliseconds(),
        memory_bytes: resident_bytes(),
    };
    serde_json::to_vec(&info).unwrap_or_default()
}

/// Returns the processor time of this process, in milliseconds.
fn processor_milliseconds() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(used.tv_sec * 1_000 + used.tv_nsec / 1_000_000).unwrap_or_default()
}

/// Returns the memory of this process that is not swapped out, in bytes; 0 where the kernel does not tell.
fn resident_bytes() -> u64 {
    // Sizes in pages: the whole program, then what is resident (proc_pid_statm(5)).
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = sizes.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// The host name of the machine or container, if the kernel has one.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix::prelude::*;
    use bytes::Bytes;

    use super::*;
    use crate::{
        broker::{ControlAction, memory::MemoryBroker},
        clock::Clock,
        config::{Config, OptionOverrides},
        hub::BrokerSubscriptions,
    };

    fn publication(bytes: usize) -> Publication {
        Publication::new(Channel::new("news").unwrap(), Bytes::from(vec![b'1'; bytes]))
    }

    /// Starts one hub for each limit. Their queues are not drained until the test awaits something.
    fn hubs_with_queues_of(limits_bytes: &[usize]) -> Arc<Hubs> {
        let hubs = crate::hub::testing::test_hubs();
        for limit_bytes in limits_bytes {
            let mut config = Config::default();
            config.limits.hub_queue_bytes = *limit_bytes;
            let clock = Clock::default();
            let broker = MemoryBroker::new(hubs.clone(), &config.limits, clock.clone());
            let subscriptions = BrokerSubscriptions::new(Arc::new(broker), Duration::ZERO);
            Hub::start_on_this_thread(&hubs, subscriptions, &config, clock, Arc::new(Metrics::default()), None);
        }
        hubs
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Stop;

    impl Handler<Stop> for Hub {
        type Result = ();

        fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
            ctx.stop();
        }
    }

    #[actix_rt::test]
    async fn all_hubs_respond_only_if_there_are_hubs_and_none_has_ended() {
        assert!(!hubs_with_queues_of(&[]).all_respond().await);
        let hubs = hubs_with_queues_of(&[1000, 1000]);
        assert!(hubs.all_respond().await);
        let ended = hubs.hubs.load()[1].1.clone();
        ended.send(Stop).await.unwrap();
        assert!(!hubs.all_respond().await);
    }

    #[actix_rt::test]
    async fn delivery_that_one_full_queue_refuses_leaves_the_room_in_the_others() {
        let hubs = hubs_with_queues_of(&[10_000, 10_000, 2_900]);
        for _ in 0..100 {
            assert_eq!(hubs.deliver_publication(publication(3_000)), Err(QueueFull));
        }
        assert_eq!(hubs.metrics.deliveries_dropped.get(), 100);
        assert_eq!(hubs.deliver_publication(publication(2_500)), Ok(()));
    }

    #[actix_rt::test]
    async fn control_that_is_refused_forgets_what_the_server_api_gave_its_user() {
        let hubs = hubs_with_queues_of(&[1000]);
        let news = Channel::new("news").unwrap();
        let subscribe = |user: &str| {
            let (channel, overrides) = ("news".to_owned(), OptionOverrides::default());
            let (info, data, recover_since, expires_at) = (None, None, None, None);
            let action = ControlAction::Subscribe { channel, info, data, recover_since, expires_at, overrides };
            Control { user: user.to_owned(), client: None, whitelist: Vec::new(), action }
        };
        for number in 0..MAX_QUEUED_CONTROLS {
            assert_eq!(hubs.deliver_control(subscribe(if number == 0 { "ann" } else { "bob" })), Ok(()));
        }
        let has_grant = |user: &str| hubs.api_grants().find(user, &news).is_some();
        assert!(has_grant("ann") && has_grant("bob"));
        let unsubscribe =
            Control { action: ControlAction::Unsubscribe { channel: "other".to_owned() }, ..subscribe("ann") };
        assert_eq!(hubs.deliver_control(unsubscribe), Err(QueueFull));
        assert!(!has_grant("ann") && has_grant("bob"));
    }

    #[actix_rt::test]
    async fn refused_delivery_releases_no_more_than_it_reserved() {
        let hubs = hubs_with_queues_of(&[10_000, 8_000]);
        assert_eq!(hubs.deliver_publication(publication(7_000)), Ok(()));
        for _ in 0..10 {
            assert_eq!(hubs.deliver_publication(publication(1_500)), Err(QueueFull));
        }
        assert_eq!(hubs.deliver_publication(publication(5_000)), Err(QueueFull), "7,000 bytes still wait");
    }
}
