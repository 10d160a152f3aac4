//! The embedded default: one instance, nothing beside it. A publication is kept and goes to the hubs in the call that
//! publishes it, under a lock that only channels of the same shard share.

mod histories;
mod history;
mod idempotency;
mod presence;
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

use self::{
    histories::Histories, idempotency::IdempotencyCache, presence::ChannelPresence, record::HistoryRecord,
    tickets::TicketStore,
};
use super::{
    Broker, BrokerError, Control, Deliver, HistoryPage, HistoryRequest, PresenceEvent, PublishOptions, PublishReceipt,
    QueueFull, Retention, SurveyQuestion, Version, invalid_ticket_id, is_valid_ticket_id,
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
const SWEEP_INTERVAL: usize = 16;
/// ... look at so many channels of the next shard.
const SWEEP_CHANNELS: usize = 32;

/// A broker inside this process.
pub struct MemoryBroker {
    deliver: Arc<dyn Deliver>,
    clock: Clock,
    shards: Sharded<Shard>,
    presence: Sharded<HashMap<Channel, ChannelPresence, foldhash::fast::RandomState>>,
    idempotency: Mutex<IdempotencyCache>,
    tickets: Mutex<TicketStore>,
    /// What histories may count, and what they do.
    max_history_bytes: usize,
    history_bytes: AtomicUsize,
    maintenance_calls: AtomicUsize,
    eviction_lock: Mutex<()>,
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
            presence: Sharded::default(),
            idempotency: Mutex::new(IdempotencyCache::new(limits.idempotency_keys)),
            tickets: Mutex::new(TicketStore::new(limits.tickets)),
            max_history_bytes: limits.history_bytes,
            history_bytes: AtomicUsize::new(0),
            maintenance_calls: AtomicUsize::new(0),
            eviction_lock: Mutex::new(()),
        }
    }

    /// Bytes that all histories count at the moment, of `limits.history_bytes`.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes.load(Ordering::Relaxed)
    }

    fn publish_now(&self, publication: Publication, options: PublishOptions) -> Result<PublishReceipt, BrokerError> {
        let PublishOptions { retention, idempotency_key, version } = options;
        let mut shard = self.shards.lock(&publication.channel);
        let Some(retention) = retention else {
            if let Some(key) = idempotency_key {
                return self
                    .publish_once(publication.channel.clone(), key, || self.deliver_unstored(&shard, publication));
            }
            // What is not kept needs no order with what is: the hubs are told without the lock.
            let is_wanted = shard.subscribed.contains(&publication.channel);
            drop(shard);
            let told = if is_wanted { self.deliver.deliver_publication(publication) } else { Ok(()) };
            return told.map(|()| PublishReceipt::default()).map_err(busy_error);
        };
        let channel = publication.channel.clone();
        let published = match idempotency_key {
            Some(key) => {
                self.publish_once(channel, key, || self.deliver_and_store(&mut shard, publication, retention, version))
            }
            None => self.deliver_and_store(&mut shard, publication, retention, version),
        };
        drop(shard);
        self.run_maintenance();
        published
    }

    /// Publishes unless the key is known. The caller holds the channel's lock: of two with one key the second waits here.
    fn publish_once(
        &self,
        channel: Channel,
        key: Arc<str>,
        publish: impl FnOnce() -> Result<PublishReceipt, BrokerError>,
    ) -> Result<PublishReceipt, BrokerError> {
        let (key, now) = ((channel, key), self.clock.now());
        if let Some(published) = self.idempotency.lock().find(&key, now) {
            return Ok(published);
        }
        let published = publish()?;
        self.idempotency.lock().remember(key, published, now);
        Ok(published)
    }

    fn deliver_unstored(&self, shard: &Shard, publication: Publication) -> Result<PublishReceipt, BrokerError> {
        if shard.subscribed.contains(&publication.channel) {
            self.deliver.deliver_publication(publication).map_err(busy_error)?;
        }
        Ok(PublishReceipt::default())
    }

    /// Hands it to the hubs, and keeps it if they have taken it: offsets are the order in which hubs get them.
    fn deliver_and_store(
        &self,
        shard: &mut Shard,
        publication: Publication,
        retention: Retention,
        version: Option<Version>,
    ) -> Result<PublishReceipt, BrokerError> {
        let Shard { subscribed, histories } = shard;
        let (now, channel) = (self.clock.now(), publication.channel.clone());
        let kept = self.update_counted(histories, |histories| {
            histories.with_channel(&channel, retention, now, |history| {
                if version.as_ref().is_some_and(|version| history.is_outdated(version)) {
                    return Ok(PublishReceipt { position: Some(history.position()) });
                }
                let position = Some(history.next_position());
                let record = HistoryRecord::new(&publication, now);
                if subscribed.contains(&channel) {
                    self.deliver
                        .deliver_publication(Publication { position, time: now, ..publication })
                        .map_err(busy_error)?;
                }
                // One channel alone does not displace all others.
                history.append(record, version, self.max_history_bytes / 2);
                Ok(PublishReceipt { position })
            })
        });
        kept.unwrap_or_else(|error| Err(no_epoch_error(error)))
    }

    fn read_page(
        &self,
        channel: &Channel,
        request: &HistoryRequest,
        retention: Retention,
    ) -> Result<HistoryPage, BrokerError> {
        let now = self.clock.now();
        let read = self.update_counted(&mut self.shards.lock(channel).histories, |histories| {
            histories.with_channel(channel, retention, now, |history| HistoryPage {
                publications: history.page(channel, request),
                top: history.position(),
            })
        });
        self.run_maintenance();
        read.map_err(no_epoch_error)
    }

    /// Changes histories of a shard, and counts what that changes.
    fn update_counted<T>(&self, histories: &mut Histories, change: impl FnOnce(&mut Histories) -> T) -> T {
        let before = histories.bytes();
        let changed = change(histories);
        // Wraps around when it has become less, as does the sum.
        self.history_bytes.fetch_add(histories.bytes().wrapping_sub(before), Ordering::Relaxed);
        changed
    }

    /// What nobody has a thread for is done a little at a time by whoever comes.
    fn run_maintenance(&self) {
        let calls = self.maintenance_calls.fetch_add(1, Ordering::Relaxed);
        if calls.is_multiple_of(SWEEP_INTERVAL)
            && let Some(mut shard) = self.shards.shards[calls / SWEEP_INTERVAL % SHARDS].try_lock()
        {
            self.update_counted(&mut shard.histories, |histories| histories.sweep(self.clock.now(), SWEEP_CHANNELS));
        }
        if self.history_bytes() > self.max_history_bytes
            && let Some(_alone) = self.eviction_lock.try_lock()
        {
            self.evict_histories();
        }
    }

    /// Forgets histories without publications, and then those that have rested longest; a few more than it must, so that not every publication has to.
    fn evict_histories(&self) {
        while self.history_bytes() > self.max_history_bytes - self.max_history_bytes / 1024 {
            let first = |shard: &Mutex<Shard>| shard.lock().histories.eviction_candidate();
            let rested = self.shards.shards.iter().filter_map(|shard| first(shard).map(|first| (first, shard)));
            let Some((_, shard)) = rested.min_by_key(|(first, _)| *first) else { return };
            self.update_counted(&mut shard.lock().histories, Histories::evict_first);
        }
    }
}

fn busy_error(QueueFull: QueueFull) -> BrokerError {
    BrokerError::Busy
}

fn no_epoch_error(error: getrandom::Error) -> BrokerError {
    BrokerError::Unavailable(format!("no randomness for the name of a history: {error}"))
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        publication: Publication,
        options: PublishOptions,
    ) -> BoxFuture<'static, Result<PublishReceipt, BrokerError>> {
        ready(self.publish_now(publication, options)).boxed()
    }

    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BoxFuture<'static, Result<HistoryPage, BrokerError>> {
        ready(self.read_page(&channel, &request, retention)).boxed()
    }

    fn remove_history(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.update_counted(&mut self.shards.lock(&channel).histories, |histories| histories.clear(&channel));
        ready(Ok(())).boxed()
    }

    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        who: Arc<ClientInfo>,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        let shard = self.shards.lock(&channel);
        let is_wanted = shard.subscribed.contains(&channel);
        let told = if is_wanted { self.deliver.deliver_presence_event(channel, event, who) } else { Ok(()) };
        drop(shard);
        ready(told.map_err(busy_error)).boxed()
    }

    fn add_presence(
        &self,
        channel: Channel,
        who: Arc<ClientInfo>,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        let now = self.clock.now();
        self.presence.lock(&channel).entry(channel).or_default().add(who, ttl, now);
        ready(Ok(())).boxed()
    }

    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>> {
        let mut shard = self.presence.lock(&channel);
        if let Some(members) = shard.get_mut(&channel) {
            members.remove(&client);
            if members.is_empty() {
                shard.remove(&channel);
            }
        }
        ready(Ok(())).boxed()
    }

    fn presence(&self, channel: Channel) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>> {
        let now = self.clock.now();
        let members = self.presence.lock(&channel).get(&channel).map(|members| members.list(now));
        ready(Ok(members.unwrap_or_default())).boxed()
    }

    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.shards.lock(&channel).subscribed.insert(channel);
        ready(Ok(())).boxed()
    }

    fn unsubscribe(&self, channel: Channel) {
        self.shards.lock(&channel).subscribed.remove(&channel);
    }

    fn survey(
        &self,
        question: SurveyQuestion,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>> {
        let answer = self.deliver.answer_survey(question);
        async move {
            let answer = tokio::time::timeout(deadline, answer).await;
            answer.map(|answer| vec![answer]).map_err(|_| BrokerError::Incomplete { answered: 0, asked: 1 })
        }
        .boxed()
    }

    fn send_control(&self, control: Control) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(self.deliver.deliver_control(control).map_err(busy_error)).boxed()
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        let put =
            if is_valid_ticket_id(&id) { self.tickets.lock().put(id, value, ttl) } else { Err(invalid_ticket_id()) };
        ready(put).boxed()
    }

    fn take_ticket(&self, id: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        ready(Ok(self.tickets.lock().take(&id))).boxed()
    }

    fn check_ready(&self) -> BoxFuture<'static, Result<(), String>> {
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
    fn lock(&self, channel: &Channel) -> MutexGuard<'_, T> {
        // Of 64 bits, as many as there are shards.
        let shard = self.hasher.hash_one(channel) as usize % SHARDS;
        self.shards[shard].lock()
    }
}
