//! What a session is told when it begins to receive a channel: where it stands there, and what it has missed.

use bytes::Bytes;

use super::{
    delivery_options::{RecoveryRequest, SubscriptionOptions},
    delta_budget::DeltaBudget,
};
use crate::{
    channel::Channel,
    config::RecoveryMode,
    position::Position,
    protocol::{PublicationPush, PushData},
    publication::Publication,
};

/// A subscription that begins, or that is there already.
#[derive(Debug)]
pub struct SubscribeOutcome {
    /// Of which channel.
    pub channel: Channel,
    /// From where on it receives; with what was recovered, where the client said that it stood.
    pub position: Option<Position>,
    /// The client had asked for what it has missed ...
    pub was_recovering: bool,
    /// ... and gets all of it.
    pub is_recovered: bool,
    missed: Vec<MissedPublication>,
}

#[derive(Debug)]
struct MissedPublication {
    publication: Publication,
    /// What the client makes it from, and the one before.
    delta: Option<Vec<u8>>,
    wants_deltas: bool,
}

impl SubscribeOutcome {
    pub(super) fn new(channel: Channel, position: Option<Position>) -> Self {
        Self { channel, position, was_recovering: false, is_recovered: false, missed: Vec::new() }
    }

    /// The client had asked for what it has missed.
    pub(super) fn with_recovery_requested(self) -> Self {
        Self { was_recovering: true, ..self }
    }

    /// With what was missed: of it the client gets what it wants, in the way that it wants.
    pub(super) fn with_missed(
        mut self,
        recover: &RecoveryRequest,
        options: &SubscriptionOptions,
        missed: Vec<Publication>,
    ) -> Self {
        if recover.mode == RecoveryMode::Stream {
            self.position = self.position.map(|position| Position { offset: recover.offset, ..position });
        }
        self.is_recovered = true;
        let wanted = missed
            .into_iter()
            .filter(|publication| options.filter.as_ref().is_none_or(|filter| filter.matches(&publication.tags)));
        let mut delta_budget = DeltaBudget::default();
        for publication in wanted {
            let before = self.missed.last().filter(|_| options.has_deltas && publication.use_delta);
            let delta =
                before.and_then(|before| delta_budget.encode_delta(&before.publication.data, &publication.data));
            self.missed.push(MissedPublication { publication, delta, wants_deltas: options.has_deltas });
        }
        self
    }

    /// The same without what was missed: it would be too long.
    pub(super) fn without_missed(&self, position: Option<Position>) -> Self {
        Self { was_recovering: self.was_recovering, ..Self::new(self.channel.clone(), position) }
    }

    /// What was missed takes at least so many bytes on the wire.
    pub(super) fn min_bytes(&self) -> usize {
        let bytes = |missed: &MissedPublication| missed.delta.as_ref().map_or(missed.publication.data.len(), Vec::len);
        self.missed.iter().map(bytes).sum()
    }

    /// What was missed, the oldest first.
    pub fn missed_publications(&self) -> Vec<PublicationPush<'_>> {
        let pushes = self.missed.iter().map(|missed| PublicationPush {
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

/// Makes the frame that tells of channels that begin. Asked again if what it made is too long.
pub type ReplyBuilder = Box<dyn Fn(&[SubscribeOutcome]) -> Bytes + Send>;
