//! The outbox of events in Redis. A lane is a stream with a hash beside it: the number of events that wait, and which node
//! sends them until when. A sorted set has the registrations of the nodes; hashes have the sessions and the channels of each
//! node, and the number of nodes with subscribers of each channel. Each call is one script, by the clock of Redis.
//!
//! With `broker.redis.bus_key` events and records are signed: `SIGNATURE TEXT`, or `- TEXT` without a key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::FutureExt;
use redis::{Cmd, FromRedisValue};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::{
    RedisContext,
    calls::spawn_on,
    envelope::{DropReason, MessageSigner},
    scripts,
    store::{Store, millis},
};
use crate::{
    broker::{
        BrokerError, BrokerFuture,
        event_outbox::{
            Appended, EVENT_LANES, EntryId, EntryOwner, EventOutbox, LOST_INTERVALS, LostCursor, LostPage,
            OutboxChange, OutboxEntry, OutboxPage, RenewedRegistration, StoredSessions,
        },
    },
    channel::Channel,
};

const STORE: Store = Store("outbox of events");
/// Lifetime of the keys after their last change. Nodes that run renew it.
const KEY_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Maximum number of lost nodes that one call names.
const MAX_LOST_NODES: usize = 16;
/// Sessions or channels of a node that are read in one call, about.
const NODE_PAGE: usize = 256;
/// Stands for a signature.
const UNSIGNED: &str = "-";

/// A reply to HSCAN: the next cursor, and fields with their values.
type HashPage = (u64, Vec<(Vec<u8>, Vec<u8>)>);

/// The outbox in Redis.
pub(super) struct RedisEventOutbox {
    context: Arc<RedisContext>,
    /// The runtime of the broker's thread.
    runtime: Handle,
    /// For each lane the number of interruptions of Redis when it was last renewed.
    seen_interruptions: Arc<[AtomicU64; EVENT_LANES]>,
}

/// What is signed.
#[derive(Clone, Copy)]
enum SignedKind<'a> {
    Event,
    /// The record of a session of this node.
    Session(&'a str),
    /// A channel of this node.
    Channel(&'a str),
}

impl SignedKind<'_> {
    /// Returns the text whose signature is stored. A node's id has no line feed.
    fn signed_text(self, text: &str) -> String {
        match self {
            Self::Event => format!("event\n{text}"),
            Self::Session(node) => format!("session of\n{node}\n{text}"),
            Self::Channel(node) => format!("channel of\n{node}\n{text}"),
        }
    }

    fn signature(self, signer: &MessageSigner, text: &str) -> String {
        signer.sign_text(&self.signed_text(text)).unwrap_or_else(|| UNSIGNED.to_owned())
    }

    fn sign(self, signer: &MessageSigner, text: &str) -> String {
        format!("{} {text}", self.signature(signer, text))
    }

    fn verify(self, signer: &MessageSigner, text: &str, signature: &str) -> Result<(), DropReason> {
        signer.verify_text(&self.signed_text(text), Some(signature).filter(|signature| *signature != UNSIGNED))
    }

    /// Returns the text of a signed one.
    fn open(self, signer: &MessageSigner, stored: &[u8]) -> Result<String, DropReason> {
        let stored = std::str::from_utf8(stored).map_err(|_| DropReason("event"))?;
        let (signature, text) = stored.split_once(' ').ok_or(DropReason("event"))?;
        self.verify(signer, text, signature).map(|()| text.to_owned())
    }
}

/// The keys of a lane, and those of one node in it.
struct LaneKeys {
    events: String,
    state: String,
    registrations: String,
    channels: String,
    node_sessions: String,
    node_channels: String,
}

impl LaneKeys {
    fn new(context: &RedisContext, lane: usize, node: &str) -> Self {
        let names = &context.names;
        Self {
            events: names.event_key(lane, "queue"),
            state: names.event_key(lane, "state"),
            registrations: names.event_key(lane, "nodes"),
            channels: names.event_key(lane, "channels"),
            node_sessions: names.event_key_of_node(lane, "sessions", node),
            node_channels: names.event_key_of_node(lane, "channels", node),
        }
    }
}

impl RedisEventOutbox {
    pub(super) fn new(context: Arc<RedisContext>, runtime: Handle) -> Self {
        Self { context, runtime, seen_interruptions: Arc::default() }
    }

    fn keys(&self, lane: usize) -> LaneKeys {
        LaneKeys::new(&self.context, lane, &self.context.instance)
    }

    fn call_read(&self, lane: usize, lease: Duration, accepted: &str, max_events: usize) -> BrokerFuture<OutboxPage> {
        let (context, keys) = (self.context.clone(), self.keys(lane));
        let mut call = scripts::EVENTS_READ.call(&[&keys.events, &keys.state]);
        call.arg(&context.instance).arg(millis(lease)).arg(accepted).arg(max_events).arg(millis(KEY_LIFETIME));
        spawn_on(&self.runtime, async move {
            let (waiting, may_send, texts) = split_page(query(&context, lane, &call).await?)?;
            let events = may_send.then(|| read_events(&context, texts));
            Ok(OutboxPage { waiting, events })
        })
    }
}

impl EventOutbox for RedisEventOutbox {
    fn append(
        &self,
        lane: usize,
        owner: EntryOwner,
        max_waiting: usize,
        entries: Vec<OutboxEntry>,
    ) -> BrokerFuture<Appended> {
        let context = self.context.clone();
        let (node, number) = match &owner {
            EntryOwner::ThisNode(number) => (&context.instance, *number),
            EntryOwner::LostNode(node) => (node, 0),
        };
        let keys = LaneKeys::new(&context, lane, node);
        let LaneKeys { events, state, registrations, channels, node_sessions, node_channels } = &keys;
        let mut call =
            scripts::EVENTS_APPEND.call(&[events, state, registrations, channels, node_sessions, node_channels]);
        call.arg(node).arg(number).arg(max_waiting).arg(millis(KEY_LIFETIME));
        entries.iter().for_each(|entry| add_entry(&mut call, &context.signer, node, entry));
        spawn_on(&self.runtime, async move {
            let (queued, dropped) = query(&context, lane, &call).await?;
            Ok(Appended { queued, dropped })
        })
    }

    fn read(
        &self,
        lane: usize,
        accepted: Option<EntryId>,
        max_events: usize,
        lease: Duration,
    ) -> BrokerFuture<OutboxPage> {
        let next = |EntryId { millis, number }| format!("{millis}-{}", u64::saturating_add(number, 1));
        self.call_read(lane, lease, &accepted.map(next).unwrap_or_default(), max_events)
    }

    fn release(&self, lane: usize) -> BrokerFuture<()> {
        self.call_read(lane, Duration::ZERO, "", 0).map(|page| page.map(drop)).boxed()
    }

    fn renew_interval(&self) -> Option<Duration> {
        Some(self.context.heartbeat_interval)
    }

    fn renew(&self, lane: usize) -> BrokerFuture<RenewedRegistration> {
        let (context, seen) = (self.context.clone(), self.seen_interruptions.clone());
        let LaneKeys { events, state, registrations, channels, node_sessions, node_channels } = self.keys(lane);
        let keys = [&registrations, &events, &state, &channels, &node_sessions, &node_channels];
        let mut call = scripts::EVENTS_RENEW.call(&keys);
        let expiry = context.heartbeat_interval * LOST_INTERVALS;
        call.arg(&context.instance).arg(millis(expiry)).arg(millis(KEY_LIFETIME)).arg(MAX_LOST_NODES);
        spawn_on(&self.runtime, async move {
            let interruptions = context.interruptions.load(Ordering::Relaxed);
            let reply: Vec<String> = query(&context, lane, &call).await?;
            let was_interrupted = seen[lane].swap(interruptions, Ordering::Relaxed) != interruptions;
            let mut reply = reply.into_iter();
            let is_known = reply.next().as_deref() == Some("1") && !was_interrupted;
            Ok(RenewedRegistration { is_known, lost: reply.filter(|node| *node != context.instance).collect() })
        })
    }

    fn read_stored(&self, lane: usize, from: u64) -> BrokerFuture<StoredSessions> {
        let (context, key) = (self.context.clone(), self.keys(lane).node_sessions);
        spawn_on(&self.runtime, async move {
            let (next, fields) = read_hash(&context, lane, &key, from).await?;
            // What other programs have written there is no session.
            let clients = fields.iter().filter_map(|(client, _)| Uuid::try_parse_ascii(client).ok()).collect();
            Ok(StoredSessions { clients, next: (next != 0).then_some(next) })
        })
    }

    fn lease_lost(&self, lane: usize, node: &str) -> BrokerFuture<bool> {
        let (context, keys) = (self.context.clone(), LaneKeys::new(&self.context, lane, node));
        let LaneKeys { state, registrations, node_sessions, node_channels, .. } = keys;
        let mut call = scripts::EVENTS_LEASE.call(&[&registrations, &state, &node_sessions, &node_channels]);
        let lease = context.heartbeat_interval * LOST_INTERVALS;
        call.arg(&context.instance).arg(node).arg(millis(lease)).arg(millis(KEY_LIFETIME));
        spawn_on(&self.runtime, async move { query(&context, lane, &call).await })
    }

    fn read_lost(&self, lane: usize, node: &str, from: LostCursor) -> BrokerFuture<LostPage> {
        let (context, node) = (self.context.clone(), node.to_owned());
        let keys = LaneKeys::new(&context, lane, &node);
        let (key, cursor) = match from {
            LostCursor::Sessions(cursor) => (keys.node_sessions, cursor),
            LostCursor::Channels(cursor) => (keys.node_channels, cursor),
        };
        spawn_on(&self.runtime, async move {
            let (next, fields) = read_hash(&context, lane, &key, cursor).await?;
            let mut page = LostPage::default();
            match from {
                LostCursor::Sessions(_) => {
                    let read = fields.iter().map(|(client, record)| read_session(&context, &node, client, record));
                    page.sessions = read.filter_map(|read| accept(&context, read)).collect();
                    page.next = Some(if next == 0 { LostCursor::Channels(0) } else { LostCursor::Sessions(next) });
                }
                LostCursor::Channels(_) => {
                    let read = fields.iter().map(|(name, signature)| read_channel(&context, &node, name, signature));
                    page.channels = read.filter_map(|read| accept(&context, read)).collect();
                    page.next = (next != 0).then_some(LostCursor::Channels(next));
                }
            }
            Ok(page)
        })
    }

    fn forget_lost(&self, lane: usize, node: &str) -> BrokerFuture<()> {
        let (context, keys) = (self.context.clone(), LaneKeys::new(&self.context, lane, node));
        let LaneKeys { state, registrations, node_sessions, node_channels, .. } = keys;
        let mut call = scripts::EVENTS_FORGET.call(&[&registrations, &state, &node_sessions, &node_channels]);
        call.arg(node);
        spawn_on(&self.runtime, async move { query::<i64>(&context, lane, &call).await.map(drop) })
    }
}

/// Adds an entry to the call of the script.
fn add_entry(call: &mut Cmd, signer: &MessageSigner, node: &str, OutboxEntry { event, change }: &OutboxEntry) {
    let (operation, name, value) = match change {
        OutboxChange::None => ("event", String::new(), String::new()),
        OutboxChange::OpenSession { client, record } => {
            ("open", client.to_string(), SignedKind::Session(node).sign(signer, record))
        }
        OutboxChange::EndSession(client) => ("end", client.to_string(), String::new()),
        OutboxChange::OccupyChannel(channel) => {
            ("occupy", channel.to_string(), SignedKind::Channel(node).signature(signer, channel.as_str()))
        }
        OutboxChange::VacateChannel(channel) => ("vacate", channel.to_string(), String::new()),
    };
    let event = event.as_ref().map(|event| SignedKind::Event.sign(signer, event)).unwrap_or_default();
    call.arg(operation).arg(name).arg(value).arg(event);
}

/// Returns how many events wait, whether this node may send, and ids and texts of events.
fn split_page(reply: Vec<Vec<u8>>) -> Result<(usize, bool, Vec<Vec<u8>>), BrokerError> {
    let number = |text: &Vec<u8>| std::str::from_utf8(text).ok()?.parse::<usize>().ok();
    match reply.first().and_then(number).zip(reply.get(1).and_then(number)) {
        Some((waiting, may_send)) => Ok((waiting, may_send == 1, reply.into_iter().skip(2).collect())),
        None => Err(STORE.unexpected("reply")),
    }
}

/// Parses stored events. An event that another program has written is not sent, but keeps its place, so that it is removed with
/// the events after it.
fn read_events(context: &RedisContext, texts: Vec<Vec<u8>>) -> Vec<(EntryId, String)> {
    let entry_id = |id: &[u8]| {
        let (millis, number) = std::str::from_utf8(id).ok()?.split_once('-')?;
        Some(EntryId { millis: millis.parse().ok()?, number: number.parse().ok()? })
    };
    let events = texts.chunks_exact(2).filter_map(|pair| {
        let event = accept(context, SignedKind::Event.open(&context.signer, &pair[1])).unwrap_or_default();
        Some((entry_id(&pair[0])?, event))
    });
    events.collect()
}

fn read_session(
    context: &RedisContext,
    node: &str,
    client: &[u8],
    record: &[u8],
) -> Result<(Uuid, String), DropReason> {
    let client = Uuid::try_parse_ascii(client).map_err(|_| DropReason("event"))?;
    Ok((client, SignedKind::Session(node).open(&context.signer, record)?))
}

fn read_channel(context: &RedisContext, node: &str, name: &[u8], signature: &[u8]) -> Result<Channel, DropReason> {
    const MALFORMED: DropReason = DropReason("event");
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| MALFORMED);
    let (name, signature) = (text(name)?, text(signature)?);
    SignedKind::Channel(node).verify(&context.signer, name, signature)?;
    Channel::new(name).map_err(|_| MALFORMED)
}

/// Counts what another program has written.
fn accept<T>(context: &RedisContext, read: Result<T, DropReason>) -> Option<T> {
    read.map_err(|reason| context.refused.count(reason)).ok()
}

/// Reads a part of a hash.
async fn read_hash(context: &RedisContext, lane: usize, key: &str, cursor: u64) -> Result<HashPage, BrokerError> {
    let mut scan = redis::cmd("HSCAN");
    scan.arg(key).arg(cursor).arg("COUNT").arg(NODE_PAGE);
    query(context, lane, &scan).await
}

/// Makes a call on the server of a lane, which has all keys of the lane.
async fn query<T: FromRedisValue>(context: &RedisContext, lane: usize, call: &Cmd) -> Result<T, BrokerError> {
    STORE.query(context, &context.names.event_lane_home(lane), call).await
}
