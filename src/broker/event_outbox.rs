//! The outbox of the events for the operator's backend (`hooks.events`). An event stays there until the backend has accepted
//! it, whichever node sends it. It has [`EVENT_LANES`] lanes. All events of a user are in one lane, and all of a channel, and
//! one node at a time sends a lane, in the order in which the events were appended.
//!
//! With Redis it also stores which sessions each node has open, and which channels each node has subscribers of. So another
//! node can append the events of a node that was killed. The broker does not know what is in an event.

use std::{fmt, time::Duration};

use uuid::Uuid;

use super::{BrokerFuture, redis::stable_hash};
use crate::channel::Channel;

/// Number of lanes. Nodes of all releases must agree on it.
pub const EVENT_LANES: usize = 8;

/// A node whose registration was not renewed for so many intervals is lost. A lease of its takeover lasts as long.
pub const LOST_INTERVALS: u32 = 3;

/// Returns the lane of a user or a channel: the same on all nodes.
pub fn event_lane(name: &str) -> usize {
    // The remainder is less than a usize.
    (stable_hash(name) % EVENT_LANES as u64) as usize
}

/// What an event changes in the outbox beside the events that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboxChange {
    /// Nothing.
    None,
    /// The node has a session. If the node is lost, another one reads the record.
    OpenSession {
        /// The client id.
        client: Uuid,
        /// What a later event needs to know of the session.
        record: String,
    },
    /// The session has ended.
    EndSession(Uuid),
    /// The node has subscribers of the channel. The event is appended if no other node has.
    OccupyChannel(Channel),
    /// The node has no subscribers of the channel any more. The event is appended if no other node has any.
    VacateChannel(Channel),
}

/// One event and what it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The event, in JSON. `None`: only the change counts.
    pub event: Option<String>,
    /// The change.
    pub change: OutboxChange,
}

/// Whose events are appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryOwner {
    /// This node's. Each call for a lane has the next number, and the same one if it is made again because its result is not
    /// known: entries are appended once.
    ThisNode(u64),
    /// Those of a node that is lost, as [`EventOutbox::renew`] has named it. Only sessions and channels that are still stored
    /// for the node are appended. If the node has registered again, no entry is appended.
    LostNode(String),
}

/// What has become of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Events that were appended.
    pub queued: usize,
    /// Events that were dropped, because as many as allowed were waiting. Those of a lost node are not dropped; if this is not 0,
    /// some are still stored for the node.
    pub dropped: usize,
}

/// The place of an event in its lane. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Milliseconds, by the clock of Redis.
    pub(super) millis: u64,
    /// The number among those of the same millisecond.
    pub(super) number: u64,
}

#[cfg(test)]
pub(crate) fn entry_id(number: u64) -> EntryId {
    EntryId { millis: 0, number }
}

/// As Redis writes it.
impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

/// The first events of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxPage {
    /// Events that wait in the lane.
    pub waiting: usize,
    /// The events, oldest first. `None`: another node sends the lane.
    pub events: Option<Vec<(EntryId, String)>>,
}

/// The registration of a node after its renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewedRegistration {
    /// Whether everything that the node has stored is still there. Otherwise it stores its sessions and channels again.
    pub is_known: bool,
    /// Nodes whose registrations have expired.
    pub lost: Vec<String>,
}

/// Where the reading of a lost node's sessions and channels goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostCursor {
    /// Among the sessions.
    Sessions(u64),
    /// Among the channels.
    Channels(u64),
}

/// A part of the sessions that are stored for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredSessions {
    /// Client ids.
    pub clients: Vec<Uuid>,
    /// Where the next part begins. `None`: this is the last one.
    pub next: Option<u64>,
}

/// A part of what a lost node had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostPage {
    /// Client ids and records of its sessions.
    pub sessions: Vec<(Uuid, String)>,
    /// Channels of which it had subscribers.
    pub channels: Vec<Channel>,
    /// Where the next part begins. `None`: this is the last one.
    pub next: Option<LostCursor>,
}

/// The outbox of a broker. Lanes are numbers below [`EVENT_LANES`].
pub trait EventOutbox: Send + Sync {
    /// Appends entries to a lane, in their order. At most `max_waiting` events wait there; above that, those of the call are dropped.
    fn append(
        &self,
        lane: usize,
        owner: EntryOwner,
        max_waiting: usize,
        entries: Vec<OutboxEntry>,
    ) -> BrokerFuture<Appended>;

    /// Removes the events up to `accepted`, and reads the next ones. If the lane has further events, this node leases it: no other
    /// node reads the lane for `lease`, or until [`Self::release`].
    fn read(
        &self,
        lane: usize,
        accepted: Option<EntryId>,
        max_events: usize,
        lease: Duration,
    ) -> BrokerFuture<OutboxPage>;

    /// Lets other nodes read the lane.
    fn release(&self, lane: usize) -> BrokerFuture<()>;

    /// Returns how often this node has to renew its registration: it expires after [`LOST_INTERVALS`]. `None`: there are no
    /// other nodes.
    fn renew_interval(&self) -> Option<Duration>;

    /// Renews the registration of this node in a lane.
    fn renew(&self, lane: usize) -> BrokerFuture<RenewedRegistration>;

    /// Reads a part of the sessions that are stored for this node in a lane; the first part is at 0.
    fn read_stored(&self, lane: usize, from: u64) -> BrokerFuture<StoredSessions>;

    /// Leases the takeover of a lost node in a lane, or renews the lease. Returns whether this node may take it over: no other node may
    /// for [`LOST_INTERVALS`]. `false` also if the node has registered again or is forgotten.
    fn lease_lost(&self, lane: usize, node: &str) -> BrokerFuture<bool>;

    /// Reads a part of what a lost node has stored in a lane.
    fn read_lost(&self, lane: usize, node: &str, from: LostCursor) -> BrokerFuture<LostPage>;

    /// Removes a lost node, of which everything has been appended.
    fn forget_lost(&self, lane: usize, node: &str) -> BrokerFuture<()>;
}
