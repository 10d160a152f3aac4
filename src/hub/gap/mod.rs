//! Gaps: publications of a channel that did not reach this hub. A later publication reveals one, or the comparison of the
//! channel's position with the broker's ([`position_poller`]): in rounds, and at once when the broker had lost its
//! subscriptions. The hub then holds the channel's deliveries back, reads what is missing from the history, and delivers it
//! in order ([`fill`]). If that is impossible, the positioned subscriptions end (2500, 3010).
//!
//! If the broker has lost publications that this hub had received, or had seen in the history, the channel gets a new epoch
//! first: every client that has a position learns that it is void, whichever instance it connects to. That applies to channels
//! without positioned subscribers as well, whose deliveries are never held back ([`verification`]): their former subscribers
//! have positions, too.
//!
//! What is compared and what a page shows is decided here, from positions alone.

mod fill;
mod interruption;
mod position_poller;
mod verification;

pub(super) use self::{
    fill::{GapFill, GapReads, HeldBytes},
    interruption::{Interruption, NoteInterrupted, NoteResubscribed},
    position_poller::PositionPoller,
    verification::Verifications,
};
use crate::{
    broker::{ChannelTop, HistoryPage},
    position::Position,
};

/// How the broker's position of a channel compares to that of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// Nothing is missing here.
    InStep,
    /// The history has publications that the hub has not received.
    Behind,
    /// The channel has another history, or none.
    NewHistory,
    /// The broker has lost publications that the hub has received, although the history has the same epoch.
    LostWrites,
}

/// Compares the broker's position with the hub's, which was `asked_at` when the broker was asked, and is `here` now.
fn compare(asked_at: ChannelTop, here: Position, found: Option<ChannelTop>) -> Comparison {
    if here.epoch != asked_at.position.epoch {
        // The hub has moved to another history meanwhile, and its positioned subscriptions have ended.
        return Comparison::InStep;
    }
    let Some(found) = found.filter(|found| found.position.epoch == here.epoch) else { return Comparison::NewHistory };
    if found.position.offset < asked_at.position.offset || found.conflicts_with(asked_at) {
        Comparison::LostWrites
    } else if found.position.offset > here.offset {
        Comparison::Behind
    } else {
        Comparison::InStep
    }
}

/// The findings of a page of the history about the publications after the last one that the hub has.
#[derive(Debug, PartialEq, Eq)]
enum PageVerdict {
    /// The publications after the first `known` ones follow without a hole.
    Follows { known: usize, is_complete: bool },
    /// Some of the missing publications are not in the history any more.
    Incomplete,
    /// The channel has another history.
    NewHistory,
    /// The broker has lost publications that the hub has received.
    LostWrites,
}

/// Examines a page that starts with the publication at `last`, if the history still has it. Publications up to the offset
/// `announced` had arrived here before it was read, so the history had them.
fn examine(last: ChannelTop, announced: u64, page: &HistoryPage) -> PageVerdict {
    if page.top.epoch != last.position.epoch {
        return PageVerdict::NewHistory;
    }
    let tops = page.publications.iter().filter_map(|publication| {
        publication.position.map(|position| ChannelTop { position, time: Some(publication.time) })
    });
    if page.top.offset < last.position.offset.max(announced) || tops.clone().any(|top| top.conflicts_with(last)) {
        return PageVerdict::LostWrites;
    }
    let known = tops.clone().take_while(|top| top.position.offset <= last.position.offset).count();
    let mut reached = last.position.offset;
    for top in tops.skip(known) {
        if top.position.offset.checked_sub(reached) != Some(1) {
            return PageVerdict::Incomplete;
        }
        reached = top.position.offset;
    }
    let is_complete = reached == page.top.offset;
    if reached == last.position.offset && !is_complete {
        return PageVerdict::Incomplete;
    }
    PageVerdict::Follows { known, is_complete }
}

impl ChannelTop {
    /// Returns whether it is newer than the publication at a position of the same epoch.
    pub(super) fn is_after(self, position: Position) -> bool {
        self.position.epoch == position.epoch && self.position.offset > position.offset
    }

    /// Returns whether both are known to be different publications at the same position.
    fn conflicts_with(self, other: Self) -> bool {
        self.position == other.position
            && self.position.offset > 0
            && self.time.zip(other.time).is_some_and(|(one, other)| one != other)
    }
}

#[cfg(test)]
mod tests;
