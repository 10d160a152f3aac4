//! One publication in a history: all that it carries in one piece of memory, and 48 bytes beside it.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use uuid::Uuid;

use crate::{
    broker::publication_encoding::{
        self as encoding, HAS_CHAN_INFO, HAS_CONN_INFO, HAS_EXCLUDE, HAS_INFO, HAS_TAGS, IS_DELTA,
    },
    channel::Channel,
    clock::Millis,
    position::Position,
    publication::{ClientInfo, Publication},
    tags::Tags,
};

/// What a record counts beside its text: itself in a list that has a quarter more room than it needs, and what the
/// allocator and the counter of its readers take.
const OVERHEAD: usize = 96;

/// A publication without its channel and its offset: both follow from where it lies.
pub(super) struct HistoryRecord {
    /// What the flags announce, each part behind its length; then the data.
    block: Bytes,
    time: Millis,
    flags: u8,
}

impl HistoryRecord {
    /// Copies what is published: its data may be a piece of something large, which a history must not keep alive.
    pub(super) fn new(publication: &Publication, time: Millis) -> Self {
        let tags = Some(publication.tags.packed().as_bytes()).filter(|tags| !tags.is_empty());
        let mut block = Vec::with_capacity(encoding::length(publication, tags));
        encoding::write(&mut block, publication, tags);
        // Exactly as long as it is: nothing is moved and nothing is lost.
        Self { block: block.into_boxed_slice().into(), time, flags: encoding::flags(publication) }
    }

    /// When it was published.
    pub(super) fn time(&self) -> Millis {
        self.time
    }

    /// Bytes that it counts.
    pub(super) fn cost_bytes(&self) -> usize {
        OVERHEAD + self.block.len()
    }

    /// As it was published. Its data is a slice of the record.
    pub(super) fn publication(&self, channel: Channel, position: Position) -> Publication {
        let mut rest = self.block.clone();
        let has = |flag| self.flags & flag != 0;
        let info = has(HAS_INFO).then(|| {
            let (user, client) = (take_text(&mut rest), take_text(&mut rest));
            let conn_info = has(HAS_CONN_INFO).then(|| take_field(&mut rest));
            let chan_info = has(HAS_CHAN_INFO).then(|| take_field(&mut rest));
            Arc::new(ClientInfo { user, client, conn_info, chan_info })
        });
        let tags = if has(HAS_TAGS) { Tags::from_packed(&take_text(&mut rest)) } else { Tags::default() };
        let exclude = has(HAS_EXCLUDE).then(|| Uuid::from_u128(rest.get_u128()));
        let (position, time, use_delta) = (Some(position), self.time, has(IS_DELTA));
        Publication { channel, data: rest, info, position, tags, time, use_delta, exclude }
    }
}

fn take_field(rest: &mut Bytes) -> Bytes {
    let length = rest.get_u32() as usize;
    rest.split_to(length)
}

fn take_text(rest: &mut Bytes) -> String {
    // It was text when it was put.
    String::from_utf8_lossy(&take_field(rest)).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, option, prelude::*};

    use super::*;
    use crate::position::Epoch;

    fn raw() -> impl Strategy<Value = Option<Bytes>> {
        option::of(".{0,20}".prop_map(|text| Bytes::from(text.into_bytes())))
    }

    proptest! {
        #[test]
        fn record_returns_the_stored_publication_unchanged(
            data in ".{0,50}",
            who in option::of((".{0,9}", ".{0,9}", raw(), raw())),
            tags in btree_map(".{0,9}", ".{0,200}", 0..3),
            exclude in option::of(any::<u128>()),
            use_delta in any::<bool>(),
        ) {
            let info = who.map(|(user, client, conn_info, chan_info)| {
                Arc::new(ClientInfo { user, client, conn_info, chan_info })
            });
            let channel = Channel::new("news").expect("a name");
            let position = Position { offset: 7, epoch: Epoch::parse("abcdefgh").expect("an epoch") };
            let published = Publication {
                info,
                position: Some(position),
                tags: Tags::new(tags).expect("few and short"),
                time: 5,
                use_delta,
                exclude: exclude.map(Uuid::from_u128),
                ..Publication::new(channel.clone(), data.into_bytes().into())
            };
            let record = HistoryRecord::new(&published, 5);
            prop_assert_eq!(record.publication(channel, position), published);
        }
    }

    #[test]
    fn record_has_at_most_48_bytes_besides_its_block() {
        assert!(size_of::<HistoryRecord>() <= 48, "{}", size_of::<HistoryRecord>());
    }

    #[test]
    fn record_does_not_keep_the_message_buffer_alive() {
        let message = Bytes::from(vec![b'7'; 65_536]);
        let channel = Channel::new("news").expect("a name");
        let record = HistoryRecord::new(&Publication::new(channel, message.slice(..1)), 0);
        assert!(!message.as_ptr_range().contains(&record.block.as_ptr()) && record.block.len() == 1);
    }
}
