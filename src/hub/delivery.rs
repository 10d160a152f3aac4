//! A publication, join or leave on its way from the broker to sessions. Each frame of it is encoded once for all
//! subscribers with the same delivery options, on all workers.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{
    delta_budget::DeltaBudget,
    subscription::{DeliveryOptions, DeltaState},
};
use crate::{
    broker::{ChannelTop, PresenceEvent},
    channel::Channel,
    clock::WallTime,
    position::Position,
    protocol::{self, Format, PublicationPush, Push},
    publication::{ClientInfo, Publication},
};

/// A publication, join or leave for the subscribers of its channel.
pub(super) struct Delivery {
    content: DeliveryContent,
    cost_bytes: usize,
    /// Unique: a delta applies to exactly one base.
    id: u64,
    /// For subscriptions without deltas.
    plain: EncodedFrames,
    /// For subscriptions with deltas.
    delta_frames: OnceLock<Box<DeltaFrames>>,
}

enum DeliveryContent {
    Publication(Publication),
    PresenceEvent(Channel, PresenceEvent, Arc<ClientInfo>),
}

/// A frame in each format, encoded when it is first needed.
#[derive(Default)]
struct EncodedFrames {
    of_websockets: [OnceLock<Bytes>; Format::OF_WEBSOCKETS.len()],
    /// Boxed: many publications have no subscriber that gets them in another way.
    others: OnceLock<Box<OtherFrames>>,
}

#[derive(Default)]
struct OtherFrames {
    of_streams: [OnceLock<Bytes>; Format::OF_STREAMS.len()],
    /// The compressed frames of WebSockets. The options of compression are the same for all connections.
    compressed: [OnceLock<Bytes>; Format::OF_WEBSOCKETS.len()],
}

/// The frames for subscriptions with deltas.
#[derive(Default)]
struct DeltaFrames {
    /// With all of the data, for subscribers that do not have the base.
    full: EncodedFrames,
    /// With the delta.
    delta: EncodedFrames,
    computed: OnceLock<ComputedDelta>,
}

/// The delta to one base delivery.
struct ComputedDelta {
    base_id: u64,
    /// `None` if the full data is shorter, or too long to compare.
    delta: Option<Vec<u8>>,
}

impl EncodedFrames {
    /// Returns the frame in a format. If it is not there, `write` encodes it, in a format without compression.
    fn get(&self, format: Format, write: impl FnOnce(Format) -> Bytes) -> &Bytes {
        match format.split_compression() {
            (format, None) => self.cell(format).get_or_init(|| write(format)),
            (uncompressed, Some(_)) => self
                .cell(format)
                .get_or_init(|| format.compress(self.cell(uncompressed).get_or_init(|| write(uncompressed)).clone())),
        }
    }

    fn cell(&self, format: Format) -> &OnceLock<Bytes> {
        match format {
            Format::Json => &self.of_websockets[0],
            Format::Protobuf => &self.of_websockets[1],
            Format::DeflatedJson(_) => &self.others().compressed[0],
            Format::DeflatedProtobuf(_) => &self.others().compressed[1],
            Format::EventStream => &self.others().of_streams[0],
            Format::JsonStream => &self.others().of_streams[1],
            Format::ProtobufStream => &self.others().of_streams[2],
            Format::ChannelEvents => &self.others().of_streams[3],
        }
    }

    fn others(&self) -> &OtherFrames {
        self.others.get_or_init(Box::default)
    }
}

impl Delivery {
    pub(super) fn new(publication: Publication) -> Arc<Self> {
        Self::with_content(publication.cost_bytes(), DeliveryContent::Publication(publication))
    }

    pub(super) fn presence_event(channel: Channel, event: PresenceEvent, who: Arc<ClientInfo>) -> Arc<Self> {
        let data = Publication { info: Some(who.clone()), ..Publication::new(channel.clone(), Bytes::new()) };
        Self::with_content(data.cost_bytes(), DeliveryContent::PresenceEvent(channel, event, who))
    }

    fn with_content(cost_bytes: usize, content: DeliveryContent) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { content, cost_bytes, id, plain: EncodedFrames::default(), delta_frames: OnceLock::new() })
    }

    pub(super) fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }

    pub(super) fn channel(&self) -> &Channel {
        match &self.content {
            DeliveryContent::Publication(publication) => &publication.channel,
            DeliveryContent::PresenceEvent(channel, ..) => channel,
        }
    }

    pub(super) fn publication(&self) -> Option<&Publication> {
        match &self.content {
            DeliveryContent::Publication(publication) => Some(publication),
            DeliveryContent::PresenceEvent(..) => None,
        }
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.publication().and_then(|publication| publication.position)
    }

    /// Returns its position and its time; `None` if it has no position.
    pub(super) fn top(&self) -> Option<ChannelTop> {
        self.position().map(|position| ChannelTop { position, time: Some(self.time()) })
    }

    /// Returns when it was published.
    pub(super) fn time(&self) -> WallTime {
        self.publication().map(|publication| publication.time).unwrap_or_default()
    }

    /// Returns the frame for subscribers with these options, including its header; `None` if they do not
    /// receive the delivery. `base` is the publication that they received before.
    pub(super) fn frame(&self, options: &DeliveryOptions, base: Option<&Self>) -> Option<&Bytes> {
        self.is_received_with(options).then(|| self.encoded(options.format, options.delta, base))
    }

    /// Returns whether subscribers with these options receive the delivery. Their filter notes the comparison.
    pub(super) fn is_received_with(&self, options: &DeliveryOptions) -> bool {
        let DeliveryContent::Publication(publication) = &self.content else { return options.wants_join_leave };
        if let Some(filter) = &options.filter
            && !filter.compare(&publication.tags, publication.position)
        {
            return false;
        }
        publication.position.is_none_or(|position| position.offset > options.skip_up_to)
    }

    /// Returns the frame for subscribers that receive the delivery.
    pub(super) fn encoded(&self, format: Format, delta: DeltaState, base: Option<&Self>) -> &Bytes {
        let publication = match &self.content {
            DeliveryContent::Publication(publication) => publication,
            DeliveryContent::PresenceEvent(channel, event, who) => {
                return self.plain.get(format, |format| match event {
                    PresenceEvent::Join => format.encode_push(&Push::Join(channel, who)),
                    PresenceEvent::Leave => format.encode_push(&Push::Leave(channel, who)),
                });
            }
        };
        match (delta, base) {
            (DeltaState::None, _) => self.plain_frame(publication, format),
            (DeltaState::HasBase, Some(base)) if publication.use_delta => self.delta_frame(publication, base, format),
            (DeltaState::NeedsBase | DeltaState::HasBase, _) => self.full_frame(publication, format),
        }
    }

    fn plain_frame(&self, publication: &Publication, format: Format) -> &Bytes {
        self.plain.get(format, |format| format.encode_push(&Push::Publication(publication.into())))
    }

    fn delta_frames(&self) -> &DeltaFrames {
        self.delta_frames.get_or_init(Box::default)
    }

    fn full_frame(&self, publication: &Publication, format: Format) -> &Bytes {
        let content = protocol::PushData::Full;
        self.delta_frames()
            .full
            .get(format, |format| format.encode_push(&Push::Publication(PublicationPush { publication, content })))
    }

    /// The frame with the delta, which the first hub that needs it computes. All hubs deliver a channel in the same
    /// order, so all have the same base. A hub that has another one, because it missed a delivery, sends the full data.
    fn delta_frame(&self, publication: &Publication, base: &Self, format: Format) -> &Bytes {
        let Some(before) = base.publication() else { return self.full_frame(publication, format) };
        let computed = self.delta_frames().computed.get_or_init(|| ComputedDelta {
            base_id: base.id,
            delta: DeltaBudget::default().encode_delta(&before.data, &publication.data),
        });
        match &computed.delta {
            Some(delta) if computed.base_id == base.id => self.delta_frames().delta.get(format, |format| {
                let content = protocol::PushData::Delta(delta);
                format.encode_push(&Push::Publication(PublicationPush { publication, content }))
            }),
            _ => self.full_frame(publication, format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{deflate::DeflateOptions, protocol::frame};

    const COMPRESSION: DeflateOptions = DeflateOptions { min_bytes: 100, max_bytes: 10_000, level: 6 };

    fn publication(data: String) -> Arc<Delivery> {
        let publication = Publication::new(Channel::new("news").unwrap(), format!("\"{data}\"").into());
        Delivery::new(Publication { use_delta: true, ..publication })
    }

    #[test]
    fn each_frame_is_compressed_once_and_shared() {
        let (base, delivery) = (publication("base ".repeat(200)), publication("base ".repeat(201)));
        let same = |one: &Bytes, other: &Bytes| one.as_ptr() == other.as_ptr() && one.len() == other.len();
        for format in Format::OF_WEBSOCKETS {
            let compressed = format.with_compression(COMPRESSION);
            for delta in [DeltaState::None, DeltaState::NeedsBase, DeltaState::HasBase] {
                let options = |format| DeliveryOptions { format, delta, ..DeliveryOptions::default() };
                let frame = delivery.frame(&options(compressed), Some(&base)).unwrap();
                assert!(same(frame, delivery.frame(&options(compressed), Some(&base)).unwrap()));
                let plain = delivery.frame(&options(format), Some(&base)).unwrap();
                assert_eq!(*frame, frame::compress(plain, COMPRESSION));
                // A delta is shorter than the minimum: then there is one frame for all.
                assert_eq!(same(frame, plain), delta == DeltaState::HasBase, "{format:?} {delta:?}");
            }
        }
    }

    #[test]
    fn deliveries_without_compression_keep_no_compressed_frames() {
        let delivery = publication("data ".repeat(200));
        delivery.frame(&DeliveryOptions::default(), None).unwrap();
        assert!(delivery.plain.others.get().is_none());
    }
}
