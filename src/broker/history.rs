//! Options, requests and results of publishing and of reading a history: plain values, the same for every broker.

use std::{sync::Arc, time::Duration};

use super::Broker;
use crate::{
    channel::Channel,
    clock::WallTime,
    config::ChannelOptions,
    position::{Epoch, Position},
    protocol::ErrorCode,
    publication::Publication,
};

/// How long a channel keeps its publications and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `history_size`: how many of the newest publications are kept, ...
    pub size: usize,
    /// `history_ttl`: ... and for how long.
    pub ttl: Duration,
    /// `history_meta_ttl`: how long the position is kept after the last publication or read.
    pub meta_ttl: Duration,
}

impl Retention {
    /// Returns the retention in a channel's options; `None` if the channel has no history.
    pub fn from_options(options: &ChannelOptions) -> Option<Self> {
        let (size, ttl, meta_ttl) = (options.history_size, options.history_ttl, options.history_meta_ttl);
        options.has_history().then_some(Self { size, ttl, meta_ttl })
    }
}

/// How long an idempotency key is kept: longer than a publisher retries.
pub(super) const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

/// What a publish does besides sending the publication to subscribers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Stores the publication in the history. `None`: the channel has no history, or the publication skips it.
    pub retention: Option<Retention>,
    /// A channel accepts one publication per key in five minutes. A repeated publish returns the first receipt.
    pub idempotency_key: Option<Arc<str>>,
    /// Skips the publication unless it is newer than the newest one with the same version epoch.
    pub version: Option<Version>,
}

/// A publisher's own version number, for channels whose publications are states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Grows with each state. Never 0.
    pub number: u64,
    /// Only numbers of one epoch are compared.
    pub epoch: Arc<str>,
}

/// The result of a publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishReceipt {
    /// The publication's position in the history. If its version was too old, the newest position of the history.
    pub position: Option<Position>,
}

/// A request for a page of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HistoryRequest {
    /// The page starts after this position, or ends before it if `is_reverse`. `None`: it starts with the oldest
    /// publication, or with the newest one if `is_reverse`.
    pub since: Option<SincePosition>,
    /// Maximum number of publications. 0: only the position.
    pub limit: usize,
    /// The newest publication comes first.
    pub is_reverse: bool,
    /// The caller uses nothing of the page behind the publication that makes it larger, so the broker need not read on. `None`: the
    /// caller takes all of them.
    pub max_bytes: Option<usize>,
}

/// A position that a client names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SincePosition {
    /// The offset.
    pub offset: u64,
    /// The epoch. `None`: any epoch.
    pub epoch: Option<Epoch>,
}

impl SincePosition {
    /// Parses a position that a client names, where an empty epoch means any epoch.
    ///
    /// # Errors
    /// [`ErrorCode::UnrecoverablePosition`]: no history of any channel can have this epoch.
    pub fn parse(offset: u64, epoch: &str) -> Result<Self, ErrorCode> {
        let parsed = (!epoch.is_empty()).then(|| Epoch::parse(epoch).ok_or(ErrorCode::UnrecoverablePosition));
        Ok(Self { offset, epoch: parsed.transpose()? })
    }
}

/// The newest publication that a channel ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelTop {
    /// Its position; with offset 0 if the channel never had one.
    pub position: Position,
    /// Its time, by which another publication at the same position is recognised. `None`: unknown.
    pub time: Option<WallTime>,
}

/// A page of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// The publications in the requested order, each with its position.
    pub publications: Vec<Publication>,
    /// Position of the newest publication that the channel ever had, whether it is still stored or not.
    pub top: Position,
    /// The time of that publication; `None`: unknown, or there was none.
    pub top_time: Option<WallTime>,
}

impl HistoryPage {
    /// Returns the newest publication that the channel ever had.
    pub fn newest(&self) -> ChannelTop {
        ChannelTop { position: self.top, time: self.top_time }
    }

    /// Returns whether the requested position belongs to this history: it has the same epoch. The publications around any
    /// other position are unknown (error 112).
    fn is_position_known(&self, request: &HistoryRequest) -> bool {
        request.since.and_then(|since| since.epoch).is_none_or(|epoch| epoch == self.top.epoch)
    }

    /// Returns whether the request starts beyond the top; a reversed one may start directly after it.
    fn is_beyond_top(&self, request: &HistoryRequest) -> bool {
        let reached = self.top.offset.saturating_add(u64::from(request.is_reverse));
        request.since.is_some_and(|since| since.offset > reached)
    }

    /// Removes the last publications until the rest costs at most `max_bytes`.
    fn truncate_to_bytes(&mut self, max_bytes: usize) {
        let mut bytes = 0;
        let fits = |publication: &Publication| {
            bytes += publication.cost_bytes();
            bytes <= max_bytes
        };
        self.publications.truncate(self.publications.iter().map(fits).take_while(|fits| *fits).count());
    }
}

/// Returns how many publications a page has for which a client or a caller of the server API names `limit`: at most `max`, and
/// that many if the limit is negative, as SDKs ask for all.
pub fn page_limit(limit: i64, max: usize) -> usize {
    usize::try_from(limit).map_or(max, |limit| limit.min(max))
}

/// Reads one page of a channel's history for a client or for a caller of the server API. Publications at the end of the page
/// that would make it larger than `request.max_bytes` are left out. A page that starts beyond the top is empty.
///
/// # Errors
/// [`ErrorCode::UnrecoverablePosition`] if the history has another epoch than the request; otherwise the error of the broker.
pub async fn read_history_page(
    broker: &dyn Broker,
    channel: Channel,
    request: HistoryRequest,
    retention: Retention,
) -> Result<HistoryPage, ErrorCode> {
    let mut page = broker.read_history(channel, request, retention).await?;
    if !page.is_position_known(&request) {
        return Err(ErrorCode::UnrecoverablePosition);
    }
    if page.is_beyond_top(&request) {
        page.publications.clear();
    }
    request.max_bytes.iter().for_each(|max_bytes| page.truncate_to_bytes(*max_bytes));
    Ok(page)
}
