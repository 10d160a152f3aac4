//! The composition root: listener, workers, the two instances of the application that each worker has, hubs, broker. Every
//! room is made here and handed what it needs; nothing is global.

mod listener;
pub mod proxy;
mod tls;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::web::Data;
use uuid::Uuid;

use crate::{
    api,
    auth::{
        KeyError, Permissions, Signer, Verifier,
        login_backoff::LoginBackoff,
        users::{Users, UsersFileError},
    },
    broker::{SharedBroker, memory::MemoryBroker, redis::RedisBroker},
    clock::Clock,
    config::{self, BrokerKind, Config},
    connection_limit::{ConnectionLimit, KeyedLimit},
    http,
    hub::{BrokerSubscriptions, CloseAllSessions, Hub, Hubs},
    metrics::Metrics,
    rate_limit::KeyedRateLimiter,
    session, web,
};

pub use tls::CertificateError;

/// TLS handshakes of one worker that may be under way: what is silent holds one for 3 s.
const TLS_HANDSHAKES: usize = 4096;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerStartError {
    /// The address: taken, not ours, or not allowed.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// `server.bind`.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// `server.tls`.
    #[error("server.tls: {0}")]
    Tls(#[from] CertificateError),
    /// `auth.hmac_secret`, `auth.keys` or `login.key`.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// `login.users_file`.
    #[error("login.users_file: {0}")]
    Users(#[from] UsersFileError),
    /// `broker.redis.url`.
    #[error("broker.redis: {0}")]
    Broker(#[from] crate::broker::redis::BrokerStartError),
    /// The workers.
    #[error("cannot start the workers: {0}")]
    Workers(#[from] io::Error),
}

/// A server that listens. Dropping it does not stop it; [`RunningServer::stop`] does.
pub struct RunningServer {
    /// Where it listens, with the real port.
    pub address: SocketAddr,
    /// What it has counted.
    pub metrics: Arc<Metrics>,
    handle: actix_server::ServerHandle,
    hubs: Arc<Hubs>,
    connection_limit: Arc<ConnectionLimit>,
    is_stopping: Arc<AtomicBool>,
    certificate: Option<Arc<tls::Certificate>>,
    login_users: Option<Arc<Users>>,
    drain: Duration,
}

/// What every worker's services are made of.
#[derive(Clone)]
struct Components {
    config: Arc<Config>,
    clock: Clock,
    metrics: Arc<Metrics>,
    hubs: Arc<Hubs>,
    broker_subscriptions: Arc<BrokerSubscriptions>,
    broker: SharedBroker,
    verifier: Arc<Verifier>,
    permissions: Arc<Permissions>,
    user_limit: Arc<KeyedLimit<Arc<str>>>,
    node: Arc<str>,
    http_context: Data<http::HttpContext>,
    api_context: Data<api::ApiContext>,
    /// The demo page, where it is wanted.
    page: Option<web::Page>,
}

/// Starts a server in the current actix system.
///
/// # Errors
/// [`ServerStartError`], in the operator's words.
pub async fn start(config: Config, clock: Clock) -> Result<RunningServer, ServerStartError> {
    let listener = listener::listen(config.server.bind)?;
    let address = listener.local_addr()?;
    let certificate = tls::Certificate::from_config(&config.server.tls)?;
    let is_stopping = Arc::new(AtomicBool::new(false));
    let components = Components::new(config, clock, is_stopping.clone())?;
    let config = components.config.clone();
    let (metrics, hubs) = (components.metrics.clone(), components.hubs.clone());
    let (connection_limit, login_users) =
        (components.http_context.connection_limit.clone(), components.http_context.login_users.clone());
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    actix_tls::accept::max_concurrent_tls_connect(TLS_HANDSHAKES);
    let builder = actix_server::Server::build()
        .workers(workers)
        .disable_signals()
        // Of HTTP: WebSockets have left it, and are counted where one too many can be answered.
        .max_concurrent_connections(config.limits.http_connections.div_ceil(workers));
    let builder = match &certificate {
        None => builder.listen("ws", listener, move || listener::plain_service(&components))?,
        Some(certificate) => {
            let tls = certificate.server_config();
            builder.listen("wss", listener, move || listener::tls_service(&components, tls.clone()))?
        }
    };
    let server = builder.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    let drain = config.server.drain;
    Ok(RunningServer { address, metrics, handle, hubs, connection_limit, is_stopping, certificate, login_users, drain })
}

impl RunningServer {
    /// Stops: new connections are refused, sessions are closed 3001 in waves over half of `server.drain`, and what has not
    /// gone at its end is cut.
    pub async fn stop(self) {
        let deadline = Instant::now() + self.drain;
        self.is_stopping.store(true, Ordering::Relaxed);
        self.handle.pause().await;
        self.hubs.shut_down(CloseAllSessions { spread_over: self.drain / 2 });
        while self.connection_limit.in_use() > 0 && Instant::now() < deadline {
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
        self.handle.stop(false).await;
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connection_limit.in_use()
    }

    /// Reads the certificate files again, and says whether there are any; connections that are open keep theirs.
    ///
    /// # Errors
    /// When the files are no good; then the old certificate stays.
    pub fn reload_certificate(&self) -> Result<bool, CertificateError> {
        self.certificate.as_ref().map_or(Ok(false), |certificate| certificate.reload().map(|()| true))
    }

    /// Reads the login file again, and says whether there is one; tokens that it has given out stay as they are.
    ///
    /// # Errors
    /// When the file is no good; then the old users stay.
    pub fn reload_users(&self) -> Result<bool, UsersFileError> {
        self.login_users.as_ref().map_or(Ok(false), |users| users.reload())
    }
}

/// Whether the certificate files could be used, without using them.
///
/// # Errors
/// [`CertificateError`].
pub fn check_certificate(tls: &config::TlsConfig) -> Result<(), CertificateError> {
    tls::Certificate::from_config(tls).map(drop)
}

/// How long a channel without local subscribers stays subscribed at the broker.
fn linger(broker: &config::BrokerConfig) -> Duration {
    match broker.kind {
        BrokerKind::Memory => Duration::ZERO,
        BrokerKind::Redis => broker.redis.linger,
    }
}

impl Components {
    fn new(config: Config, clock: Clock, is_stopping: Arc<AtomicBool>) -> Result<Self, ServerStartError> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::default());
        let node: Arc<str> = Uuid::new_v4().to_string().into();
        let hubs = Hubs::new(metrics.clone(), node.clone());
        let broker = start_broker(&config, &hubs, &metrics, &node, &clock)?;
        let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
        let verifier = Arc::new(Verifier::new(&config, permissions.clone(), clock.clone())?);
        let limits = &config.limits;
        let user_limit = KeyedLimit::new(limits.connections_per_user);
        let login_users = load_login_users(&config, &permissions)?;
        let rates = |per_second: u32| KeyedRateLimiter::new(per_second, per_second.saturating_mul(2));
        let http_context = Data::new(http::HttpContext {
            config: config.clone(),
            clock: clock.clone(),
            origin_policy: Arc::new(http::OriginPolicy::new(config.clone())),
            login_backoff: LoginBackoff::new(config.login.failures, config.login.backoff),
            broker: broker.clone(),
            hubs: hubs.clone(),
            is_stopping,
            handshake_rates: rates(limits.handshakes_per_second),
            ticket_rates: rates(limits.tickets_per_second),
            verifier: verifier.clone(),
            signer: Signer::for_login(&config.auth, &config.login.key, clock.clone()),
            login_users,
            address_limit: KeyedLimit::new(limits.connections_per_address),
            user_limit: user_limit.clone(),
            hashing_permits: Arc::new(tokio::sync::Semaphore::new(config.login.concurrency)),
            connection_limit: ConnectionLimit::new(limits.connections, metrics.connections.clone()),
            unauthenticated_limit: ConnectionLimit::new(limits.waiting, metrics.unauthenticated_connections.clone()),
            unauthenticated_address_limit: KeyedLimit::new(limits.waiting_per_address),
            metrics: metrics.clone(),
        });
        let page = config.web.demo_page.then(|| web::Page::new(&config, http_context.login_users.is_some()));
        let api_context = Data::new(api::ApiContext {
            broker: broker.clone(),
            verifier: verifier.clone(),
            permissions: permissions.clone(),
            rates: rates(limits.publications_per_second),
            config: config.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        });
        let broker_subscriptions = BrokerSubscriptions::new(broker.clone(), linger(&config.broker));
        Ok(Self {
            config,
            clock,
            metrics,
            hubs,
            broker_subscriptions,
            broker,
            verifier,
            permissions,
            user_limit,
            node,
            http_context,
            api_context,
            page,
        })
    }

    /// What the sessions of the worker that calls share; starts its hub.
    fn start_worker(&self) -> session::Services {
        let hub = Hub::start_on_this_thread(
            &self.hubs,
            self.broker_subscriptions.clone(),
            &self.config,
            self.clock.clone(),
            self.metrics.clone(),
        );
        session::Services {
            hub,
            broker: self.broker.clone(),
            verifier: self.verifier.clone(),
            permissions: self.permissions.clone(),
            user_limit: self.user_limit.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            config: self.config.clone(),
            node: self.node.clone(),
        }
    }
}

/// Who may log in, if anybody may.
fn load_login_users(config: &Config, permissions: &Arc<Permissions>) -> Result<Option<Arc<Users>>, UsersFileError> {
    let users = match &config.login.users_file {
        Some(path) => Users::read(path, permissions.clone(), config.limits.channels_per_session)?,
        None if config.login.is_enabled() => Users::demo(config.login.demo_password.expose())?,
        None => return Ok(None),
    };
    Ok(Some(Arc::new(users)))
}

fn start_broker(
    config: &Config,
    hubs: &Arc<Hubs>,
    metrics: &Arc<Metrics>,
    node: &Arc<str>,
    clock: &Clock,
) -> Result<SharedBroker, ServerStartError> {
    match config.broker.kind {
        BrokerKind::Memory => {
            metrics.broker_up.set(1);
            Ok(Arc::new(MemoryBroker::new(hubs.clone(), &config.limits, clock.clone())))
        }
        BrokerKind::Redis => {
            let queue_bytes = config.limits.hub_queue_bytes;
            Ok(RedisBroker::start(&config.broker.redis, queue_bytes, hubs.clone(), metrics.clone(), node.clone())?)
        }
    }
}
