//! What is published: data for a channel, and who sent it when that is a client.

use bytes::Bytes;

use crate::channel::Channel;

/// One publication, as the broker carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where it goes.
    pub channel: Channel,
    /// Raw JSON, validated once where it came in, without CR and LF (they separate replies on the wire).
    pub data: Bytes,
    /// The sender, when it came over a client's own socket or token. Never what the client says of itself.
    pub info: Option<ClientInfo>,
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
    /// Bytes that queues count for it: what it carries and what carrying it costs.
    pub fn cost_bytes(&self) -> usize {
        const OVERHEAD: usize = 128;
        let info = self.info.as_ref().map_or(0, |info| {
            let raw = [&info.conn_info, &info.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
            info.user.len() + info.client.len() + raw
        });
        OVERHEAD + self.channel.as_str().len() + self.data.len() + info
    }
}
