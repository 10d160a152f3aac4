//! What one channel remembers: its newest publications, and where it stands.

use std::{collections::VecDeque, time::Duration};

use super::record::HistoryRecord;
use crate::{
    broker::{HistoryRequest, Retention, Version},
    channel::Channel,
    clock::{Millis, millis},
    position::{Epoch, Position},
    publication::Publication,
};

/// What a channel counts beside its records: its entry, its place in the index, and its version.
const OVERHEAD: usize = 384;

/// The history of a channel from its beginning to its loss.
pub(super) struct ChannelHistory {
    epoch: Epoch,
    /// Offset of the newest publication that ever was; those that are kept are the last before it, without a hole.
    top: u64,
    records: VecDeque<HistoryRecord>,
    record_bytes: usize,
    retention: Retention,
    version: Option<Box<Version>>,
}

impl ChannelHistory {
    /// One that begins.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(super) fn new(retention: Retention) -> Result<Self, getrandom::Error> {
        let (epoch, records) = (Epoch::random()?, VecDeque::new());
        Ok(Self { epoch, top: 0, records, record_bytes: 0, retention, version: None })
    }

    /// Where it stands.
    pub(super) fn position(&self) -> Position {
        self.position_at(self.top)
    }

    fn position_at(&self, offset: u64) -> Position {
        Position { offset, epoch: self.epoch }
    }

    /// Where the next publication will stand.
    pub(super) fn next_position(&self) -> Position {
        self.position_at(self.top.saturating_add(1))
    }

    /// Whether it has this version or a newer one.
    pub(super) fn is_outdated(&self, version: &Version) -> bool {
        let newest = self.version.as_ref().filter(|newest| newest.epoch == version.epoch);
        newest.is_some_and(|newest| version.number <= newest.number)
    }

    /// Takes a publication at [`Self::next_position`]; what is over `size`, or makes it larger than `max_bytes`, makes room.
    pub(super) fn append(&mut self, record: HistoryRecord, version: Option<Version>, max_bytes: usize) {
        self.top = self.top.saturating_add(1);
        self.record_bytes += record.cost_bytes();
        if self.records.len() == self.records.capacity() {
            // A quarter more, not twice: what is kept of many channels is mostly records.
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

    /// Keeps from now on as `retention` says.
    pub(super) fn set_retention(&mut self, retention: Retention, now: Millis) {
        // What is over by the old word does not come back by the new one.
        self.drop_expired(now);
        if self.retention != retention {
            self.retention = retention;
            while self.records.len() > retention.size {
                self.drop_oldest();
            }
            self.drop_expired(now);
        }
    }

    /// Forgets publications whose time is over.
    pub(super) fn drop_expired(&mut self, now: Millis) {
        let ttl = millis(self.retention.ttl);
        while self.records.front().is_some_and(|oldest| oldest.time().saturating_add(ttl) <= now) {
            self.drop_oldest();
        }
        if self.records.capacity() > 16 && self.records.len() < self.records.capacity() / 4 {
            self.records.shrink_to(self.records.len() * 2);
        }
    }

    /// How long it remembers where it stands.
    pub(super) fn meta_ttl(&self) -> Duration {
        self.retention.meta_ttl
    }

    /// Forgets publications, not where it stands.
    pub(super) fn clear(&mut self) {
        (self.records, self.record_bytes) = (VecDeque::new(), 0);
    }

    /// What is asked of it. A place of another history has nothing behind it here.
    pub(super) fn page(&self, channel: &Channel, request: &HistoryRequest) -> Vec<Publication> {
        // Never more records than publications.
        let before = self.top - self.records.len() as u64;
        let since = match request.since {
            Some(since) if since.epoch.is_some_and(|epoch| epoch != self.epoch) => return Vec::new(),
            since => since.map(|since| since.offset),
        };
        let publication = |index: usize| {
            let position = self.position_at(before + 1 + index as u64);
            self.records.get(index).map(|record| record.publication(channel.clone(), position))
        };
        let index_of = |offset: u64| usize::try_from(offset - before - 1).unwrap_or(usize::MAX);
        if request.is_reverse {
            let end = since.map_or(self.records.len(), |since| match since {
                since if since <= before => 0,
                since if since > self.top => self.records.len(),
                since => index_of(since),
            });
            (0..end).rev().take(request.limit).filter_map(publication).collect()
        } else {
            let begin = since.map_or(0, |since| match since {
                since if since <= before => 0,
                since if since >= self.top => self.records.len(),
                since => index_of(since) + 1,
            });
            (begin..self.records.len()).take(request.limit).filter_map(publication).collect()
        }
    }

    /// Bytes that it counts.
    pub(super) fn cost_bytes(&self) -> usize {
        OVERHEAD + self.record_bytes
    }
}
