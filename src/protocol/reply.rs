//! What is answered to commands: values, whichever format they are written in.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::Serialize;

use super::{error::ErrorCode, push::PublicationPush};
use crate::{position::Position, publication::ClientInfo};

/// An answer to a command.
#[derive(Debug)]
pub enum Reply<'a> {
    /// It was not done. With id 0: what came was no command.
    Error(ErrorCode),
    /// To `connect`.
    Connect(&'a ConnectResult<'a>),
    /// To `subscribe`.
    Subscribe(&'a SubscribeResult<'a>),
    /// To `unsubscribe`: done, and nothing to say about it.
    Unsubscribe,
    /// To `publish`: the same.
    Publish,
    /// To `presence`.
    Presence(&'a [Arc<ClientInfo>]),
    /// To `presence_stats`.
    PresenceStats(PresenceStats),
    /// To `history`.
    History(&'a HistoryResult<'a>),
    /// To `ping`.
    Ping,
    /// To `refresh`.
    Refresh(&'a RefreshResult<'a>),
    /// To `sub_refresh`.
    SubRefresh(Expiry),
}

/// The result of `connect`, and what a plain session is told when a door has let it in.
#[derive(Debug)]
pub struct ConnectResult<'a> {
    /// This connection's id.
    pub client: &'a str,
    /// See [`super::VERSION`].
    pub version: &'a str,
    /// When the session ends by itself.
    pub expiry: Expiry,
    /// What the session is subscribed to without having asked.
    pub subs: BTreeMap<&'a str, SubscribeResult<'a>>,
    /// Seconds between our pings; 0 where they are native.
    pub ping: u32,
    /// Whether the client has to answer them.
    pub pong: bool,
    /// This session's id.
    pub session: &'a str,
    /// The instance's id.
    pub node: &'a str,
}

/// The end of a session or a subscription, as clients are told it.
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
    /// It ends by itself; `ttl` are the seconds until the client should refresh, shorter than the truth by
    /// `auth.refresh_margin`.
    pub fn after(ttl: u32) -> Self {
        Self { expires: true, ttl }
    }

    /// It does not.
    pub const NEVER: Self = Self { expires: false, ttl: 0 };
}

/// The result of `subscribe`, and of a subscription that a token brings.
#[derive(Clone, Debug, Default)]
pub struct SubscribeResult<'a> {
    /// When the subscription ends by itself.
    pub expiry: Expiry,
    /// The client may come back with its position and gets what it has missed.
    pub is_recoverable: bool,
    /// The client is told of gaps.
    pub is_positioned: bool,
    /// From where on it receives: where the history stands, or, with what was recovered, where the client stood.
    pub position: Option<Position>,
    /// What it has missed, the oldest first.
    pub publications: Vec<PublicationPush<'a>>,
    /// It has got everything that it has missed.
    pub is_recovered: bool,
    /// It had asked for that.
    pub was_recovering: bool,
    /// Raw JSON of the token for the client.
    pub data: Option<&'a Bytes>,
    /// Publications come as differences where that is shorter.
    pub has_delta: bool,
}

/// The result of `presence_stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PresenceStats {
    /// Connections in the channel.
    pub num_clients: u32,
    /// Users whose they are.
    pub num_users: u32,
}

impl PresenceStats {
    /// Of these connections.
    pub fn count(members: &[Arc<ClientInfo>]) -> Self {
        let users: HashSet<&str> = members.iter().map(|member| &*member.user).collect();
        // Nobody has four thousand million connections.
        let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { num_clients: clamp(members.len()), num_users: clamp(users.len()) }
    }
}

/// The result of `history`.
#[derive(Debug)]
pub struct HistoryResult<'a> {
    /// In the order that was asked for.
    pub publications: Vec<PublicationPush<'a>>,
    /// Where the history stands.
    pub position: Position,
}

/// The result of `refresh`.
#[derive(Debug)]
pub struct RefreshResult<'a> {
    /// This connection's id.
    pub client: &'a str,
    /// See [`super::VERSION`].
    pub version: &'a str,
    /// When the session ends by itself from now on.
    pub expiry: Expiry,
}
