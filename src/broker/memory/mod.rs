//! The default broker, inside the process: one instance without any other service. A publication is stored and goes to the
//! hubs in the call that publishes it, under a lock that it shares only with the channels of the same shard.

mod event_outbox;
mod histories;
mod history;
mod idempotency;
mod logins;
mod presence;
mod record;
mod sharded;
mod tickets;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use hashbrown::HashMap;
use parking_lot::Mutex;
use uuid::Uuid;

use self::{
    event_outbox::MemoryEventOutbox,
    histories::Histories,
    history::ChannelHistory,
    idempotency::IdempotencyCache,
    logins::LoginStore,
    presence::ChannelPresence,
    record::HistoryRecord,
    sharded::{SHARDS, Sharded},
    tickets::TicketStore,
};
use super::{
    Broker, BrokerError, BrokerFuture, ChannelTop, Control, Deliver, EventOutbox, HistoryPage, HistoryRequest, Login,
    LoginLimits, LoginRecord, LoginRefresh, LoginSelection, NodeIdentity, PositionResult, PresenceCount, PresenceEvent,
    PresentClient, PublishOptions, PublishReceipt, Retention, SharedLimits, SincePosition, SurveyQuestion,
    SurveyResult, Version, completed, invalid_ticket_id, is_valid_ticket_id, presence::PresencePage,
};
use crate::{
    channel::Channel,
    clock::{Clock, MonotonicTime, WallTime},
    config::Limits,
    metrics::QueueDepth,
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
    revocation::{LoginId, Revocation},
};

/// Every so many stored publications and reads, the next shard is swept ...
const SWEEP_INTERVAL: usize = 16;
/// ... by looking at so many of its channels.
const SWEEP_CHANNELS: usize = 32;

/// A broker inside this process.
pub struct MemoryBroker {
    deliver: Arc<dyn Deliver>,
    clock: Clock,
    shards: Sharded<Shard>,
    presence: Sharded<HashMap<Channel, ChannelPresence, foldhash::fast::RandomState>>,
    idempotency: Mutex<IdempotencyCache>,
    tickets: Mutex<TicketStore>,
    logins: Mutex<LoginStore>,
    event_outbox: Arc<MemoryEventOutbox>,
    max_history_bytes: usize,
    history_bytes: AtomicUsize,
    maintenance_calls: AtomicUsize,
    eviction_lock: Mutex<()>,
}

/// Subscriptions and histories of the channels of one shard.
#[derive(Default)]
struct Shard {
    subscribed: HashSet<Channel>,
    histories: Histories,
}

impl MemoryBroker {
    /// Creates a broker that delivers to `deliver`, and stores what `limits` allow: bytes of histories, idempotency keys,
    /// tickets.
    pub fn new(deliver: Arc<dyn Deliver>, limits: &Limits, clock: Clock) -> Self {
        Self {
            deliver,
            clock,
            shards: Sharded::default(),
            presence: Sharded::default(),
            idempotency: Mutex::new(IdempotencyCache::new(limits.idempotency_keys)),
            tickets: Mutex::new(TicketStore::new(limits.tickets)),
            logins: Mutex::default(),
            event_outbox: Arc::default(),
            max_history_bytes: limits.history_bytes,
            history_bytes: AtomicUsize::new(0),
            maintenance_calls: AtomicUsize::new(0),
            eviction_lock: Mutex::new(()),
        }
    }

    /// Returns the bytes that all histories cost at the moment, of `limits.history_bytes`.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes.load(Ordering::Relaxed)
    }

    fn publish_now(&self, publication: Publication, options: PublishOptions) -> Result<PublishReceipt, BrokerError> {
        let mut shard = self.shards.lock(&publication.channel);
        let has_history = options.retention.is_some();
        if !has_history && options.idempotency_key.is_none() {
            // A publication that is not stored needs no order among those that are: it is delivered without the lock.
            let is_subscribed = shard.subscribed.contains(&publication.channel);
            drop(shard);
            if is_subscribed {
                self.deliver.deliver_publication(publication)?;
            }
            return Ok(PublishReceipt::default());
        }
        let receipt = self.publish_locked(&mut shard, publication, options);
        drop(shard);
        if has_history {
            self.run_maintenance();
        }
        receipt
    }

    /// Publishes under the channel's lock, unless the idempotency key is known. Of two calls with one key, the second waits
    /// for the lock.
    fn publish_locked(
        &self,
        shard: &mut Shard,
        publication: Publication,
        PublishOptions { retention, idempotency_key, version }: PublishOptions,
    ) -> Result<PublishReceipt, BrokerError> {
        let now = self.clock.monotonic_now();
        let key = idempotency_key.map(|key| (publication.channel.clone(), key));
        if let Some(receipt) = key.as_ref().and_then(|key| self.idempotency.lock().find(key, now)) {
            return Ok(receipt);
        }
        let receipt = match retention {
            Some(retention) => self.deliver_and_store(shard, publication, retention, version, now)?,
            None => {
                if shard.subscribed.contains(&publication.channel) {
                    self.deliver.deliver_publication(publication)?;
                }
                PublishReceipt::default()
            }
        };
        if let Some(key) = key {
            self.idempotency.lock().remember(key, receipt, now);
        }
        Ok(receipt)
    }

    /// Delivers a publication to the hubs, and stores it if they have accepted it. Under the lock, so that offsets are the
    /// order in which the hubs receive publications.
    fn deliver_and_store(
        &self,
        Shard { subscribed, histories }: &mut Shard,
        publication: Publication,
        retention: Retention,
        version: Option<Version>,
        now: MonotonicTime,
    ) -> Result<PublishReceipt, BrokerError> {
        let channel = publication.channel.clone();
        self.update_histories(histories, |histories| {
            histories.with_channel(&channel, retention, now, |history| {
                if version.as_ref().is_some_and(|version| history.is_outdated(version)) {
                    return Ok(PublishReceipt { position: Some(history.position()) });
                }
                let position = Some(history.next_position());
                let time = self.clock.now();
                let record = HistoryRecord::new(&publication, time, now);
                if subscribed.contains(&channel) {
                    self.deliver.deliver_publication(Publication { position, time, ..publication })?;
                }
                // At most half of all bytes, so that one channel does not evict all others.
                history.append(record, version, self.max_history_bytes / 2);
                Ok(PublishReceipt { position })
            })
        })
    }

    fn read_page(
        &self,
        channel: &Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> Result<HistoryPage, BrokerError> {
        let now = self.clock.monotonic_now();
        let page = self.update_histories(&mut self.shards.lock(channel).histories, |histories| {
            histories.with_channel(channel, retention, now, |history| {
                let ChannelTop { position: top, time: top_time } = history.top();
                Ok(HistoryPage { publications: history.page(channel, &request), top, top_time })
            })
        });
        self.run_maintenance();
        page
    }

    fn read_top(&self, channel: &Channel, retention: Retention) -> PositionResult {
        let now = self.clock.monotonic_now();
        self.update_histories(&mut self.shards.lock(channel).histories, |histories| {
            let read = |history: &mut ChannelHistory| Ok(history.top());
            let exists = histories.contains(channel, now);
            exists.then(|| histories.with_channel(channel, retention, now, read)).transpose()
        })
    }

    /// Changes the histories of one shard, and keeps the sum of all bytes up to date.
    fn update_histories<T>(&self, histories: &mut Histories, update: impl FnOnce(&mut Histories) -> T) -> T {
        let before = histories.bytes();
        let updated = update(histories);
        // If the bytes have become fewer, the difference wraps around, and so does the sum.
        self.history_bytes.fetch_add(histories.bytes().wrapping_sub(before), Ordering::Relaxed);
        updated
    }

    /// Drops what has expired, a little per call, because there is no timer for it. Evicts histories over the limit.
    fn run_maintenance(&self) {
        let calls = self.maintenance_calls.fetch_add(1, Ordering::Relaxed);
        if calls.is_multiple_of(SWEEP_INTERVAL)
            && let Some(mut shard) = self.shards.all()[calls / SWEEP_INTERVAL % SHARDS].try_lock()
        {
            self.update_histories(&mut shard.histories, |histories| {
                histories.sweep(self.clock.monotonic_now(), SWEEP_CHANNELS)
            });
        }
        if self.history_bytes() > self.max_history_bytes
            && let Some(_only_one) = self.eviction_lock.try_lock()
        {
            self.evict_histories();
        }
    }

    /// Evicts first the histories that never had a publication, then the least recently used ones. It frees a little more
    /// than it must, so that not every publication has to evict.
    fn evict_histories(&self) {
        while self.history_bytes() > self.max_history_bytes - self.max_history_bytes / 1024 {
            let candidate = |shard: &Mutex<Shard>| shard.lock().histories.eviction_candidate();
            let candidates = self.shards.all().iter().filter_map(|shard| Some((candidate(shard)?, shard)));
            let Some((_, shard)) = candidates.min_by_key(|(candidate, _)| *candidate) else { return };
            self.update_histories(&mut shard.lock().histories, Histories::evict_first);
        }
    }
}

impl Broker for MemoryBroker {
    fn publish(&self, publication: Publication, options: PublishOptions) -> BrokerFuture<PublishReceipt> {
        completed(self.publish_now(publication, options))
    }

    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BrokerFuture<HistoryPage> {
        completed(self.read_page(&channel, request, retention))
    }

    fn read_missed(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
        _: Option<SincePosition>,
    ) -> BrokerFuture<HistoryPage> {
        self.read_history(channel, request, retention)
    }

    fn read_positions(&self, channels: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>> {
        ready(channels.iter().map(|(channel, retention)| self.read_top(channel, *retention)).collect()).boxed()
    }

    fn renew_epoch(&self, channel: Channel, lost: Epoch) -> BrokerFuture<Option<Position>> {
        let histories = &mut self.shards.lock(&channel).histories;
        completed(Ok(self.update_histories(histories, |histories| histories.remove_epoch(&channel, lost))))
    }

    fn remove_history(&self, channel: Channel) -> BrokerFuture<()> {
        self.update_histories(&mut self.shards.lock(&channel).histories, |histories| histories.clear(&channel));
        completed(Ok(()))
    }

    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        client: Arc<ClientInfo>,
    ) -> BrokerFuture<()> {
        let shard = self.shards.lock(&channel);
        let is_subscribed = shard.subscribed.contains(&channel);
        let delivered =
            if is_subscribed { self.deliver.deliver_presence_event(channel, event, client) } else { Ok(()) };
        drop(shard);
        completed(delivered.map_err(BrokerError::from))
    }

    fn add_presence(&self, channel: Channel, client: Arc<ClientInfo>, ttl: Duration) -> BrokerFuture<()> {
        let now = self.clock.monotonic_now();
        self.presence.lock(&channel).entry(channel).or_default().add(client, ttl, now);
        completed(Ok(()))
    }

    fn refresh_presence(&self, clients: Vec<PresentClient>, ttl: Duration) -> BrokerFuture<()> {
        let now = self.clock.monotonic_now();
        for (channel, client) in clients {
            self.presence.lock(&channel).entry(channel).or_default().add(client, ttl, now);
        }
        completed(Ok(()))
    }

    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BrokerFuture<()> {
        let mut shard = self.presence.lock(&channel);
        if let Some(presence) = shard.get_mut(&channel) {
            presence.remove(&client);
            if presence.is_empty() {
                shard.remove(&channel);
            }
        }
        completed(Ok(()))
    }

    fn presence(&self, channel: Channel, max_bytes: usize) -> BrokerFuture<Vec<Arc<ClientInfo>>> {
        let now = self.clock.monotonic_now();
        let mut page = PresencePage::new(max_bytes);
        if let Some(presence) = self.presence.lock(&channel).get(&channel) {
            _ = presence.clients(now).all(|client| page.add(client.clone()));
        }
        completed(Ok(page.into_clients()))
    }

    fn count_presence(&self, channel: Channel) -> BrokerFuture<PresenceCount> {
        let now = self.clock.monotonic_now();
        let count = self.presence.lock(&channel).get(&channel).map(|presence| presence.count(now));
        completed(Ok(count.unwrap_or_default()))
    }

    fn subscribe(&self, channel: Channel) -> BrokerFuture<()> {
        self.shards.lock(&channel).subscribed.insert(channel);
        completed(Ok(()))
    }

    fn unsubscribe(&self, channel: Channel) {
        self.shards.lock(&channel).subscribed.remove(&channel);
    }

    fn survey(&self, question: SurveyQuestion, timeout: Duration) -> BrokerFuture<SurveyResult> {
        let deliver = self.deliver.clone();
        async move { SurveyResult::ask_own_hubs(&*deliver, question, timeout).await.with_an_answer() }.boxed()
    }

    fn revoke(&self, revocations: Vec<Revocation>, timeout: Duration) -> BrokerFuture<Vec<NodeIdentity>> {
        if let Err(error) = self.deliver.add_revocations_or_none(revocations) {
            return completed(Err(error.into()));
        }
        let deliver = self.deliver.clone();
        async move {
            let question = SurveyQuestion::Revoked(Vec::new());
            Ok(SurveyResult::ask_own_hubs(&*deliver, question, timeout).await.unreachable)
        }
        .boxed()
    }

    fn confirm_revocations(&self, _: Duration) {
        // No other instance sends revocations.
    }

    fn announce_stop(&self) -> BrokerFuture<()> {
        completed(Ok(()))
    }

    fn send_control(&self, control: Control) -> BrokerFuture<()> {
        completed(self.deliver.deliver_control(control).map_err(BrokerError::from))
    }

    fn send_commands(&self, _: &str, _: Uuid, _: Bytes) -> BrokerFuture<bool> {
        // There is no other node.
        completed(Ok(false))
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BrokerFuture<()> {
        let is_valid = is_valid_ticket_id(&id);
        let now = self.clock.monotonic_now();
        completed(if is_valid { self.tickets.lock().put(id, value, ttl, now) } else { Err(invalid_ticket_id()) })
    }

    fn read_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        completed(Ok(self.tickets.lock().read(&id, self.clock.monotonic_now())))
    }

    fn take_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        completed(Ok(self.tickets.lock().take(&id, self.clock.monotonic_now())))
    }

    fn start_login(&self, id: LoginId, login: Login, limits: LoginLimits) -> BrokerFuture<Vec<LoginRecord>> {
        completed(Ok(self.logins.lock().start(&id, login, &limits)))
    }

    fn refresh_login(
        &self,
        id: LoginId,
        generation: u32,
        now: WallTime,
        limits: LoginLimits,
    ) -> BrokerFuture<LoginRefresh> {
        completed(Ok(self.logins.lock().refresh(&id, generation, now, &limits)))
    }

    fn find_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>> {
        completed(Ok(self.logins.lock().find(&user_tag, &selection)))
    }

    fn end_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>> {
        completed(Ok(self.logins.lock().end(&user_tag, &selection)))
    }

    fn shared_limits(&self) -> Option<Arc<dyn SharedLimits>> {
        None
    }

    fn event_outbox(&self) -> Arc<dyn EventOutbox> {
        self.event_outbox.clone()
    }

    fn queue_depths(&self) -> Vec<QueueDepth> {
        // Publications go to the queues of the hubs.
        Vec::new()
    }

    fn check_ready(&self) -> BrokerFuture<()> {
        completed(Ok(()))
    }
}
