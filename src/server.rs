//! The composition root: creates every part of the server and passes each one what it needs; nothing is global. A
//! server has one listener and one broker, and per worker a hub and two instances of the HTTP application.

mod key_files;
mod listener;
pub mod proxy;
mod stop;
mod tls;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::web::Data;
use uuid::Uuid;

use crate::{
    api,
    audit::{AuditError, AuditLog},
    auth::{
        KeyError, Permissions, Signer, Verifier,
        login_backoff::LoginBackoff,
        refusal_log::RefusalLog,
        users::{Users, UsersFileError},
    },
    broker::{SharedBroker, memory::MemoryBroker, redis::RedisBroker},
    certificate::CertificateError,
    clock::Clock,
    config::{self, BrokerKind, Config},
    connection_limit::{ConnectionLimit, KeyedLimit},
    http,
    hub::{ApiGrants, BrokerSubscriptions, Hub, Hubs},
    metrics::Metrics,
    rate_limit::KeyedRateLimiter,
    revocation::Revocations,
    session, web,
};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerStartError {
    /// The address is in use, not one of this machine, or not permitted.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// `server.bind`.
        address: SocketAddr,
        /// The error of the operating system.
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
    /// `audit.output`.
    #[error("audit.output: {0}")]
    Audit(#[from] AuditError),
    /// `broker.redis`.
    #[error("{0}")]
    Broker(#[from] crate::broker::redis::BrokerStartError),
    /// A worker thread could not be started.
    #[error("cannot start the workers: {0}")]
    Workers(#[from] io::Error),
}

/// A server that listens. Dropping it does not stop it; [`RunningServer::stop`] does.
pub struct RunningServer {
    /// The address of the listener, with its actual port if `server.bind` has port 0.
    pub address: SocketAddr,
    /// The metrics of this instance.
    pub metrics: Arc<Metrics>,
    handle: actix_server::ServerHandle,
    /// The socket of the listener, which a stop closes before the server ends.
    listener: TcpListener,
    components: Components,
    certificate: Option<Arc<tls::Certificate>>,
}

/// The parts from which each worker creates its services.
#[derive(Clone)]
struct Components {
    http: Data<http::HttpContext>,
    api: Data<api::ApiContext>,
    /// The demo page, if `web.demo_page` enables it.
    page: Option<web::Page>,
    broker_subscriptions: Arc<BrokerSubscriptions>,
    permissions: Arc<Permissions>,
    /// The id of this instance.
    node: Arc<str>,
}

/// Starts a server in the current actix system.
///
/// # Errors
/// [`ServerStartError`], written for the operator.
pub async fn start(config: Config, clock: Clock) -> Result<RunningServer, ServerStartError> {
    let listener = listener::listen(config.server.bind)?;
    let (address, own_listener) = (listener.local_addr()?, listener.try_clone()?);
    let certificate = tls::Certificate::from_config(&config.server.tls, &clock)?;
    let components = Components::new(config, clock)?;
    let (http, own_components) = (components.http.clone(), components.clone());
    http.verifier.key_sets().start(&http.metrics);
    key_files::watch(&http.verifier, &http.config);
    let workers = match http.config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let builder = actix_server::Server::build()
        .workers(workers)
        .disable_signals()
        // Counts HTTP connections only. WebSockets have their own limit, which a handshake can answer with 503.
        .max_concurrent_connections(http.config.limits.http_connections.div_ceil(workers));
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
    let (metrics, components, listener) = (http.metrics.clone(), own_components, own_listener);
    Ok(RunningServer { address, metrics, handle, listener, components, certificate })
}

impl RunningServer {
    fn http(&self) -> &http::HttpContext {
        &self.components.http
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.http().connection_limit.in_use()
    }

    /// Reloads the certificate files and the ticket keys. Open connections keep the old certificate. Returns whether a certificate is
    /// configured.
    ///
    /// # Errors
    /// The files cannot be used. The old certificate stays in use.
    pub fn reload_certificate(&self) -> Result<bool, CertificateError> {
        self.certificate.as_ref().map_or(Ok(false), |certificate| certificate.reload().map(|()| true))
    }

    /// Reads the key files again. Returns whether there are any.
    ///
    /// # Errors
    /// A file cannot be used. The old keys stay in use.
    pub fn reload_keys(&self) -> Result<bool, KeyError> {
        let http::HttpContext { config, verifier, .. } = self.http();
        if key_files::key_files(config).is_empty() {
            return Ok(false);
        }
        let reloaded = verifier.reload_keys(config);
        key_files::log_reload(&reloaded);
        reloaded.map(|_| true)
    }

    /// Opens the file of the audit log again, for programs that have renamed it.
    pub fn reopen_audit_log(&self) {
        self.http().audit.reopen();
    }

    /// Reloads the login file. Tokens that were issued before stay valid. Returns whether a login file is configured.
    ///
    /// # Errors
    /// The file cannot be used. The old users stay in use.
    pub fn reload_users(&self) -> Result<bool, UsersFileError> {
        self.http().login_users.as_ref().map_or(Ok(false), |users| users.reload())
    }
}

/// Checks whether the certificate files and the ticket keys can be used.
///
/// # Errors
/// [`CertificateError`].
pub fn check_certificate(tls: &config::TlsConfig) -> Result<(), CertificateError> {
    tls::Certificate::from_config(tls, &Clock::default()).map(drop)
}

impl Components {
    fn new(config: Config, clock: Clock) -> Result<Self, ServerStartError> {
        let config = Arc::new(config);
        let limits = &config.limits;
        let metrics = Arc::new(Metrics::default());
        let node: Arc<str> = Uuid::new_v4().to_string().into();
        let audit = AuditLog::start(&config.audit, node.clone(), clock.clone(), metrics.clone())?;
        let revocations = Revocations::new(&config, clock.clone(), metrics.clone());
        let grants = ApiGrants::new(&config, clock.clone());
        let hubs = Hubs::new(metrics.clone(), &node, grants, revocations.clone());
        let (broker, linger) = start_broker(&config, &hubs, &metrics, &clock)?;
        let broker_subscriptions = BrokerSubscriptions::new(broker.clone(), linger);
        let permissions = Permissions::new(&config.channels, &config.namespaces);
        let permissions = Arc::new(permissions.without_revoked(revocations.clone()));
        let verifier = Arc::new(Verifier::new(&config, permissions.clone(), clock.clone())?);
        let login_users = load_login_users(&config, &permissions)?;
        let page = config.web.demo_page.then(|| web::Page::new(&config, login_users.is_some()));
        let refusals = RefusalLog::new(config.clone());
        let rates = |per_second: u32| KeyedRateLimiter::new(per_second, per_second.saturating_mul(2));
        let api = Data::new(api::ApiContext {
            broker: broker.clone(),
            verifier: verifier.clone(),
            refusals: refusals.clone(),
            audit: audit.clone(),
            permissions: permissions.clone(),
            revocations: revocations.clone(),
            rates: rates(limits.publications_per_second),
            broadcast_turns: api::BroadcastTurns::default(),
            config: config.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        });
        let http = Data::new(http::HttpContext {
            origin_policy: Arc::new(http::OriginPolicy::new(config.clone())),
            verifier,
            refusals,
            audit,
            signer: Signer::for_login(&config.auth, &config.login.key, clock.clone()),
            login_users,
            login_backoff: LoginBackoff::new(config.login.failures, config.login.backoff),
            broker,
            hubs,
            revocations,
            readiness_log: http::ReadinessLog::default(),
            stop: http::StopProgress::default(),
            handshake_rates: rates(limits.handshakes_per_second),
            ticket_rates: rates(limits.tickets_per_second),
            hashing_permits: Arc::new(tokio::sync::Semaphore::new(config.login.concurrency)),
            connection_limit: ConnectionLimit::new(limits.connections, metrics.connections.clone()),
            address_limit: KeyedLimit::new(limits.connections_per_address),
            user_limit: KeyedLimit::new(limits.connections_per_user),
            unauthenticated_limit: ConnectionLimit::new(limits.waiting, metrics.unauthenticated_connections.clone()),
            unauthenticated_address_limit: KeyedLimit::new(limits.waiting_per_address),
            config: config.clone(),
            clock,
            metrics,
        });
        Ok(Self { http, api, page, broker_subscriptions, permissions, node })
    }

    /// Starts the hub of the calling worker, and returns what its sessions share.
    fn start_worker(&self) -> session::Services {
        let http::HttpContext { config, clock, metrics, hubs, broker, verifier, refusals, audit, user_limit, .. } =
            &**self.http;
        let hub =
            Hub::start_on_this_thread(hubs, self.broker_subscriptions.clone(), config, clock.clone(), metrics.clone());
        session::Services {
            hub,
            broker: broker.clone(),
            verifier: verifier.clone(),
            refusals: refusals.clone(),
            audit: audit.clone(),
            permissions: self.permissions.clone(),
            user_limit: user_limit.clone(),
            api_grants: hubs.api_grants().clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            config: config.clone(),
            node: self.node.clone(),
        }
    }
}

/// Loads the users of the login; `None` if it is disabled.
fn load_login_users(config: &Config, permissions: &Arc<Permissions>) -> Result<Option<Arc<Users>>, UsersFileError> {
    let users = match &config.login.users_file {
        Some(path) => Users::read(path, config, permissions.clone())?,
        None if config.login.is_enabled() => Users::demo(config.login.demo_password.expose())?,
        None => return Ok(None),
    };
    Ok(Some(Arc::new(users)))
}

/// Starts the broker. Returns it, and for how long a channel without local subscribers stays subscribed there.
fn start_broker(
    config: &Config,
    hubs: &Arc<Hubs>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<(SharedBroker, Duration), ServerStartError> {
    Ok(match config.broker.kind {
        BrokerKind::Memory => {
            metrics.broker_up.set(1);
            metrics.nodes.set(1);
            (Arc::new(MemoryBroker::new(hubs.clone(), &config.limits, clock.clone())), Duration::ZERO)
        }
        BrokerKind::Redis => {
            let queue_bytes = config.limits.hub_queue_bytes;
            let redis = &config.broker.redis;
            let broker = RedisBroker::start(redis, queue_bytes, hubs.clone(), clock.clone(), metrics.clone())?;
            (broker, redis.linger)
        }
    })
}
