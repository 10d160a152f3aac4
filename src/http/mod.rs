//! The door: routes, the handshake up to its 101, login, tickets, health and metrics. It ends where the socket begins. Hub
//! and broker are unknown here; what readiness has to ask comes as [`health::HealthChecks`], what keeps tickets as [`TicketAccess`].

mod body;
pub mod connection;
pub mod cors;
pub mod error;
pub mod forwarded;
pub mod handshake;
pub mod health;
mod login;
pub mod origin_policy;
mod request_source;
pub mod ticket;
pub mod unread_body;
pub mod upgrade;

use std::sync::Arc;

use actix_service::Service as _;
use actix_web::{
    http::header::{CACHE_CONTROL, HeaderValue},
    web,
};

use crate::{
    address::ClientAddress,
    auth::{Signer, Verifier, login_backoff::LoginBackoff, users::Users},
    clock::Clock,
    config::Config,
    connection_limit::{ConnectionLimit, KeyedLimit},
    metrics::Metrics,
    rate_limit::KeyedRateLimiter,
};

pub use body::RequestBody;
pub use error::HttpError;
pub use health::HealthChecks;
pub use origin_policy::OriginPolicy;
pub use ticket::TicketAccess;

/// What the handlers share, outside the two instances of the application that each worker has.
pub struct HttpContext {
    /// What is configured.
    pub config: Arc<Config>,
    /// The wall clock.
    pub clock: Clock,
    /// Whose pages may use us.
    pub origin_policy: Arc<OriginPolicy>,
    /// Judges tokens.
    pub verifier: Arc<Verifier>,
    /// Signs tokens of the login.
    pub signer: Signer,
    /// The login file, when there is one.
    pub login_users: Option<Arc<Users>>,
    /// Makes guessing slow.
    pub login_backoff: LoginBackoff,
    /// Keeps tickets.
    pub tickets: TicketAccess,
    /// Handshakes, logins and tickets of each address (`limits.handshakes_per_second`).
    pub handshake_rates: KeyedRateLimiter,
    /// Tickets of each user (`limits.tickets_per_second`).
    pub ticket_rates: KeyedRateLimiter,
    /// Bounds the password hashes that are computed at a time.
    pub hashing_permits: Arc<tokio::sync::Semaphore>,
    /// Connections in all.
    pub connection_limit: Arc<ConnectionLimit>,
    /// Connections of each address.
    pub address_limit: Arc<KeyedLimit<ClientAddress>>,
    /// Connections of each user, shared with the sessions.
    pub user_limit: Arc<KeyedLimit<Arc<str>>>,
    /// Connections that are nobody yet.
    pub unauthenticated_limit: Arc<ConnectionLimit>,
    /// The same of each address.
    pub unauthenticated_address_limit: Arc<KeyedLimit<ClientAddress>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What readiness asks.
    pub health_checks: HealthChecks,
}

/// The longest body of a login.
const MAX_LOGIN_BODY_BYTES: usize = 4096;

/// Adds the routes of this room. They find [`HttpContext`] in the application's data.
pub fn routes(context: &HttpContext, service: &mut web::ServiceConfig) {
    for path in &context.config.server.websocket_paths {
        service.service(web::resource(path.as_str()).route(web::get().to(handshake::handshake)));
    }
    let login = web::resource("/login").app_data(web::PayloadConfig::new(MAX_LOGIN_BODY_BYTES));
    let auth = web::scope("/auth")
        .service(login.route(web::post().to(login::login)))
        .service(web::resource("/logout").route(web::post().to(login::logout)))
        .service(web::resource("/ticket").route(web::post().to(ticket::issue_ticket)))
        .wrap_fn(|request, service| {
            let answer = service.call(request);
            async move {
                let mut response = answer.await?;
                // Whatever it is, it is about somebody's credentials (RFC 6749 §5.1).
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                Ok(response)
            }
        });
    service
        .service(cors::wrap(&context.origin_policy, auth))
        .service(web::resource("/health/live").route(web::get().to(health::live)))
        .service(web::resource("/health/ready").route(web::get().to(health::ready)))
        .service(web::resource("/metrics").route(web::get().to(health::metrics)));
}
