//! Who is this, and until when: door → token text → [`Verifier`] → [`Claims`] → [`permission`]. Pure but for the login's
//! hashing: keys and clock come in, claims or a typed refusal go out. Nothing here says a token in an error or a log.

mod claims;
pub mod door;
pub mod login;
pub mod permission;
mod verifier;

use std::sync::Arc;

use crate::seats::Seat;

pub use claims::Claims;
pub use verifier::{Refusal, Signer, Verifier};

/// What the handshake has decided. It travels to the session in the extensions of the 101 response; a response without it
/// opens nothing.
#[derive(Debug)]
pub struct Admission {
    /// Who it is, when a handshake door was used; without, the session waits for a first message.
    pub claims: Option<Arc<Claims>>,
    /// Counts the connection as long as it lives (`limits.connections`).
    pub seat: Seat,
    /// Counts it among those that are nobody yet (`limits.waiting`), until it is somebody.
    pub waiting: Option<Seat>,
}
