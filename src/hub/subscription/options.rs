//! The options of a subscription that a session requests: positions, recovery, deltas, filter, and how other clients see the
//! subscriber.

use std::sync::Arc;

use crate::{
    broker::{Retention, SincePosition},
    config::RecoveryMode,
    filter::Filter,
    position::Epoch,
    publication::ClientInfo,
};

/// The options of a subscription, as its session asks for them.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionOptions {
    /// How the channel keeps its publications; `None` if it does not, and then there are no positions.
    pub retention: Option<Retention>,
    /// A gap ends the subscription.
    pub is_positioned: bool,
    /// The client learns that it may recover with its position.
    pub is_recoverable: bool,
    /// The recovery that the client asks for.
    pub recover: Option<RecoveryRequest>,
    /// The client asks for deltas, and the channel has them.
    pub has_deltas: bool,
    /// The publications that the client wants; `None`: all.
    pub filter: Option<Arc<Filter>>,
    /// The client receives joins and leaves.
    pub wants_join_leave: bool,
    /// How other clients see the subscriber, in a channel with presence or with joins and leaves.
    pub visibility: Option<Visibility>,
}

impl SubscriptionOptions {
    /// The recovery that the client asks for, unless it names an epoch that cannot exist.
    pub(super) fn possible_recovery(&self) -> Option<&RecoveryRequest> {
        self.recover.as_ref().filter(|recover| recover.epoch != RequestedEpoch::Invalid)
    }
}

/// How other clients see a subscriber.
#[derive(Clone, Debug)]
pub struct Visibility {
    /// What they see.
    pub info: Arc<ClientInfo>,
    /// In the channel's presence.
    pub in_presence: bool,
    /// By a join and a leave.
    pub sends_join_leave: bool,
}

/// A client's request to recover the publications that it has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRequest {
    /// The offset of the last publication that it has.
    pub offset: u64,
    /// The epoch of that offset.
    pub epoch: RequestedEpoch,
    /// Whether it recovers all that it has missed, or the newest publication only.
    pub mode: RecoveryMode,
    /// If recovery fails, the subscription is refused (`flag & 2`, error 112).
    pub required: bool,
}

impl RecoveryRequest {
    /// Returns the position that the client names. `None`: it cannot belong to a history.
    pub(super) fn position(&self) -> Option<SincePosition> {
        let epoch = match self.epoch {
            RequestedEpoch::Any => None,
            RequestedEpoch::Exactly(epoch) => Some(epoch),
            RequestedEpoch::Invalid => return None,
        };
        Some(SincePosition { offset: self.offset, epoch })
    }
}

/// The epoch that a client names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedEpoch {
    /// None: any epoch will do.
    Any,
    /// This one.
    Exactly(Epoch),
    /// Not an epoch: no history has it.
    Invalid,
}

impl RequestedEpoch {
    /// Parses an epoch as it is sent; an empty one means any.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() { Self::Any } else { Epoch::parse(text).map_or(Self::Invalid, Self::Exactly) }
    }

    /// Returns whether `epoch` satisfies the request.
    pub(super) fn matches(self, epoch: Epoch) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(requested) => requested == epoch,
            Self::Invalid => false,
        }
    }
}
