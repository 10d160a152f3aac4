//! Revocations in Redis: one list for all instances, which outlives them. An instance loads it before it delivers anything, and
//! again whenever it may have missed a revocation: after an interruption of a server over which they are announced, and when
//! the process was frozen. Meanwhile its hubs hold their deliveries. What Redis lacks then, because it was away when tokens were
//! revoked, came back empty or has lost its latest writes, is put back. No revocation is ever taken back, so lists are merged and never replaced.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use redis::FromRedisValue;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{RedisContext, scripts, store::Store, stored_revocation::StoredRevocation, survey};
use crate::{
    broker::{BrokerError, NodeIdentity, SurveyQuestion},
    clock::WallTime,
    revocation::{ListFull, Revocation},
};

pub(super) const STORE: Store = Store("revocations");
/// Revocations that are read from Redis in one call.
const PAGE: usize = 1000;
/// Revocations that are put back and announced in one call: about 100 KiB, below any limit of a message.
pub(super) const BATCH: usize = 256;
/// Time until the second attempt to load the list. It doubles with each further one up to the other.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often an instance that has just started looks whether it knows all others.
const NODES_INTERVAL: Duration = Duration::from_millis(10);
/// How long the list in Redis may fail until an instance that has had it delivers without it: the channels of other servers
/// must be delivered. Deliveries that are held again later are released at the next failure.
const MAX_HOLD: Duration = Duration::from_secs(5);
/// How often an instance that has never had the list says so in its log, after [`MAX_HOLD`].
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// How many `broker.redis.probe_interval`s pass until the list in Redis is compared again: someone may have deleted or changed revocations
/// there.
const CHECK_PROBES: u32 = 15;

/// A reply to HSCAN: the next cursor, and fields with their values.
type HashPage = (u64, Vec<(Vec<u8>, Vec<u8>)>);

/// When the list has to be loaded, and whether the hubs wait for it.
#[derive(Default)]
pub(super) struct RevocationLoader {
    due: Notify,
    /// What this instance obeys and the others may not know, by target.
    unannounced: Mutex<HashMap<String, Revocation>>,
    /// How often the deliveries were held: a list that was requested before the last time does not end it.
    holds: Mutex<u64>,
}

impl RevocationLoader {
    /// Has the list loaded.
    pub(super) fn request(&self) {
        self.due.notify_one();
    }

    /// Has revocations of this instance's list announced to the others when the list has been loaded. Forgets those that have expired.
    pub(super) fn announce_later(&self, revocations: &[Revocation], now: WallTime) {
        let mut unannounced = self.unannounced.lock();
        unannounced.retain(|_, revocation| now < revocation.expires_at);
        for revocation in revocations {
            let merged = unannounced.entry(revocation.target.to_text()).or_insert_with(|| revocation.clone());
            merged.issued_before = merged.issued_before.max(revocation.issued_before);
            merged.expires_at = merged.expires_at.max(revocation.expires_at);
        }
    }

    /// Returns what is to be announced.
    fn unannounced(&self) -> Vec<Revocation> {
        self.unannounced.lock().values().cloned().collect()
    }

    /// Notes what has been announced.
    fn forget_announced(&self, revocations: &[Revocation]) {
        let mut unannounced = self.unannounced.lock();
        for revocation in revocations {
            let target = revocation.target.to_text();
            if unannounced.get(&target) == Some(revocation) {
                unannounced.remove(&target);
            }
        }
    }
}

impl RedisContext {
    /// # Errors
    /// [`BrokerError::NotReady`]: the list of revocations has not been loaded since the start.
    pub(super) fn check_revocations(&self) -> Result<(), BrokerError> {
        if self.deliver.revocations().is_loaded() {
            return Ok(());
        }
        let detail = "the list of revocations has not been loaded from redis yet".to_owned();
        Err(BrokerError::NotReady { problem: "has not loaded the revocations", detail })
    }

    /// Holds the deliveries of all hubs until the list has been loaded. The caller requests that, now or when it is possible.
    pub(super) fn hold_deliveries(&self) {
        let mut holds = self.revocations.holds.lock();
        *holds += 1;
        self.deliver.revocations().hold();
    }

    /// Lets the hubs deliver again, unless their deliveries have been held once more after `holds` times.
    fn release_deliveries(&self, holds: u64) {
        let current = self.revocations.holds.lock();
        if *current == holds {
            self.deliver.release_deliveries();
        }
    }
}

/// Has all live nodes obey revocations that are stored. Returns those that have not confirmed before the deadline.
pub(super) async fn confirm(
    context: &RedisContext,
    revocations: Vec<Revocation>,
    deadline: Instant,
) -> Vec<NodeIdentity> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let question = SurveyQuestion::Revoked(revocations);
    let knows_all = wait_for_nodes(context, &question, Instant::now() + left() / 4).await;
    match survey::run_survey(context, question, left()).await {
        Ok(result) if knows_all => result.unreachable,
        Ok(result) => result.unreachable.into_iter().chain([unknown_node()]).collect(),
        // Not even this node has confirmed it.
        Err(_) => {
            let others = context.nodes.live_nodes().into_iter().map(|node| node.identity);
            [context.deliver.node()].into_iter().chain(others).collect()
        }
    }
}

/// Waits until this instance knows all others, and returns whether it does. One that has just started may not have received their
/// heartbeats yet, but Redis returns how many instances receive the question.
async fn wait_for_nodes(context: &RedisContext, question: &SurveyQuestion, deadline: Instant) -> bool {
    if context.nodes.live_instances().is_some() {
        return true;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok(receivers) = survey::announce(context, question, left).await else { return false };
    while context.nodes.live_nodes().len() + 1 < receivers {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(NODES_INTERVAL).await;
    }
    true
}

fn unknown_node() -> NodeIdentity {
    NodeIdentity { uid: "unknown".to_owned(), name: "unknown".to_owned() }
}

/// Loads the list when it is due, forever.
pub(super) async fn keep_loaded(context: Arc<RedisContext>) {
    loop {
        let list = context.deliver.revocations();
        let due = timeout(context.probe_interval * CHECK_PROBES, context.revocations.due.notified()).await;
        if due.is_err() && !is_incomplete_in_redis(&context).await {
            continue;
        }
        // Not since the last hold: a server that reconnects again and again holds the deliveries each time.
        let failing_since = Instant::now();
        let mut has_warned = false;
        let mut next_warning = Instant::now() + MAX_HOLD;
        let mut retry_delay = MIN_RETRY_DELAY;
        loop {
            let holds = *context.revocations.holds.lock();
            match synchronize(&context).await {
                Ok(()) => {
                    context.release_deliveries(holds);
                    break;
                }
                Err(error) if list.is_loaded() && failing_since.elapsed() >= MAX_HOLD => {
                    if !std::mem::replace(&mut has_warned, true) {
                        log::warn!("delivering without the latest revocations error={:?}", error.to_string());
                    }
                    // Also if they have been held again during this attempt.
                    let holds = *context.revocations.holds.lock();
                    context.release_deliveries(holds);
                }
                Err(error) if !list.is_loaded() && Instant::now() >= next_warning => {
                    next_warning = Instant::now() + WARNING_INTERVAL;
                    log::warn!("holding all deliveries without the list of revocations error={:?}", error.to_string());
                }
                Err(error) => log::debug!("could not load revocations error={:?}", error.to_string()),
            }
            // A server that is connected again is asked at once.
            retry_delay = match timeout(retry_delay, context.revocations.due.notified()).await {
                Ok(()) => MIN_RETRY_DELAY,
                Err(_) => (retry_delay * 2).min(MAX_RETRY_DELAY),
            };
        }
    }
}

/// Returns whether Redis lacks revocations of this instance, or has one with an earlier time.
async fn is_incomplete_in_redis(context: &RedisContext) -> bool {
    let key = context.names.revocation_hash();
    let Ok(server) = context.server_of_name(key) else { return false };
    // The gauge of revocations is to fall when they expire.
    _ = context.deliver.revocations().count();
    for own in context.deliver.revocations().entries().chunks(PAGE) {
        let mut query = redis::cmd("HMGET");
        query.arg(key);
        let targets: Vec<String> = own.iter().map(|revocation| revocation.target.to_text()).collect();
        targets.iter().for_each(|target| _ = query.arg(target));
        let Ok(stored) = server.query::<Vec<Option<Vec<u8>>>>(&query, context.timeout).await else { return false };
        let lacks = own.iter().zip(&targets).zip(stored).any(|((own, target), times)| {
            let read = |times: Vec<u8>| StoredRevocation::read(target.as_bytes(), &times, &context.signer).ok();
            let stored = times.and_then(read).map(|stored| (stored.issued_before, stored.expires_at));
            is_weaker(stored, own)
        });
        if lacks {
            return true;
        }
    }
    false
}

/// Returns whether the times of a revocation in Redis, if there are any, are earlier than those of the same one here.
fn is_weaker(stored: Option<(WallTime, WallTime)>, own: &Revocation) -> bool {
    stored.is_none_or(|(before, until)| before < own.issued_before || until < own.expires_at)
}

/// Merges the list in Redis and the one of this instance.
async fn synchronize(context: &RedisContext) -> Result<(), BrokerError> {
    let StoredList { revocations: stored, refused } = load(context).await?;
    let known: HashMap<String, (WallTime, WallTime)> = stored
        .iter()
        .map(|revocation| (revocation.target.to_text(), (revocation.issued_before, revocation.expires_at)))
        .collect();
    if let Err(error) = context.deliver.add_revocations(stored) {
        // Whatever has room is obeyed. Without the others this instance is not allowed to deliver.
        return Err(error.into());
    }
    // What follows writes. Whether Redis takes it does not matter for what this instance knows.
    let list = context.deliver.revocations();
    if !list.is_loaded() {
        list.note_loaded();
        log::debug!("loaded the list of revocations count={}", list.count());
    }
    let is_missing = |own: &Revocation| is_weaker(known.get(&own.target.to_text()).copied(), own);
    let mut missing: Vec<Revocation> = context.deliver.revocations().entries().into_iter().filter(is_missing).collect();
    missing.sort_by_cached_key(|revocation| {
        let target = revocation.target.to_text();
        !known.contains_key(&target) && !refused.contains(target.as_bytes())
    });
    // A merge would keep what another program has written in the place of one of them.
    let mode = if refused.is_empty() { "merge" } else { "replace" };
    context.revocations.announce_later(&missing, context.deliver.revocations().now());
    let stored = put_back(context, &missing, mode).await?;
    // Instances that have loaded the list without them. They need not confirm: what they must not miss they have loaded.
    let unannounced = context.revocations.unannounced();
    for batch in unannounced.chunks(BATCH) {
        let question = SurveyQuestion::Revoked(batch.to_vec());
        survey::announce(context, &question, context.timeout).await.map_err(BrokerError::Unavailable)?;
        context.revocations.forget_announced(batch);
    }
    if stored > 0 {
        log::warn!("put revocations back into redis count={stored}");
    }
    // They are in force here, and on the others. The next comparison tries again.
    let without_room = missing.len() - stored;
    if without_room > 0 {
        log::warn!("no room for revocations in redis count={without_room} error={:?}", ListFull.to_string());
    }
    Ok(())
}

/// Stores revocations, those first that need no room, until there is no room. Returns how many it has stored.
async fn put_back(context: &RedisContext, revocations: &[Revocation], mode: &str) -> Result<usize, BrokerError> {
    let mut count = 0;
    for batch in revocations.chunks(BATCH) {
        match store_as(context, batch, mode).await {
            // Some of them may have room. Behind one that has none, none has any.
            Err(BrokerError::RevocationsFull(_)) => {}
            stored => {
                stored?;
                count += batch.len();
                continue;
            }
        }
        for revocation in batch {
            match store_as(context, std::slice::from_ref(revocation), mode).await {
                Err(BrokerError::RevocationsFull(_)) => return Ok(count),
                stored => stored?,
            }
            count += 1;
        }
    }
    Ok(count)
}

/// Stores revocations, all or none.
pub(super) async fn store(context: &RedisContext, revocations: &[Revocation]) -> Result<(), BrokerError> {
    store_as(context, revocations, "merge").await
}

/// `mode`: "merge", or "replace" for entries that another program has changed.
async fn store_as(context: &RedisContext, revocations: &[Revocation], mode: &str) -> Result<(), BrokerError> {
    let mut call = scripts::REVOKE.call(context.names.revocation_hash_and_expiries());
    call.arg(context.deliver.revocations().max_entries()).arg(mode);
    for revocation in revocations {
        let StoredRevocation { target, expiry, issued_before } = StoredRevocation::new(revocation, &context.signer);
        call.arg(target).arg(expiry).arg(issued_before);
    }
    let is_stored: bool = run_script(context, &call).await?;
    if is_stored { Ok(()) } else { Err(ListFull.into()) }
}

/// The list in Redis.
#[derive(Default)]
struct StoredList {
    revocations: Vec<Revocation>,
    /// The targets whose times another program has written.
    refused: HashSet<Vec<u8>>,
}

/// Reads the list. What another program has written is left out and counted.
async fn load(context: &RedisContext) -> Result<StoredList, BrokerError> {
    let key = context.names.revocation_hash();
    let server = context.server_of_name(key)?;
    let (mut list, mut cursor) = (StoredList::default(), 0_u64);
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(key).arg(cursor).arg("COUNT").arg(PAGE);
        let page: Result<HashPage, String> = server.query(&scan, context.timeout).await;
        let (next, entries) = page.map_err(|error| STORE.unavailable(&error))?;
        for (target, times) in entries.iter().filter(|(target, _)| !target.is_empty()) {
            match StoredRevocation::read(target, times, &context.signer) {
                Ok(revocation) => list.revocations.push(revocation),
                Err(reason) => {
                    context.refused.count(reason);
                    list.refused.insert(target.clone());
                }
            }
        }
        if next == 0 {
            break;
        }
        cursor = next;
    }
    // Another server continues a cursor elsewhere.
    let is_whole = Arc::ptr_eq(&server, &context.server_of_name(key)?);
    if is_whole { Ok(list) } else { Err(STORE.unavailable("the list has moved to another server")) }
}

async fn run_script<T: FromRedisValue>(context: &RedisContext, call: &redis::Cmd) -> Result<T, BrokerError> {
    STORE.query(context, context.names.revocation_hash(), call).await
}
