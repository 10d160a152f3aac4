//! The outcome of a subscription that becomes live: the position at which it starts, and the publications that the client has
//! missed.

use bytes::Bytes;

use super::{SubscriptionOptions, recovery::StartPosition};
use crate::{
    channel::Channel,
    config::RecoveryMode,
    hub::delta_budget::DeltaBudget,
    position::Position,
    protocol::{PublicationPush, PushData},
    publication::Publication,
};

/// The outcome of a request for a subscription, which is new or existed already.
#[derive(Debug)]
pub struct SubscribeOutcome {
    /// The channel.
    pub channel: Channel,
    /// The client asked for recovery, in a channel that has positions.
    pub was_recovering: bool,
    /// From where on the client receives live publications, if it learns that.
    live_from: Option<Position>,
    /// Offset of the last missed publication from which the client is excluded; 0 if there is none.
    pub(super) excluded_up_to: u64,
    /// The publications that the client has missed; `None` if it does not get all of them.
    pub(super) recovery: Option<Recovery>,
}

/// A successful recovery.
#[derive(Debug)]
pub(super) struct Recovery {
    /// The offset that the client named, if it gets publications, and all after it that it wants.
    since: Option<u64>,
    /// The offset up to which the client had everything before.
    had_up_to: u64,
    missed: Vec<MissedPublication>,
}

impl Recovery {
    /// Returns a lower bound of the bytes that the missed publications take in a frame.
    pub(super) fn min_bytes(&self) -> usize {
        let bytes = |MissedPublication { publication, delta, .. }: &MissedPublication| {
            delta.as_ref().map_or(publication.data.len(), Vec::len) + publication.min_bytes_beside_data()
        };
        self.missed.iter().map(bytes).sum()
    }
}

#[derive(Debug)]
struct MissedPublication {
    publication: Publication,
    /// The delta from the one before.
    delta: Option<Vec<u8>>,
    wants_deltas: bool,
}

/// Builds a frame that reports these outcomes. If the frame is too long, it is called again, also with single outcomes to
/// measure their recoveries: what a recovery adds to the frame must not depend on the other outcomes.
pub type ReplyBuilder = Box<dyn Fn(&[&SubscribeOutcome]) -> Bytes + Send>;

impl SubscribeOutcome {
    /// Creates the outcome of a subscription that starts at `start`; `None`: in a channel without a history.
    pub(super) fn new(
        channel: Channel,
        options: &SubscriptionOptions,
        start: Option<&StartPosition>,
        missed: Vec<Publication>,
    ) -> Self {
        let recover = options.recover.filter(|_| start.is_some());
        let recovered = recover.filter(|_| start.is_some_and(|start| start.is_recovered));
        let first_offset = missed.first().and_then(|first| first.position).map(|position| position.offset);
        let is_reported = options.is_positioned || options.is_recoverable;
        let missed = if recovered.is_some() { encode_missed(missed, options) } else { Vec::new() };
        Self {
            channel,
            was_recovering: recover.is_some(),
            excluded_up_to: 0,
            live_from: start.filter(|_| is_reported).map(StartPosition::client_position),
            recovery: recovered.map(|recover| Recovery {
                had_up_to: match recover.mode {
                    RecoveryMode::Stream => recover.offset,
                    RecoveryMode::Cache => first_offset.unwrap_or(u64::MAX).saturating_sub(1),
                },
                since: (recover.mode == RecoveryMode::Stream && !missed.is_empty()).then_some(recover.offset),
                missed,
            }),
        }
    }

    /// Returns whether the client gets all publications that it has missed.
    pub fn is_recovered(&self) -> bool {
        self.recovery.is_some()
    }

    /// Returns a lower bound of the bytes that the missed publications take in a frame.
    pub(super) fn min_bytes(&self) -> usize {
        self.recovery.as_ref().map_or(0, Recovery::min_bytes)
    }

    /// Returns from where on the client receives, if it learns that: if it gets missed publications, this is the position that
    /// the client named; if its filter dropped all of them, it need not ask for them again.
    pub fn position(&self) -> Option<Position> {
        let since = self.recovery.as_ref().and_then(|recovery| recovery.since);
        self.live_from.map(|live| Position { offset: since.unwrap_or(live.offset), ..live })
    }

    /// Returns the offset after which nothing matches the filter up to where the subscription starts: that of the client when it
    /// has the missed publications that it gets. `None` if it does not learn its offset.
    pub(super) fn unmatched_since(&self) -> Option<u64> {
        let missed = self.recovery.as_ref().and_then(|recovery| recovery.missed.last());
        let newest = missed.and_then(|missed| missed.publication.position);
        newest.or_else(|| self.position()).map(|position| position.offset.max(self.excluded_up_to))
    }

    /// Returns the position after which the client gets everything, now or live.
    pub(super) fn received_after(&self, start: Option<&StartPosition>) -> Option<Position> {
        let live = start.map(StartPosition::client_position)?;
        let had_up_to = self.recovery.as_ref().map_or(u64::MAX, |recovery| recovery.had_up_to);
        Some(Position { offset: live.offset.min(had_up_to), ..live })
    }

    /// Returns the missed publications, the oldest first.
    pub fn missed_publications(&self) -> Vec<PublicationPush<'_>> {
        let missed = self.recovery.as_ref().map_or(&[][..], |recovery| &recovery.missed);
        let pushes = missed.iter().map(|missed| PublicationPush {
            publication: &missed.publication,
            content: match &missed.delta {
                Some(delta) => PushData::Delta(delta),
                None if missed.wants_deltas => PushData::Full,
                None => PushData::Plain,
            },
        });
        pushes.collect()
    }
}

/// Leaves out the publications that the client does not want, and computes deltas if it wants them.
fn encode_missed(missed: Vec<Publication>, options: &SubscriptionOptions) -> Vec<MissedPublication> {
    let is_wanted =
        |publication: &Publication| options.filter.as_ref().is_none_or(|filter| filter.matches(&publication.tags));
    let mut budget = DeltaBudget::default();
    let mut encoded: Vec<MissedPublication> = Vec::with_capacity(missed.len());
    for publication in missed.into_iter().filter(is_wanted) {
        let base = encoded.last().filter(|_| options.has_deltas && publication.use_delta);
        let delta = base.and_then(|base| budget.encode_delta(&base.publication.data, &publication.data));
        encoded.push(MissedPublication { publication, delta, wants_deltas: options.has_deltas });
    }
    encoded
}
