//! Whether what comes from the broker follows what came before it. A channel has one place in its history on a hub, however
//! many listen to it there. Pure.

use std::sync::Arc;

use super::delivery::Delivery;
use crate::{broker::Retention, position::Position};

/// What a hub knows of a channel that somebody receives.
#[derive(Default)]
pub(super) struct ChannelState {
    /// Where the channel stands for all who receive it here; `None` without a history.
    pub(super) position: Option<Position>,
    /// What was delivered last, where somebody may want the difference to it.
    pub(super) last_delivery: Option<Arc<Delivery>>,
    /// Something came since the position was checked last.
    pub(super) received_since_check: bool,
    /// Somebody relies on the position, so it is checked while nothing comes.
    pub(super) polled_retention: Option<Retention>,
}

impl ChannelState {
    /// Notes a delivery; whoever is asked goes by the verdict. A repetition moves nothing, and after a gap the channel stands
    /// where the delivery does, for those who do not rely on it.
    pub(super) fn advance(&mut self, arriving: Option<Position>) -> PositionCheck {
        let check = check_position(self.position, arriving);
        self.received_since_check |= arriving.is_some();
        if matches!(check, PositionCheck::Next | PositionCheck::Gap) {
            self.position = arriving;
        }
        check
    }
}

/// What a delivery is to a channel that stands at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositionCheck {
    /// It is the next, or the first of which the place is known.
    Next,
    /// It has been here already, or in what was read from the history.
    Duplicate,
    /// Something between is missing, or the history is another one: whoever relies on the position has to come again.
    Gap,
    /// It has no place: it was not kept, and moves nothing.
    Unpositioned,
}

/// Judges a delivery at `arriving` in a channel that stands at `here`.
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
        for (arriving, check, stands_at) in [
            (None, PositionCheck::Unpositioned, None),
            (at(5), PositionCheck::Next, at(5)),
            (at(4), PositionCheck::Duplicate, at(5)),
            (None, PositionCheck::Unpositioned, at(5)),
            (at(6), PositionCheck::Next, at(6)),
            (at(9), PositionCheck::Gap, at(9)),
        ] {
            assert_eq!((state.advance(arriving), state.position), (check, stands_at));
        }
        assert!(state.received_since_check);
    }
}
