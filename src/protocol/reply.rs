//! Replies to commands. They are the same values in both formats.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::Serialize;

use super::{error::WireError, push::PublicationPush};
use crate::{position::Position, publication::ClientInfo};

/// A reply to a command.
#[derive(Debug)]
pub enum Reply<'a> {
    /// The command failed. With id 0: the message was not a command.
    Error(&'a WireError),
    /// Reply to `connect`.
    Connect(&'a ConnectResult<'a>),
    /// Reply to `subscribe`.
    Subscribe(&'a SubscribeResult<'a>),
    /// Reply to `unsubscribe`, without content.
    Unsubscribe,
    /// Reply to `publish`, without content.
    Publish,
    /// Reply to `presence`: the clients in the channel.
    Presence(&'a [Arc<ClientInfo>]),
    /// Reply to `presence_stats`.
    PresenceStats(PresenceStats),
    /// Reply to `history`.
    History(&'a HistoryResult<'a>),
    /// Reply to `rpc`: raw JSON of the backend, on one line.
    Rpc(Option<&'a Bytes>),
    /// Reply to `ping`.
    Ping,
    /// Reply to `refresh`.
    Refresh(&'a RefreshResult<'a>),
    /// Reply to `sub_refresh`: the new expiry of the subscription.
    SubRefresh(Expiry),
}

/// The result of `connect`, and the content of the connect push to a plain session.
#[derive(Debug)]
pub struct ConnectResult<'a> {
    /// Id of the connection.
    pub client: &'a str,
    /// Version of the server, [`super::VERSION`].
    pub version: &'a str,
    /// When the session expires.
    pub expiry: Expiry,
    /// Raw JSON for the client, from the connect hook.
    pub data: Option<&'a Bytes>,
    /// The server-side subscriptions of the session, by channel.
    pub subs: BTreeMap<&'a str, SubscribeResult<'a>>,
    /// Seconds between pings of the protocol. 0: the session gets WebSocket pings instead.
    pub ping: u32,
    /// Whether the client must answer those pings.
    pub pong: bool,
    /// Id of the session, the same as of the connection.
    pub session: &'a str,
    /// Id of the node.
    pub node: &'a str,
}

/// The expiry of a session or a subscription, in the form that clients get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expiry {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) expires: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) ttl: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Expiry {
    /// An expiry. The client should refresh within `ttl` seconds, which end `auth.refresh_margin` before the actual expiry.
    pub fn after(ttl: u32) -> Self {
        Self { expires: true, ttl }
    }

    /// No expiry.
    pub const NEVER: Self = Self { expires: false, ttl: 0 };
}

/// The result of a subscription, requested by `subscribe` or made by a token or the server API.
#[derive(Clone, Debug, Default)]
pub struct SubscribeResult<'a> {
    /// When the subscription expires.
    pub expiry: Expiry,
    /// Whether a client that reconnects with its position gets the publications that it missed.
    pub is_recoverable: bool,
    /// Whether the client learns of gaps.
    pub is_positioned: bool,
    /// Position after which publications follow: the top of the history, or the position of the client if there are recovered
    /// publications. `None` without a history.
    pub position: Option<Position>,
    /// The recovered publications, the oldest first.
    pub publications: Vec<PublicationPush<'a>>,
    /// Whether these are all publications that the client missed.
    pub is_recovered: bool,
    /// Whether the client asked for recovery.
    pub was_recovering: bool,
    /// Raw JSON for the client, from the token or the server API.
    pub data: Option<&'a Bytes>,
    /// Whether publications are sent as deltas if those are shorter.
    pub has_delta: bool,
}

/// The result of `presence_stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PresenceStats {
    /// Number of connections in the channel.
    pub num_clients: u32,
    /// Number of different users of these connections.
    pub num_users: u32,
}

impl PresenceStats {
    /// Creates the result from its numbers.
    pub fn new(clients: usize, users: usize) -> Self {
        // A channel never has 2³² clients.
        let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { num_clients: clamp(clients), num_users: clamp(users) }
    }
}

/// The result of `history`.
#[derive(Debug)]
pub struct HistoryResult<'a> {
    /// The publications, in the requested order.
    pub publications: Vec<PublicationPush<'a>>,
    /// Position of the newest publication of the history.
    pub position: Position,
}

/// The result of `refresh`.
#[derive(Debug)]
pub struct RefreshResult<'a> {
    /// Id of the connection.
    pub client: &'a str,
    /// Version of the server, [`super::VERSION`].
    pub version: &'a str,
    /// The new expiry of the session.
    pub expiry: Expiry,
}
