//! The composition root: listener, workers, the two instances of the application that each worker has, hubs, broker. Every
//! room is made here and handed what it needs; nothing is global.

mod tls;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix_http::HttpService;
use actix_service::{
    IntoServiceFactory, Service as _, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config,
};
use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{
    App, Error,
    body::BoxBody,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    web::{self, Data},
};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::{
    api,
    auth::{
        Permissions, Signer, Verifier,
        login::{BadUsers, Users},
    },
    broker::{SharedBroker, memory::MemoryBroker, redis::RedisBroker},
    clock::Clock,
    config::{self, BrokerKind, Config},
    http,
    hub::{Hub, Hubs, Interest, Shutdown},
    metrics::Metrics,
    seats::{KeyedSeats, Seats},
    session,
};

pub use tls::BadCertificate;

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 4096;
/// TLS handshakes of one worker that may be under way: what is silent holds one for 3 s.
const TLS_HANDSHAKES: usize = 4096;
/// A request's head must be there by then; a slow one holds a connection that is nobody.
const HEAD: Duration = Duration::from_secs(5);

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
}

/// Starts a server in the current actix system.
///
/// # Errors
/// [`StartError`], in the operator's words.
pub async fn start(config: Config, clock: Clock) -> Result<Running, StartError> {
    let listener = listen(config.server.bind)?;
    let address = listener.local_addr()?;
    let certificate = tls::Certificate::from_config(&config.server.tls)?;
    let is_stopping = Arc::new(AtomicBool::new(false));
    let parts = Parts::new(config, clock, is_stopping.clone())?;
    let config = parts.config.clone();
    let (metrics, hubs) = (parts.metrics.clone(), parts.hubs.clone());
    let connections = parts.http.connections.clone();
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
        None => builder.listen("ws", listener, move || service::<TcpStream>(&parts).tcp())?,
        Some(certificate) => {
            let tls = certificate.server_config();
            builder.listen("wss", listener, move || service::<TlsStream<TcpStream>>(&parts).rustls_0_23(tls.clone()))?
        }
    };
    let server = builder.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    let drain = config.server.drain;
    Ok(Running { address, metrics, handle, hubs, connections, is_stopping, certificate, drain })
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

    /// Reads the certificate files again; connections that are open keep theirs.
    ///
    /// # Errors
    /// When the files are no good; then the old certificate stays.
    pub fn reload_certificate(&self) -> Result<(), BadCertificate> {
        self.certificate.as_ref().map_or(Ok(()), |certificate| certificate.reload())
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let open = || -> io::Result<TcpListener> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|error| StartError::Bind { address, error })
}

impl Parts {
    fn new(config: Config, clock: Clock, is_stopping: Arc<AtomicBool>) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::default());
        let node: Arc<str> = Uuid::new_v4().to_string().into();
        let hubs = Hubs::new(metrics.clone(), node.clone());
        let broker = broker(&config, &hubs, &metrics, &node)?;
        let verifier = Arc::new(Verifier::new(&config.auth, &config.login.key, clock.clone()));
        let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
        let users = KeyedSeats::new(config.limits.connections_per_user);
        let login_users = config.login.users_file.as_deref().map(Users::read).transpose()?.map(Arc::new);
        let http = Data::new(http::Shared {
            config: config.clone(),
            verifier: verifier.clone(),
            signer: Signer::new(&login_auth(&config), clock.clone()),
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
        let api = Data::new(api::Shared {
            broker: broker.clone(),
            verifier: verifier.clone(),
            permissions: permissions.clone(),
            config: config.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        });
        let linger = match config.broker.kind {
            BrokerKind::Memory => Duration::ZERO,
            BrokerKind::Redis => config.broker.redis.linger,
        };
        let interest = Interest::new(broker.clone(), linger);
        Ok(Self { config, clock, metrics, hubs, interest, broker, verifier, permissions, users, node, http, api })
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

/// What the login signs with: a key of its own, or the one that is verified with.
fn login_auth(config: &Config) -> config::Auth {
    let key = if config.login.key.is_empty() { &config.auth.hmac_secret } else { &config.login.key };
    config::Auth { hmac_secret: key.clone(), ..config.auth.clone() }
}

fn broker(
    config: &Config,
    hubs: &Arc<Hubs>,
    metrics: &Arc<Metrics>,
    node: &Arc<str>,
) -> Result<SharedBroker, StartError> {
    match config.broker.kind {
        BrokerKind::Memory => {
            metrics.broker_up.set(1);
            Ok(Arc::new(MemoryBroker::new(hubs.clone(), config.limits.tickets)))
        }
        BrokerKind::Redis => {
            let queue_bytes = config.limits.hub_queue_bytes;
            Ok(RedisBroker::start(&config.broker.redis, queue_bytes, hubs.clone(), metrics.clone(), node.clone())?)
        }
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
        ("broker", Arc::new(move || broker.ready())),
    ]
}

/// The application; each worker has two of it, one for requests that ask to upgrade.
fn app(
    parts: &Parts,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
    + use<>,
> {
    let config = parts.config.clone();
    App::new()
        .wrap_fn(|request, service| {
            let number = http::connection::number(&request);
            let answer = service.call(request);
            async move {
                let is_last = http::connection::admit(number).await;
                let mut response = answer.await?;
                if is_last {
                    http::connection::end(&mut response);
                }
                Ok(response)
            }
        })
        .app_data(parts.http.clone())
        .app_data(parts.api.clone())
        .configure(move |service| {
            http::routes(&config.server.websocket_paths, service);
            api::routes(&config, service);
        })
        .default_service(web::to(http::failure::not_found))
}

type Upgrade<T> = (actix_http::Request, actix_codec::Framed<T, actix_http::h1::Codec>);

/// One connection's way from its first byte: HTTP/1.1 by the plain application, or up to the session.
#[expect(clippy::type_complexity, reason = "each part is a factory that only actix can name")]
fn service<T: session_socket::Stream>(
    parts: &Parts,
) -> actix_http::h1::H1Service<
    T,
    impl ServiceFactory<
        actix_http::Request,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_http::Response<BoxBody>,
        InitError = (),
    > + use<T>,
    BoxBody,
    actix_http::h1::ExpectHandler,
    impl ServiceFactory<Upgrade<T>, Config = (), Response = (), Error = Error, InitError = ()> + use<T>,
> {
    let plain = app(parts).into_factory().map_err(|error: Error| actix_http::Response::from(error.error_response()));
    let parts = parts.clone();
    HttpService::<T, _, _, _, _>::build()
        .client_request_timeout(HEAD)
        .client_disconnect_timeout(Duration::ZERO)
        .tcp_nodelay(true)
        .on_connect_ext(|socket: &T, data| http::connection::begin(socket.tcp(), data))
        .upgrade(fn_factory(move || {
            let parts = parts.clone();
            async move {
                let app = Rc::new(app(&parts).into_factory().new_service(AppConfig::default()).await?);
                let services = Rc::new(parts.services());
                Ok::<_, ()>(fn_service(move |(request, framed): Upgrade<T>| {
                    let (app, services) = (app.clone(), services.clone());
                    async move {
                        http::upgrade::serve(app, request, framed, |socket, read, admission| {
                            session::start(socket, read, admission, services);
                        })
                        .await;
                        Ok::<(), Error>(())
                    }
                }))
            }
        }))
        .h1(map_config(plain, move |()| AppConfig::default()))
}

mod session_socket {
    //! What a listener's connections are to HTTP and to a session.

    use crate::transport::Socket;

    /// A byte stream for both.
    pub(super) trait Stream: Socket + actix_rt::net::ActixStream {}
    impl<T: Socket + actix_rt::net::ActixStream> Stream for T {}
}
