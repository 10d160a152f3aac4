//! The door: routes, the handshake up to its 101, login, tickets, health and metrics. It ends where the socket begins. Hub
//! and broker are unknown here; what readiness has to ask comes as [`health::Probes`], what keeps tickets as [`Tickets`].

mod body;
pub mod connection;
pub mod cors;
pub mod failure;
pub mod handshake;
pub mod health;
mod login;
pub mod origin;
pub mod peer;
pub mod ticket;
pub mod unread;
pub mod upgrade;
mod visitor;

use std::sync::Arc;

use actix_service::Service as _;
use actix_web::{
    http::header::{CACHE_CONTROL, HeaderValue},
    web,
};

use crate::{
    address::Address,
    auth::{Signer, Verifier, backoff::Backoff, login::Users},
    clock::Clock,
    config::Config,
    metrics::Metrics,
    rates::Rates,
    seats::{KeyedSeats, Seats},
};

pub use body::Body;
pub use failure::Failure;
pub use health::Probes;
pub use origin::Pages;
pub use ticket::Tickets;

/// What the handlers share, outside the two instances of the application that each worker has.
pub struct Shared {
    /// What is configured.
    pub config: Arc<Config>,
    /// The wall clock.
    pub clock: Clock,
    /// Whose pages may use us.
    pub pages: Arc<Pages>,
    /// Judges tokens.
    pub verifier: Arc<Verifier>,
    /// Signs tokens of the login.
    pub signer: Signer,
    /// The login file, when there is one.
    pub login_users: Option<Arc<Users>>,
    /// Makes guessing slow.
    pub backoff: Backoff,
    /// Keeps tickets.
    pub tickets: Tickets,
    /// Handshakes, logins and tickets of each address (`limits.handshakes_per_second`).
    pub rates: Rates,
    /// Tickets of each user (`limits.tickets_per_second`).
    pub ticket_rates: Rates,
    /// Bounds the password hashes that are computed at a time.
    pub hashing: Arc<tokio::sync::Semaphore>,
    /// Connections in all.
    pub connections: Arc<Seats>,
    /// Connections of each address.
    pub addresses: Arc<KeyedSeats<Address>>,
    /// Connections of each user, shared with the sessions.
    pub users: Arc<KeyedSeats<Arc<str>>>,
    /// Connections that are nobody yet.
    pub waiting: Arc<Seats>,
    /// The same of each address.
    pub waiting_addresses: Arc<KeyedSeats<Address>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What readiness asks.
    pub probes: Probes,
}

/// The longest body of a login.
const LOGIN_BYTES: usize = 4096;

/// Adds the routes of this room. They find [`Shared`] in the application's data.
pub fn routes(shared: &Shared, service: &mut web::ServiceConfig) {
    for path in &shared.config.server.websocket_paths {
        service.service(web::resource(path.as_str()).route(web::get().to(handshake::handshake)));
    }
    let login = web::resource("/login").app_data(web::PayloadConfig::new(LOGIN_BYTES));
    let auth = web::scope("/auth")
        .service(login.route(web::post().to(login::login)))
        .service(web::resource("/logout").route(web::post().to(login::logout)))
        .service(web::resource("/ticket").route(web::post().to(ticket::issue)))
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
        .service(cors::open(&shared.pages, auth))
        .service(web::resource("/health/live").route(web::get().to(health::live)))
        .service(web::resource("/health/ready").route(web::get().to(health::ready)))
        .service(web::resource("/metrics").route(web::get().to(health::metrics)));
}
