//! Who is this, and until when: door → token text → [`Verifier`] → [`Claims`] → [`permission`]. Pure but for the login's
//! hashing: keys and clock come in, claims or a typed refusal go out. Nothing here says a token in an error or a log.

pub mod backoff;
mod claims;
pub mod door;
mod grants;
mod json;
mod key;
pub mod login;
mod payload;
pub mod permission;
mod signer;
mod verifier;

use std::sync::Arc;

use crate::{
    address::Address,
    protocol::Format,
    seats::{KeyedSeat, Seat},
};

pub use claims::{Cap, Claims, Grants, ServerSide, SubscriptionClaims};
pub use key::BadKey;
pub use permission::{Denied, Permissions};
pub use signer::Signer;
pub use verifier::{Refusal, Verifier};

/// What the handshake has decided. It travels to the session in the extensions of the 101 response; a response without it
/// opens nothing.
#[derive(Debug)]
pub struct Admission {
    /// Who it is.
    pub entrance: Entrance,
    /// How commands, replies and pushes are written.
    pub format: Format,
    /// An SDK's session is to be kept alive by native pings, too.
    pub has_native_pings: bool,
    /// Counts the connection as long as it lives (`limits.connections`).
    pub seat: Seat,
    /// Counts it for its address (`limits.connections_per_address`).
    pub address: KeyedSeat<Address>,
    /// Counts it for its user, when there is one (`limits.connections_per_user`).
    pub user: Option<KeyedSeat<Arc<str>>>,
    /// Counts it among those that are nobody yet, in all and for its address, until it is somebody.
    pub waiting: Option<(Seat, KeyedSeat<Address>)>,
}

/// Who comes in.
#[derive(Debug)]
pub enum Entrance {
    /// A handshake door was used.
    Somebody(Arc<Claims>),
    /// No token yet: the session waits for a first message.
    Nobody,
    /// The token was no good, and a script is to read why (`auth.reject = "close"`).
    Rejected(Refusal),
}
