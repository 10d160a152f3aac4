//! Presence in Redis. A channel has a hash of its present clients, and a sorted set of the times at which they expire; both keys
//! expire with the last client. So nothing stays in Redis of an instance that has died, and no sweep is needed: what has
//! expired is skipped by readers, and removed when something is stored.
//!
//! Changes go over the publishing connection, so they take effect in the order of the calls, and in order with joins and leaves.
//! A refresh sends only the ids of the clients; those that Redis lacks are stored again. Removals that would fill the publishing
//! queue wait outside of it ([`changes`]).

mod changes;
mod divide;
mod read;

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, join_all};
use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};

use self::changes::{PresenceChanges, Removal};
pub(super) use self::{
    divide::{divide, is_change, merge},
    read::PresenceRead,
};
use super::{
    RedisContext, envelope,
    scripts::{self, RedisScript},
    stopped_error,
    store::expiry_millis,
};
use crate::{
    broker::{BrokerError, PresentClient, presence::reply_bytes},
    channel::Channel,
    publication::ClientInfo,
};

/// Maximum clients, and bytes of clients, of one script: at most some milliseconds of Redis.
const SCRIPT_CLIENTS: usize = 1000;
const SCRIPT_BYTES: usize = 512 * 1024;
/// Removals that wait and are sent at once.
const WAITING_REMOVALS: usize = 10_000;
/// Time after which they look again for room in the publishing queue.
const ROOM_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// The number of the clients of a script that has been queued, and its reply.
type QueuedScript = (usize, BoxFuture<'static, Result<Value, BrokerError>>);

/// What this instance changes at the moment. Calls are queued under the lock, so that they reach Redis in the order in which they
/// are noted.
#[derive(Default)]
pub(super) struct PresenceTurn {
    changes: Mutex<PresenceChanges>,
    removals_wait: Notify,
}

/// Stores that a client is present. The call is queued at once.
pub(super) fn add(
    context: &RedisContext,
    channel: Channel,
    client: Arc<ClientInfo>,
    ttl: Duration,
) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
    let mut changes = context.presence.changes.lock();
    changes.note_added(&channel, &client.client);
    store(context, vec![(channel, client)], ttl)
}

/// Lets clients live longer that are present. Stores those again that Redis lacks, unless they are changed meanwhile.
/// What is changed after this call counts as changed meanwhile.
pub(super) fn refresh(
    context: Arc<RedisContext>,
    clients: Vec<PresentClient>,
    ttl: Duration,
) -> impl Future<Output = Result<(), BrokerError>> + Send {
    let running = RunningRefresh::begin(&context);
    async move {
        let refreshed = refresh_stored(&context, clients, ttl).await;
        drop(running);
        refreshed
    }
}

async fn refresh_stored(context: &RedisContext, clients: Vec<PresentClient>, ttl: Duration) -> Result<(), BrokerError> {
    let clients = in_order_of_places(context, clients);
    let scripts = split_for_scripts(context, &clients, id_bytes).map(|clients| {
        let id = |_: &Channel, client: &Arc<ClientInfo>, call: &mut Cmd| _ = call.arg(&client.client);
        let call = change_call(context, &scripts::PRESENCE_REFRESH, Some(ttl), clients, id);
        let reply = run(context, &clients[0].0, call, clients.iter().map(|(_, client)| id_bytes(client)).sum());
        async move { missing_of(clients, reply.await?) }
    });
    // All are queued before the first reply is waited for.
    let replies = join_all(scripts.collect::<Vec<_>>()).await;
    let (mut missing, mut refreshed) = (Vec::new(), Ok(()));
    for reply in replies {
        match reply {
            Ok(clients) => missing.extend(clients),
            Err(error) => refreshed = refreshed.and(Err(error)),
        }
    }
    let stored = {
        let changes = context.presence.changes.lock();
        changes.retain_unchanged(&mut missing);
        store(context, missing, ttl)
    };
    stored.await.and(refreshed)
}

/// A refresh that runs, until it is dropped.
struct RunningRefresh(Arc<RedisContext>);

impl RunningRefresh {
    fn begin(context: &Arc<RedisContext>) -> Self {
        context.presence.changes.lock().begin_refresh();
        Self(context.clone())
    }
}

impl Drop for RunningRefresh {
    fn drop(&mut self) {
        self.0.presence.changes.lock().end_refresh();
    }
}

/// Returns the clients that a refresh has not found.
fn missing_of(clients: &[PresentClient], reply: Value) -> Result<Vec<PresentClient>, BrokerError> {
    let numbers = redis::from_redis_value::<Vec<usize>>(reply);
    let numbers = numbers.map_err(|error| BrokerError::Unavailable(format!("presence: {error}")))?;
    Ok(numbers.into_iter().filter_map(|number| clients.get(number.checked_sub(1)?).cloned()).collect())
}

/// Stores that clients are present. The calls are queued at once: one for all clients whose keys may be in one script, unless they
/// are many. The future completes when Redis has stored them all.
fn store(
    context: &RedisContext,
    clients: Vec<PresentClient>,
    ttl: Duration,
) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
    let clients = in_order_of_places(context, clients);
    let bytes = |client: &Arc<ClientInfo>| reply_bytes(client);
    let scripts = split_for_scripts(context, &clients, bytes).map(|clients| {
        let record = |channel: &Channel, client: &Arc<ClientInfo>, call: &mut Cmd| {
            let record = envelope::encode_stored_client(channel, &context.instance, client);
            call.arg(&client.client).arg(context.signer.sign(record));
        };
        let call = change_call(context, &scripts::PRESENCE_STORE, Some(ttl), clients, record);
        run(context, &clients[0].0, call, clients.iter().map(|(_, client)| reply_bytes(client)).sum())
    });
    let scripts: Vec<_> = scripts.collect();
    async move { join_all(scripts).await.into_iter().try_for_each(|reply| reply.map(drop)) }
}

/// Removes a client. The call is queued at once, or waits until the publishing queue has room for it.
pub(super) fn remove(
    context: &RedisContext,
    channel: Channel,
    client: Arc<str>,
) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
    let mut changes = context.presence.changes.lock();
    changes.note_changed(&channel, &client);
    let (sender, removed) = oneshot::channel();
    let removal = (channel, Removal { client, removed: sender });
    let server = context.server_of(&removal.0).ok().filter(|server| !server.is_publishing_queue_half_full());
    let sent = match server {
        Some(_) if !changes.has_waiting() => Some(run_removals(context, std::slice::from_ref(&removal))),
        _ => {
            changes.add_waiting(removal);
            context.presence.removals_wait.notify_one();
            None
        }
    };
    async move {
        match sent {
            Some(reply) => reply.await.map(drop),
            None => removed.await.unwrap_or_else(|_| Err(stopped_error())),
        }
    }
}

/// Sends the removals that wait, forever: as many at once as may be in one script.
pub(super) async fn send_waiting_removals(context: Arc<RedisContext>) {
    loop {
        context.presence.removals_wait.notified().await;
        loop {
            while context.router.routes().servers().iter().any(|server| server.is_publishing_queue_half_full()) {
                sleep(ROOM_CHECK_INTERVAL).await;
            }
            let (removals, replies) = queue_waiting_removals(&context);
            if removals.is_empty() {
                break;
            }
            let mut removals = removals.into_iter();
            for (count, reply) in replies {
                let reply = reply.await.map(drop);
                removals.by_ref().take(count).for_each(|(_, removal)| _ = removal.removed.send(reply.clone()));
            }
        }
    }
}

/// Queues the next removals that wait. Returns them, and the scripts that remove them in this order.
fn queue_waiting_removals(context: &RedisContext) -> (Vec<(Channel, Removal)>, Vec<QueuedScript>) {
    let mut changes = context.presence.changes.lock();
    let removals = in_order_of_places(context, changes.take_waiting(WAITING_REMOVALS));
    let scripts = split_for_scripts(context, &removals, |removal| removal.client.len());
    let replies = scripts.map(|removals| (removals.len(), run_removals(context, removals).boxed())).collect();
    (removals, replies)
}

/// Queues the script that removes these clients, which are ordered by their channels.
fn run_removals(
    context: &RedisContext,
    removals: &[(Channel, Removal)],
) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
    let id = |_: &Channel, removal: &Removal, call: &mut Cmd| _ = call.arg(&*removal.client);
    let call = change_call(context, &scripts::PRESENCE_REMOVE, None, removals, id);
    run(context, &removals[0].0, call, removals.iter().map(|(_, removal)| removal.client.len()).sum())
}

/// Returns where the keys of a channel are: channels of one place may be in one script.
fn place_of(context: &RedisContext, channel: &Channel) -> (usize, u16) {
    let server = context.server_of(channel).map_or(0, |server| Arc::as_ptr(&server).addr());
    (server, context.names.slot_of(channel))
}

/// Sorts the members of channels by place and channel. Stable, so that the latest of two entries of a member wins.
fn in_order_of_places<T>(context: &RedisContext, mut members: Vec<(Channel, T)>) -> Vec<(Channel, T)> {
    members.sort_by_cached_key(|(channel, _)| (place_of(context, channel), channel.clone()));
    members
}

/// Splits members for one script each.
fn split_for_scripts<'a, T>(
    context: &'a RedisContext,
    members: &'a [(Channel, T)],
    bytes_of: impl Fn(&T) -> usize + 'a,
) -> impl Iterator<Item = &'a [(Channel, T)]> {
    split_by_place(members, SCRIPT_BYTES.min(context.message_bytes), bytes_of, |channel| place_of(context, channel))
}

/// Splits members, which are ordered by the places of their channels, into parts for one script each: parts of one place that are
/// not too large.
fn split_by_place<'a, T, Place: PartialEq>(
    members: &'a [(Channel, T)],
    max_bytes: usize,
    bytes_of: impl Fn(&T) -> usize + 'a,
    place_of: impl Fn(&Channel) -> Place + 'a,
) -> impl Iterator<Item = &'a [(Channel, T)]> {
    let (mut count, mut bytes) = (0, 0);
    members.chunk_by(move |(channel, member), (next_channel, next)| {
        (count, bytes) = (count + 1, bytes + bytes_of(member));
        let fits = count < SCRIPT_CLIENTS
            && bytes + bytes_of(next) <= max_bytes
            && (channel == next_channel || place_of(channel) == place_of(next_channel));
        if !fits {
            (count, bytes) = (0, 0);
        }
        fits
    })
}

/// Returns the call of a script that changes members, which are ordered by their channels. `write` appends what it needs of each.
fn change_call<T>(
    context: &RedisContext,
    script: &RedisScript,
    ttl: Option<Duration>,
    members: &[(Channel, T)],
    write: impl Fn(&Channel, &T, &mut Cmd),
) -> Cmd {
    let by_channel = || members.chunk_by(|(channel, _), (next, _)| channel == next);
    let keys: Vec<String> = by_channel().flat_map(|members| keys(context, &members[0].0)).collect();
    let mut call = script.call(&keys);
    ttl.iter().for_each(|ttl| _ = call.arg(expiry_millis(*ttl)));
    for members in by_channel() {
        call.arg(members.len());
        members.iter().for_each(|(channel, member)| write(channel, member, &mut call));
    }
    call
}

/// Queues a script that changes the presence of channels of one place, and has so many bytes of arguments.
fn run(
    context: &RedisContext,
    channel: &Channel,
    call: Cmd,
    bytes: usize,
) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
    let queued = context.server_of(channel).map(|server| server.run_script(call, bytes));
    async move { queued?.await }
}

fn id_bytes(client: &Arc<ClientInfo>) -> usize {
    client.client.len()
}

fn keys(context: &RedisContext, channel: &Channel) -> [String; 2] {
    [context.names.presence_members_key(channel), context.names.presence_expiries_key(channel)]
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
            split_by_place(clients, max_bytes, |client| reply_bytes(client), place_of).map(<[_]>::len).collect()
        };
        assert!(lengths(&[], 100).is_empty());
        assert_eq!(lengths(&clients("a", 2500, 1), usize::MAX), [1000, 1000, 500]);
        let spread = [clients("a", 300, 1), clients("b", 300, 1), clients("x", 300, 1)].concat();
        assert_eq!(lengths(&spread, usize::MAX), [600, 300]);
        assert_eq!(lengths(&clients("a", 10, 99), 300), [3, 3, 3, 1]);
        assert_eq!(lengths(&clients("a", 3, 99), 1), [1, 1, 1], "one that is larger than the limit is tried alone");
    }
}
