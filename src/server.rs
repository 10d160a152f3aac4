//! The composition root: creates every part of the server and passes each one what it needs; nothing is global. A
//! server has a public listener, with a hub per worker, and two instances of the HTTP application per worker and address, perhaps an
//! internal listener, and one broker.

mod client_certificates;
mod key_files;
mod listener;
mod listening_socket;
mod open_listener;
mod passed_sockets;
pub mod proxy;
mod reload;
mod seen_files;
mod stop;
mod tls;
mod users_file;

use std::{io, sync::Arc, time::Duration};

use actix_web::web::Data;
use arc_swap::ArcSwap;
use uuid::Uuid;

pub use self::{
    listening_socket::{ListenAddress, ListenError, ListenProblem},
    passed_sockets::{PassedSocketError, PassedSockets},
};
use self::{
    listening_socket::{ListenRules, ListeningSocket},
    open_listener::OpenListener,
};
use crate::{
    api,
    audit::{AuditError, AuditLog},
    auth::{
        AdminSessions, KeyError, LoginKeys, Permissions, VerificationQueue, Verifier,
        login_backoff::LoginBackoff,
        refusal_log::RefusalLog,
        users::{Users, UsersFileError},
    },
    broker::{SharedBroker, UserLimit, memory::MemoryBroker, redis::RedisBroker},
    certificate::CertificateError,
    clock::Clock,
    config::{self, BindAddresses, BrokerKind, Config, LiveConfig},
    connection_limit::{ConnectionLimit, KeyedLimit},
    hooks::{EventReporter, Hooks, events::EventService},
    http::{self, ListenerRole},
    hub::{ApiGrants, BrokerSubscriptions, Hub, Hubs, RefusedAttempts},
    metrics::Metrics,
    rate_limit::KeyedRateLimiter,
    revocation::Revocations,
    session, web,
};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerStartError {
    /// `server.bind` or `server.internal_bind`.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// `server.tls` or `server.internal_tls`.
    #[error("{section}: {error}")]
    Tls {
        /// The section of the configuration.
        section: &'static str,
        /// The error.
        error: CertificateError,
    },
    /// `auth.hmac_secret`, `auth.keys` or `login.key`.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// `login.users_file`.
    #[error("login.users_file: {0}")]
    Users(#[from] UsersFileError),
    /// `admin.users_file`.
    #[error("admin.users_file: {0}")]
    Admins(UsersFileError),
    /// `audit.output`.
    #[error("audit.output: {0}")]
    Audit(#[from] AuditError),
    /// `hooks`.
    #[error("hooks.ca: {0}")]
    Hooks(CertificateError),
    /// `broker.redis`.
    #[error("{0}")]
    Broker(#[from] crate::broker::redis::BrokerStartError),
    /// A worker thread could not be started.
    #[error("cannot start the workers: {0}")]
    Workers(#[from] io::Error),
}

/// A server that listens. Dropping it does not stop it; [`RunningServer::stop`] does.
pub struct RunningServer {
    /// The metrics of this instance.
    pub metrics: Arc<Metrics>,
    public: OpenListener,
    internal: Option<OpenListener>,
    events: Option<EventService>,
    components: Components,
}

/// The parts from which each worker creates its services.
#[derive(Clone)]
struct Components {
    /// What the listener serves.
    role: ListenerRole,
    /// What clients of the listener must have, if they need certificates.
    client_certificates: Option<Arc<client_certificates::ClientCertificates>>,
    http: Data<http::HttpContext>,
    api: Data<api::ApiContext>,
    /// The demo page, if `web.demo_page` enables it.
    page: Option<web::Page>,
    /// The admin page, if `admin.enabled` enables it.
    admin_page: Option<web::AdminPage>,
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
    start_with_sockets(config, clock, PassedSockets::default()).await
}

/// Starts a server that may listen on sockets which the service manager has passed.
///
/// # Errors
/// [`ServerStartError`], written for the operator.
pub async fn start_with_sockets(
    config: Config,
    clock: Clock,
    mut passed: PassedSockets,
) -> Result<RunningServer, ServerStartError> {
    let server = &config.server;
    let (public_sockets, internal_sockets) = listen(&config, &mut passed).await?;
    let certificate = public_certificate(&server.tls, &clock)?;
    let internal_certificate = internal_certificate(&server.internal_tls)?;
    let components = Components::new(config, clock)?;
    let http = &components.http;
    http.verifier.key_sets().start(&http.metrics);
    users_file::watch(&http.clone().into_inner());
    key_files::watch(&http.clone().into_inner());
    let events = start_events(http)?;
    let public = OpenListener::start(public_sockets, components.clone(), certificate)?;
    let internal_components = Components { role: ListenerRole::Internal, ..components.clone() };
    let internal = internal_sockets
        .map(|sockets| OpenListener::start(sockets, internal_components, internal_certificate))
        .transpose()?;
    Ok(RunningServer { metrics: http.metrics.clone(), public, internal, events, components })
}

/// Opens the sockets of both listeners, of the internal one if there is one.
async fn listen(
    config: &Config,
    passed: &mut PassedSockets,
) -> Result<(Vec<ListeningSocket>, Option<Vec<ListeningSocket>>), ListenError> {
    let (server, environment) = (&config.server, config.environment);
    let rules = |key, has_tls| ListenRules { key, has_tls, server, environment };
    passed.reserve(server.bind.iter().chain(server.internal_bind.iter().flat_map(BindAddresses::iter)));
    let public = rules("server.bind", server.tls.cert.is_some()).listen(&server.bind, passed).await?;
    let internal = match &server.internal_bind {
        None => None,
        Some(bind) => {
            let rules = rules("server.internal_bind", server.internal_tls.cert.is_some());
            Some(rules.listen(bind, passed).await?)
        }
    };
    for address in passed.addresses() {
        log::warn!("passed socket not used, no systemd: address of the configuration names it address={address}");
    }
    Ok((public, internal))
}

impl RunningServer {
    /// Returns what the public listener listens on.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.public.addresses()
    }

    /// Returns what the internal listener listens on; nothing if there is none.
    pub fn internal_addresses(&self) -> Vec<ListenAddress> {
        self.internal.as_ref().map(OpenListener::addresses).unwrap_or_default()
    }

    fn http(&self) -> &http::HttpContext {
        &self.components.http
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.http().connection_limit.in_use()
    }

    /// Returns the number of hubs: one per worker of the public listener, for all of its addresses.
    pub fn hubs(&self) -> usize {
        self.http().hubs.count()
    }

    /// Returns whether the list of revocations has been loaded since the start. Until then no token is accepted.
    pub fn has_revocations(&self) -> bool {
        self.components.api.revocations.is_loaded()
    }

    /// Reloads the certificate files and the ticket keys. Open connections keep the old certificate. Returns whether a certificate is
    /// configured.
    ///
    /// # Errors
    /// The files cannot be used. The old certificate stays in use.
    pub fn reload_certificate(&self) -> Result<bool, CertificateError> {
        reload_certificate_of(Some(&self.public))
    }

    /// Does the same for the internal listener, whose client authorities are reloaded, too.
    ///
    /// # Errors
    /// As [`Self::reload_certificate`].
    pub fn reload_internal_certificate(&self) -> Result<bool, CertificateError> {
        reload_certificate_of(self.internal.as_ref())
    }

    /// Reads the key files again. Returns whether there are any.
    ///
    /// # Errors
    /// A file cannot be used. The old keys stay in use.
    pub fn reload_keys(&self) -> Result<bool, KeyError> {
        let http::HttpContext { config, verifier, .. } = self.http();
        let config = config.current();
        if key_files::key_files(&config).is_empty() {
            return Ok(false);
        }
        let reloaded = verifier.reload_key_files();
        key_files::log_reload(&reloaded);
        reloaded.map(|_| true)
    }

    /// Opens the file of the audit log again, for programs that have renamed it.
    pub fn reopen_audit_log(&self) {
        self.http().audit.reopen();
    }

    /// Reloads the login file, and begins to end the logins of users who are not in it any more or have a new password. Returns
    /// whether a login file is configured.
    ///
    /// # Errors
    /// The file cannot be used. The old users stay in use.
    pub fn reload_users(&self) -> Result<bool, UsersFileError> {
        let Some(users) =
            self.http().login_users.as_ref().filter(|_| self.http().config.current().login.users_file.is_some())
        else {
            return Ok(false);
        };
        let reloaded = users.reload();
        let context = Arc::downgrade(&self.components.http.clone().into_inner());
        actix_rt::spawn(users_file::end_logins(context, reloaded?));
        Ok(true)
    }

    /// Reloads the users of the admin page. The sessions of those who are not in the file any more or have a new password end.
    /// Returns whether there is a file.
    ///
    /// # Errors
    /// The file cannot be used. The old users stay in use.
    pub fn reload_admins(&self) -> Result<bool, UsersFileError> {
        self.admin_users().map_or(Ok(false), |users| users.reload().map(|_| true))
    }
}

fn reload_certificate_of(listener: Option<&OpenListener>) -> Result<bool, CertificateError> {
    let certificate = listener.and_then(|listener| listener.certificate.as_ref());
    certificate.map_or(Ok(false), |certificate| certificate.reload().map(|()| true))
}

/// Checks whether the files of `server.tls` and `server.internal_tls` can be used. Returns an error for each of the two.
pub fn certificate_errors(server: &config::ServerConfig) -> Vec<ServerStartError> {
    let public = public_certificate(&server.tls, &Clock::default()).err();
    public.into_iter().chain(internal_certificate(&server.internal_tls).err()).collect()
}

type OptionalCertificate = Result<Option<Arc<tls::Certificate>>, ServerStartError>;

fn public_certificate(tls: &config::TlsConfig, clock: &Clock) -> OptionalCertificate {
    tls::Certificate::from_config(tls, clock).map_err(|error| ServerStartError::Tls { section: "server.tls", error })
}

fn internal_certificate(tls: &config::InternalTlsConfig) -> OptionalCertificate {
    tls::Certificate::from_internal_config(tls)
        .map_err(|error| ServerStartError::Tls { section: "server.internal_tls", error })
}

impl Components {
    #[expect(clippy::too_many_lines, reason = "lists the parts of an instance, each once")]
    fn new(config: Config, clock: Clock) -> Result<Self, ServerStartError> {
        let (live, metrics) = (LiveConfig::new(config), Arc::new(Metrics::default()));
        let config = live.snapshot();
        let (limits, node): (_, Arc<str>) = (&config.limits, Uuid::new_v4().to_string().into());
        let audit = AuditLog::start(&config.audit, node.clone(), clock.clone(), metrics.clone())?;
        let revocations = Revocations::new(&config, clock.clone(), metrics.clone());
        let hubs = Hubs::new(
            metrics.clone(),
            &node,
            ApiGrants::new(&config, clock.clone()),
            revocations.clone(),
            RefusedAttempts::new(limits),
        );
        let (broker, broker_subscriptions) = start_broker(&config, &hubs, &metrics, &clock)?;
        let permissions = create_permissions(&config, &revocations);
        let verifier = Arc::new(Verifier::new(&config, permissions.clone(), clock.clone())?);
        let login_users = load_login_users(&config, &permissions)?;
        if let Some(users) = login_users.as_ref().filter(|_| config.login.users_file.is_some()) {
            verifier.set_login_users(users.clone(), &config);
        }
        let hooks = create_hooks(&config.hooks, &node, &clock, &metrics)?;
        let refusals = RefusalLog::new(live.clone(), audit.clone());
        let verifications = VerificationQueue::new(limits, metrics.clone());
        let api = Data::new(api::ApiContext {
            broker: broker.clone(),
            verifier: verifier.clone(),
            verifications: verifications.clone(),
            refusals: refusals.clone(),
            audit: audit.clone(),
            permissions: permissions.clone(),
            revocations: revocations.clone(),
            rates: api::UserRates::new(limits.publications_per_second, &*broker).into(),
            hooks: hooks.clone(),
            broadcast_turns: api::BroadcastTurns::default(),
            live_traces: api::LiveTraces::new(config.api.traces, hubs.node_id()),
            survey_log: api::SurveyLog::default(),
            config: live.clone(),
            clock: clock.clone(),
            call_counters: api::CallCounters::new(&metrics),
            metrics: metrics.clone(),
        });
        let http = Data::new(http::HttpContext {
            origin_policy: Arc::new(http::OriginPolicy::new(live.clone())),
            permissions: permissions.clone(),
            verifier,
            refusals,
            audit,
            login_keys: ArcSwap::from_pointee(LoginKeys::new(&config, clock.clone())),
            login_users,
            admin_sessions: create_admin_sessions(&config, &permissions, &revocations, &clock)?,
            login_backoff: LoginBackoff::new(config.login.failures, config.login.backoff),
            user_limit: UserLimit::new(limits.connections_per_user, &*broker),
            broker,
            hubs,
            hooks,
            revocations,
            readiness_log: http::ReadinessLog::default(),
            stop: http::StopProgress::default(),
            handshake_rates: ArcSwap::from_pointee(rates(limits.handshakes_per_second)),
            verifications,
            emulation_rates: ArcSwap::from_pointee(rates(limits.emulation_requests_per_second)),
            ticket_rates: ArcSwap::from_pointee(rates(limits.tickets_per_second)),
            hashing_permits: Arc::new(tokio::sync::Semaphore::new(config.login.concurrency)),
            connection_limit: ConnectionLimit::new(limits.connections, metrics.connections.clone()),
            address_limit: KeyedLimit::new(limits.connections_per_address),
            unauthenticated_limit: ConnectionLimit::new(limits.waiting, metrics.unauthenticated_connections.clone()),
            unauthenticated_address_limit: KeyedLimit::new(limits.waiting_per_address),
            config: live,
            clock,
            metrics,
        });
        let role = if config.server.internal_bind.is_some() { ListenerRole::Public } else { ListenerRole::Sole };
        let page = config.web.demo_page.then(|| web::Page::new(&config, http.login_users.is_some()));
        let admin_page = http.admin_sessions.is_some().then(web::AdminPage::new);
        let client_certificates = None;
        Ok(Self { role, client_certificates, http, api, page, admin_page, broker_subscriptions, permissions, node })
    }

    /// Starts the hub of the calling worker, and returns what its sessions share.
    fn start_worker(&self) -> session::Services {
        let http::HttpContext {
            config,
            clock,
            metrics,
            hubs,
            broker,
            verifier,
            refusals,
            audit,
            user_limit,
            verifications,
            hooks,
            ..
        } = &**self.http;
        let hub = Hub::start_on_this_thread(
            hubs,
            self.broker_subscriptions.clone(),
            &config.current(),
            clock.clone(),
            metrics.clone(),
            hooks.events.clone(),
        );
        session::Services {
            hub,
            broker: broker.clone(),
            verifier: verifier.clone(),
            verifications: verifications.clone(),
            refusals: refusals.clone(),
            audit: audit.clone(),
            permissions: self.permissions.clone(),
            hooks: hooks.clone(),
            user_limit: user_limit.clone(),
            api_grants: hubs.api_grants().clone(),
            refused_attempts: hubs.refused_attempts().clone(),
            clock: clock.clone(),
            command_counters: session::CommandCounters::new(metrics),
            metrics: metrics.clone(),
            config: config.clone(),
            node: self.node.clone(),
        }
    }
}

/// Creates the hooks, and the reporter of events if the backend wants any.
fn create_hooks(
    config: &config::HooksConfig,
    node: &str,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<Arc<Hooks>, ServerStartError> {
    let mut hooks = Hooks::new(config, clock, metrics).map_err(ServerStartError::Hooks)?;
    hooks.events = EventReporter::from_config(config, node, clock, metrics);
    Ok(Arc::new(hooks))
}

/// Starts to send events to the backend, if it wants any.
fn start_events(http: &http::HttpContext) -> Result<Option<EventService>, ServerStartError> {
    let http::HttpContext { config, hooks, broker, clock, metrics, .. } = http;
    let Some(reporter) = hooks.events.clone() else { return Ok(None) };
    let (config, outbox) = (config.current(), broker.event_outbox());
    let started = EventService::start(&config.hooks, reporter, outbox, hooks.signer(), clock, metrics);
    started.map_err(ServerStartError::Hooks)
}

/// Creates a limit with bursts of twice the rate.
fn rates(per_second: u32) -> KeyedRateLimiter {
    KeyedRateLimiter::new(per_second, per_second.saturating_mul(2))
}

fn create_permissions(config: &Config, revocations: &Arc<Revocations>) -> Arc<Permissions> {
    let permissions = Permissions::new(&config.channels, &config.namespaces);
    Arc::new(permissions.without_revoked(revocations.clone()))
}

/// Loads the users of the login; `None` if it is disabled.
fn load_login_users(config: &Config, permissions: &Arc<Permissions>) -> Result<Option<Arc<Users>>, UsersFileError> {
    let users = match &config.login.users_file {
        Some(path) => Users::read(path, config, permissions.clone())?,
        None if config.login.is_enabled() => Users::demo(config.login.demo_password.expose(), config)?,
        None => return Ok(None),
    };
    Ok(Some(Arc::new(users)))
}

/// Creates the sessions of the admin page, and reads its users; `None` if the page is off.
fn create_admin_sessions(
    config: &Config,
    permissions: &Arc<Permissions>,
    revocations: &Arc<Revocations>,
    clock: &Clock,
) -> Result<Option<Arc<AdminSessions>>, ServerStartError> {
    let path = config.admin.users_file.as_ref().filter(|_| config.admin.enabled);
    let users = path.map(|path| Users::read(path, config, permissions.clone())).transpose();
    let users = users.map_err(ServerStartError::Admins)?.map(Arc::new);
    Ok(AdminSessions::new(config, users, revocations.clone(), clock.clone()))
}

/// Starts the broker. Returns it, and the channels that this instance wants from it.
fn start_broker(
    config: &Config,
    hubs: &Arc<Hubs>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<(SharedBroker, Arc<BrokerSubscriptions>), ServerStartError> {
    let (broker, linger): (SharedBroker, _) = match config.broker.kind {
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
    };
    let subscriptions = BrokerSubscriptions::new(broker.clone(), linger);
    Ok((broker, subscriptions))
}
