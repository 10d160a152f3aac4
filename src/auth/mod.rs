//! Authentication and authorization: [`credentials`] → token → [`Verifier`] → [`Claims`] → [`permission`]. Everything except the
//! login's hashing, the [`refusal_log`] and the fetching of [`KeySets`] is pure: keys and the clock are inputs, claims or a
//! [`TokenError`] the result. No error and no log line contains a token.

mod admin_sessions;
mod claims;
mod connect_hook;
pub mod credentials;
mod derived_key;
mod grants;
mod ignored_claims;
mod key;
mod key_sets;
pub mod login_backoff;
mod login_keys;
mod logout_token;
mod payload;
pub mod permission;
mod refresh_token;
pub mod refusal_log;
mod remedy;
mod signer;
mod subscription_options;
mod token_error;
mod user_prefix;
pub mod users;
mod verification_queue;
mod verifier;

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields, AuditLog},
    channel::Channel,
    config::Door,
    connection_limit::{KeyedPermit, Permit},
    emulation::CommandReceiver,
    hooks::{ForwardedHeaders, SubscribeApproval},
    position::Position,
    protocol::{Disconnect, Format},
    revocation::TokenIds,
};

pub use admin_sessions::{AdminSession, AdminSessions, IssuedSession, VerifiedAdmin};
pub use claims::{Capability, Claims, Grants, HookClaims, ServerSideSubscription, SubscriptionClaims};
pub use connect_hook::{CONNECT_HOOK, ConnectGrant, ask_connect_hook};
pub use ignored_claims::ignored_members;
pub use key::{KeyChange, KeyError};
pub use key_sets::KeySets;
pub use login_keys::LoginKeys;
pub use logout_token::LogoutToken;
pub use permission::{ChannelRight, PermissionError, Permissions};
pub use refresh_token::{RefreshToken, RefreshTokens};
pub use signer::{Signer, SigningError};
pub use token_error::TokenError;
pub use verification_queue::{Overloaded, VerificationQueue, VerificationTurn};
pub use verifier::{LogoutClaims, Verifier};

/// The result of a handshake, or of a request for a stream. It reaches the session in the extensions of the response; a response
/// without it opens no session.
#[derive(Debug)]
pub struct Admission {
    /// The id of the client.
    pub client: Uuid,
    /// The address of the client.
    pub ip: IpAddr,
    /// The id of the HTTP request.
    pub request_id: Option<Box<str>>,
    /// Whether and how the client is authenticated.
    pub auth: HandshakeAuth,
    /// The claims by which its token can be revoked, for the audit log.
    pub ids: TokenIds,
    /// The way in which the client has sent a token with its handshake; `None`: it has sent none.
    pub credential: Option<Door>,
    /// The format of commands, replies and pushes.
    pub format: Format,
    /// Raw JSON for the client from the connect hook, for the connect push.
    pub connect_data: Option<Bytes>,
    /// The headers of the handshake that hooks get.
    pub hook_headers: ForwardedHeaders,
    /// Where the client's commands come from.
    pub commands: CommandSource,
    /// Bytes that are sent before everything else: the head of the response that becomes a stream, and how its body begins.
    pub head: Bytes,
    /// Whether an SDK session is kept alive by native pings, too.
    pub has_native_pings: bool,
    /// Counts the connection (`limits.connections`).
    pub permit: Permit,
    /// Counts the connection for its address (`limits.connections_per_address`).
    pub address_permit: KeyedPermit<ClientAddress>,
    /// Counts the connection for its user, if it has one (`limits.connections_per_user`).
    pub user_permit: Option<KeyedPermit<Arc<str>>>,
    /// Counts the connection among the unauthenticated ones, in total and for its address, until it is authenticated.
    pub unauthenticated_permits: Option<(Permit, KeyedPermit<ClientAddress>)>,
}

impl Admission {
    /// Records in the audit log that the client was let in, if it is authenticated.
    pub fn record(&self, audit: &AuditLog) {
        let HandshakeAuth::Authenticated(claims) = &self.auth else { return };
        let fields = AuditFields {
            address: Some(self.ip),
            client: Some(self.client),
            door: self.credential,
            request: self.request_id.as_deref(),
            by: claims.hook.as_ref().map(|_| CONNECT_HOOK),
            ..AuditFields::default()
        };
        audit.record(AuditEvent::Connected, fields.with_token(&claims.user, &self.ids, claims.expires_at));
    }
}

/// Where the commands of a client come from.
#[derive(Debug)]
pub enum CommandSource {
    /// From its WebSocket.
    WebSocket,
    /// From other HTTP requests.
    Requests(CommandReceiver),
    /// The client sends none: it receives one channel.
    None(Box<ChannelRequest>),
}

/// The channel that a client receives which sends no commands.
#[derive(Debug)]
pub struct ChannelRequest {
    /// The channel, to which the client may subscribe.
    pub channel: Channel,
    /// What the subscribe hook has said of it; `None`: it was not asked, because something else allows the subscription.
    pub approval: Option<SubscribeApproval>,
    /// From where on the client receives the channel; `None`: from now on.
    pub since: Option<RequestedPosition>,
}

/// The position after which a client wants to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedPosition {
    /// A position that the hub has sent.
    Known(Position),
    /// Text that the hub cannot have sent.
    Unknown,
}

/// How a handshake authenticated the client.
#[derive(Debug)]
pub enum HandshakeAuth {
    /// The handshake contained a valid token.
    Authenticated(Arc<Claims>),
    /// The handshake contained no token: the session waits for one in the first message.
    Unauthenticated,
    /// The token was refused (`auth.reject = "close"`), or the connect hook has chosen a close code. The connection is opened and
    /// closed at once, so that a script can read the reason.
    Rejected(Disconnect),
}
