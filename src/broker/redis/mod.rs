//! A broker over Redis, which connects several instances: PUB/SUB carries publications, controls, heartbeats, and survey
//! questions and answers; keys hold histories, idempotency keys, tickets, logins, shared limits and events for the backend. Hubs, sessions and the server API call [`RedisBroker`]. Everything that it does
//! runs on a separate thread, so that no worker waits for Redis.
//!
//! ```text
//!              ┌ server: one Redis, its two connections, its pool ──────────────────────────────┐
//!  publish ───▶│ publisher ──▶ its connection ──▶ Redis ──▶ subscription connection             │─▶ inbox ──▶ hubs
//!  subscribe ─▶│ desired subscriptions ◀── subscriber (supervises and probes that connection)   │     │
//!              └────────────────────────────────────────────────────────────────────────────────┘     │
//!  survey ────▶ pool of a server ──▶ question … survey (answers of the other nodes) ◀─────────────────┤
//!  heartbeat ─▶ server ──▶ … ──▶ nodes (those that are alive, which a survey asks) ◀──────────────────┤
//!  control ───▶ server ──▶ … ──▶ hubs ◀───────────────────────────────────────────────────────────────┘
//!  history, tickets ───▶ pool of a server (a publish with history is a script of the publisher)
//! ```
//!
//! Everything that belongs to one Redis server is in [`server`]; the context says which server has a channel.
//!
//! An outage of Redis stops nothing here: the desired subscriptions stay, publishing fails at once, both connections try
//! again at least every half second, and its health reports the state. A Redis that is not a master is an outage, too.

mod broker;
mod call_times;
mod calls;
mod claims;
mod cluster;
mod controls;
mod emulation;
mod envelope;
mod error;
mod event_outbox;
mod heartbeat;
mod history;
mod inbox;
mod limits;
mod logins;
mod names;
mod nodes;
mod partition;
mod placement;
mod presence;
mod refused;
mod revocation_rounds;
mod revocations;
mod router;
mod scripts;
mod server;
mod store;
mod stored_revocation;
mod survey;
mod tasks;
mod tickets;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::FutureExt;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::{Instant, timeout_at},
};

pub use self::error::{BrokerStartError, RedisConfigError};
pub(super) use self::partition::stable_hash;
use self::{
    call_times::CallTimes,
    claims::SettingClaims,
    cluster::ClusterHealth,
    envelope::MessageSigner,
    error::stopped_error,
    heartbeat::Announcer,
    history::SharedReads,
    limits::ConnectionCounts,
    names::RedisNames,
    nodes::NodeRegistry,
    partition::PartitionTable,
    presence::PresenceTurn,
    refused::RefusedMessages,
    revocation_rounds::RevocationRequests,
    revocations::RevocationLoader,
    router::{Router, Routes},
    server::{DesiredSubscriptions, RedisServer, ServerAvailability},
    survey::SurveyRegistry,
};
use super::{BrokerError, BrokerFuture, Deliver};
use crate::{channel::Channel, clock::Clock, config, metrics::Metrics};

/// A broker that shares a Redis with other instances. Dropping it ends its tasks.
pub struct RedisBroker {
    context: Arc<RedisContext>,
    /// The runtime of its thread. Connections belong to the runtime that made them, so whatever uses the pool runs there.
    runtime: Handle,
    call_times: CallTimes,
    /// Ends the thread when it is dropped together with the broker.
    _stop: oneshot::Sender<()>,
}

/// What the broker's tasks share.
struct RedisContext {
    /// The node's id and a random part. So two instances with the same id do not receive each other's survey answers.
    instance: String,
    names: RedisNames,
    router: Router,
    cluster_health: ClusterHealth,
    timeout: Duration,
    message_bytes: usize,
    probe_interval: Duration,
    heartbeat_interval: Duration,
    surveys: SurveyRegistry,
    nodes: NodeRegistry,
    announcer: Announcer,
    claims: SettingClaims,
    /// Signs what this instance sends and stores.
    signer: MessageSigner,
    refused: RefusedMessages,
    revocations: RevocationLoader,
    revocation_requests: RevocationRequests,
    deliver: Arc<dyn Deliver>,
    shared_reads: SharedReads,
    presence: PresenceTurn,
    /// The connections of users on this instance.
    connections: Arc<ConnectionCounts>,
    /// How often a server was connected (again): it may have lost what this instance has stored.
    interruptions: AtomicU64,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl RedisContext {
    /// Returns the server of a channel: its publications, its history and its presence are there.
    ///
    /// # Errors
    /// At the moment no server is responsible for the channel.
    fn server_of(&self, channel: &Channel) -> Result<Arc<RedisServer>, BrokerError> {
        self.router.server_of(&self.names, channel)
    }

    /// Returns the server of a key that belongs to no channel, such as a ticket.
    /// Independent servers are chosen by the whole text, also if it has a hash tag: keys that belong together have to be looked for
    /// by one text.
    ///
    /// # Errors
    /// At the moment no server is responsible for the key.
    fn server_of_name(&self, name: &str) -> Result<Arc<RedisServer>, BrokerError> {
        self.router.server_of_name(name)
    }

    /// Notes whether this instance is subscribed to everything on a server. It knows whether other nodes are alive only while
    /// it hears the control channel.
    fn set_subscribed(&self, server: &RedisServer, is_subscribed: bool) {
        let control = self.names.control_channel();
        server.set_subscribed(is_subscribed);
        if is_subscribed {
            // It may have been interrupted, or have lost what it kept.
            self.revocations.request();
            self.connections.recount();
            self.interruptions.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared_reads.clear();
        }
        if is_subscribed && server.has_own_name(control) {
            let routes = self.router.routes();
            let is_other = |other: &&Arc<RedisServer>| !std::ptr::eq(&***other, server);
            // Heartbeats come over all servers: over the others they have come without a break.
            if !routes.servers().iter().filter(is_other).any(|other| other.is_hearing(control)) {
                self.nodes.start_listening();
            }
            self.announcer.request_hello();
        } else if !self.router.routes().servers().iter().any(|server| server.is_hearing(control)) {
            self.nodes.stop_listening();
        }
    }

    /// Notes that publications of these channels may have been lost, before they are subscribed again.
    fn note_interrupted(&self, channels: &[Channel]) {
        self.shared_reads.forget(channels);
        self.deliver.note_interrupted(channels);
    }

    /// Notes that interrupted channels are subscribed again. A read that has begun before may lack what was lost.
    fn note_resubscribed(&self, channels: &[Channel]) {
        self.shared_reads.forget(channels);
        self.deliver.note_resubscribed(channels);
    }

    /// Subscribes to a channel; the request takes effect during the call. The future completes when Redis has confirmed it.
    fn subscribe(self: Arc<Self>, channel: Channel) -> BrokerFuture<()> {
        let change = |subscriptions: &DesiredSubscriptions| subscriptions.subscribe(channel.clone());
        let requested = self.router.with_subscriptions(&self.names, &channel, change);
        let deadline = Instant::now() + self.timeout;
        async move {
            match timeout_at(deadline, requested?).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(stopped_error())),
                Err(_) => {
                    self.router
                        .with_subscriptions(&self.names, &channel, |subscriptions| subscriptions.give_up(&channel));
                    let limit = self.timeout;
                    Err(BrokerError::Unavailable(format!("redis confirmed no subscription within {limit:?}")))
                }
            }
        }
        .boxed()
    }
}

impl RedisBroker {
    /// Checks that [`Self::start`] would accept the URLs and the files. Nothing is connected.
    ///
    /// # Errors
    /// [`RedisConfigError`].
    pub fn check_config(config: &config::RedisConfig) -> Result<(), RedisConfigError> {
        let mut addresses = HashSet::new();
        for server in server_configs(config) {
            let address = RedisServer::check_config(&server)?;
            // A channel belongs to an address.
            if !addresses.insert(placement::canonical(&address).into_owned()) && config.cluster.urls.is_empty() {
                let problem = format!("names the server {address} twice; remove one of the entries");
                return Err(RedisConfigError { key: "broker.redis.urls", problem });
            }
        }
        Ok(())
    }

    /// Starts to connect, and returns without waiting for a connection: Redis may be down. Deliveries go to `deliver`. At
    /// most `queue_bytes` wait to be published (`limits.hub_queue_bytes`).
    ///
    /// # Errors
    /// [`BrokerStartError`]: the configuration is invalid, or there is no thread.
    pub fn start(
        config: &config::RedisConfig,
        queue_bytes: usize,
        deliver: Arc<dyn Deliver>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, BrokerStartError> {
        let instance =
            format!("{}.{:08x}", deliver.node().uid, getrandom::u32().unwrap_or_else(|_| std::process::id()));
        let is_cluster = !config.cluster.urls.is_empty();
        let names = if is_cluster {
            RedisNames::partitioned(&config.prefix, &instance, PartitionTable::new(config.partitions))
        } else {
            RedisNames::new(&config.prefix, &instance)
        };
        let availability = Arc::new(ServerAvailability::new(metrics.clone()));
        Self::check_config(config)?;
        let mut servers = Vec::new();
        // Those of a Cluster are found when it has been asked.
        for config in if is_cluster { Vec::new() } else { server_configs(config) } {
            servers.push(RedisServer::new(&config, &names, queue_bytes, &availability, None)?);
        }
        let (servers, queues): (Vec<_>, Vec<_>) = servers.into_iter().unzip();
        let addresses = (!is_cluster).then(|| servers.iter().map(|server| server.address()));
        let claims = setting_claims(config, addresses, &metrics);
        let routes = if is_cluster { Routes::to_masters(servers, Vec::new()) } else { Routes::to_independent(servers) };
        let router = Router::new(routes, &names);
        let (revocation_requests, requests) = RevocationRequests::new();
        let call_times = CallTimes::new(&metrics);
        let context = Arc::new(RedisContext {
            names,
            instance,
            router,
            cluster_health: ClusterHealth::new(availability, is_cluster),
            timeout: config.timeout,
            message_bytes: config.message_bytes,
            probe_interval: config.probe_interval,
            heartbeat_interval: config.heartbeat_interval,
            surveys: SurveyRegistry::new(),
            nodes: NodeRegistry::new(config, metrics.clone()),
            announcer: Announcer::default(),
            claims,
            signer: MessageSigner::new(config, clock.clone()),
            refused: RefusedMessages::new(metrics.clone()),
            revocations: RevocationLoader::default(),
            revocation_requests,
            deliver,
            shared_reads: SharedReads::new(queue_bytes / 4),
            presence: PresenceTurn::default(),
            connections: Arc::default(),
            interruptions: AtomicU64::new(0),
            clock,
            metrics,
        });
        context.deliver.revocations().expect_list();
        context.hold_deliveries();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let tasks = tasks::run(context.clone(), config.clone(), queue_bytes, queues, requests);
        std::thread::Builder::new()
            .name("redis".to_owned())
            .spawn(move || calls::run_thread(runtime, tasks, stopped))?;
        Ok(Arc::new(Self { context, runtime: handle, call_times, _stop: stop }))
    }
}

/// Returns the settings that all instances must have alike. `addresses`: of the servers; `None`: of a Cluster.
fn setting_claims<'a>(
    config: &config::RedisConfig,
    addresses: Option<impl Iterator<Item = &'a str>>,
    metrics: &Arc<Metrics>,
) -> SettingClaims {
    match addresses {
        Some(addresses) => SettingClaims::of_servers(addresses, config.heartbeat_interval, metrics.clone()),
        None => SettingClaims::of_cluster(config.partitions, config.heartbeat_interval, metrics.clone()),
    }
}

/// Returns the configuration of each independent server, or of each configured node of a Cluster.
fn server_configs(config: &config::RedisConfig) -> Vec<config::RedisConfig> {
    let with_url = |url: &config::Secret| config::RedisConfig { url: url.clone(), ..config.clone() };
    let urls = if config.cluster.urls.is_empty() { &config.urls } else { &config.cluster.urls };
    if urls.is_empty() { vec![config.clone()] } else { urls.iter().map(with_url).collect() }
}
