//! Live traces: the events of a user, a connection or a channel. The node that is asked for a trace asks all nodes again and
//! again; each keeps the events since the last question.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NodeIdentity;
use crate::text_enum::text_enum;

/// A question for the events of a trace. The first one begins it on a node; a node that is not asked for some seconds ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceQuery {
    /// Id of the trace.
    pub id: String,
    /// What is traced.
    pub target: TraceTarget,
    /// For each node, by its id, the number of the last event that has been received.
    pub received: BTreeMap<String, u64>,
}

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceTarget {
    /// The connections of a user.
    User(String),
    /// The connection with this client id.
    Client(String),
    /// A channel.
    Channel(String),
}

/// The events of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTrace {
    /// The events that have not been received yet, with their numbers, in order.
    pub events: Vec<(u64, TraceEvent)>,
    /// Number of events that were dropped, because too many bytes of events waited.
    pub dropped: u64,
    /// The node has too many traces, and has not begun this one.
    pub is_refused: bool,
    /// The node stops.
    pub is_stopping: bool,
}

text_enum! {
    /// What has happened.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum TraceEventKind {
        /// Returns what an event of this kind means.
        fn text;
        Connected = "A client has authenticated.";
        TokenChanged = "A session has got a new token, or a new time at which it expires.";
        Subscribed = "A subscription has begun.";
        Unsubscribed = "A subscription has ended. The event has a `code` if the server ended it.";
        SubscribeRefused = "A client has tried to subscribe, and got an error.";
        Disconnected = "A session has ended.";
        Delivered = "A publication was queued to the subscribers on one worker of the node. Only in traces of a channel.";
    }
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// What it is.
    pub event: TraceEventKind,
    /// When, in milliseconds since 1970.
    pub time: i64,
    /// Client id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// User.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Code of a close, an unsubscribe push or an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// Its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Offset of a publication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of a publication's data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Number of subscribers that a publication was queued to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_clients: Option<u64>,
}

impl TraceEvent {
    /// Creates an event without details.
    pub fn new(event: TraceEventKind, time: i64) -> Self {
        let (client, user, channel, code, reason) = (None, None, None, None, None);
        Self { event, time, client, user, channel, code, reason, offset: None, bytes: None, num_clients: None }
    }

    /// Returns about how many bytes it takes.
    pub fn cost_bytes(&self) -> usize {
        let texts = [&self.client, &self.user, &self.channel, &self.reason];
        size_of::<Self>() + texts.iter().filter_map(|text| text.as_ref()).map(String::len).sum::<usize>()
    }
}

/// An event with its node, as the caller of the server API gets it.
#[derive(Clone, Debug, Serialize)]
pub struct TracedEvent {
    /// The event.
    #[serde(flatten)]
    pub event: TraceEvent,
    /// Where it has happened.
    pub node: NodeIdentity,
}
