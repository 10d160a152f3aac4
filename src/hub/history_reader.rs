//! Reads histories for all hubs of the instance. When many clients reconnect at once, most of them need the same page: they
//! share one read. A page is shared only where it is as good as one that is read anew:
//!
//! - A read that has not begun when a caller comes begins after the caller's deliveries are stored, so their callers share it.
//! - A page that was read before reaches up to the position of the caller's hub, which delivers everything after that.
//!
//! A broker that answers at once, as memory does, has nothing to share.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{
    future::{BoxFuture, FutureExt, Shared, ready},
    task::noop_waker_ref,
};
use parking_lot::Mutex;

use crate::{
    broker::{BrokerError, BrokerFuture, HistoryPage, HistoryRequest, Retention, SharedBroker},
    channel::Channel,
    position::Position,
    publication::Publication,
};

/// How long a page is shared. A history that is removed stays recoverable for so long.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// Maximum bytes of publications in pages that are kept to be shared.
const MAX_KEPT_BYTES: usize = 8 << 20;
/// What a kept page costs besides its publications.
const PAGE_OVERHEAD: usize = 256;

type PageResult = Result<Arc<HistoryPage>, BrokerError>;
/// Has the broker read a page.
type ReadHistory = Box<dyn Fn(Channel, HistoryRequest, Retention) -> BrokerFuture<HistoryPage> + Send + Sync>;
type SharedRead = Shared<BoxFuture<'static, PageResult>>;

/// Which read this is: those of equal channel and request are shared.
type ReadKey = (Channel, HistoryRequest);

/// Reads histories, and shares the reads.
pub(super) struct HistoryReader(Arc<State>);

struct State {
    read_history: ReadHistory,
    reads: Mutex<HashMap<ReadKey, Reads>>,
    pages: Mutex<KeptPages>,
}

/// The reads of one key.
struct Reads {
    running: SharedRead,
    /// Begins when `running` has ended.
    next: Option<SharedRead>,
}

/// The latest page of each channel.
struct KeptPages {
    by_channel: HashMap<Channel, KeptPage>,
    bytes: usize,
    next_cleanup: Instant,
}

struct KeptPage {
    request: HistoryRequest,
    page: Arc<HistoryPage>,
    bytes: usize,
    read_at: Instant,
}

impl HistoryReader {
    pub(super) fn new(broker: SharedBroker) -> Self {
        Self::with(Box::new(move |channel, request, retention| broker.read_history(channel, request, retention)))
    }

    fn with(read_history: ReadHistory) -> Self {
        Self(Arc::new(State {
            read_history,
            reads: Mutex::default(),
            pages: Mutex::new(KeptPages::new(Instant::now())),
        }))
    }

    /// Reads a page of a channel's history. If the caller's hub delivers the channel, it is at `here`.
    pub(super) fn read(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
        here: Option<Position>,
    ) -> BoxFuture<'static, PageResult> {
        let state = &self.0;
        if let Some(page) = here.and_then(|here| state.pages.lock().find(&channel, &request, here, Instant::now())) {
            return ready(Ok(page)).boxed();
        }
        let key = (channel, request);
        if let Some(reads) = state.reads.lock().get_mut(&key) {
            let read = reads.next.get_or_insert_with(|| state.clone().read_next(key, retention, reads.running.clone()));
            return read.clone().boxed();
        }
        let mut page = (state.read_history)(key.0.clone(), request, retention);
        if let Poll::Ready(page) = page.poll_unpin(&mut Context::from_waker(noop_waker_ref())) {
            return ready(page.map(Arc::new)).boxed();
        }
        let running = state.clone().finish(key.clone(), page).boxed().shared();
        // Another hub may have begun the same read meanwhile; then this one is not shared.
        state.reads.lock().entry(key).or_insert_with(|| Reads { running: running.clone(), next: None });
        running.boxed()
    }

    /// Forgets the pages that are not shared any more.
    pub(super) fn drop_old_pages(&self, now: Instant) {
        self.0.pages.lock().drop_old(now);
    }
}

impl State {
    /// Reads when another read has ended.
    fn read_next(self: Arc<Self>, key: ReadKey, retention: Retention, running: SharedRead) -> SharedRead {
        async move {
            _ = running.await;
            // From here on it has begun: later callers need another one.
            if let Some(reads) = self.reads.lock().get_mut(&key)
                && let Some(next) = reads.next.take()
            {
                reads.running = next;
            }
            let page = (self.read_history)(key.0.clone(), key.1, retention);
            self.finish(key, page).await
        }
        .boxed()
        .shared()
    }

    async fn finish(self: Arc<Self>, key: ReadKey, page: BrokerFuture<HistoryPage>) -> PageResult {
        let page = page.await.map(Arc::new);
        {
            let mut reads = self.reads.lock();
            if reads.get(&key).is_some_and(|reads| reads.next.is_none()) {
                reads.remove(&key);
            }
        }
        if let Ok(page) = &page
            && key.1.limit > 0
        {
            self.pages.lock().keep(key, page.clone(), Instant::now());
        }
        page
    }
}

impl KeptPages {
    fn new(now: Instant) -> Self {
        Self { by_channel: HashMap::new(), bytes: 0, next_cleanup: now + SHARED_FOR }
    }

    fn keep(&mut self, (channel, request): ReadKey, page: Arc<HistoryPage>, now: Instant) {
        let publications = page.publications.iter().map(Publication::cost_bytes).sum::<usize>();
        let bytes = PAGE_OVERHEAD + channel.as_str().len() + publications;
        if let Some(before) = self.by_channel.remove(&channel) {
            self.bytes -= before.bytes;
        }
        if self.bytes + bytes <= MAX_KEPT_BYTES {
            self.bytes += bytes;
            self.by_channel.insert(channel, KeptPage { request, page, bytes, read_at: now });
        }
    }

    /// Returns the page that a request would read if nothing was published after `here`.
    fn find(
        &self,
        channel: &Channel,
        request: &HistoryRequest,
        here: Position,
        now: Instant,
    ) -> Option<Arc<HistoryPage>> {
        let KeptPage { request: kept, page, read_at, .. } = self.by_channel.get(channel)?;
        let is_current = now.duration_since(*read_at) < SHARED_FOR && page.top.epoch == here.epoch;
        if !is_current || page.top.offset < here.offset {
            return None;
        }
        if kept == request {
            return Some(page.clone());
        }
        let (Some(kept_since), Some(since)) = (kept.since, request.since) else { return None };
        let is_part = !kept.is_reverse && !request.is_reverse && kept.limit == request.limit;
        let is_covered = kept_since.epoch.is_none() && since.epoch.is_none() && kept_since.offset <= since.offset;
        let is_whole = page.publications.last()?.position == Some(page.top);
        (is_part && is_covered && is_whole).then(|| Arc::new(page_since(page, since.offset)))
    }

    fn drop_old(&mut self, now: Instant) {
        if now >= self.next_cleanup {
            self.by_channel.retain(|_, kept| now.duration_since(kept.read_at) < SHARED_FOR);
            self.bytes = self.by_channel.values().map(|kept| kept.bytes).sum();
            self.next_cleanup = now + SHARED_FOR;
        }
    }
}

/// Returns the part of a page after an offset.
fn page_since(page: &HistoryPage, since: u64) -> HistoryPage {
    let is_after = |publication: &&Publication| publication.position.is_some_and(|position| position.offset > since);
    HistoryPage { publications: page.publications.iter().filter(is_after).cloned().collect(), top: page.top }
}

#[cfg(test)]
mod tests;
