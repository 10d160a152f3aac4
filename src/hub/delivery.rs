//! What comes from the broker on its way to sessions, written once for all who read it in the same way, on all workers.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{
    difference::Comparing,
    reception::{Differences, Reception},
};
use crate::{
    broker::Movement,
    channel::Channel,
    position::Position,
    protocol::{self, Format, PublicationPush, Push},
    publication::{ClientInfo, Publication},
};

/// A publication or a movement, for whoever receives its channel.
pub(super) struct Delivery {
    content: Content,
    cost_bytes: usize,
    /// No other delivery has it: a difference is to one certain delivery.
    serial: u64,
    plain: Frames,
    /// Only for subscriptions with differences.
    apart: OnceLock<Box<Apart>>,
}

enum Content {
    Publication(Publication),
    Movement(Channel, Movement, Arc<ClientInfo>),
}

/// A frame in each format.
#[derive(Default)]
struct Frames([OnceLock<Bytes>; 2]);

/// What is written for subscriptions with differences.
#[derive(Default)]
struct Apart {
    whole: Frames,
    delta: OnceLock<Delta>,
    written: Frames,
}

/// The difference to the delivery with this number; `None` where the publication itself is shorter.
struct Delta {
    base: u64,
    difference: Option<Vec<u8>>,
}

impl Frames {
    fn get(&self, format: Format, write: impl FnOnce() -> Bytes) -> &Bytes {
        self.0[format as usize].get_or_init(write)
    }
}

impl Delivery {
    pub(super) fn new(publication: Publication) -> Arc<Self> {
        Self::of(publication.cost_bytes(), Content::Publication(publication))
    }

    pub(super) fn movement(channel: Channel, movement: Movement, who: Arc<ClientInfo>) -> Arc<Self> {
        let data = Publication { info: Some(who.clone()), ..Publication::new(channel.clone(), Bytes::new()) };
        Self::of(data.cost_bytes(), Content::Movement(channel, movement, who))
    }

    fn of(cost_bytes: usize, content: Content) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { content, cost_bytes, serial, plain: Frames::default(), apart: OnceLock::new() })
    }

    pub(super) fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }

    pub(super) fn channel(&self) -> &Channel {
        match &self.content {
            Content::Publication(publication) => &publication.channel,
            Content::Movement(channel, ..) => channel,
        }
    }

    pub(super) fn publication(&self) -> Option<&Publication> {
        match &self.content {
            Content::Publication(publication) => Some(publication),
            Content::Movement(..) => None,
        }
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.publication().and_then(|publication| publication.position)
    }

    /// The frame, its WebSocket header included, for those who receive in this way; `base` is what they got before. `None`: it
    /// is not for them.
    pub(super) fn frame(&self, reception: &Reception, base: Option<&Self>) -> Option<&Bytes> {
        let publication = match &self.content {
            Content::Publication(publication) => publication,
            Content::Movement(channel, movement, who) => {
                let write = || match movement {
                    Movement::Join => reception.format.push(&Push::Join(channel, who)),
                    Movement::Leave => reception.format.push(&Push::Leave(channel, who)),
                };
                return reception.hears_movements.then(|| self.plain.get(reception.format, write));
            }
        };
        if publication.position.is_some_and(|position| position.offset <= reception.after) {
            return None;
        }
        if let Some(filter) = &reception.filter
            && !filter.matches(&publication.tags)
        {
            return None;
        }
        Some(match (reception.differences, base) {
            (Differences::None, _) => self.plain(publication, reception.format),
            (Differences::Based, Some(base)) if publication.is_delta => {
                self.difference(publication, base, reception.format)
            }
            (Differences::Fresh | Differences::Based, _) => self.whole(publication, reception.format),
        })
    }

    fn plain(&self, publication: &Publication, format: Format) -> &Bytes {
        self.plain.get(format, || format.push(&Push::Publication(publication.into())))
    }

    fn apart(&self) -> &Apart {
        self.apart.get_or_init(Box::default)
    }

    fn whole(&self, publication: &Publication, format: Format) -> &Bytes {
        let content = protocol::Content::Whole;
        self.apart().whole.get(format, || format.push(&Push::Publication(PublicationPush { publication, content })))
    }

    /// All hubs deliver a channel in one order, so the first to ask has the base that all have. Should another have missed
    /// something, it sends the whole.
    fn difference(&self, publication: &Publication, base: &Self, format: Format) -> &Bytes {
        let Some(before) = base.publication() else { return self.whole(publication, format) };
        let delta = self.apart().delta.get_or_init(|| Delta {
            base: base.serial,
            difference: Comparing::default().difference(&before.data, &publication.data),
        });
        match &delta.difference {
            Some(difference) if delta.base == base.serial => self.apart().written.get(format, || {
                let content = protocol::Content::Delta(difference);
                format.push(&Push::Publication(PublicationPush { publication, content }))
            }),
            _ => self.whole(publication, format),
        }
    }
}
