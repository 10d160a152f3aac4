//! What a session is told when it begins to receive a channel: where it stands there, and what it has missed.

use bytes::Bytes;

use super::{
    difference::Comparing,
    reception::{Options, Recover},
};
use crate::{
    channel::Channel,
    config::RecoveryMode,
    position::Position,
    protocol::{Content, PublicationPush},
    publication::Publication,
};

/// A subscription that begins, or that is there already.
#[derive(Debug)]
pub struct Begun {
    /// Of which channel.
    pub channel: Channel,
    /// From where on it receives; with what was recovered, where the client said that it stood.
    pub position: Option<Position>,
    /// The client had asked for what it has missed ...
    pub was_recovering: bool,
    /// ... and gets all of it.
    pub is_recovered: bool,
    missed: Vec<Missed>,
}

#[derive(Debug)]
struct Missed {
    publication: Publication,
    /// What the client makes it from, and the one before.
    difference: Option<Vec<u8>>,
    is_apart: bool,
}

impl Begun {
    pub(super) fn new(channel: Channel, position: Option<Position>) -> Self {
        Self { channel, position, was_recovering: false, is_recovered: false, missed: Vec::new() }
    }

    /// The client had asked for what it has missed.
    pub(super) fn recovering(self) -> Self {
        Self { was_recovering: true, ..self }
    }

    /// With what was missed: of it the client gets what it wants, in the way that it wants.
    pub(super) fn recovered(mut self, recover: &Recover, options: &Options, missed: Vec<Publication>) -> Self {
        if recover.mode == RecoveryMode::Stream {
            self.position = self.position.map(|position| Position { offset: recover.offset, ..position });
        }
        self.is_recovered = true;
        let wanted = missed
            .into_iter()
            .filter(|publication| options.filter.as_ref().is_none_or(|filter| filter.matches(&publication.tags)));
        let mut comparing = Comparing::default();
        for publication in wanted {
            let before = self.missed.last().filter(|_| options.has_deltas && publication.is_delta);
            let difference =
                before.and_then(|before| comparing.difference(&before.publication.data, &publication.data));
            self.missed.push(Missed { publication, difference, is_apart: options.has_deltas });
        }
        self
    }

    /// The same without what was missed: it would be too long.
    pub(super) fn unrecovered(&self, position: Option<Position>) -> Self {
        Self { was_recovering: self.was_recovering, ..Self::new(self.channel.clone(), position) }
    }

    /// What was missed takes at least so many bytes on the wire.
    pub(super) fn least_bytes(&self) -> usize {
        let bytes = |missed: &Missed| missed.difference.as_ref().map_or(missed.publication.data.len(), Vec::len);
        self.missed.iter().map(bytes).sum()
    }

    /// What was missed, the oldest first.
    pub fn publications(&self) -> Vec<PublicationPush<'_>> {
        let pushes = self.missed.iter().map(|missed| PublicationPush {
            publication: &missed.publication,
            content: match &missed.difference {
                Some(difference) => Content::Delta(difference),
                None if missed.is_apart => Content::Whole,
                None => Content::Plain,
            },
        });
        pushes.collect()
    }
}

/// Makes the frame that tells of channels that begin. Asked again if what it made is too long.
pub type Tell = Box<dyn Fn(&[Begun]) -> Bytes + Send>;
