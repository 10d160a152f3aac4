//! The WebSocket connection after the 101 response, and the connection of an HTTP response that does not end.
//!
//! [`Inbound`] reads strictly by RFC 6455 and is a stream of whole messages; so is [`StreamInbound`] for a client whose commands
//! come in other requests. [`Outbox`] queues frames up to a limit;
//! session and hub share it, and both may flush it. Plain TCP and TLS differ only in [`Socket`]. This module knows
//! nothing of sessions, hubs, tokens or channels; [`WriteGate`] keeps it from writing while its thread may lack revocations.

mod assembler;
mod blocked;
mod client_stream;
mod closing;
mod header;
mod inbound;
mod outbox;
mod reader;
mod socket;
mod stream_inbound;
mod tls;
mod tls_records;
mod write_gate;

use std::time::Duration;

use crate::config;

pub use client_stream::{ClientStream, KernelSocket};
pub use closing::ClosePolicy;
pub use inbound::{Inbound, InboundEvent};
pub use outbox::{CloseCause, FlushOutcome, Outbox, PushError, blocked_bytes_of_this_thread};
pub use reader::{MessageReader, Violation};
pub use socket::{AcceptedConnection, Socket};
pub use stream_inbound::StreamInbound;
pub use tls::TlsSocket;
pub use write_gate::{FROZEN_AFTER, WriteGate};

/// Limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct TransportLimits {
    /// Maximum size of a message, all fragments together. Above it: closed 1009.
    pub message_bytes: usize,
    /// Maximum fragments of one message. Above it: closed 1009.
    pub message_fragments: usize,
    /// Maximum bytes that wait for the peer to read. Above it: [`PushError::Slow`].
    pub outbox_bytes: usize,
    /// Bytes that the kernel accepts beyond those that the peer's window lets it send (TCP_NOTSENT_LOWAT).
    pub unsent_bytes: u32,
    /// Time for which the peer's kernel may leave sent bytes unacknowledged, or its window closed (TCP_USER_TIMEOUT).
    pub unacknowledged_timeout: Duration,
}

impl From<&config::Config> for TransportLimits {
    fn from(config: &config::Config) -> Self {
        Self {
            message_bytes: config.limits.message_bytes,
            message_fragments: config.limits.message_fragments,
            outbox_bytes: config.limits.outbox_bytes,
            unsent_bytes: config.limits.unsent_bytes,
            // Longer than `outbox_stall`: the kernel, too, would end the connection of a client that does not read, but
            // sooner, and with neither a code nor a log line.
            unacknowledged_timeout: config.server.ping_interval.max(config.limits.outbox_stall)
                + config.server.pong_timeout,
        }
    }
}
