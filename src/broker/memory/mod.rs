//! The embedded default: one instance, nothing beside it. A publication is kept and goes to the hubs in the call that
//! publishes it, under a lock that only channels of the same shard share.

mod histories;
mod history;
mod idempotency;
mod members;
mod record;
mod tickets;

use std::{
    collections::HashSet,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};

use self::{histories::Histories, idempotency::Keys, members::Members, record::Record, tickets::Tickets};
use super::{
    Broker, BrokerError, Control, Deliver, History, HistoryRequest, Movement, NoRoom, PublishOptions, Published,
    Question, Retention, Version, is_ticket_id, no_ticket_id,
};
use crate::{
    channel::Channel,
    clock::Clock,
    config::Limits,
    publication::{ClientInfo, Publication},
};

/// Shards: many more than workers, so that two of them seldom meet.
const SHARDS: usize = 64;
/// Every so many publications with history and questions ...
const SWEEP_EVERY: usize = 16;
/// ... look at so many channels of the next shard.
const SWEPT: usize = 32;

/// A broker inside this process.
pub struct MemoryBroker {
    deliver: Arc<dyn Deliver>,
    clock: Clock,
    shards: Sharded<Shard>,
    members: Sharded<HashMap<Channel, Members, foldhash::fast::RandomState>>,
    keys: Mutex<Keys>,
    tickets: Mutex<Tickets>,
    /// What histories may count, and what they do.
    most_bytes: usize,
    bytes: AtomicUsize,
    calls: AtomicUsize,
    making_room: Mutex<()>,
}

/// What there is of some channels.
#[derive(Default)]
struct Shard {
    subscribed: HashSet<Channel>,
    histories: Histories,
}

impl MemoryBroker {
    /// Delivers to `deliver`, and keeps what the limits of histories, keys and tickets allow.
    pub fn new(deliver: Arc<dyn Deliver>, limits: &Limits, clock: Clock) -> Self {
        Self {
            deliver,
            clock,
            shards: Sharded::default(),
            members: Sharded::default(),
            keys: Mutex::new(Keys::new(limits.idempotency_keys)),
            tickets: Mutex::new(Tickets::new(limits.tickets)),
            most_bytes: limits.history_bytes,
            bytes: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            making_room: Mutex::new(()),
        }
    }

    /// Bytes that all histories count at the moment, of `limits.history_bytes`.
    pub fn history_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn put(&self, publication: Publication, options: PublishOptions) -> Result<Published, BrokerError> {
        let PublishOptions { retention, idempotency_key, version } = options;
        let mut shard = self.shards.of(&publication.channel);
        let Some(retention) = retention else {
            if let Some(key) = idempotency_key {
                return self.once(publication.channel.clone(), key, || self.tell(&shard, publication));
            }
            // What is not kept needs no order with what is: the hubs are told without the lock.
            let is_wanted = shard.subscribed.contains(&publication.channel);
            drop(shard);
            let told = if is_wanted { self.deliver.deliver(publication) } else { Ok(()) };
            return told.map(|()| Published::default()).map_err(busy);
        };
        let channel = publication.channel.clone();
        let published = match idempotency_key {
            Some(key) => self.once(channel, key, || self.keep(&mut shard, publication, retention, version)),
            None => self.keep(&mut shard, publication, retention, version),
        };
        drop(shard);
        self.tidy_up();
        published
    }

    /// Publishes unless the key is known. The caller holds the channel's lock: of two with one key the second waits here.
    fn once(
        &self,
        channel: Channel,
        key: Arc<str>,
        publish: impl FnOnce() -> Result<Published, BrokerError>,
    ) -> Result<Published, BrokerError> {
        let (key, now) = ((channel, key), self.clock.now());
        if let Some(published) = self.keys.lock().find(&key, now) {
            return Ok(published);
        }
        let published = publish()?;
        self.keys.lock().remember(key, published, now);
        Ok(published)
    }

    fn tell(&self, shard: &Shard, publication: Publication) -> Result<Published, BrokerError> {
        if shard.subscribed.contains(&publication.channel) {
            self.deliver.deliver(publication).map_err(busy)?;
        }
        Ok(Published::default())
    }

    /// Hands it to the hubs, and keeps it if they have taken it: offsets are the order in which hubs get them.
    fn keep(
        &self,
        shard: &mut Shard,
        publication: Publication,
        retention: Retention,
        version: Option<Version>,
    ) -> Result<Published, BrokerError> {
        let Shard { subscribed, histories } = shard;
        let (now, channel) = (self.clock.now(), publication.channel.clone());
        let kept = self.counted(histories, |histories| {
            histories.with(&channel, retention, now, |history| {
                if version.as_ref().is_some_and(|version| history.has_version(version)) {
                    return Ok(Published { position: Some(history.position()) });
                }
                let position = Some(history.next());
                let record = Record::new(&publication, now);
                if subscribed.contains(&channel) {
                    self.deliver.deliver(Publication { position, time: now, ..publication }).map_err(busy)?;
                }
                // One channel alone does not displace all others.
                history.append(record, version, self.most_bytes / 2);
                Ok(Published { position })
            })
        });
        kept.unwrap_or_else(|error| Err(no_epoch(error)))
    }

    fn read(&self, channel: &Channel, request: &HistoryRequest, retention: Retention) -> Result<History, BrokerError> {
        let now = self.clock.now();
        let read = self.counted(&mut self.shards.of(channel).histories, |histories| {
            histories.with(channel, retention, now, |history| History {
                publications: history.page(channel, request),
                top: history.position(),
            })
        });
        self.tidy_up();
        read.map_err(no_epoch)
    }

    /// Changes histories of a shard, and counts what that changes.
    fn counted<T>(&self, histories: &mut Histories, change: impl FnOnce(&mut Histories) -> T) -> T {
        let before = histories.bytes();
        let changed = change(histories);
        // Wraps around when it has become less, as does the sum.
        self.bytes.fetch_add(histories.bytes().wrapping_sub(before), Ordering::Relaxed);
        changed
    }

    /// What nobody has a thread for is done a little at a time by whoever comes.
    fn tidy_up(&self) {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        if calls.is_multiple_of(SWEEP_EVERY)
            && let Some(mut shard) = self.shards.shards[calls / SWEEP_EVERY % SHARDS].try_lock()
        {
            self.counted(&mut shard.histories, |histories| histories.sweep(self.clock.now(), SWEPT));
        }
        if self.history_bytes() > self.most_bytes
            && let Some(_alone) = self.making_room.try_lock()
        {
            self.make_room();
        }
    }

    /// Forgets histories without publications, and then those that have rested longest; a few more than it must, so that not every publication has to.
    fn make_room(&self) {
        while self.history_bytes() > self.most_bytes - self.most_bytes / 1024 {
            let first = |shard: &Mutex<Shard>| shard.lock().histories.first_to_go();
            let rested = self.shards.shards.iter().filter_map(|shard| first(shard).map(|first| (first, shard)));
            let Some((_, shard)) = rested.min_by_key(|(first, _)| *first) else { return };
            self.counted(&mut shard.lock().histories, Histories::forget_first);
        }
    }
}

fn busy(NoRoom: NoRoom) -> BrokerError {
    BrokerError::Busy
}

fn no_epoch(error: getrandom::Error) -> BrokerError {
    BrokerError::Unavailable(format!("no randomness for the name of a history: {error}"))
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        publication: Publication,
        options: PublishOptions,
    ) -> BoxFuture<'static, Result<Published, BrokerError>> {
        ready(self.put(publication, options)).boxed()
    }

    fn history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BoxFuture<'static, Result<History, BrokerError>> {
        ready(self.read(&channel, &request, retention)).boxed()
    }

    fn remove_history(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.counted(&mut self.shards.of(&channel).histories, |histories| histories.clear(&channel));
        ready(Ok(())).boxed()
    }

    fn announce(
        &self,
        channel: Channel,
        movement: Movement,
        who: Arc<ClientInfo>,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        let shard = self.shards.of(&channel);
        let is_wanted = shard.subscribed.contains(&channel);
        let told = if is_wanted { self.deliver.announce(channel, movement, who) } else { Ok(()) };
        drop(shard);
        ready(told.map_err(busy)).boxed()
    }

    fn add_member(
        &self,
        channel: Channel,
        who: Arc<ClientInfo>,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        let now = self.clock.now();
        self.members.of(&channel).entry(channel).or_default().add(who, ttl, now);
        ready(Ok(())).boxed()
    }

    fn remove_member(&self, channel: Channel, client: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>> {
        let mut shard = self.members.of(&channel);
        if let Some(members) = shard.get_mut(&channel) {
            members.remove(&client);
            if members.is_empty() {
                shard.remove(&channel);
            }
        }
        ready(Ok(())).boxed()
    }

    fn members(&self, channel: Channel) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>> {
        let now = self.clock.now();
        let members = self.members.of(&channel).get(&channel).map(|members| members.list(now));
        ready(Ok(members.unwrap_or_default())).boxed()
    }

    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.shards.of(&channel).subscribed.insert(channel);
        ready(Ok(())).boxed()
    }

    fn unsubscribe(&self, channel: Channel) {
        self.shards.of(&channel).subscribed.remove(&channel);
    }

    fn survey(&self, question: Question, deadline: Duration) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>> {
        let answer = self.deliver.answer(question);
        async move {
            let answer = tokio::time::timeout(deadline, answer).await;
            answer.map(|answer| vec![answer]).map_err(|_| BrokerError::Incomplete { answered: 0, asked: 1 })
        }
        .boxed()
    }

    fn control(&self, control: Control) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(self.deliver.control(control).map_err(busy)).boxed()
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        let put = if is_ticket_id(&id) { self.tickets.lock().put(id, value, ttl) } else { Err(no_ticket_id()) };
        ready(put).boxed()
    }

    fn take_ticket(&self, id: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        ready(Ok(self.tickets.lock().take(&id))).boxed()
    }

    fn ready(&self) -> BoxFuture<'static, Result<(), String>> {
        ready(Ok(())).boxed()
    }
}

/// Something for each shard of channels, behind a lock of its own.
struct Sharded<T> {
    shards: Box<[Mutex<T>]>,
    hasher: foldhash::fast::RandomState,
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, hasher: foldhash::fast::RandomState::default() }
    }
}

impl<T> Sharded<T> {
    fn of(&self, channel: &Channel) -> MutexGuard<'_, T> {
        // Of 64 bits, as many as there are shards.
        let shard = self.hasher.hash_one(channel) as usize % SHARDS;
        self.shards[shard].lock()
    }
}
