//! Whether what comes from the broker follows what came before it. A channel has one place in its history on a hub, however
//! many listen to it there. Pure.

use std::sync::Arc;

use super::delivery::Delivery;
use crate::{broker::Retention, position::Position};

/// What a hub knows of a channel that somebody receives.
#[derive(Default)]
pub(super) struct Track {
    /// Where the channel stands for all who receive it here; `None` without a history.
    pub(super) position: Option<Position>,
    /// What was delivered last, where somebody may want the difference to it.
    pub(super) last: Option<Arc<Delivery>>,
    /// Something came since the position was checked last.
    pub(super) is_heard: bool,
    /// Somebody relies on the position, so it is checked while nothing comes.
    pub(super) checked: Option<Retention>,
}

impl Track {
    /// Notes a delivery; whoever is asked goes by the verdict. A repetition moves nothing, and after a gap the channel stands
    /// where the delivery does, for those who do not rely on it.
    pub(super) fn take(&mut self, arriving: Option<Position>) -> Verdict {
        let verdict = judge(self.position, arriving);
        self.is_heard |= arriving.is_some();
        if matches!(verdict, Verdict::Follows | Verdict::Gap) {
            self.position = arriving;
        }
        verdict
    }
}

/// What a delivery is to a channel that stands at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the next, or the first of which the place is known.
    Follows,
    /// It has been here already, or in what was read from the history.
    Repetition,
    /// Something between is missing, or the history is another one: whoever relies on the position has to come again.
    Gap,
    /// It has no place: it was not kept, and moves nothing.
    Unplaced,
}

/// Judges a delivery at `arriving` in a channel that stands at `here`.
fn judge(here: Option<Position>, arriving: Option<Position>) -> Verdict {
    match (here, arriving) {
        (_, None) => Verdict::Unplaced,
        (None, Some(_)) => Verdict::Follows,
        (Some(here), Some(arriving)) if here.epoch != arriving.epoch => Verdict::Gap,
        (Some(here), Some(arriving)) if arriving.offset <= here.offset => Verdict::Repetition,
        (Some(here), Some(arriving)) if here.offset.checked_add(1) == Some(arriving.offset) => Verdict::Follows,
        _ => Verdict::Gap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    #[test]
    fn only_the_next_of_the_same_history_follows() {
        let epoch = Epoch::read("AAAAAAAA").unwrap();
        let other = Epoch::read("BBBBBBBB").unwrap();
        let at = |offset| Some(Position { offset, epoch });
        assert_eq!(judge(None, None), Verdict::Unplaced);
        assert_eq!(judge(at(5), None), Verdict::Unplaced);
        assert_eq!(judge(None, at(5)), Verdict::Follows);
        assert_eq!(judge(at(5), at(6)), Verdict::Follows);
        assert_eq!(judge(at(5), at(5)), Verdict::Repetition);
        assert_eq!(judge(at(5), at(1)), Verdict::Repetition);
        assert_eq!(judge(at(5), at(7)), Verdict::Gap);
        assert_eq!(judge(at(5), Some(Position { offset: 6, epoch: other })), Verdict::Gap);
        assert_eq!(judge(at(5), Some(Position { offset: 1, epoch: other })), Verdict::Gap);
        assert_eq!(judge(at(u64::MAX), at(0)), Verdict::Repetition);
        assert_eq!(judge(at(u64::MAX), at(u64::MAX)), Verdict::Repetition);
    }

    #[test]
    fn a_channel_stands_where_it_was_taken_to_and_never_goes_back() {
        let (epoch, mut track) = (Epoch::read("AAAAAAAA").unwrap(), Track::default());
        let at = |offset| Some(Position { offset, epoch });
        for (arriving, verdict, stands_at) in [
            (None, Verdict::Unplaced, None),
            (at(5), Verdict::Follows, at(5)),
            (at(4), Verdict::Repetition, at(5)),
            (None, Verdict::Unplaced, at(5)),
            (at(6), Verdict::Follows, at(6)),
            (at(9), Verdict::Gap, at(9)),
        ] {
            assert_eq!((track.take(arriving), track.position), (verdict, stands_at));
        }
        assert!(track.is_heard);
    }
}
