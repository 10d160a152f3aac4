//! A publication: data for a channel, and its sender if that is a client.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    channel::{self, Channel},
    clock::WallTime,
    position::Position,
    tags::Tags,
};

/// What a queued publication counts besides its content.
const OVERHEAD_BYTES: usize = 128;
/// Maximum of [`Publication::cost_bytes`] besides what each subscriber receives.
pub const MAX_OVERHEAD_BYTES: usize = OVERHEAD_BYTES + channel::MAX_BYTES;

/// One publication, as the broker transports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The channel it is published to.
    pub channel: Channel,
    /// Raw JSON, validated once on arrival, without CR and LF (they separate replies on the wire); or any bytes.
    pub data: Bytes,
    /// Whether the data is any bytes (`data_format = "binary"`). In JSON it is written as `b64data`.
    pub is_binary: bool,
    /// The sender, if it was published over a client's socket or with a token. It comes from the token, never from the request.
    pub info: Option<Arc<ClientInfo>>,
    /// Its position in the channel's history, set when the broker stores it.
    pub position: Option<Position>,
    /// Names and values that filters compare.
    pub tags: Tags,
    /// When the broker stored it in the history; the default without a history.
    pub time: WallTime,
    /// Whether to send it as a delta to the previous publication, to subscribers that negotiated deltas.
    pub use_delta: bool,
    /// A connection that does not receive it, usually the one that caused it.
    pub exclude: Option<Uuid>,
}

/// Maximum length of a user.
pub const MAX_USER_BYTES: usize = 255;
/// Maximum length of `info`, which every publication of its owner carries, and of `data` of a subscription.
pub const MAX_INFO_BYTES: usize = 4096;

/// Maximum length of an idempotency key. The broker remembers many of them.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// What other clients may know about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// `sub` of the token.
    pub user: String,
    /// The connection's id; empty for a sender over REST.
    pub client: String,
    /// `info` of the token: raw JSON.
    pub conn_info: Option<Bytes>,
    /// `info` of the subscription: raw JSON.
    pub chan_info: Option<Bytes>,
}

/// Returns whether a text may be a user: in a token, in the login file, and in a control. The empty text is valid and means no
/// user.
pub fn is_valid_user(text: &str) -> bool {
    text.len() <= MAX_USER_BYTES && !text.contains(char::is_control)
}

impl Publication {
    /// Creates a publication of data to a channel, with defaults for everything else.
    pub fn new(channel: Channel, data: Bytes) -> Self {
        Self {
            channel,
            data,
            is_binary: false,
            info: None,
            position: None,
            tags: Tags::default(),
            time: WallTime::default(),
            use_delta: false,
            exclude: None,
        }
    }

    /// Returns the bytes that queues count for it: its content, and a flat overhead.
    pub fn cost_bytes(&self) -> usize {
        OVERHEAD_BYTES + self.channel.as_str().len() + self.data.len() + self.info_bytes() + self.tags.cost_bytes()
    }

    /// Returns a lower bound of the bytes that it takes in a frame of any format besides its data.
    pub fn min_bytes_beside_data(&self) -> usize {
        self.info_bytes() + self.tags.packed().len()
    }

    fn info_bytes(&self) -> usize {
        self.info.as_ref().map_or(0, |info| {
            let raw = [&info.conn_info, &info.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
            info.user.len() + info.client.len() + raw
        })
    }
}
