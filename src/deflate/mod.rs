//! permessage-deflate (RFC 7692): the negotiation, and the compression of one message without a context.
//!
//! Every message is compressed by itself: the hub accepts the extension only with `server_no_context_takeover` and
//! `client_no_context_takeover`. So one compressed publication serves all subscribers, and a connection has neither a compressor nor an
//! inflater of its own: each thread has one of both.

mod codec;
mod counters;
mod negotiation;

pub use codec::{InflateError, compress, inflate};
pub use counters::{ByteCounters, CompressionCounters};
pub use negotiation::{MalformedExtensions, negotiate};

use crate::config::CompressionConfig;

/// Base-2 logarithm of the window of what the hub compresses, for all clients alike, so that they can share it. 4 KiB is the window
/// that the Python package `websockets` offers, and most messages are shorter. Clients with a smaller one get no compression.
pub const WINDOW_BITS: u8 = 12;

/// How the messages to a client that has negotiated compression are compressed. The same for all connections of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeflateOptions {
    /// Minimum payload of a message that is compressed, in bytes.
    pub min_bytes: u16,
    /// Maximum payload of a message that is compressed, in bytes: the thread does nothing else meanwhile.
    pub max_bytes: u32,
    /// The level of zlib, 1 to 9.
    pub level: u8,
}

impl DeflateOptions {
    /// Returns the options; `None` if compression is off.
    pub fn from_config(config: &CompressionConfig) -> Option<Self> {
        let CompressionConfig { enabled, min_bytes, max_bytes, level } = *config;
        enabled.then_some(Self { min_bytes, max_bytes, level })
    }
}
