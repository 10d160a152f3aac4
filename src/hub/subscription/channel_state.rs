//! The state of a channel that has subscribers on a hub: its position, and the check whether a delivery follows the one before
//! it. A channel has one position on a hub, however many subscribers it has there. Pure.

use std::sync::Arc;

use crate::{
    broker::{ChannelTop, Retention},
    clock::WallTime,
    hub::{broker_subscriptions::ChannelHold, delivery::Delivery, gap::GapFill, pacing::Pace},
    position::Position,
};

/// The state of a channel that has subscribers on a hub.
#[derive(Default)]
pub(in crate::hub) struct ChannelState {
    /// Makes the broker deliver the channel, until the last subscriber here is gone.
    pub(super) hold: Option<ChannelHold>,
    /// The position of the channel for all subscribers here; `None` without a history.
    pub(in crate::hub) position: Option<Position>,
    /// When the publication at `position` was published; `None` if it was not delivered here.
    time: Option<WallTime>,
    /// `Some` while deliveries are held back because publications before them may be missing.
    pub(in crate::hub) gap_fill: Option<Box<GapFill>>,
    /// The last delivery, if a delta to it may be wanted.
    pub(in crate::hub) last_delivery: Option<Arc<Delivery>>,
    /// A publication was delivered since the position was compared with the broker's.
    pub(in crate::hub) received_since_check: bool,
    /// A subscriber relies on the position, so it is compared while no publication is delivered.
    pub(in crate::hub) polled_retention: Option<Retention>,
    /// The position is to be compared with the broker's at once.
    pub(in crate::hub) is_check_queued: bool,
    /// The broker has subscribed again, and may have lost publications. The position is not compared where no subscriber relies
    /// on it, so the next delivery counts wherever it is.
    pub(in crate::hub) may_go_back: bool,
    /// How the channel's deliveries are paced; `None`: each is sent at once.
    pub(in crate::hub) pace: Option<Arc<Pace>>,
}

impl ChannelState {
    /// Advances the channel by a delivery that was published at `time`. A duplicate does not move it, nor does a delivery that
    /// has to wait. After a gap that cannot be filled the position is the delivery's, for the subscribers that do not rely on
    /// it.
    pub(in crate::hub) fn advance(&mut self, arriving: Option<Position>, time: WallTime) -> PositionCheck {
        if self.gap_fill.is_some() {
            return PositionCheck::Waits;
        }
        let mut check = check_position(self.position, arriving);
        let may_go_back = arriving.is_some() && std::mem::take(&mut self.may_go_back);
        if may_go_back && check == PositionCheck::Duplicate && self.polled_retention.is_none() {
            check = PositionCheck::Gap;
        }
        let is_same_epoch = self.position.zip(arriving).is_some_and(|(here, arriving)| here.epoch == arriving.epoch);
        if check == PositionCheck::Gap && is_same_epoch && self.polled_retention.is_some() {
            return PositionCheck::Waits;
        }
        self.received_since_check |= arriving.is_some();
        if matches!(check, PositionCheck::Next | PositionCheck::Gap) {
            (self.position, self.time) = (arriving, Some(time));
        }
        check
    }

    /// Returns the last publication that all subscribers here have received.
    pub(in crate::hub) fn top(&self) -> Option<ChannelTop> {
        self.position.map(|position| ChannelTop { position, time: self.time })
    }

    /// Moves the channel to a position without a delivery.
    pub(in crate::hub) fn set_position(&mut self, position: Option<Position>) {
        (self.position, self.time) = (position, None);
    }
}

/// How the position of a delivery compares to its channel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum PositionCheck {
    /// It is the next one, or the first with a position.
    Next,
    /// It was delivered already, or was read from the history.
    Duplicate,
    /// A publication before it is missing, or its epoch differs: positioned subscriptions end.
    Gap,
    /// Publications before it may be missing, and can be read from the history: it waits for them.
    Waits,
    /// It has no position, since it was not kept. It does not move the channel.
    Unpositioned,
}

/// Compares a delivery at `arriving` with a channel that is at `here`.
fn check_position(here: Option<Position>, arriving: Option<Position>) -> PositionCheck {
    match (here, arriving) {
        (_, None) => PositionCheck::Unpositioned,
        (None, Some(_)) => PositionCheck::Next,
        (Some(here), Some(arriving)) if here.epoch != arriving.epoch => PositionCheck::Gap,
        (Some(here), Some(arriving)) if arriving.offset <= here.offset => PositionCheck::Duplicate,
        (Some(here), Some(arriving)) if here.offset.checked_add(1) == Some(arriving.offset) => PositionCheck::Next,
        _ => PositionCheck::Gap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    #[test]
    fn only_the_next_offset_of_the_same_epoch_is_next() {
        let epoch = Epoch::parse("AAAAAAAA").unwrap();
        let other = Epoch::parse("BBBBBBBB").unwrap();
        let at = |offset| Some(Position { offset, epoch });
        assert_eq!(check_position(None, None), PositionCheck::Unpositioned);
        assert_eq!(check_position(at(5), None), PositionCheck::Unpositioned);
        assert_eq!(check_position(None, at(5)), PositionCheck::Next);
        assert_eq!(check_position(at(5), at(6)), PositionCheck::Next);
        assert_eq!(check_position(at(5), at(5)), PositionCheck::Duplicate);
        assert_eq!(check_position(at(5), at(1)), PositionCheck::Duplicate);
        assert_eq!(check_position(at(5), at(7)), PositionCheck::Gap);
        assert_eq!(check_position(at(5), Some(Position { offset: 6, epoch: other })), PositionCheck::Gap);
        assert_eq!(check_position(at(5), Some(Position { offset: 1, epoch: other })), PositionCheck::Gap);
        assert_eq!(check_position(at(u64::MAX), at(0)), PositionCheck::Duplicate);
        assert_eq!(check_position(at(u64::MAX), at(u64::MAX)), PositionCheck::Duplicate);
    }

    #[test]
    fn channel_position_advances_and_never_goes_back() {
        let (epoch, mut state) = (Epoch::parse("AAAAAAAA").unwrap(), ChannelState::default());
        let at = |offset| Some(Position { offset, epoch });
        for (arriving, check, position) in [
            (None, PositionCheck::Unpositioned, None),
            (at(5), PositionCheck::Next, at(5)),
            (at(4), PositionCheck::Duplicate, at(5)),
            (None, PositionCheck::Unpositioned, at(5)),
            (at(6), PositionCheck::Next, at(6)),
            (at(9), PositionCheck::Gap, at(9)),
        ] {
            assert_eq!((state.advance(arriving, WallTime::default()), state.position), (check, position));
        }
        assert!(state.received_since_check);
    }
}
