//! Inspections: questions of the server API to all nodes about their sessions and channels, and the answers. Questions and
//! answers are JSON in surveys. Written by the hubs, read by the server API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ExplainQuery, TraceQuery};
use crate::{config::Door, position::Position};

/// Maximum size of a node's answer with a page of connections, in bytes. Above it the page ends early.
pub const MAX_PAGE_BYTES: usize = 1 << 20;
/// Maximum size of a question on the bus, in bytes.
pub(super) const MAX_QUESTION_BYTES: usize = 16 * 1024;

/// A question about sessions or a channel. Each node answers for its own sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inspection {
    /// A page of the sessions. The answer is a [`ConnectionsPage`].
    Connections(ConnectionsQuery),
    /// A page of the channels that have subscribers. The answer is a [`ChannelsPage`].
    Channels(ChannelsQuery),
    /// The subscribers of the channel with this name. The answer is a [`NodeChannel`].
    Channel(String),
    /// Why a publication did not arrive. The answer is a [`NodeExplanation`](super::NodeExplanation).
    Explain(ExplainQuery),
    /// The events of a trace. The answer is a [`NodeTrace`](super::NodeTrace).
    Trace(TraceQuery),
}

/// Which sessions a page has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsQuery {
    /// Only sessions of this user.
    pub user: Option<String>,
    /// Only sessions that are subscribed to this channel.
    pub channel: Option<String>,
    /// The page begins after this place.
    pub after: Option<ConnectionPlace>,
    /// Maximum connections of the page.
    pub limit: usize,
    /// Maximum channels that are named for each connection.
    pub channels: usize,
}

/// Which channels a page has: the first ones after a name, in the order of the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelsQuery {
    /// Pattern of the names, in which `*` matches any text.
    pub pattern: String,
    /// The page begins after this name; empty: with the first channel.
    pub after: String,
    /// Maximum channels of the page.
    pub limit: usize,
}

/// The channels of a page that have subscribers on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelsPage {
    /// The channels, each with the number of its subscribers.
    pub channels: BTreeMap<String, u64>,
    /// The node has channels after these.
    pub has_more: bool,
    /// Number of channels of the node that the pattern matches, on all pages.
    pub total: u64,
}

/// The place of a connection in the order of all connections: by node, worker and slot. A connection keeps its place as long as
/// it lives, so a list that continues after a place neither repeats nor leaves out one that lives meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionPlace {
    /// Id of the node.
    pub node: String,
    /// Number of the worker on its node, and of the slot on its worker.
    pub local: LocalPlace,
}

/// The place of a connection on its node: the number of the worker, and that of the slot on the worker.
pub type LocalPlace = (u32, u32);

impl ConnectionsQuery {
    /// Returns the place on this node after which the page begins: `Some(None)` at its first connection; `None` if the page has
    /// none of this node.
    pub fn start_on(&self, node: &str) -> Option<Option<LocalPlace>> {
        match &self.after {
            None => Some(None),
            Some(after) => match node.cmp(&after.node) {
                std::cmp::Ordering::Less => None,
                std::cmp::Ordering::Equal => Some(Some(after.local)),
                std::cmp::Ordering::Greater => Some(None),
            },
        }
    }
}

/// The connections of a page that are on one node, in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsPage {
    /// The connections, each with its place.
    pub connections: Vec<(LocalPlace, ConnectionInfo)>,
    /// The node has looked for connections up to this place only. `None`: it has no more of them.
    pub until: Option<LocalPlace>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Client id.
    pub client: String,
    /// User; empty for a session without one.
    pub user: String,
    /// How its messages travel.
    pub transport: String,
    /// How they are encoded.
    pub format: String,
    /// Address of the client.
    pub address: String,
    /// The way in which the token was sent. `None`: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Door>,
    /// Name of the client's software, as it says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Version of the client's software, as it says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// When it was accepted, in seconds since 1970.
    pub connected_at: i64,
    /// When its token expires, in seconds since 1970. `None`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_at: Option<i64>,
    /// Number of channels to which it is subscribed.
    pub num_channels: usize,
    /// Some of these channels, in no order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
}

impl ConnectionInfo {
    /// Returns an upper bound of the size of its JSON with its place, unless its texts have to be escaped.
    pub fn json_bytes(&self) -> usize {
        let texts = [&self.client, &self.user, &self.transport, &self.format, &self.address, &self.name, &self.version];
        let channels = self.channels.iter().map(|channel| channel.len() + 3);
        texts.iter().map(|text| text.len()).sum::<usize>() + channels.sum::<usize>() + 256
    }
}

/// What a node knows of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChannel {
    /// Number of sessions that are subscribed.
    pub num_clients: u64,
    /// Number of their different users, without anonymous sessions.
    pub num_users: u64,
    /// Number of subscriptions with a tag filter.
    pub num_filtered: u64,
    /// The subscribers on this node have received everything up to this position. `None`: the channel has no history, or the
    /// node no subscribers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<OwnedPosition>,
    /// Whether deliveries wait for publications before them, which the node is reading from the history.
    pub is_filling_gap: bool,
}

/// A position in the answer of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedPosition {
    /// The offset.
    pub offset: u64,
    /// The epoch.
    pub epoch: String,
}

impl From<Position> for OwnedPosition {
    fn from(position: Position) -> Self {
        Self { offset: position.offset, epoch: position.epoch.as_str().to_owned() }
    }
}
