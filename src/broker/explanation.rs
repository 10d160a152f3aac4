//! Explanations: the causes for which a publication did not arrive. Each node examines its own sessions, the server API
//! examines the publication, and together they name one cause.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::OwnedPosition;
use crate::{tags::Tags, text_enum::text_enum};

/// Maximum sessions of a node in one explanation. Above it: `has_more`.
pub const MAX_EXPLAINED_SESSIONS: usize = 100;

text_enum! {
    /// Why a publication did not arrive at a client. The order is that in which the causes of several sessions are ranked: the
    /// first of them that is one of a session is the answer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Cause {
        /// Returns the sentence that says what the cause is.
        fn text;
        /// The offset is above the newest one.
        NotPublished = "Nothing has been published at this offset yet.";
        /// The channel keeps no history.
        NeverStored = "The channel keeps no history, so no publication has an offset there.";
        /// The history has another epoch.
        OtherEpoch = "The history with the requested epoch was lost. The channel has a new epoch, in which the old offsets mean nothing.";
        /// The tag filter.
        Filtered = "The tag filter of the subscription does not match the tags of the publication.";
        /// `exclude`.
        Excluded = "The publisher has excluded this client (`exclude`).";
        /// Bytes wait in the outbox.
        ClientBehind = "The client reads more slowly than the server writes: bytes wait for it.";
        /// Deliveries are held.
        DeliveriesHeld = "The node holds its deliveries until it knows all revocations, because it was frozen or could not reach the broker.";
        /// The node has not received the publication.
        NodeBehind = "The node of the client has not received the publication: it is reading it from the history, or has lost its connection to the broker.";
        /// The subscription began later, and the publication is gone.
        NoLongerStored = "The client subscribed after the publication, and the history does not have it any more, so it could not be recovered.";
        /// The subscription began later.
        SubscribedLater = "The client subscribed after the publication, without recovering it.";
        /// The subscription has expired.
        SubscriptionExpired = "The subscription has expired (2501).";
        /// A publication was missing.
        SubscriptionLost = "The subscription was ended because publications were missing (2500), and the client has not subscribed again.";
        /// Ended by the server.
        Unsubscribed = "The server has ended the subscription (2000): by the server API, by a newer token, or by a revocation.";
        /// Ended by the client.
        UnsubscribedByClient = "The client has unsubscribed.";
        /// Error 103.
        NotPermitted = "The client may not subscribe (error 103).";
        /// Another error.
        SubscribeFailed = "The client has tried to subscribe, and got an error.";
        /// The client has not asked.
        NotSubscribed = "The client is connected and has not asked to subscribe to the channel.";
        /// The session has no token yet.
        NotAuthenticated = "The client is connected and has not sent a token yet.";
        /// A node has not answered.
        NodeUnreachable = "A node that may have the client has not answered: it is frozen, overloaded, or cut off.";
        /// 3005.
        TokenExpired = "The session was closed because its token had expired.";
        /// 3500.
        TokenRefused = "The session was closed because its token was invalid or revoked (3500).";
        /// 3008.
        TooSlow = "The session was closed because its client read too slowly (3008).";
        /// 3012.
        NoPong = "The session was closed because its client answered no pings (3012).";
        /// By its client.
        ClosedByClient = "The client has closed the session.";
        /// Without a close.
        ConnectionLost = "The connection of the session was lost without a close.";
        /// By another code.
        Closed = "The server has closed the session.";
        /// The last attempt to connect was refused.
        ConnectRefused = "The client has tried to connect, and was refused: `end` says when and why. Where `signed` is `false`, anyone may have written the name of the user into the token.";
        /// No session is known.
        NotConnected = "No node has a session of the client, and none remembers one that has ended.";
        /// The channel conflates.
        Conflated = "The channel conflates (`conflate`): the server has sent the publication, or a newer one in its place.";
        /// Everything was sent.
        Delivered = "The server has sent it: nothing on its side keeps it from the client.";
    }
}

/// What a node is asked about its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// The user whose sessions are meant, ...
    pub user: Option<String>,
    /// ... or the id of one connection.
    pub client: Option<String>,
    /// The channel.
    pub channel: String,
    /// The publication; `None`: none in particular.
    pub publication: Option<ExplainedPublication>,
}

/// A publication that has not arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPublication {
    /// Its offset.
    pub offset: u64,
    /// The epoch of its history.
    pub epoch: String,
    /// What is known of it, if it is still stored.
    pub stored: Option<StoredFacts>,
}

/// What the history says of a publication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFacts {
    /// When it entered the history, in milliseconds since 1970.
    pub time: i64,
    /// Its tags.
    pub tags: Tags,
    /// Id of the connection that does not receive it.
    pub exclude: Option<String>,
}

/// What a node says about its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeExplanation {
    /// Its sessions, and those that have ended, in the order of [`ExplainedSession::closed_order`].
    pub sessions: Vec<ExplainedSession>,
    /// It has more than [`MAX_EXPLAINED_SESSIONS`].
    pub has_more: bool,
}

/// Why a publication did not arrive at one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedSession {
    /// Client id.
    pub client: String,
    /// User; empty for a session without one.
    pub user: String,
    /// The cause.
    pub cause: Cause,
    /// Whether the session is open.
    pub is_open: bool,
    /// When it was accepted, in milliseconds since 1970.
    pub connected_at: i64,
    /// When the subscription began, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribed_at: Option<i64>,
    /// The client gets what has been published after this position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribed_after: Option<OwnedPosition>,
    /// The subscribers on the node have received everything up to this position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<OwnedPosition>,
    /// How the session or the subscription has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<ExplainedEnd>,
    /// Bytes that wait for the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_bytes: Option<u64>,
    /// For how long no byte has left, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled_for: Option<u64>,
    /// Of a refused attempt to connect: whether a key has signed the name of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<bool>,
    /// How often the user has attempted it and was refused for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
}

impl ExplainedSession {
    /// Returns the order in which sessions that are not open come: first those that are certainly of the user, and of these the one
    /// that has ended last. Anyone can have an attempt refused in the name of another user.
    pub fn closed_order(&self) -> impl Ord + use<> {
        let is_uncertain = self.cause == Cause::ConnectRefused && self.signed != Some(true);
        (is_uncertain, Reverse(self.end.as_ref().map(|end| end.time)))
    }
}

/// How a session or a subscription has ended, or a subscribe command has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedEnd {
    /// When, in milliseconds since 1970.
    pub time: i64,
    /// The close, unsubscribe or error code. `None`: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// Its text.
    pub reason: String,
}
