//! The history of one channel: its newest publications and its position.

use std::{collections::VecDeque, time::Duration};

use super::record::HistoryRecord;
use crate::{
    broker::{ChannelTop, HistoryRequest, Retention, Version},
    channel::Channel,
    clock::MonotonicTime,
    position::{Epoch, Position},
    publication::Publication,
};

/// What a channel costs besides its records: its entry, its key in the index, and its version.
const OVERHEAD_BYTES: usize = 384;

/// The history of a channel, from its creation until it expires or is evicted.
pub(super) struct ChannelHistory {
    epoch: Epoch,
    /// Offset of the newest publication that the channel ever had. The records are the last ones up to it, without a gap.
    top: u64,
    records: VecDeque<HistoryRecord>,
    record_bytes: usize,
    retention: Retention,
    version: Option<Box<Version>>,
}

impl ChannelHistory {
    /// Creates an empty history with a random epoch.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(super) fn new(retention: Retention) -> Result<Self, getrandom::Error> {
        let (epoch, records) = (Epoch::random()?, VecDeque::new());
        Ok(Self { epoch, top: 0, records, record_bytes: 0, retention, version: None })
    }

    /// Returns the position of the newest publication that the channel ever had.
    pub(super) fn position(&self) -> Position {
        self.position_at(self.top)
    }

    /// Returns the position of the newest publication, and its time if it is still stored.
    pub(super) fn top(&self) -> ChannelTop {
        ChannelTop { position: self.position(), time: self.records.back().map(HistoryRecord::time) }
    }

    fn position_at(&self, offset: u64) -> Position {
        Position { offset, epoch: self.epoch }
    }

    /// Returns the position that the next publication gets.
    pub(super) fn next_position(&self) -> Position {
        self.position_at(self.top.saturating_add(1))
    }

    /// Returns whether the history already has this version or a newer one of the same version epoch.
    pub(super) fn is_outdated(&self, version: &Version) -> bool {
        let newest = self.version.as_ref().filter(|newest| newest.epoch == version.epoch);
        newest.is_some_and(|newest| version.number <= newest.number)
    }

    /// Appends a publication at [`Self::next_position`]. Drops the oldest records above the retention's size or above
    /// `max_bytes`.
    pub(super) fn append(&mut self, record: HistoryRecord, version: Option<Version>, max_bytes: usize) {
        self.top = self.top.saturating_add(1);
        self.record_bytes += record.cost_bytes();
        if self.records.len() == self.records.capacity() {
            // By a quarter instead of doubling, because most of the memory of many channels is records.
            self.records.reserve_exact((self.records.len() / 4).max(4));
        }
        self.records.push_back(record);
        if let Some(version) = version {
            self.version = Some(Box::new(version));
        }
        while self.records.len() > self.retention.size || self.cost_bytes() > max_bytes {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.records.pop_front();
        self.record_bytes -= oldest.as_ref().map_or(0, HistoryRecord::cost_bytes);
        oldest.is_some()
    }

    /// Applies a retention to the stored and to later publications.
    pub(super) fn set_retention(&mut self, retention: Retention, now: MonotonicTime) {
        // First by the old retention: what has expired does not return under a longer one.
        self.drop_expired(now);
        if self.retention != retention {
            self.retention = retention;
            while self.records.len() > retention.size {
                self.drop_oldest();
            }
            self.drop_expired(now);
        }
    }

    /// Drops expired publications.
    pub(super) fn drop_expired(&mut self, now: MonotonicTime) {
        let ttl = self.retention.ttl;
        while self.records.front().is_some_and(|oldest| oldest.stored_at().saturating_add(ttl) <= now) {
            self.drop_oldest();
        }
        if self.records.capacity() > 16 && self.records.len() < self.records.capacity() / 4 {
            self.records.shrink_to(self.records.len() * 2);
        }
    }

    /// Returns how long the position is kept after the last use.
    pub(super) fn meta_ttl(&self) -> Duration {
        self.retention.meta_ttl
    }

    /// Drops all publications and keeps the position.
    pub(super) fn clear(&mut self) {
        (self.records, self.record_bytes) = (VecDeque::new(), 0);
    }

    /// Returns the requested publications. After a position of another epoch there are none.
    pub(super) fn page(&self, channel: &Channel, request: &HistoryRequest) -> Vec<Publication> {
        if request.since.and_then(|since| since.epoch).is_some_and(|epoch| epoch != self.epoch) {
            return Vec::new();
        }
        // Cannot underflow: `top` counts every record.
        let before = self.top - self.records.len() as u64;
        let records_up_to =
            |offset: u64| usize::try_from(offset.saturating_sub(before)).unwrap_or(usize::MAX).min(self.records.len());
        let publication = |index: usize| {
            let position = self.position_at(before + 1 + index as u64);
            self.records.get(index).map(|record| record.publication(channel.clone(), position))
        };
        let since = request.since.map(|since| since.offset);
        if request.is_reverse {
            let end = since.map_or(self.records.len(), |since| records_up_to(since.saturating_sub(1)));
            (0..end).rev().take(request.limit).filter_map(publication).collect()
        } else {
            let start = since.map_or(0, records_up_to);
            (start..self.records.len()).take(request.limit).filter_map(publication).collect()
        }
    }

    /// Returns the bytes that the history costs.
    pub(super) fn cost_bytes(&self) -> usize {
        OVERHEAD_BYTES + self.record_bytes
    }
}
