//! A publication in a history: one block of memory with its content, and 48 bytes besides it.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use uuid::Uuid;

use crate::{
    broker::publication_encoding::{
        self as encoding, HAS_CHAN_INFO, HAS_CONN_INFO, HAS_EXCLUDE, HAS_INFO, HAS_TAGS, IS_BINARY, IS_DELTA,
    },
    channel::Channel,
    clock::{MonotonicTime, WallTime},
    position::Position,
    publication::{ClientInfo, Publication},
    tags::Tags,
};

/// What a record costs besides its block: its place in a list that is up to a quarter larger than needed, the overhead of the
/// allocator, and the reference count of the block.
const OVERHEAD_BYTES: usize = 96;

/// A publication without its channel and its position, which follow from the place of the record.
pub(super) struct HistoryRecord {
    /// The parts that the flags announce, each after its length, then the data.
    block: Bytes,
    /// The date that its receivers see.
    time: WallTime,
    stored_at: SixByteTime,
    flags: u8,
}

/// A [`MonotonicTime`] in six bytes, which are enough for 8,900 years: with eight of them a record would grow to 56 bytes.
#[derive(Clone, Copy)]
struct SixByteTime([u8; 6]);

impl From<MonotonicTime> for SixByteTime {
    fn from(time: MonotonicTime) -> Self {
        let [bytes @ .., _, _] = time.millis().to_le_bytes();
        Self(bytes)
    }
}

impl From<SixByteTime> for MonotonicTime {
    fn from(SixByteTime([a, b, c, d, e, f]): SixByteTime) -> Self {
        Self::from_millis(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

impl HistoryRecord {
    /// Copies a publication. Its data may be a slice of a large message, which the history must not keep alive.
    pub(super) fn new(publication: &Publication, time: WallTime, stored_at: MonotonicTime) -> Self {
        let tags = Some(publication.tags.packed().as_bytes()).filter(|tags| !tags.is_empty());
        let mut block = Vec::with_capacity(encoding::length(publication, tags));
        encoding::write(&mut block, publication, tags);
        // The block has exactly this capacity, so boxing it neither copies nor wastes memory.
        let block = block.into_boxed_slice().into();
        Self { block, time, stored_at: stored_at.into(), flags: encoding::flags(publication) }
    }

    /// Returns the date that its receivers see.
    pub(super) fn time(&self) -> WallTime {
        self.time
    }

    /// Returns when it was stored, by which it expires.
    pub(super) fn stored_at(&self) -> MonotonicTime {
        self.stored_at.into()
    }

    /// Returns the bytes that the record costs.
    pub(super) fn cost_bytes(&self) -> usize {
        OVERHEAD_BYTES + self.block.len()
    }

    /// Returns the publication as it was published. Its data is a slice of the record.
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
        Publication { channel, data: rest, is_binary: has(IS_BINARY), info, position, tags, time, use_delta, exclude }
    }
}

fn take_field(rest: &mut Bytes) -> Bytes {
    let length = rest.get_u32() as usize;
    rest.split_to(length)
}

fn take_text(rest: &mut Bytes) -> String {
    // It was UTF-8 when it was stored.
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
            client in option::of((".{0,9}", ".{0,9}", raw(), raw())),
            tags in btree_map(".{0,9}", ".{0,200}", 0..3),
            exclude in option::of(any::<u128>()),
            use_delta in any::<bool>(),
            is_binary in any::<bool>(),
            time in any::<i64>(),
            stored_at in 0..1_u64 << 48,
        ) {
            let info = client.map(|(user, client, conn_info, chan_info)| {
                Arc::new(ClientInfo { user, client, conn_info, chan_info })
            });
            let channel = Channel::new("news").expect("a valid name");
            let position = Position { offset: 7, epoch: Epoch::parse("abcdefgh").expect("a valid epoch") };
            let published = Publication {
                info,
                position: Some(position),
                tags: Tags::new(tags).expect("valid tags"),
                time: WallTime::from_unix_millis(time),
                use_delta,
                is_binary,
                exclude: exclude.map(Uuid::from_u128),
                ..Publication::new(channel.clone(), data.into_bytes().into())
            };
            let stored_at = MonotonicTime::from_millis(stored_at);
            let record = HistoryRecord::new(&published, published.time, stored_at);
            prop_assert_eq!(record.stored_at(), stored_at);
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
        let channel = Channel::new("news").expect("a valid name");
        let record = HistoryRecord::new(
            &Publication::new(channel, message.slice(..1)),
            WallTime::default(),
            MonotonicTime::START,
        );
        assert!(!message.as_ptr_range().contains(&record.block.as_ptr()) && record.block.len() == 1);
    }
}
