//! The socket after the 101: what comes in is read strictly by RFC 6455 ([`Inbound`], a stream of whole messages), what
//! goes out waits in a bounded [`Outbox`] that anybody who holds it may flush. Plain and TLS differ in [`Socket`] only.
//! Session and hub use it; it knows neither, and nothing of tokens or channels.

mod assembler;
mod closing;
mod header;
mod inbound;
mod outbox;
mod reader;
mod socket;

use std::time::Duration;

use crate::config;

pub use closing::ClosePolicy;
pub use inbound::Inbound;
pub use outbox::{FlushOutcome, Outbox, PushError, PushOutcome};
pub use reader::{MessageReader, Violation};
pub use socket::{AcceptedConnection, Socket};

/// What one connection may cost.
#[derive(Clone, Copy, Debug)]
pub struct TransportLimits {
    /// Longest message, fragments added up.
    pub message_bytes: usize,
    /// Most fragments of one message.
    pub message_fragments: usize,
    /// Most bytes that wait for the peer to read.
    pub outbox_bytes: usize,
    /// Bytes that the kernel takes beyond what the peer's window lets it send (TCP_NOTSENT_LOWAT).
    pub unsent_bytes: u32,
    /// Bytes sent that the peer's kernel may leave unacknowledged for this long (TCP_USER_TIMEOUT).
    pub unacknowledged_timeout: Duration,
}

impl From<&config::Config> for TransportLimits {
    fn from(config: &config::Config) -> Self {
        Self {
            message_bytes: config.limits.message_bytes,
            message_fragments: config.limits.message_fragments,
            outbox_bytes: config.limits.outbox_bytes,
            unsent_bytes: config.limits.unsent_bytes,
            unacknowledged_timeout: config.server.ping_interval + config.server.pong_timeout,
        }
    }
}
