//! How a subscription receives its channel, and what it was begun with. Few subscriptions of a channel differ in it, so that
//! it is said once for all who are alike.

use std::sync::Arc;

use crate::{
    broker::Retention, channel::Channel, config::RecoveryMode, filter::Filter, position::Epoch, protocol::Format,
    publication::ClientInfo,
};

/// What tells subscriptions of one channel apart on the way of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryOptions {
    /// How frames are written.
    pub(super) format: Format,
    /// Whether differences are sent.
    pub(super) delta: DeltaState,
    /// A gap ends it.
    pub(super) is_positioned: bool,
    /// It is told who comes and goes.
    pub(super) wants_join_leave: bool,
    /// Publications that it wants; all of them without.
    pub(super) filter: Option<Arc<Filter>>,
    /// Up to here the client has everything, although this hub is not there yet; 0 for nearly all.
    pub(super) skip_up_to: u64,
}

impl DeliveryOptions {
    /// Somebody has not got what others did: the next publication comes whole.
    pub(super) fn forget_base(&mut self) {
        if self.delta == DeltaState::HasBase {
            self.delta = DeltaState::NeedsBase;
        }
    }
}

/// What a client has that a difference could be to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DeltaState {
    /// It wants none.
    #[default]
    None,
    /// Nothing yet: it gets a whole publication first.
    NeedsBase,
    /// The publication before, whichever that is.
    HasBase,
}

/// What a subscription is to be, as its session asks for it.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionOptions {
    /// How the channel keeps what is published; `None` where it does not, and then there are no positions.
    pub retention: Option<Retention>,
    /// Gaps end it.
    pub is_positioned: bool,
    /// The client is told that it may come back with its position.
    pub is_recoverable: bool,
    /// What the client has missed.
    pub recover: Option<RecoveryRequest>,
    /// Differences are wanted, and the channel has them.
    pub has_deltas: bool,
    /// Publications that the client wants.
    pub filter: Option<Arc<Filter>>,
    /// The client is told who comes and goes.
    pub wants_join_leave: bool,
    /// Who is shown to others, where the channel has presence or tells of movements.
    pub visibility: Option<Visibility>,
}

/// Who a subscriber is to others, and how they learn of it.
#[derive(Clone, Debug)]
pub struct Visibility {
    /// Who.
    pub client: Arc<ClientInfo>,
    /// In the list of who is there.
    pub in_presence: bool,
    /// By joins and leaves.
    pub sends_join_leave: bool,
}

/// A client comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRequest {
    /// The offset of the last publication that it has.
    pub offset: u64,
    /// Of which history.
    pub epoch: RequestedEpoch,
    /// All of what it has missed, or the newest.
    pub mode: RecoveryMode,
    /// If it cannot be had, the subscription is refused (`flag & 2`, error 112).
    pub required: bool,
}

/// The epoch that a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedEpoch {
    /// None: any will do.
    Any,
    /// This one.
    Exactly(Epoch),
    /// One that never was.
    Unknown,
}

impl RequestedEpoch {
    /// What stands on the wire.
    pub fn read(text: &str) -> Self {
        if text.is_empty() { Self::Any } else { Epoch::parse(text).map_or(Self::Unknown, Self::Exactly) }
    }

    /// Whether it may mean this one.
    pub(super) fn matches(self, epoch: Epoch) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(claimed) => claimed == epoch,
            Self::Unknown => false,
        }
    }
}

impl SubscriptionOptions {
    /// How the subscription receives, when it begins without a difference's base.
    pub(super) fn delivery_options(&self, format: Format) -> DeliveryOptions {
        DeliveryOptions {
            format,
            delta: if self.has_deltas { DeltaState::NeedsBase } else { DeltaState::None },
            is_positioned: self.is_positioned,
            wants_join_leave: self.wants_join_leave,
            filter: self.filter.clone(),
            skip_up_to: 0,
        }
    }
}

/// Somebody has left a channel, or was made to.
#[derive(Debug)]
pub(super) struct LeftChannel {
    pub(super) channel: Channel,
    /// Nobody here receives it any more.
    pub(super) is_last: bool,
    /// Who is to be taken out of sight.
    pub(super) visibility: Option<Box<Visibility>>,
}
