//! The JSON of events, and of the records from which another node makes the last event of a session whose node is lost.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::{channel::Channel, clock::WallTime, config::EventType};

/// Why a session has ended whose node was lost.
const NODE_LOST: &str = "the node was lost";

/// A session, as events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionRecord {
    pub(super) node: Arc<str>,
    pub(super) client: Uuid,
    pub(super) user: Arc<str>,
    pub(super) transport: Cow<'static, str>,
    pub(super) protocol: Cow<'static, str>,
    pub(super) address: Option<IpAddr>,
    pub(super) connected_at: WallTime,
}

impl SessionRecord {
    /// Returns the name by which the events of the session have a lane: the user, or the client of an anonymous session.
    pub(super) fn lane_name(&self) -> Cow<'_, str> {
        if self.user.is_empty() { Cow::Owned(self.client.to_string()) } else { Cow::Borrowed(&self.user) }
    }

    /// Returns the record in JSON, without the client id, under which it is stored.
    pub(super) fn to_json(&self) -> String {
        to_json(&RecordJson {
            node: Cow::Borrowed(&self.node),
            user: Cow::Borrowed(&self.user),
            transport: Cow::Borrowed(&self.transport),
            protocol: Cow::Borrowed(&self.protocol),
            address: self.address,
            connected_at: self.connected_at,
        })
    }

    /// Reads a record that a node has stored for a client; `None` if it is not valid.
    pub(super) fn from_json(client: Uuid, json: &str) -> Option<Self> {
        let RecordJson { node, user, transport, protocol, address, connected_at } = serde_json::from_str(json).ok()?;
        let (transport, protocol) = (Cow::Owned(transport.into_owned()), Cow::Owned(protocol.into_owned()));
        Some(Self { node: node.into(), client, user: user.into(), transport, protocol, address, connected_at })
    }
}

/// A session, as it is stored in the outbox.
#[derive(Serialize, Deserialize)]
struct RecordJson<'a> {
    node: Cow<'a, str>,
    user: Cow<'a, str>,
    transport: Cow<'a, str>,
    protocol: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    connected_at: WallTime,
}

/// An id, as clients know it.
struct IdText(Uuid);

impl Serialize for IdText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The cause for which a session or subscription has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndCause {
    pub(super) code: Option<u32>,
    pub(super) reason: Cow<'static, str>,
}

impl EndCause {
    pub(super) const NODE_LOST: Self = Self { code: None, reason: Cow::Borrowed(NODE_LOST) };
}

/// An event. Times are milliseconds since 1970.
#[derive(Serialize)]
struct EventJson<'a> {
    id: IdText,
    #[serde(rename = "type")]
    kind: &'static str,
    time: WallTime,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IdText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connected_at: Option<WallTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> EventJson<'a> {
    fn new(kind: EventType, node: &'a str, time: WallTime) -> Self {
        Self {
            id: IdText(Uuid::new_v4()),
            kind: kind.name(),
            time,
            node,
            client: None,
            user: None,
            transport: None,
            protocol: None,
            address: None,
            connected_at: None,
            channel: None,
            code: None,
            reason: None,
        }
    }
}

/// Writes `connect`, or `disconnect` with its cause.
pub(super) fn session_event(session: &SessionRecord, time: WallTime, ended: Option<&EndCause>) -> String {
    let kind = if ended.is_some() { EventType::Disconnect } else { EventType::Connect };
    to_json(&EventJson {
        client: Some(IdText(session.client)),
        user: Some(&session.user),
        transport: Some(&session.transport),
        protocol: Some(&session.protocol),
        address: session.address,
        connected_at: ended.map(|_| session.connected_at),
        code: ended.and_then(|cause| cause.code),
        reason: ended.map(|cause| &*cause.reason),
        ..EventJson::new(kind, &session.node, time)
    })
}

/// Writes `subscribe`, or `unsubscribe` with its cause.
pub(super) fn subscription_event(
    session: &SessionRecord,
    channel: &Channel,
    time: WallTime,
    ended: Option<&EndCause>,
) -> String {
    let kind = if ended.is_some() { EventType::Unsubscribe } else { EventType::Subscribe };
    to_json(&EventJson {
        client: Some(IdText(session.client)),
        user: Some(&session.user),
        channel: Some(channel.as_str()),
        code: ended.and_then(|cause| cause.code),
        reason: ended.map(|cause| &*cause.reason),
        ..EventJson::new(kind, &session.node, time)
    })
}

/// Writes `occupied` or `vacated`.
pub(super) fn channel_event(kind: EventType, node: &str, channel: &Channel, time: WallTime) -> String {
    to_json(&EventJson { channel: Some(channel.as_str()), ..EventJson::new(kind, node, time) })
}

fn to_json(value: &impl Serialize) -> String {
    // Texts and numbers can always be written.
    serde_json::to_string(value).unwrap_or_default()
}
