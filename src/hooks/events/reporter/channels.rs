//! The channels of one lane of which this node has subscribers, or had some a moment ago.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Instant,
};

use crate::channel::Channel;

/// The channels.
#[derive(Default)]
pub(super) struct ReportedChannels {
    channels: HashMap<Channel, ReportedChannel>,
    /// Channels that may have a change.
    changed: VecDeque<Channel>,
    /// Channels whose last subscriber has left, in that order, each once.
    vacant: VecDeque<(Instant, Channel)>,
}

#[derive(Default)]
struct ReportedChannel {
    /// Hubs with subscribers.
    hubs: usize,
    vacant_since: Option<Instant>,
    is_in_vacant: bool,
    is_in_changed: bool,
    /// The outbox knows, or will in a moment, that this node has subscribers.
    is_told: bool,
}

/// A change of a channel that the outbox does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChannelChange {
    /// This node has subscribers.
    Occupied,
    /// It has none any more.
    Vacated,
}

impl ReportedChannels {
    /// Notes that one more hub has subscribers. Returns whether the channel may have a change.
    pub(super) fn occupy(&mut self, channel: &Channel) -> bool {
        let entry = self.channels.entry(channel.clone()).or_default();
        entry.hubs += 1;
        entry.vacant_since = None;
        !entry.is_told && self.add_changed(channel)
    }

    /// Notes that a hub has no subscribers any more. Returns whether this is the only vacant channel now. If there are more than `max_kept`
    /// channels, because the outbox takes no entries, forgets a channel that the outbox does not know.
    pub(super) fn vacate(&mut self, channel: &Channel, max_kept: usize) -> bool {
        let is_full = self.channels.len() > max_kept;
        let Some(entry) = self.channels.get_mut(channel) else { return false };
        entry.hubs = entry.hubs.saturating_sub(1);
        if entry.hubs > 0 {
            return false;
        }
        if is_full && !entry.is_told && !entry.is_in_vacant {
            self.channels.remove(channel);
            self.compact_changed();
            return false;
        }
        let now = Instant::now();
        entry.vacant_since = Some(now);
        if std::mem::replace(&mut entry.is_in_vacant, true) {
            return false;
        }
        self.vacant.push_back((now, channel.clone()));
        self.vacant.len() == 1
    }

    fn add_changed(&mut self, channel: &Channel) -> bool {
        let Some(entry) = self.channels.get_mut(channel) else { return false };
        let is_new = !std::mem::replace(&mut entry.is_in_changed, true);
        if is_new {
            self.changed.push_back(channel.clone());
        }
        is_new
    }

    /// Drops the names of channels that have been removed, once they are the greater part.
    fn compact_changed(&mut self) {
        if self.changed.len() > 2 * self.channels.len() + 128 {
            let mut kept = HashSet::new();
            let channels = &self.channels;
            let is_due = |channel: &Channel| channels.get(channel).is_some_and(|entry| entry.is_in_changed);
            self.changed.retain(|channel| is_due(channel) && kept.insert(channel.clone()));
        }
    }

    /// Returns the time since which the first of the vacant channels has been vacant.
    pub(super) fn first_vacant(&self) -> Option<Instant> {
        self.vacant.front().map(|(since, _)| *since)
    }

    /// Notes which channels count as vacated: those that have been vacant since a time for which `is_over` returns true.
    pub(super) fn note_vacated(&mut self, is_over: impl Fn(Instant) -> bool) {
        while let Some((_, channel)) = self.vacant.pop_front_if(|(since, _)| is_over(*since)) {
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            entry.is_in_vacant = false;
            match entry.vacant_since {
                // It has subscribers again.
                None => {}
                // They came and left meanwhile.
                Some(since) if !is_over(since) => {
                    entry.is_in_vacant = true;
                    self.vacant.push_back((since, channel));
                }
                Some(_) => _ = self.add_changed(&channel),
            }
        }
    }

    /// Takes the next change that the outbox does not know yet.
    pub(super) fn take_change(&mut self) -> Option<(Channel, ChannelChange)> {
        while let Some(channel) = self.changed.pop_front() {
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            entry.is_in_changed = false;
            match (entry.hubs > 0 || entry.is_in_vacant, entry.is_told) {
                (true, false) => {
                    entry.is_told = true;
                    return Some((channel, ChannelChange::Occupied));
                }
                (false, true) => {
                    self.channels.remove(&channel);
                    return Some((channel, ChannelChange::Vacated));
                }
                (false, false) => _ = self.channels.remove(&channel),
                (true, true) => {}
            }
        }
        None
    }

    /// Returns whether a channel may have a change.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Returns the lengths of its collections.
    #[cfg(test)]
    pub(super) fn lengths(&self) -> [usize; 3] {
        [self.channels.len(), self.changed.len(), self.vacant.len()]
    }

    /// Returns the channels of which the outbox knows that this node has subscribers.
    pub(super) fn told(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().filter(|(_, entry)| entry.is_told).map(|(channel, _)| channel)
    }
}
