//! The door: routes, the handshake up to its 101, login, health and metrics. It ends where the socket begins. Hub and
//! broker are unknown here; what readiness has to ask comes as [`health::Probes`].

mod body;
pub mod connection;
pub mod failure;
pub mod handshake;
pub mod health;
mod login;
pub mod upgrade;

use std::sync::Arc;

use actix_web::web;

use crate::{
    address::Address,
    auth::{Signer, Verifier, login::Users},
    config::Config,
    metrics::Metrics,
    seats::{KeyedSeats, Seats},
};

pub use body::Body;
pub use failure::Failure;
pub use health::Probes;

/// What the handlers share, outside the two instances of the application that each worker has.
pub struct Shared {
    /// What is configured.
    pub config: Arc<Config>,
    /// Judges tokens.
    pub verifier: Arc<Verifier>,
    /// Signs tokens of the login.
    pub signer: Signer,
    /// The login file, when there is one.
    pub login_users: Option<Arc<Users>>,
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
pub fn routes(paths: &[String], service: &mut web::ServiceConfig) {
    for path in paths {
        service.service(web::resource(path.as_str()).route(web::get().to(handshake::handshake)));
    }
    service
        .service(web::resource("/health/live").route(web::get().to(health::live)))
        .service(web::resource("/health/ready").route(web::get().to(health::ready)))
        .service(web::resource("/metrics").route(web::get().to(health::metrics)))
        .service(
            web::resource("/auth/login")
                .app_data(web::PayloadConfig::new(LOGIN_BYTES))
                .route(web::post().to(login::login)),
        );
}
