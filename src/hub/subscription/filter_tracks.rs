//! Up to which offset a filter has matched no publication. The position of a filtered subscriber thereby moves past the
//! publications that its filter drops: a client that reconnects with the offset of the last publication that it received has
//! missed nothing, even if the history no longer has the publications that its filter has dropped since then.
//!
//! A hub compares each publication with a filter once for each group of subscribers, and notes the outcome in a track. All
//! hubs of an instance read the tracks, because a client may come back to another worker.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    channel::Channel,
    filter::Filter,
    position::{Epoch, Position},
    tags::Tags,
};

/// Maximum tracks of one filter of a channel: of its workers, and of subscriptions that have ended.
const MAX_TRACKS_PER_FILTER: usize = 16;

/// The filter of a subscription. Equal filters share a track in a hub, so they are equal whatever their tracks are.
#[derive(Clone, Debug)]
pub(in crate::hub) struct TrackedFilter {
    filter: Arc<Filter>,
    /// `None` if the subscription has no position.
    track: Option<Arc<FilterTrack>>,
}

/// A filter has matched nothing after one offset and up to another. Written by one hub.
#[derive(Debug)]
pub(in crate::hub) struct FilterTrack {
    epoch: Epoch,
    /// Offset of the last publication that matched, or from which on the filter is compared.
    matched: AtomicU64,
    /// Offset of the last publication that was compared.
    compared: AtomicU64,
}

/// The tracks of all hubs of an instance.
#[derive(Default)]
pub(in crate::hub) struct FilterTracks {
    hasher: RandomState,
    tracks: Mutex<StoredTracks>,
}

#[derive(Default)]
struct StoredTracks {
    /// By a hash of channel and filter: a stored filter may be as long as a message.
    by_filter: HashMap<u64, VecDeque<Arc<FilterTrack>>>,
    /// The keys of `by_filter` in the order in which tracks were added: at least one for each track.
    order: VecDeque<u64>,
}

impl PartialEq for TrackedFilter {
    fn eq(&self, other: &Self) -> bool {
        self.filter == other.filter
    }
}

impl Eq for TrackedFilter {}

impl TrackedFilter {
    pub(in crate::hub) fn new(filter: Arc<Filter>, track: Option<Arc<FilterTrack>>) -> Self {
        Self { filter, track }
    }

    pub(in crate::hub) fn filter(&self) -> &Filter {
        &self.filter
    }

    pub(in crate::hub) fn track(&self) -> Option<&Arc<FilterTrack>> {
        self.track.as_ref()
    }

    /// Returns whether a publication with these tags matches, and notes that.
    pub(in crate::hub) fn compare(&self, tags: &Tags, position: Option<Position>) -> bool {
        let is_match = self.filter.matches(tags);
        if let (Some(track), Some(position)) = (&self.track, position) {
            track.note(position, is_match);
        }
        is_match
    }
}

impl FilterTrack {
    /// Starts at the position of the channel in the hub. The filter has matched nothing since the offset `unmatched_since`.
    fn new(at: Position, unmatched_since: u64) -> Self {
        let (matched, compared) = (unmatched_since.min(at.offset).into(), at.offset.into());
        Self { epoch: at.epoch, matched, compared }
    }

    fn note(&self, position: Position, is_match: bool) {
        let compared = self.compared.load(Ordering::Relaxed);
        if position.epoch != self.epoch {
            self.matched.store(u64::MAX, Ordering::Relaxed);
        } else if is_match || position.offset > compared.saturating_add(1) {
            // What is missing before it may have matched, too.
            self.matched.fetch_max(position.offset, Ordering::Relaxed);
        }
        // After `matched`: who reads this offset sees all matches up to it.
        self.compared.store(compared.max(position.offset), Ordering::Release);
    }

    /// Adds that the filter has matched nothing after `offset` and up to where the channel is now.
    pub(in crate::hub) fn extend_back(&self, offset: u64) {
        if self.matched.load(Ordering::Relaxed) != u64::MAX {
            self.matched.fetch_min(offset, Ordering::Relaxed);
        }
    }

    /// Returns up to which offset the filter is known to match nothing after `since`.
    fn unmatched_until(&self, since: Position) -> Option<u64> {
        let compared = self.compared.load(Ordering::Acquire);
        let is_known = self.epoch == since.epoch && self.matched.load(Ordering::Relaxed) <= since.offset;
        (is_known && compared > since.offset).then_some(compared)
    }
}

impl FilterTracks {
    /// Starts a track. Forgets the oldest tracks above `limit`.
    pub(in crate::hub) fn start(
        &self,
        channel: &Channel,
        filter: &Filter,
        at: Position,
        unmatched_since: u64,
        limit: usize,
    ) -> Arc<FilterTrack> {
        let track = Arc::new(FilterTrack::new(at, unmatched_since));
        if limit > 0 {
            self.tracks.lock().add(self.hasher.hash_one((channel, filter)), track.clone(), limit);
        }
        track
    }

    /// Returns the position up to which a client that has everything up to `since` has missed nothing that matches.
    pub(in crate::hub) fn advance(&self, channel: &Channel, filter: &Filter, since: Position) -> Position {
        let stored = self.tracks.lock();
        let tracks = stored.by_filter.get(&self.hasher.hash_one((channel, filter)));
        let further = |position: &Position| {
            let until = tracks?.iter().filter_map(|track| track.unmatched_until(*position)).max()?;
            Some(Position { offset: until, ..*position })
        };
        std::iter::successors(Some(since), further).take(MAX_TRACKS_PER_FILTER + 1).last().unwrap_or(since)
    }
}

impl StoredTracks {
    fn add(&mut self, key: u64, track: Arc<FilterTrack>, limit: usize) {
        let tracks = self.by_filter.entry(key).or_default();
        if tracks.len() >= MAX_TRACKS_PER_FILTER {
            // Its entry in `order` stays, and will remove a newer one a little early.
            tracks.pop_front();
        }
        tracks.push_back(track);
        self.order.push_back(key);
        while self.order.len() > limit {
            let Some(oldest) = self.order.pop_front() else { return };
            self.forget_oldest_of(oldest);
        }
    }

    fn forget_oldest_of(&mut self, key: u64) {
        let Some(tracks) = self.by_filter.get_mut(&key) else { return };
        tracks.pop_front();
        if tracks.is_empty() {
            self.by_filter.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { offset, epoch: Epoch::parse("AAAAAAAA").unwrap() }
    }

    fn filter(value: &str) -> Filter {
        Filter::from_json(&format!(r#"{{"key":"city","cmp":"eq","val":"{value}"}}"#)).unwrap()
    }

    fn news() -> Channel {
        Channel::new("news").unwrap()
    }

    #[test]
    fn track_advances_only_from_offsets_after_the_last_match() {
        let track = FilterTrack::new(at(5), 5);
        assert_eq!(track.unmatched_until(at(5)), None, "nothing was compared yet");
        (6..=9).for_each(|offset| track.note(at(offset), false));
        let known = [4, 5, 8, 9, 10].map(|offset| track.unmatched_until(at(offset)));
        assert_eq!(known, [None, Some(9), Some(9), None, None]);
        track.note(at(10), true);
        track.note(at(10), true);
        track.note(at(11), false);
        assert_eq!([9, 10, 11].map(|offset| track.unmatched_until(at(offset))), [None, Some(11), None]);
    }

    #[test]
    fn gap_and_another_epoch_end_what_a_track_knows() {
        let track = FilterTrack::new(at(5), 5);
        track.note(at(7), false);
        track.note(at(8), false);
        assert_eq!([5, 6, 7].map(|offset| track.unmatched_until(at(offset))), [None, None, Some(8)]);
        let other = Position { epoch: Epoch::parse("BBBBBBBB").unwrap(), ..at(9) };
        track.note(other, false);
        track.extend_back(1);
        assert_eq!(track.unmatched_until(at(7)), None);
        assert_eq!(track.unmatched_until(Position { offset: 8, ..other }), None);
    }

    #[test]
    fn recovered_subscriber_extends_a_track_back() {
        let track = FilterTrack::new(at(9), 4);
        assert_eq!(track.unmatched_until(at(4)), Some(9));
        track.extend_back(2);
        assert_eq!([1, 2].map(|offset| track.unmatched_until(at(offset))), [None, Some(9)]);
    }

    #[test]
    fn tracks_of_one_filter_are_joined_and_others_ignored() {
        let tracks = FilterTracks::default();
        let advance = |value: &str, offset| tracks.advance(&news(), &filter(value), at(offset)).offset;
        for (from, to) in [(1, 10), (8, 20), (30, 40)] {
            tracks.start(&news(), &filter("bern"), at(to), from, 100);
        }
        assert_eq!([0, 1, 9, 15, 20, 35].map(|offset| advance("bern", offset)), [0, 20, 20, 20, 20, 40]);
        assert_eq!(advance("rome", 1), 1);
        assert_eq!(tracks.advance(&Channel::new("sport").unwrap(), &filter("bern"), at(1)), at(1));
    }

    #[test]
    fn oldest_tracks_above_the_limit_are_forgotten() {
        let tracks = FilterTracks::default();
        for number in 0..1000 {
            tracks.start(&news(), &filter(&number.to_string()), at(10), 1, 5);
            tracks.start(&news(), &filter("same"), at(10), 1, 5);
        }
        let stored = tracks.tracks.lock();
        let count: usize = stored.by_filter.values().map(VecDeque::len).sum();
        assert!(count <= 5 && stored.order.len() == 5 && stored.by_filter.len() <= 5, "{count}");
        drop(stored);
        assert_eq!(tracks.advance(&news(), &filter("999"), at(1)), at(10));
        assert_eq!(tracks.advance(&news(), &filter("0"), at(1)), at(1));
        for _ in 0..1000 {
            tracks.start(&news(), &filter("same"), at(10), 1, 100_000);
        }
        assert!(tracks.tracks.lock().by_filter.values().all(|tracks| tracks.len() <= MAX_TRACKS_PER_FILTER));
    }
}
