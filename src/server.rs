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
use futures_util::{FutureExt, TryFutureExt};
use uuid::Uuid;

use crate::{
    api,
    auth::{
        BadKey, Permissions, Signer, Verifier,
        backoff::Backoff,
        login::{BadUsers, Users},
    },
    broker::{SharedBroker, memory::MemoryBroker, redis::RedisBroker},
    clock::Clock,
    config::{self, BrokerKind, Config},
    http,
    hub::{Hub, Hubs, Interest, Shutdown},
    metrics::Metrics,
    rates::Rates,
    seats::{KeyedSeats, Seats},
    session, web,
};

pub use tls::BadCertificate;

/// TLS handshakes of one worker that may be under way: what is silent holds one for 3 s.
const TLS_HANDSHAKES: usize = 4096;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
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
    Tls(#[from] BadCertificate),
    /// `auth.hmac_secret`, `auth.keys` or `login.key`.
    #[error(transparent)]
    Keys(#[from] BadKey),
    /// `login.users_file`.
    #[error("login.users_file: {0}")]
    Users(#[from] BadUsers),
    /// `broker.redis.url`.
    #[error("broker.redis: {0}")]
    Broker(#[from] crate::broker::redis::StartError),
    /// The workers.
    #[error("cannot start the workers: {0}")]
    Workers(#[from] io::Error),
}

/// A server that listens. Dropping it does not stop it; [`Running::stop`] does.
pub struct Running {
    /// Where it listens, with the real port.
    pub address: SocketAddr,
    /// What it has counted.
    pub metrics: Arc<Metrics>,
    handle: actix_server::ServerHandle,
    hubs: Arc<Hubs>,
    connections: Arc<Seats>,
    is_stopping: Arc<AtomicBool>,
    certificate: Option<Arc<tls::Certificate>>,
    login_users: Option<Arc<Users>>,
    drain: Duration,
}

/// What every worker's services are made of.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    clock: Clock,
    metrics: Arc<Metrics>,
    hubs: Arc<Hubs>,
    interest: Arc<Interest>,
    broker: SharedBroker,
    verifier: Arc<Verifier>,
    permissions: Arc<Permissions>,
    users: Arc<KeyedSeats<Arc<str>>>,
    node: Arc<str>,
    http: Data<http::Shared>,
    api: Data<api::Shared>,
    /// The demo page, where it is wanted.
    page: Option<web::Page>,
}

/// Starts a server in the current actix system.
///
/// # Errors
/// [`StartError`], in the operator's words.
pub async fn start(config: Config, clock: Clock) -> Result<Running, StartError> {
    let listener = listener::listen(config.server.bind)?;
    let address = listener.local_addr()?;
    let certificate = tls::Certificate::from_config(&config.server.tls)?;
    let is_stopping = Arc::new(AtomicBool::new(false));
    let parts = Parts::new(config, clock, is_stopping.clone())?;
    let config = parts.config.clone();
    let (metrics, hubs) = (parts.metrics.clone(), parts.hubs.clone());
    let (connections, login_users) = (parts.http.connections.clone(), parts.http.login_users.clone());
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
        None => builder.listen("ws", listener, move || listener::plain(&parts))?,
        Some(certificate) => {
            let tls = certificate.server_config();
            builder.listen("wss", listener, move || listener::secure(&parts, tls.clone()))?
        }
    };
    let server = builder.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    let drain = config.server.drain;
    Ok(Running { address, metrics, handle, hubs, connections, is_stopping, certificate, login_users, drain })
}

impl Running {
    /// Stops: new connections are refused, sessions are closed 3001 in waves over half of `server.drain`, and what has not
    /// gone at its end is cut.
    pub async fn stop(self) {
        let deadline = Instant::now() + self.drain;
        self.is_stopping.store(true, Ordering::Relaxed);
        self.handle.pause().await;
        self.hubs.shut_down(Shutdown { over: self.drain / 2 });
        while self.connections.taken() > 0 && Instant::now() < deadline {
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
        self.handle.stop(false).await;
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.taken()
    }

    /// Reads the certificate files again, and says whether there are any; connections that are open keep theirs.
    ///
    /// # Errors
    /// When the files are no good; then the old certificate stays.
    pub fn reload_certificate(&self) -> Result<bool, BadCertificate> {
        self.certificate.as_ref().map_or(Ok(false), |certificate| certificate.reload().map(|()| true))
    }

    /// Reads the login file again, and says whether there is one; tokens that it has given out stay as they are.
    ///
    /// # Errors
    /// When the file is no good; then the old users stay.
    pub fn reload_users(&self) -> Result<bool, BadUsers> {
        self.login_users.as_ref().map_or(Ok(false), |users| users.reload())
    }
}

/// Whether the certificate files could be used, without using them.
///
/// # Errors
/// [`BadCertificate`].
pub fn judge_certificate(tls: &config::Tls) -> Result<(), BadCertificate> {
    tls::Certificate::from_config(tls).map(drop)
}

impl Parts {
    fn new(config: Config, clock: Clock, is_stopping: Arc<AtomicBool>) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::default());
        let node: Arc<str> = Uuid::new_v4().to_string().into();
        let hubs = Hubs::new(metrics.clone(), node.clone());
        let broker = broker(&config, &hubs, &metrics, &node, &clock)?;
        let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
        let verifier = Arc::new(Verifier::new(&config, permissions.clone(), clock.clone())?);
        let users = KeyedSeats::new(config.limits.connections_per_user);
        let login_users = login_users(&config, &permissions)?;
        let (handshakes, publications) = (config.limits.handshakes_per_second, config.limits.publications_per_second);
        let a_second = config.limits.tickets_per_second;
        let http = Data::new(http::Shared {
            config: config.clone(),
            clock: clock.clone(),
            pages: Arc::new(http::Pages::new(config.clone())),
            backoff: Backoff::new(config.login.failures, config.login.backoff),
            tickets: tickets(&broker),
            rates: Rates::new(handshakes, handshakes.saturating_mul(2)),
            ticket_rates: Rates::new(a_second, a_second.saturating_mul(2)),
            verifier: verifier.clone(),
            signer: Signer::for_login(&config.auth, &config.login.key, clock.clone()),
            login_users,
            addresses: KeyedSeats::new(config.limits.connections_per_address),
            users: users.clone(),
            hashing: Arc::new(tokio::sync::Semaphore::new(config.login.concurrency)),
            connections: Seats::new(config.limits.connections, metrics.connections.clone()),
            waiting: Seats::new(config.limits.waiting, metrics.waiting.clone()),
            waiting_addresses: KeyedSeats::new(config.limits.waiting_per_address),
            metrics: metrics.clone(),
            probes: probes(&hubs, &broker, is_stopping),
        });
        let page = config.web.demo_page.then(|| web::Page::new(&config, http.login_users.is_some()));
        let api = Data::new(api::Shared {
            broker: broker.clone(),
            verifier: verifier.clone(),
            permissions: permissions.clone(),
            rates: Rates::new(publications, publications.saturating_mul(2)),
            config: config.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        });
        let linger = match config.broker.kind {
            BrokerKind::Memory => Duration::ZERO,
            BrokerKind::Redis => config.broker.redis.linger,
        };
        let interest = Interest::new(broker.clone(), linger);
        Ok(Self { config, clock, metrics, hubs, interest, broker, verifier, permissions, users, node, http, api, page })
    }

    /// What the sessions of the worker that calls share; starts its hub.
    fn services(&self) -> session::Services {
        let hub =
            Hub::start_here(&self.hubs, self.interest.clone(), &self.config, self.clock.clone(), self.metrics.clone());
        session::Services {
            hub,
            broker: self.broker.clone(),
            verifier: self.verifier.clone(),
            permissions: self.permissions.clone(),
            users: self.users.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            config: self.config.clone(),
            node: self.node.clone(),
        }
    }
}

/// Who may log in, if anybody may.
fn login_users(config: &Config, permissions: &Arc<Permissions>) -> Result<Option<Arc<Users>>, BadUsers> {
    let users = match &config.login.users_file {
        Some(path) => Users::read(path, permissions.clone(), config.limits.channels_per_session)?,
        None if config.login.is_open() => Users::demo(config.login.demo_password.expose())?,
        None => return Ok(None),
    };
    Ok(Some(Arc::new(users)))
}

fn broker(
    config: &Config,
    hubs: &Arc<Hubs>,
    metrics: &Arc<Metrics>,
    node: &Arc<str>,
    clock: &Clock,
) -> Result<SharedBroker, StartError> {
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

/// The broker keeps tickets for all instances.
fn tickets(broker: &SharedBroker) -> http::Tickets {
    let (keeper, giver) = (broker.clone(), broker.clone());
    http::Tickets {
        put: Arc::new(move |id, token, ttl| {
            keeper.put_ticket(id, token, ttl).map_err(|error| error.to_string()).boxed()
        }),
        take: Arc::new(move |id| giver.take_ticket(id).map_err(|error| error.to_string()).boxed()),
    }
}

fn probes(hubs: &Arc<Hubs>, broker: &SharedBroker, is_stopping: Arc<AtomicBool>) -> http::Probes {
    let (hubs, broker) = (hubs.clone(), broker.clone());
    vec![
        (
            "server",
            Arc::new(move || {
                let is_stopping = is_stopping.load(Ordering::Relaxed);
                Box::pin(async move { if is_stopping { Err("is stopping".to_owned()) } else { Ok(()) } })
            }),
        ),
        (
            "hubs",
            Arc::new(move || {
                let hubs = hubs.clone();
                Box::pin(async move {
                    if hubs.answer_all().await { Ok(()) } else { Err("a hub does not answer".to_owned()) }
                })
            }),
        ),
        (
            "broker",
            Arc::new(move || {
                let ready = broker.ready().map_err(|problem| {
                    // Where Redis is, and what it says, is for whoever reads the log: anybody may ask for readiness.
                    log::warn!("the broker is not ready: {problem}");
                    "is not ready; the log says why".to_owned()
                });
                ready.boxed()
            }),
        ),
    ]
}
