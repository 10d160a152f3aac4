//! HTTP: routes, the WebSocket handshake up to its 101, streams up to the head of their response, login, tickets, health and
//! metrics. After that, `transport` and `session` take over.

pub mod admin;
mod admission;
mod authentication;
mod backchannel_logout;
mod body;
mod channel_events;
pub mod connection;
pub mod cors;
mod emulation;
mod ended_logins;
pub mod error;
pub mod forwarded;
mod guarded_body;
pub mod handover;
pub mod handshake;
pub mod health;
mod listener_role;
mod login;
mod login_attempt;
mod login_tokens;
mod logout;
pub mod origin_policy;
pub mod path_prefix;
mod refresh;
pub mod request_id;
mod request_source;
pub mod stop;
mod stream;
pub mod ticket;
pub mod unread_body;
pub mod upgrade;

use std::sync::Arc;

use actix_service::Service as _;
use actix_web::{
    http::header::{CACHE_CONTROL, HeaderValue},
    web,
};
use arc_swap::ArcSwap;

use crate::{
    address::ClientAddress,
    audit::AuditLog,
    auth::{
        AdminSessions, LoginKeys, Permissions, VerificationQueue, Verifier, login_backoff::LoginBackoff,
        refusal_log::RefusalLog, users::Users,
    },
    broker::{SharedBroker, UserLimit},
    clock::Clock,
    config::LiveConfig,
    connection_limit::{ConnectionLimit, KeyedLimit},
    hooks::Hooks,
    hub::Hubs,
    metrics::Metrics,
    rate_limit::KeyedRateLimiter,
    revocation::Revocations,
};

pub use body::{BodyLimit, RequestBody};
pub use channel_events::parse_event_id;
pub use emulation::CommandsRequest;
pub use error::HttpError;
pub use health::ReadinessLog;
pub use listener_role::ListenerRole;
pub use origin_policy::OriginPolicy;
pub use stop::{StopPhase, StopProgress};
pub use stream::{EVENT_STREAM, NO_BUFFERING, first_commands};

/// The state of all HTTP handlers, shared by all instances of the application: each worker has two.
pub struct HttpContext {
    /// The configuration.
    pub config: Arc<LiveConfig>,
    /// The clocks.
    pub clock: Clock,
    /// The origins whose pages may use this server.
    pub origin_policy: Arc<OriginPolicy>,
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// Knows what users may subscribe to.
    pub permissions: Arc<Permissions>,
    /// Logs refused tokens and origins.
    pub refusals: Arc<RefusalLog>,
    /// The audit log.
    pub audit: Arc<AuditLog>,
    /// What the login makes with its secret: access tokens, refresh tokens, and names of failed logins.
    pub login_keys: ArcSwap<LoginKeys>,
    /// The users of the login, if it is enabled.
    pub login_users: Option<Arc<Users>>,
    /// The sessions of the admin page, if it is enabled.
    pub admin_sessions: Option<Arc<AdminSessions>>,
    /// Delays logins after failed ones.
    pub login_backoff: LoginBackoff,
    /// Stores tickets for all instances.
    pub broker: SharedBroker,
    /// The hubs of this instance, for readiness.
    pub hubs: Arc<Hubs>,
    /// Backend hooks, which get headers of handshakes.
    pub hooks: Arc<Hooks>,
    /// The revocations of this instance, to which a logout adds.
    pub revocations: Arc<Revocations>,
    /// Logs changes of the readiness.
    pub readiness_log: ReadinessLog,
    /// How far the stop of this instance has come.
    pub stop: StopProgress,
    /// Handshakes, requests for streams, logins, refreshes, logouts, tickets and refused logout tokens per address
    /// (`limits.handshakes_per_second`).
    pub handshake_rates: ArcSwap<KeyedRateLimiter>,
    /// When workers verify tokens of clients that connect.
    pub verifications: Arc<VerificationQueue>,
    /// Requests with commands per address (`limits.emulation_requests_per_second`).
    pub emulation_rates: ArcSwap<KeyedRateLimiter>,
    /// Tickets per user (`limits.tickets_per_second`).
    pub ticket_rates: ArcSwap<KeyedRateLimiter>,
    /// Password hashes computed at the same time (`login.concurrency`).
    pub hashing_permits: Arc<tokio::sync::Semaphore>,
    /// All connections (`limits.connections`).
    pub connection_limit: Arc<ConnectionLimit>,
    /// Connections per address (`limits.connections_per_address`).
    pub address_limit: Arc<KeyedLimit<ClientAddress>>,
    /// Connections per user (`limits.connections_per_user`), shared with the sessions.
    pub user_limit: Arc<UserLimit>,
    /// Unauthenticated connections, and logout tokens that wait for their key (`limits.waiting`).
    pub unauthenticated_limit: Arc<ConnectionLimit>,
    /// The same per address (`limits.waiting_per_address`).
    pub unauthenticated_address_limit: Arc<KeyedLimit<ClientAddress>>,
    /// The metrics of this instance.
    pub metrics: Arc<Metrics>,
}

/// Maximum body of `POST /auth/login`, `/auth/refresh`, `/auth/logout` and `/admin/login`.
const MAX_LOGIN_BODY_BYTES: usize = 4096;
const LOGIN_BODY: BodyLimit = BodyLimit { name: "bytes of a login", bytes: MAX_LOGIN_BODY_BYTES };

/// Adds the routes that a listener of this role has: those of clients and users, health, and metrics. Their handlers take
/// [`HttpContext`] from the application's data.
pub fn routes(context: &HttpContext, role: ListenerRole, service: &mut web::ServiceConfig) {
    if role.serves_clients() {
        client_routes(context, service);
    }
    health_routes(service);
    if role.serves_operators() {
        service.service(web::resource("/metrics").route(web::get().to(health::metrics)));
        if context.admin_sessions.is_some() {
            admin::routes(service);
        }
    }
}

/// Adds the routes of health checks.
pub fn health_routes(service: &mut web::ServiceConfig) {
    service
        .service(web::resource("/health/live").route(web::get().to(health::live)))
        .service(web::resource(health::READY_PATH).route(web::get().to(health::ready)));
}

fn client_routes(context: &HttpContext, service: &mut web::ServiceConfig) {
    for path in &context.config.current().server.websocket_paths {
        service.service(web::resource(path.as_str()).route(web::get().to(handshake::handshake)));
    }
    let login = LOGIN_BODY.apply_to(web::resource("/login"));
    let logout_body = BodyLimit { name: "bytes of a logout", bytes: MAX_LOGIN_BODY_BYTES };
    let logout = logout_body.apply_to(web::resource("/logout"));
    let refresh_body = BodyLimit { name: "bytes of a refresh", bytes: MAX_LOGIN_BODY_BYTES };
    let refresh = refresh_body.apply_to(web::resource("/refresh"));
    let logout_token = BodyLimit {
        name: "bytes of a logout token",
        bytes: context.config.current().limits.token_bytes.saturating_add(backchannel_logout::MAX_OTHER_FORM_BYTES),
    };
    let backchannel_logout = logout_token.apply_to(web::resource("/backchannel-logout"));
    let auth = web::scope("/auth")
        .service(login.route(web::post().to(login::login)))
        .service(refresh.route(web::post().to(refresh::refresh)))
        .service(logout.route(web::post().to(logout::logout)))
        .service(backchannel_logout.route(web::post().to(backchannel_logout::log_out)))
        .service(web::resource("/ticket").route(web::post().to(ticket::issue_ticket)))
        .wrap_fn(|request, service| {
            let response = service.call(request);
            async move {
                let mut response = response.await?;
                // These responses hold or concern credentials (RFC 6749 §5.1).
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                Ok(response)
            }
        });
    service.service(cors::wrap(&context.origin_policy, auth));
    stream_routes(context, service);
}

/// Adds the routes of clients that cannot open a WebSocket.
fn stream_routes(context: &HttpContext, service: &mut web::ServiceConfig) {
    let message_bytes = context.config.current().limits.message_bytes;
    let first = BodyLimit { name: "limits.message_bytes", bytes: message_bytes };
    let event_stream = first.apply_to(web::resource("/sse"));
    let http_stream = first.apply_to(web::resource("/http_stream"));
    let connection = web::scope("/connection")
        .service(
            event_stream
                .route(web::get().to(stream::get_event_stream))
                .route(web::post().to(stream::post_event_stream)),
        )
        .service(http_stream.route(web::post().to(stream::post_http_stream)));
    service.service(cors::wrap(&context.origin_policy, connection));
    // In JSON the message is a string, in which each quotation mark takes two bytes.
    let bytes = message_bytes.saturating_mul(2).saturating_add(emulation::MAX_OTHER_BODY_BYTES);
    let message = BodyLimit { name: "twice limits.message_bytes", bytes };
    let requests = message.apply_to(web::resource("")).route(web::post().to(emulation::post_commands));
    service.service(cors::wrap(&context.origin_policy, web::scope("/emulation").service(requests)));
}

/// Adds the routes below `/v1` that are streams.
pub fn v1_routes(service: &mut web::ServiceConfig) {
    let events = web::resource("/channels/{channel}/events");
    service.service(events.route(web::get().to(channel_events::get_events)));
}
