//! Presence in Redis. A channel has a hash of its present clients, and a sorted set of the times at which they expire; both keys
//! expire with the last client. So nothing stays in Redis of an instance that has died, and no sweep is needed: what has
//! expired is skipped by readers, and removed when something is stored.
//!
//! Changes go over the publishing connection, so they take effect in the order of the calls, and in order with joins and leaves.
//! Reads are split into pages, so that a channel with many clients does not hold up others. The first page takes the same
//! way, behind the changes that the instance has made before.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{
    RedisContext,
    envelope::{self, StoredClient},
    scripts,
    server::RedisServer,
};
use crate::{
    broker::{
        BrokerError, PresenceCount, PresentClient,
        presence::{PresencePage, reply_bytes},
    },
    channel::Channel,
    publication::ClientInfo,
};

/// Maximum clients, and bytes of clients, that one script stores: at most some milliseconds of Redis.
const STORED_CLIENTS: usize = 1000;
const STORED_BYTES: usize = 512 * 1024;
/// Clients of the first page of a read, which shares its connection with publishing, ...
const FIRST_PAGE_CLIENTS: usize = 100;
/// ... and of the others: about a millisecond of Redis.
const PAGE_CLIENTS: usize = 500;

/// Stores that clients are present. The calls are queued at once: one for all clients whose keys may be in one script, unless they
/// are many. The future completes when Redis has stored them all.
pub(super) fn store(
    context: &RedisContext,
    mut clients: Vec<PresentClient>,
    ttl: Duration,
) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
    // Stable, so that the latest of two entries of a client wins.
    clients.sort_by_cached_key(|(channel, _)| (place_of(context, channel), channel.clone()));
    let max_bytes = STORED_BYTES.min(context.message_bytes);
    let calls = split_for_scripts(&clients, max_bytes, |channel| place_of(context, channel));
    let calls: Vec<_> = calls
        .map(|clients| {
            let bytes = clients.iter().map(|(_, client)| reply_bytes(client)).sum();
            change(context, &clients[0].0, store_call(context, clients, ttl), bytes)
        })
        .collect();
    async move { join_all(calls).await.into_iter().collect() }
}

/// Returns where the keys of a channel are: channels of one place may be in one script.
fn place_of(context: &RedisContext, channel: &Channel) -> (usize, u16) {
    let server = context.server_of(channel).map_or(0, |server| Arc::as_ptr(&server).addr());
    (server, context.names.slot_of(channel))
}

/// Splits clients, which are ordered by the places of their channels, into parts for one script each: parts of one place that are
/// not too large.
fn split_for_scripts<Place: PartialEq>(
    clients: &[PresentClient],
    max_bytes: usize,
    place_of: impl Fn(&Channel) -> Place,
) -> impl Iterator<Item = &[PresentClient]> {
    let (mut count, mut bytes) = (0, 0);
    clients.chunk_by(move |(channel, client), (next_channel, next)| {
        (count, bytes) = (count + 1, bytes + reply_bytes(client));
        let fits = count < STORED_CLIENTS
            && bytes + reply_bytes(next) <= max_bytes
            && (channel == next_channel || place_of(channel) == place_of(next_channel));
        if !fits {
            (count, bytes) = (0, 0);
        }
        fits
    })
}

/// Returns the script that stores these clients, which are ordered by their channels.
fn store_call(context: &RedisContext, clients: &[PresentClient], ttl: Duration) -> Cmd {
    // Redis refuses an expiry of 0.
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
    let by_channel = || clients.chunk_by(|(channel, _), (next, _)| channel == next);
    let keys: Vec<String> = by_channel().flat_map(|clients| keys(context, &clients[0].0)).collect();
    let mut call = scripts::PRESENCE_STORE.call(&keys);
    call.arg(millis);
    for clients in by_channel() {
        call.arg(clients.len());
        for (channel, client) in clients {
            call.arg(&client.client).arg(context.signer.sign(envelope::encode_stored_client(
                channel,
                &context.instance,
                client,
            )));
        }
    }
    call
}

/// Removes a client. The call is queued at once.
pub(super) fn remove(
    context: &RedisContext,
    channel: &Channel,
    client: &str,
) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
    let mut call = scripts::PRESENCE_REMOVE.call(&keys(context, channel));
    call.arg(client);
    change(context, channel, call, client.len())
}

/// Queues a script that changes the presence of a channel, and has so many bytes of arguments.
fn change(
    context: &RedisContext,
    channel: &Channel,
    call: Cmd,
    bytes: usize,
) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
    let queued = context.server_of(channel).map(|server| server.run_script(call, bytes));
    async move { queued?.await.map(drop) }
}

fn keys(context: &RedisContext, channel: &Channel) -> [String; 2] {
    [context.names.presence_members_key(channel), context.names.presence_expiries_key(channel)]
}

/// A read of a channel's presence that has begun.
pub(super) struct PresenceRead {
    channel: Channel,
    server: Arc<RedisServer>,
    first_page: BoxFuture<'static, Result<Value, BrokerError>>,
    deadline: Instant,
}

/// A part of the clients.
struct Page {
    records: Vec<Bytes>,
    /// The cursor of the next part; `None`: this was the last part.
    next: Option<Vec<u8>>,
}

impl PresenceRead {
    /// Queues the read of the first page behind the changes that were queued before.
    pub(super) fn begin(context: &RedisContext, channel: Channel) -> Result<Self, BrokerError> {
        let server = context.server_of(&channel)?;
        let first_page = server.run_script(page_call(context, &channel, b"0", FIRST_PAGE_CLIENTS), 0).boxed();
        Ok(Self { channel, server, first_page, deadline: Instant::now() + context.timeout })
    }

    /// Returns the clients, as [`Broker::presence`](crate::broker::Broker::presence) says.
    pub(super) async fn clients(
        self,
        context: &RedisContext,
        max_bytes: usize,
    ) -> Result<Vec<Arc<ClientInfo>>, BrokerError> {
        let mut clients = PresencePage::new(max_bytes);
        self.visit(context, |client| clients.add(client)).await?;
        Ok(clients.into_clients())
    }

    /// Counts the clients.
    pub(super) async fn count(self, context: &RedisContext) -> Result<PresenceCount, BrokerError> {
        let (mut clients, mut users) = (0, HashSet::new());
        let count = |client: Arc<ClientInfo>| {
            clients += 1;
            if !users.contains(client.user.as_str()) {
                users.insert(client.user.clone());
            }
            true
        };
        self.visit(context, count).await?;
        Ok(PresenceCount { clients, users: users.len() })
    }

    /// Visits every client of a live instance once, until `visit` returns `false`.
    async fn visit(
        self,
        context: &RedisContext,
        mut visit: impl FnMut(Arc<ClientInfo>) -> bool,
    ) -> Result<(), BrokerError> {
        let live = context.nodes.live_instances();
        let is_live =
            |instance: &str| instance == context.instance || live.as_ref().is_none_or(|live| live.contains(instance));
        let mut seen = HashSet::new();
        let mut page = self.first_page.await.and_then(Page::parse)?;
        loop {
            for record in page.records {
                match envelope::decode_stored_client(&self.channel, record, &context.signer) {
                    Ok(StoredClient { instance, client }) => {
                        if is_live(&instance) && seen.insert(client.client.clone()) && !visit(client) {
                            return Ok(());
                        }
                    }
                    Err(reason) => context.refused.count(reason),
                }
            }
            let Some(cursor) = page.next else { return Ok(()) };
            let call = page_call(context, &self.channel, &cursor, PAGE_CLIENTS);
            let limit = self.deadline.saturating_duration_since(Instant::now());
            let reply = self.server.query(&call, limit).await;
            page = Page::parse(reply.map_err(|error| BrokerError::Unavailable(format!("presence: {error}")))?)?;
        }
    }
}

fn page_call(context: &RedisContext, channel: &Channel, cursor: &[u8], clients: usize) -> Cmd {
    let mut call = scripts::PRESENCE_PAGE.call(&keys(context, channel));
    call.arg(cursor).arg(clients);
    call
}

impl Page {
    fn parse(reply: Value) -> Result<Self, BrokerError> {
        let reply = redis::from_redis_value::<Vec<Vec<u8>>>(reply);
        let mut values = reply.map_err(|error| BrokerError::Unavailable(format!("presence: {error}")))?.into_iter();
        let next = values.next().filter(|cursor| cursor != b"0");
        Ok(Self { records: values.map(Bytes::from).collect(), next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(channel: &str, count: usize, bytes: usize) -> Vec<PresentClient> {
        let channel = Channel::new(channel).unwrap();
        let client = |number: usize| ClientInfo {
            user: String::new(),
            client: number.to_string(),
            conn_info: Some(vec![b'1'; bytes].into()),
            chan_info: None,
        };
        (0..count).map(|number| (channel.clone(), Arc::new(client(number)))).collect()
    }

    #[test]
    fn clients_are_split_by_place_count_and_bytes() {
        let lengths = |clients: &[PresentClient], max_bytes| -> Vec<usize> {
            let place_of = |channel: &Channel| channel.as_str().starts_with('x');
            split_for_scripts(clients, max_bytes, place_of).map(<[_]>::len).collect()
        };
        assert!(lengths(&[], 100).is_empty());
        assert_eq!(lengths(&clients("a", 2500, 1), usize::MAX), [1000, 1000, 500]);
        let spread = [clients("a", 300, 1), clients("b", 300, 1), clients("x", 300, 1)].concat();
        assert_eq!(lengths(&spread, usize::MAX), [600, 300]);
        assert_eq!(lengths(&clients("a", 10, 99), 300), [3, 3, 3, 1]);
        assert_eq!(lengths(&clients("a", 3, 99), 1), [1, 1, 1], "one that is larger than the limit is tried alone");
    }
}
