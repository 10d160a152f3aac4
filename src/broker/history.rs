//! What is asked of a channel's history, and what comes back: values only, the same for every broker.

use std::{sync::Arc, time::Duration};

use super::Broker;
use crate::{
    channel::Channel,
    config::ChannelOptions,
    position::{Epoch, Position},
    protocol::ErrorCode,
    publication::Publication,
};

/// How a channel keeps what is published: its `history_size`, `history_ttl` and `history_meta_ttl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many publications, ...
    pub size: usize,
    /// ... for so long.
    pub ttl: Duration,
    /// How long the channel remembers its position after its last publication or question.
    pub meta_ttl: Duration,
}

impl Retention {
    /// As the options of a channel say; `None` where nothing is kept.
    pub fn from_options(options: &ChannelOptions) -> Option<Self> {
        let (size, ttl, meta_ttl) = (options.history_size, options.history_ttl, options.history_meta_ttl);
        options.has_history().then_some(Self { size, ttl, meta_ttl })
    }
}

/// What whoever publishes wants beside the announcement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// The publication goes into the history; `None` where the channel has none, or it is to be skipped.
    pub retention: Option<Retention>,
    /// Under one key a channel takes one publication in five minutes; who repeats it gets the first answer.
    pub idempotency_key: Option<Arc<str>>,
    /// A publication that is not newer than the newest of its `version_epoch` is left out.
    pub version: Option<Version>,
}

/// A count of the publisher's own, for channels whose publications are states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Grows with each state; never 0.
    pub number: u64,
    /// Versions of two epochs have nothing to do with each other.
    pub epoch: Arc<str>,
}

/// What came of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishReceipt {
    /// Where it stands in the history; of one that was left out for its version, where the history stands.
    pub position: Option<Position>,
}

/// What is asked of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryRequest {
    /// From behind this place (with `reverse`, before it), or else from the oldest (the newest).
    pub since: Option<SincePosition>,
    /// At most so many publications; 0 asks for the position alone.
    pub limit: usize,
    /// The newest first.
    pub is_reverse: bool,
}

/// A place that a client names. An epoch of `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SincePosition {
    /// Its offset.
    pub offset: u64,
    /// Its epoch.
    pub epoch: Option<Epoch>,
}

impl SincePosition {
    /// A position that a client names. An empty epoch stands for any epoch.
    ///
    /// # Errors
    /// [`ErrorCode::UnrecoverablePosition`] if no history of any channel can have this epoch.
    pub fn parse(offset: u64, epoch: &str) -> Result<Self, ErrorCode> {
        let parsed = (!epoch.is_empty()).then(|| Epoch::parse(epoch).ok_or(ErrorCode::UnrecoverablePosition));
        Ok(Self { offset, epoch: parsed.transpose()? })
    }
}

/// What a history has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// In the order that was asked for, each with its position.
    pub publications: Vec<Publication>,
    /// Of the newest publication that ever was, kept or not.
    pub top: Position,
}

impl HistoryPage {
    /// Whether it is the one that was asked for, and has come as far: what was published behind a place that it does not
    /// know, nobody can tell (error 112).
    fn is_position_known(&self, request: &HistoryRequest) -> bool {
        request.since.is_none_or(|since| {
            let reached = self.top.offset.saturating_add(u64::from(request.is_reverse));
            since.epoch.is_none_or(|epoch| epoch == self.top.epoch) && since.offset <= reached
        })
    }

    /// Leaves out the last publications until those that are left cost at most so many bytes.
    fn truncate_to_bytes(&mut self, max_bytes: usize) {
        let mut bytes = 0;
        let fits = |publication: &Publication| {
            bytes += publication.cost_bytes();
            bytes <= max_bytes
        };
        self.publications.truncate(self.publications.iter().map(fits).take_while(|fits| *fits).count());
    }
}

/// Reads one page of a channel's history for a client or for a caller of the server API. Publications at the end of the page
/// that would make it larger than `max_bytes` are left out.
///
/// # Errors
/// [`ErrorCode::UnrecoverablePosition`] if the history does not contain the position of the request; otherwise the error of
/// the broker.
pub async fn read_history_page(
    broker: &dyn Broker,
    channel: Channel,
    request: HistoryRequest,
    retention: Retention,
    max_bytes: usize,
) -> Result<HistoryPage, ErrorCode> {
    let mut page = broker.read_history(channel, request, retention).await?;
    if !page.is_position_known(&request) {
        return Err(ErrorCode::UnrecoverablePosition);
    }
    page.truncate_to_bytes(max_bytes);
    Ok(page)
}

/// Somebody comes into a channel, or leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceEvent {
    /// A join.
    Join,
    /// A leave.
    Leave,
}
