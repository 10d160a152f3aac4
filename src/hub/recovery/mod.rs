//! What who comes back has missed: a part of the history, then what was delivered here meanwhile, without a gap between them
//! and up to exactly the place where live publications go on. Pure: places in, places out.

use std::ops::Range;

use super::delivery_options::{RecoveryRequest, RequestedEpoch};
use crate::{config::RecoveryMode, position::Position};

/// What the hub knows of a channel when the history has been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalState<'a> {
    /// Where it stands for those who receive it already.
    pub(super) position: Option<Position>,
    /// What was delivered since the subscription was asked for, in order; one history only.
    pub(super) buffered: &'a [Position],
}

/// What was read: since the client's offset, the oldest first; in cache mode the newest one.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryRead<'a> {
    pub(super) offsets: &'a [u64],
    pub(super) top: Position,
}

/// How a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartPosition {
    /// Where the channel stands here from now on.
    pub(super) at: Position,
    /// Up to here the client has everything, although the channel is not there yet; 0 if it is.
    pub(super) skip_up_to: u64,
    /// Nothing is missing.
    pub(super) is_recovered: bool,
    /// What it gets of what was read, ...
    pub(super) from_history: Range<usize>,
    /// ... and behind it, of what was kept.
    pub(super) from_buffer: Range<usize>,
}

/// What comes of a history and what was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MergeOutcome {
    /// They fit, or cannot be made to.
    Start(StartPosition),
    /// Something was delivered here that is in neither: it is in the history by now.
    ReadAgain,
}

impl StartPosition {
    /// At a place, with nothing to catch up with.
    pub(super) fn at(at: Position) -> Self {
        Self { at, skip_up_to: 0, is_recovered: false, from_history: 0..0, from_buffer: 0..0 }
    }

    /// The client has everything up to where the channel stands.
    pub(super) fn recovered(at: Position) -> Self {
        Self { is_recovered: true, ..Self::at(at) }
    }

    /// Where the client stands when it has what it gets.
    pub(super) fn client_position(&self) -> Position {
        Position { offset: self.at.offset.max(self.skip_up_to), ..self.at }
    }
}

/// Whether the history has to be read: not where the channel stands somewhere already and nothing may be missing.
pub(super) fn needs_history(here: Option<Position>, recover: Option<&RecoveryRequest>) -> bool {
    match (here, recover) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(here), Some(recover)) => {
            !(recover.mode == RecoveryMode::Stream
                && recover.offset == here.offset
                && recover.epoch == RequestedEpoch::Exactly(here.epoch))
        }
    }
}

/// Puts together what was read and what was seen, at most `limit` publications. `Again` says that reading once more helps.
pub(super) fn merge(
    recover: Option<&RecoveryRequest>,
    local: LocalState<'_>,
    read: HistoryRead<'_>,
    limit: usize,
) -> MergeOutcome {
    let at = match (local.position, local.buffered.last()) {
        (None, None) => read.top,
        (Some(at), _) | (None, Some(&at)) if at.epoch != read.top.epoch => return MergeOutcome::ReadAgain,
        // Nobody stands further back: what still waits in the queue, and was read, will be a repetition.
        (None, Some(last)) => Position { offset: last.offset.max(read.top.offset), ..read.top },
        (Some(here), _) => here,
    };
    let Some(recover) = recover else { return MergeOutcome::Start(StartPosition::at(at)) };
    match recover.mode {
        RecoveryMode::Stream => merge_stream(recover, at, local.buffered, read, limit),
        RecoveryMode::Cache => merge_cache(recover, at, local.buffered, read),
    }
}

fn merge_stream(
    recover: &RecoveryRequest,
    at: Position,
    buffered: &[Position],
    read: HistoryRead<'_>,
    limit: usize,
) -> MergeOutcome {
    let (since, top) = (recover.offset, read.top.offset);
    if !recover.epoch.matches(read.top.epoch) || since > top.max(at.offset) {
        return MergeOutcome::Start(StartPosition::at(at));
    }
    // What has been read beyond where the channel stands here comes live. A client may be ahead: it has been elsewhere.
    let end = at.offset.max(since);
    if end - since > limit as u64 {
        return MergeOutcome::Start(StartPosition::at(at));
    }
    let wanted = (end.min(top)).saturating_sub(since) as usize;
    let follows = |(distance, offset): (u64, &u64)| offset.checked_sub(since) == Some(distance);
    let is_whole = read.offsets.len() >= wanted && (1..).zip(&read.offsets[..wanted]).all(follows);
    if !is_whole {
        return MergeOutcome::Start(StartPosition::at(at));
    }
    let Some(from_buffer) = contiguous_range(buffered, top.max(since), end) else { return MergeOutcome::ReadAgain };
    let skip_up_to = if since > at.offset { since } else { 0 };
    MergeOutcome::Start(StartPosition { at, skip_up_to, is_recovered: true, from_history: 0..wanted, from_buffer })
}

/// Where in `kept` the publications from behind `before` to `end` stand, if all of them do.
fn contiguous_range(buffered: &[Position], before: u64, end: u64) -> Option<Range<usize>> {
    if before >= end {
        return Some(0..0);
    }
    let first = buffered.iter().position(|position| position.offset > before)?;
    let length = usize::try_from(end - before).ok()?;
    let found = buffered.get(first..first.checked_add(length)?)?;
    let follows = |(distance, position): (u64, &Position)| position.offset.checked_sub(before) == Some(distance);
    let is_whole = (1..).zip(found).all(follows);
    is_whole.then_some(first..first + length)
}

fn merge_cache(recover: &RecoveryRequest, at: Position, buffered: &[Position], read: HistoryRead<'_>) -> MergeOutcome {
    let top = read.top.offset;
    let place = at.offset.max(top);
    let skip_up_to = if top > at.offset { top } else { 0 };
    let has_it = recover.offset == place && recover.offset > 0 && recover.epoch == RequestedEpoch::Exactly(at.epoch);
    let start = StartPosition { skip_up_to, ..StartPosition::recovered(at) };
    if has_it {
        return MergeOutcome::Start(start);
    }
    if at.offset > top {
        let Some(last) = buffered.len().checked_sub(1).filter(|last| buffered[*last].offset == at.offset) else {
            return MergeOutcome::ReadAgain;
        };
        return MergeOutcome::Start(StartPosition { from_buffer: last..last + 1, ..start });
    }
    let is_there = read.offsets.last() == Some(&top);
    let from_history = if is_there { read.offsets.len() - 1..read.offsets.len() } else { 0..0 };
    MergeOutcome::Start(StartPosition { from_history, is_recovered: is_there, ..start })
}

#[cfg(test)]
mod tests;
