//! How a subscription receives its channel, and what it was begun with. Few subscriptions of a channel differ in it, so that
//! it is said once for all who are alike.

use std::sync::Arc;

use crate::{
    broker::Retention, channel::Channel, config::RecoveryMode, filter::Filter, position::Epoch, protocol::Format,
    publication::ClientInfo,
};

/// What tells subscriptions of one channel apart on the way of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reception {
    /// How frames are written.
    pub(super) format: Format,
    /// Whether differences are sent.
    pub(super) differences: Differences,
    /// A gap ends it.
    pub(super) is_positioned: bool,
    /// It is told who comes and goes.
    pub(super) hears_movements: bool,
    /// Publications that it wants; all of them without.
    pub(super) filter: Option<Arc<Filter>>,
    /// Up to here the client has everything, although this hub is not there yet; 0 for nearly all.
    pub(super) after: u64,
}

impl Reception {
    /// Somebody has not got what others did: the next publication comes whole.
    pub(super) fn refresh(&mut self) {
        if self.differences == Differences::Based {
            self.differences = Differences::Fresh;
        }
    }
}

/// What a client has that a difference could be to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Differences {
    /// It wants none.
    #[default]
    None,
    /// Nothing yet: it gets a whole publication first.
    Fresh,
    /// The publication before, whichever that is.
    Based,
}

/// What a subscription is to be, as its session asks for it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How the channel keeps what is published; `None` where it does not, and then there are no positions.
    pub retention: Option<Retention>,
    /// Gaps end it.
    pub is_positioned: bool,
    /// The client is told that it may come back with its position.
    pub is_recoverable: bool,
    /// What the client has missed.
    pub recover: Option<Recover>,
    /// Differences are wanted, and the channel has them.
    pub has_deltas: bool,
    /// Publications that the client wants.
    pub filter: Option<Arc<Filter>>,
    /// The client is told who comes and goes.
    pub hears_movements: bool,
    /// Who is shown to others, where the channel has presence or tells of movements.
    pub shown: Option<Shown>,
}

/// Who a subscriber is to others, and how they learn of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Who.
    pub who: Arc<ClientInfo>,
    /// In the list of who is there.
    pub is_present: bool,
    /// By joins and leaves.
    pub is_announced: bool,
}

/// A client comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recover {
    /// The offset of the last publication that it has.
    pub offset: u64,
    /// Of which history.
    pub epoch: Claimed,
    /// All of what it has missed, or the newest.
    pub mode: RecoveryMode,
    /// If it cannot be had, the subscription is refused (`flag & 2`, error 112).
    pub or_nothing: bool,
}

/// The epoch that a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// None: any will do.
    Any,
    /// This one.
    Is(Epoch),
    /// One that never was.
    Unknown,
}

impl Claimed {
    /// What stands on the wire.
    pub fn read(text: &str) -> Self {
        if text.is_empty() { Self::Any } else { Epoch::read(text).map_or(Self::Unknown, Self::Is) }
    }

    /// Whether it may mean this one.
    pub(super) fn fits(self, epoch: Epoch) -> bool {
        match self {
            Self::Any => true,
            Self::Is(claimed) => claimed == epoch,
            Self::Unknown => false,
        }
    }
}

impl Options {
    /// How the subscription receives, when it begins without a difference's base.
    pub(super) fn reception(&self, format: Format) -> Reception {
        Reception {
            format,
            differences: if self.has_deltas { Differences::Fresh } else { Differences::None },
            is_positioned: self.is_positioned,
            hears_movements: self.hears_movements,
            filter: self.filter.clone(),
            after: 0,
        }
    }
}

/// Somebody has left a channel, or was made to.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) channel: Channel,
    /// Nobody here receives it any more.
    pub(super) is_last: bool,
    /// Who is to be taken out of sight.
    pub(super) shown: Option<Box<Shown>>,
}
