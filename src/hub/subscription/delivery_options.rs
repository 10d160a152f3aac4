//! How publications are delivered to a subscription. Few subscriptions of a channel differ in it, so subscribers with equal
//! delivery options form one group, for which a frame is chosen once.

use super::{SubscriptionOptions, filter_tracks::TrackedFilter};
use crate::protocol::Format;

/// The options of a subscription that a delivery depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::hub) struct DeliveryOptions {
    /// The format of its frames.
    pub(in crate::hub) format: Format,
    /// Whether it receives deltas.
    pub(in crate::hub) delta: DeltaState,
    /// A gap ends it.
    pub(in crate::hub) is_positioned: bool,
    /// It receives joins and leaves.
    pub(in crate::hub) wants_join_leave: bool,
    /// The publications that it receives; `None`: all.
    pub(in crate::hub) filter: Option<TrackedFilter>,
    /// The client has all publications up to this offset, although the channel of this hub is not there yet; 0 for nearly
    /// all.
    pub(in crate::hub) skip_up_to: u64,
}

impl DeliveryOptions {
    /// Notes that the subscriber did not receive a publication that others did: its next publication is sent in full.
    pub(in crate::hub) fn forget_base(&mut self) {
        if self.delta == DeltaState::HasBase {
            self.delta = DeltaState::NeedsBase;
        }
    }
}

/// Whether a subscriber receives deltas, and has the base for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::hub) enum DeltaState {
    /// It receives no deltas.
    #[default]
    None,
    /// It has no base yet: its next publication is sent in full.
    NeedsBase,
    /// It has the last publication of the channel.
    HasBase,
}

impl SubscriptionOptions {
    /// Returns the delivery options of a subscription that starts without a delta base.
    pub(super) fn delivery_options(
        &self,
        format: Format,
        filter: Option<TrackedFilter>,
        skip_up_to: u64,
    ) -> DeliveryOptions {
        DeliveryOptions {
            format,
            delta: if self.has_deltas { DeltaState::NeedsBase } else { DeltaState::None },
            is_positioned: self.is_positioned,
            wants_join_leave: self.wants_join_leave,
            filter,
            skip_up_to,
        }
    }
}
