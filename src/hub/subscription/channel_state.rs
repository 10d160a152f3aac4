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
    /// The newest publication that is known here to have been in the history, whether it was delivered here or not. A
    /// broker that does not have it has lost publications.
    newest: Option<ChannelTop>,
    /// `newest` when the broker was interrupted, until the broker is known to have it still, and after it that of the last further
    /// interruption meanwhile. Empty while deliveries are held back instead.
    pub(in crate::hub) unverified: Vec<ChannelTop>,
    /// How the channel keeps its publications; `None`: it has no history.
    pub(in crate::hub) retention: Option<Retention>,
    /// A subscriber relies on the position, so it is compared while no publication is delivered.
    pub(in crate::hub) is_relied_on: bool,
    /// The position is to be compared with the broker's at once.
    pub(in crate::hub) is_check_queued: bool,
    /// The broker has subscribed again, and may have lost publications. Deliveries are not held back where no subscriber relies
    /// on the position, so the next one counts wherever it is.
    pub(in crate::hub) may_go_back: bool,
    /// The broker has lost publications of the channel, which is counted, and the gap of which has not ended.
    pub(in crate::hub) has_lost_writes: bool,
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
        if may_go_back && check == PositionCheck::Duplicate && !self.is_relied_on {
            check = PositionCheck::Gap;
        }
        let is_same_epoch = self.position.zip(arriving).is_some_and(|(here, arriving)| here.epoch == arriving.epoch);
        if check == PositionCheck::Gap && is_same_epoch && self.is_relied_on {
            return PositionCheck::Waits;
        }
        self.received_since_check |= arriving.is_some();
        if matches!(check, PositionCheck::Next | PositionCheck::Gap) {
            (self.position, self.time) = (arriving, Some(time));
        }
        check
    }

    /// Begins with the first subscription whose start is known, `at` a position. `stored` is the newest publication that is known
    /// to be in the history.
    pub(super) fn start(&mut self, at: Position, stored: Option<ChannelTop>) {
        if self.position.is_none() {
            let time = stored.filter(|stored| stored.position == at).and_then(|stored| stored.time);
            (self.position, self.time) = (Some(at), time);
            self.note_stored(ChannelTop { position: at, time });
        }
        stored.into_iter().for_each(|stored| self.note_stored(stored));
    }

    /// Notes that a publication is, or was, in the history.
    pub(in crate::hub) fn note_stored(&mut self, stored: ChannelTop) {
        match &mut self.newest {
            Some(newest) if newest.position == stored.position => newest.time = newest.time.or(stored.time),
            Some(ChannelTop { position: newest, .. })
                if newest.epoch == stored.position.epoch && newest.offset > stored.position.offset => {}
            newest => *newest = Some(stored),
        }
    }

    /// Returns the newest publication that the broker has, unless it has lost publications.
    pub(in crate::hub) fn newest(&self) -> Option<ChannelTop> {
        self.newest
    }

    /// Returns how the channel keeps its publications, if a subscriber relies on the position.
    pub(in crate::hub) fn polled_retention(&self) -> Option<Retention> {
        self.retention.filter(|_| self.is_relied_on)
    }

    /// Notes that the broker is interrupted, where deliveries are not held back.
    pub(in crate::hub) fn suspect_newest(&mut self) {
        self.unverified.truncate(1);
        let newest = self.newest.filter(|newest| self.unverified.first() != Some(newest));
        self.unverified.extend(newest);
    }

    /// Returns the last publication that all subscribers here have received.
    pub(in crate::hub) fn top(&self) -> Option<ChannelTop> {
        self.position.map(|position| ChannelTop { position, time: self.time })
    }

    /// Moves the channel to a position without a delivery.
    pub(in crate::hub) fn set_position(&mut self, position: Option<Position>) {
        (self.position, self.time) = (position, None);
        position.into_iter().for_each(|position| self.note_stored(ChannelTop { position, time: None }));
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

    #[test]
    fn newest_publications_of_the_first_and_the_last_interruption_are_to_be_verified() {
        let (epoch, mut state) = (Epoch::parse("AAAAAAAA").unwrap(), ChannelState::default());
        state.suspect_newest();
        assert!(state.unverified.is_empty(), "none is known");
        for offset in [10, 12, 15] {
            state.note_stored(ChannelTop { position: Position { offset, epoch }, time: None });
            state.suspect_newest();
        }
        assert_eq!(state.unverified.iter().map(|top| top.position.offset).collect::<Vec<_>>(), [10, 15]);
    }

    #[test]
    fn newest_known_publication_keeps_its_time_and_never_goes_back_within_an_epoch() {
        let (epoch, other, mut state) = ("AAAAAAAA", "BBBBBBBB", ChannelState::default());
        let top = |offset, epoch: &str, time: Option<i64>| {
            let position = Position { offset, epoch: Epoch::parse(epoch).unwrap() };
            ChannelTop { position, time: time.map(WallTime::from_unix_millis) }
        };
        for (stored, newest) in [
            (top(5, epoch, None), top(5, epoch, None)),
            (top(5, epoch, Some(50)), top(5, epoch, Some(50))),
            (top(5, epoch, Some(51)), top(5, epoch, Some(50))),
            (top(4, epoch, Some(40)), top(5, epoch, Some(50))),
            (top(7, epoch, None), top(7, epoch, None)),
            (top(1, other, Some(10)), top(1, other, Some(10))),
        ] {
            state.note_stored(stored);
            assert_eq!(state.newest(), Some(newest));
        }
        let mut started = ChannelState::default();
        started.start(top(5, epoch, None).position, Some(top(7, epoch, Some(70))));
        assert_eq!((started.top(), started.newest()), (Some(top(5, epoch, None)), Some(top(7, epoch, Some(70)))));
        started.start(top(9, epoch, None).position, Some(top(9, epoch, Some(90))));
        assert_eq!((started.top(), started.newest()), (Some(top(5, epoch, None)), Some(top(9, epoch, Some(90)))));
        let mut started = ChannelState::default();
        started.start(top(5, epoch, None).position, Some(top(5, epoch, Some(50))));
        assert_eq!(started.top(), Some(top(5, epoch, Some(50))));
    }
}
