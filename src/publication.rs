//! What is published: data for a channel, and who sent it when that is a client.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::{channel::Channel, clock::Millis, position::Position, tags::Tags};

/// One publication, as the broker carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where it goes.
    pub channel: Channel,
    /// Raw JSON, validated once where it came in, without CR and LF (they separate replies on the wire).
    pub data: Bytes,
    /// The sender, when it came over a client's own socket or token. Never what the client says of itself.
    pub info: Option<Arc<ClientInfo>>,
    /// Where it stands in the channel's history, once the broker has put it there.
    pub position: Option<Position>,
    /// Names and values for filters.
    pub tags: Tags,
    /// When the broker put it into the history, in milliseconds since 1970; 0 without one.
    pub time: Millis,
    /// Whoever published it wants it sent as a difference to the one before, where that was agreed on.
    pub use_delta: bool,
    /// The connection that does not get it, usually because it has caused it.
    pub exclude: Option<Uuid>,
}

/// Who a client is to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// `sub` of the token.
    pub user: String,
    /// The connection's id; empty when it came over REST.
    pub client: String,
    /// `info` of the token: raw JSON.
    pub conn_info: Option<Bytes>,
    /// `info` of its subscription: raw JSON.
    pub chan_info: Option<Bytes>,
}

impl Publication {
    /// Data for a channel, and nothing else said of it.
    pub fn new(channel: Channel, data: Bytes) -> Self {
        Self {
            channel,
            data,
            info: None,
            position: None,
            tags: Tags::default(),
            time: 0,
            use_delta: false,
            exclude: None,
        }
    }

    /// Bytes that queues count for it: what it carries and what carrying it costs.
    pub fn cost_bytes(&self) -> usize {
        const OVERHEAD: usize = 128;
        let info = self.info.as_ref().map_or(0, |info| {
            let raw = [&info.conn_info, &info.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
            info.user.len() + info.client.len() + raw
        });
        OVERHEAD + self.channel.as_str().len() + self.data.len() + info + self.tags.cost_bytes()
    }
}
