//! What who comes back has missed: a part of the history, then what was delivered here meanwhile, without a gap between them
//! and up to exactly the place where live publications go on. Pure: places in, places out.

use std::ops::Range;

use super::reception::{Claimed, Recover};
use crate::{config::RecoveryMode, position::Position};

/// What the hub knows of a channel when the history has been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// Where it stands for those who receive it already.
    pub(super) here: Option<Position>,
    /// What was delivered since the subscription was asked for, in order; one history only.
    pub(super) kept: &'a [Position],
}

/// What was read: since the client's offset, the oldest first; in cache mode the newest one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read<'a> {
    pub(super) offsets: &'a [u64],
    pub(super) top: Position,
}

/// How a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// Where the channel stands here from now on.
    pub(super) at: Position,
    /// Up to here the client has everything, although the channel is not there yet; 0 if it is.
    pub(super) after: u64,
    /// Nothing is missing.
    pub(super) is_recovered: bool,
    /// What it gets of what was read, ...
    pub(super) read: Range<usize>,
    /// ... and behind it, of what was kept.
    pub(super) kept: Range<usize>,
}

/// What comes of a history and what was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// They fit, or cannot be made to.
    Begins(Beginning),
    /// Something was delivered here that is in neither: it is in the history by now.
    Again,
}

impl Beginning {
    /// At a place, with nothing to catch up with.
    pub(super) fn at(at: Position) -> Self {
        Self { at, after: 0, is_recovered: false, read: 0..0, kept: 0..0 }
    }

    /// The client has everything up to where the channel stands.
    pub(super) fn recovered(at: Position) -> Self {
        Self { is_recovered: true, ..Self::at(at) }
    }

    /// Where the client stands when it has what it gets.
    pub(super) fn place(&self) -> Position {
        Position { offset: self.at.offset.max(self.after), ..self.at }
    }
}

/// Whether the history has to be read: not where the channel stands somewhere already and nothing may be missing.
pub(super) fn wants_history(here: Option<Position>, recover: Option<&Recover>) -> bool {
    match (here, recover) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(here), Some(recover)) => {
            !(recover.mode == RecoveryMode::Stream
                && recover.offset == here.offset
                && recover.epoch == Claimed::Is(here.epoch))
        }
    }
}

/// Puts together what was read and what was seen, at most `limit` publications. `Again` says that reading once more helps.
pub(super) fn merge(recover: Option<&Recover>, seen: Seen<'_>, read: Read<'_>, limit: usize) -> Merged {
    let at = match (seen.here, seen.kept.last()) {
        (None, None) => read.top,
        (Some(at), _) | (None, Some(&at)) if at.epoch != read.top.epoch => return Merged::Again,
        // Nobody stands further back: what still waits in the queue, and was read, will be a repetition.
        (None, Some(last)) => Position { offset: last.offset.max(read.top.offset), ..read.top },
        (Some(here), _) => here,
    };
    let Some(recover) = recover else { return Merged::Begins(Beginning::at(at)) };
    match recover.mode {
        RecoveryMode::Stream => stream(recover, at, seen.kept, read, limit),
        RecoveryMode::Cache => newest(recover, at, seen.kept, read),
    }
}

fn stream(recover: &Recover, at: Position, kept: &[Position], read: Read<'_>, limit: usize) -> Merged {
    let (since, top) = (recover.offset, read.top.offset);
    if !recover.epoch.fits(read.top.epoch) || since > top.max(at.offset) {
        return Merged::Begins(Beginning::at(at));
    }
    // What has been read beyond where the channel stands here comes live. A client may be ahead: it has been elsewhere.
    let end = at.offset.max(since);
    if end - since > limit as u64 {
        return Merged::Begins(Beginning::at(at));
    }
    let wanted = (end.min(top)).saturating_sub(since) as usize;
    let follows = |(distance, offset): (u64, &u64)| offset.checked_sub(since) == Some(distance);
    let is_whole = read.offsets.len() >= wanted && (1..).zip(&read.offsets[..wanted]).all(follows);
    if !is_whole {
        return Merged::Begins(Beginning::at(at));
    }
    let Some(kept) = run(kept, top.max(since), end) else { return Merged::Again };
    let after = if since > at.offset { since } else { 0 };
    Merged::Begins(Beginning { at, after, is_recovered: true, read: 0..wanted, kept })
}

/// Where in `kept` the publications from behind `before` to `end` stand, if all of them do.
fn run(kept: &[Position], before: u64, end: u64) -> Option<Range<usize>> {
    if before >= end {
        return Some(0..0);
    }
    let first = kept.iter().position(|position| position.offset > before)?;
    let length = usize::try_from(end - before).ok()?;
    let found = kept.get(first..first.checked_add(length)?)?;
    let follows = |(distance, position): (u64, &Position)| position.offset.checked_sub(before) == Some(distance);
    let is_whole = (1..).zip(found).all(follows);
    is_whole.then_some(first..first + length)
}

fn newest(recover: &Recover, at: Position, kept: &[Position], read: Read<'_>) -> Merged {
    let top = read.top.offset;
    let place = at.offset.max(top);
    let after = if top > at.offset { top } else { 0 };
    let has_it = recover.offset == place && recover.offset > 0 && recover.epoch == Claimed::Is(at.epoch);
    let beginning = Beginning { after, ..Beginning::recovered(at) };
    if has_it {
        return Merged::Begins(beginning);
    }
    if at.offset > top {
        let Some(last) = kept.len().checked_sub(1).filter(|last| kept[*last].offset == at.offset) else {
            return Merged::Again;
        };
        return Merged::Begins(Beginning { kept: last..last + 1, ..beginning });
    }
    let is_there = read.offsets.last() == Some(&top);
    let read = if is_there { read.offsets.len() - 1..read.offsets.len() } else { 0..0 };
    Merged::Begins(Beginning { read, is_recovered: is_there, ..beginning })
}

#[cfg(test)]
mod tests;
