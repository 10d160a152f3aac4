//! Reads the publications that reconnecting clients have missed: once for all clients of this instance that need it at about
//! the same time.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::sleep};

use super::{
    super::{RedisContext, stopped_error},
    read::read_page,
    shared_pages::{Found, ReadId, SharedPages, answer, within_limit},
};
use crate::{
    broker::{BrokerError, HistoryPage, HistoryRequest, Retention, SincePosition},
    channel::Channel,
    position::Position,
    publication::Publication,
};

/// How long a page is shared, unless publications expire sooner: then a part of their time to live.
const MAX_SHARED_FOR: Duration = Duration::from_secs(5);
const SHARED_PART_OF_TTL: u32 = 10;
/// How often a client tries to get its page from a read of others. Then it reads for itself.
const MAX_TRIES: u32 = 3;

type PageResult = Result<ReadPage, BrokerError>;
type SharedRead = Shared<BoxFuture<'static, PageResult>>;
/// Ends with its last caller, which may be before the read ends.
type RunningRead = WeakShared<BoxFuture<'static, PageResult>>;

/// What a shared read has found.
#[derive(Clone)]
struct ReadPage {
    page: Arc<HistoryPage>,
    /// Whether it has everything that this instance had received when the read ended. Otherwise it serves only the caller that
    /// began the read.
    is_shared: bool,
}

/// The shared pages of this instance.
pub(in crate::broker::redis) struct SharedReads(Mutex<SharedPages<RunningRead>>);

/// Where a caller gets its page from.
enum Source {
    /// From a page that was read before, for this request.
    Kept(HistoryRequest, Arc<HistoryPage>),
    /// From a read that another caller has begun, for this request.
    Joined(HistoryRequest, SharedRead),
    /// From a read of its own, which others can join.
    Own(SharedRead),
    /// From a read of its own that no other caller can join.
    Unshared,
}

impl SharedReads {
    /// Creates an empty collection, which keeps at most `max_bytes`.
    pub(in crate::broker::redis) fn new(max_bytes: usize) -> Self {
        Self(Mutex::new(SharedPages::new(max_bytes)))
    }

    /// Adds a publication that this instance has received. Has to be called before the hubs get it.
    pub(in crate::broker::redis) fn extend(&self, publication: &Publication) {
        self.0.lock().extend(publication);
    }

    /// Returns the position that the page of a channel has reached, for [`Self::compare`]. To be called before the read.
    pub(in crate::broker::redis) fn top(&self, channel: &Channel) -> Option<Position> {
        self.0.lock().top(channel)
    }

    /// Compares with a position of the channel that was just read; `None`: it has none any more. `before` is what [`Self::top`] has
    /// returned.
    pub(in crate::broker::redis) fn compare(&self, channel: &Channel, before: Option<Position>, top: Option<Position>) {
        self.0.lock().compare(channel, before, top);
    }

    /// Forgets what is known of channels: publications of them may be missing, or were removed.
    pub(in crate::broker::redis) fn forget(&self, channels: &[Channel]) {
        let mut pages = self.0.lock();
        channels.iter().for_each(|channel| pages.forget(channel));
    }

    /// Forgets all pages.
    pub(in crate::broker::redis) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Reads a page for a client that names the position `known`, and whose hub receives the channel from the call on.
pub(in crate::broker::redis) async fn read_missed(
    context: Arc<RedisContext>,
    runtime: Handle,
    channel: Channel,
    request: HistoryRequest,
    retention: Retention,
    known: Option<SincePosition>,
) -> Result<HistoryPage, BrokerError> {
    for _ in 0..MAX_TRIES {
        let answer = match find_source(&context, &runtime, &channel, request, retention, known) {
            Source::Own(read) => return read.await.map(|read| within_limit(read.page, request.limit)),
            Source::Unshared => break,
            Source::Kept(kept, page) => answer(&kept, page, &request, known),
            Source::Joined(kept, read) => {
                let ReadPage { page, is_shared } = read.await?;
                is_shared.then(|| answer(&kept, page, &request, known)).flatten()
            }
        };
        if let Some(page) = answer {
            return Ok(page);
        }
    }
    let read = runtime.spawn(async move {
        let before = context.shared_reads.top(&channel);
        let page = read_page(&context, channel.clone(), request, retention).await?;
        context.shared_reads.compare(&channel, before, Some(page.top));
        Ok(page)
    });
    read.await.unwrap_or_else(|_| Err(stopped_error()))
}

fn find_source(
    context: &Arc<RedisContext>,
    runtime: &Handle,
    channel: &Channel,
    request: HistoryRequest,
    retention: Retention,
    known: Option<SincePosition>,
) -> Source {
    let mut pages = context.shared_reads.0.lock();
    match pages.find(channel, &request, known) {
        Found::Page(kept, page) => Source::Kept(kept, page),
        Found::Behind => Source::Unshared,
        Found::Running(kept, read) if let Some(read) = read.upgrade() => Source::Joined(kept, read),
        Found::Running(..) | Found::Nothing => {
            Source::Own(begin(&mut pages, context, runtime, channel, request, retention))
        }
    }
}

/// Begins a read that others can join. Nothing is sent before a caller waits for it.
fn begin(
    pages: &mut SharedPages<RunningRead>,
    context: &Arc<RedisContext>,
    runtime: &Handle,
    channel: &Channel,
    request: HistoryRequest,
    retention: Retention,
) -> SharedRead {
    let id = pages.next_id();
    let (context, runtime, read_channel) = (context.clone(), runtime.clone(), channel.clone());
    let read = async move {
        let read = runtime.spawn(read_shared(context, read_channel, request, retention, id));
        read.await.unwrap_or_else(|_| Err(stopped_error()))
    };
    let read = read.boxed().shared();
    if let Some(running) = read.downgrade() {
        pages.begin(channel, id, request, retention.size, running);
    }
    read
}

/// Reads a page, and shares it for a while.
async fn read_shared(
    context: Arc<RedisContext>,
    channel: Channel,
    request: HistoryRequest,
    retention: Retention,
    id: ReadId,
) -> PageResult {
    let page = read_page(&context, channel.clone(), request, retention).await.map(Arc::new);
    let shared = context.shared_reads.0.lock().finish(&channel, id, page.clone().ok());
    if shared.is_some() {
        let shared_for = MAX_SHARED_FOR.min(retention.ttl / SHARED_PART_OF_TTL);
        tokio::spawn(async move {
            sleep(shared_for).await;
            context.shared_reads.0.lock().expire(&channel, id);
        });
    }
    let is_shared = shared.is_some();
    page.map(|page| ReadPage { page: shared.unwrap_or(page), is_shared })
}
