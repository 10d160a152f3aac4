//! Events and results of presence: plain values, the same for every broker.

use std::sync::Arc;

use bytes::Bytes;

use crate::{channel::Channel, publication::ClientInfo};

/// A change of a channel's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceEvent {
    /// A client has subscribed.
    Join,
    /// A client has unsubscribed or disconnected.
    Leave,
}

/// A client that is present in a channel.
pub type PresentClient = (Channel, Arc<ClientInfo>);

/// How many clients and users are present in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceCount {
    /// Connections.
    pub clients: usize,
    /// Different users of these connections.
    pub users: usize,
}

/// The clients that [`Broker::presence`](super::Broker::presence) returns, limited in bytes.
pub(super) struct PresencePage {
    clients: Vec<Arc<ClientInfo>>,
    /// `None`: there is no room for another client.
    left_bytes: Option<usize>,
}

impl PresencePage {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { clients: Vec::new(), left_bytes: Some(max_bytes) }
    }

    /// Adds a client if there is room; the last one may exceed the limit. Returns whether there is room for another.
    pub(super) fn add(&mut self, client: Arc<ClientInfo>) -> bool {
        if let Some(left) = self.left_bytes {
            self.left_bytes = left.checked_sub(reply_bytes(&client));
            self.clients.push(client);
        }
        self.left_bytes.is_some()
    }

    pub(super) fn into_clients(self) -> Vec<Arc<ClientInfo>> {
        self.clients
    }
}

/// Returns the bytes that a client has in a reply, at least.
pub(super) fn reply_bytes(ClientInfo { user, client, conn_info, chan_info }: &ClientInfo) -> usize {
    user.len() + client.len() + [conn_info, chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>()
}
