//! Who is this, and until when: door → token text → [`Verifier`] → [`Claims`] → [`permission`]. Pure but for the login's
//! hashing: keys and clock come in, claims or a typed refusal go out. Nothing here says a token in an error or a log.

mod claims;
pub mod credentials;
mod grants;
mod json;
mod key;
pub mod login_backoff;
mod payload;
pub mod permission;
mod signer;
mod token_error;
pub mod users;
mod verifier;

use std::sync::Arc;

use crate::{
    address::ClientAddress,
    connection_limit::{KeyedPermit, Permit},
    protocol::Format,
};

pub use claims::{Capability, Claims, Grants, ServerSideSubscription, SubscriptionClaims};
pub use key::KeyError;
pub use permission::{ChannelRight, PermissionError, Permissions};
pub use signer::Signer;
pub use token_error::TokenError;
pub use verifier::Verifier;

/// What the handshake has decided. It travels to the session in the extensions of the 101 response; a response without it
/// opens nothing.
#[derive(Debug)]
pub struct Admission {
    /// Who it is.
    pub auth: HandshakeAuth,
    /// How commands, replies and pushes are written.
    pub format: Format,
    /// An SDK's session is to be kept alive by native pings, too.
    pub has_native_pings: bool,
    /// Counts the connection as long as it lives (`limits.connections`).
    pub permit: Permit,
    /// Counts it for its address (`limits.connections_per_address`).
    pub address_permit: KeyedPermit<ClientAddress>,
    /// Counts it for its user, when there is one (`limits.connections_per_user`).
    pub user_permit: Option<KeyedPermit<Arc<str>>>,
    /// Counts it among those that are nobody yet, in all and for its address, until it is somebody.
    pub unauthenticated_permits: Option<(Permit, KeyedPermit<ClientAddress>)>,
}

/// Who comes in.
#[derive(Debug)]
pub enum HandshakeAuth {
    /// A handshake door was used.
    Authenticated(Arc<Claims>),
    /// No token yet: the session waits for a first message.
    Unauthenticated,
    /// The token was no good, and a script is to read why (`auth.reject = "close"`).
    Rejected(TokenError),
}
