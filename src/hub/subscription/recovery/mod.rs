//! Recovery of missed publications: a part of the history, then deliveries that were stored meanwhile, without a gap between
//! them and up to exactly the position from which live publications follow. Pure: it gets positions and returns positions.

use std::ops::Range;

use super::{RecoveryRequest, RequestedEpoch};
use crate::{config::RecoveryMode, position::Position};

/// The state of a channel on the hub when the history has been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalState<'a> {
    /// The position of the channel on this hub; `None` if it has no positioned subscriber here.
    pub(super) position: Option<Position>,
    /// The newest delivery since the subscription was requested.
    pub(super) newest: Option<Position>,
    /// The deliveries that were stored since then, ascending and of one epoch.
    pub(super) buffered: &'a [Position],
}

/// The page that was read of the history: the publications after the client's offset, the oldest first; in cache mode the newest one.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryRead<'a> {
    pub(super) offsets: &'a [u64],
    /// The position of the newest publication that ever was in the history.
    pub(super) top: Position,
}

/// How a subscription starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartPosition {
    /// The position of the channel on this hub from now on.
    pub(super) at: Position,
    /// The client has all publications up to this offset, although the channel is not there yet; 0 if it is.
    pub(super) skip_up_to: u64,
    /// The client misses nothing.
    pub(super) is_recovered: bool,
    /// The publications that the client gets of those that were read ...
    pub(super) from_history: Range<usize>,
    /// ... and after them, of those that were stored.
    pub(super) from_buffer: Range<usize>,
}

/// A delivery is neither in what was read nor in what was stored. It is in the history by now: reading again helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadAgain;

impl StartPosition {
    /// Starts at a position, without recovery.
    pub(super) fn at(at: Position) -> Self {
        Self { at, skip_up_to: 0, is_recovered: false, from_history: 0..0, from_buffer: 0..0 }
    }

    /// Starts at a position up to which the client has everything.
    pub(super) fn recovered(at: Position) -> Self {
        Self { is_recovered: true, ..Self::at(at) }
    }

    /// Returns the position of the client when it has the publications that it gets.
    pub(super) fn client_position(&self) -> Position {
        Position { offset: self.at.offset.max(self.skip_up_to), ..self.at }
    }
}

/// Returns whether the history has to be read: the channel has no position on this hub (`here`), or the client may have missed
/// something.
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

/// Merges what was read and what was stored. At most `limit` publications are recovered.
///
/// # Errors
/// If the two do not meet; then the history has to be read again.
pub(super) fn merge(
    recover: Option<&RecoveryRequest>,
    local: LocalState<'_>,
    read: HistoryRead<'_>,
    limit: usize,
) -> Result<StartPosition, ReadAgain> {
    let at = match (local.position, local.newest) {
        (None, None) => read.top,
        (Some(at), _) | (None, Some(at)) if at.epoch != read.top.epoch => return Err(ReadAgain),
        // No other subscriber is further back: deliveries that are still in the queue, and were read, will be duplicates.
        (None, Some(last)) => Position { offset: last.offset.max(read.top.offset), ..read.top },
        (Some(here), _) => here,
    };
    let Some(recover) = recover else { return Ok(StartPosition::at(at)) };
    match recover.mode {
        RecoveryMode::Stream => merge_stream(recover, at, local.buffered, read, limit),
        RecoveryMode::Cache => merge_cache(recover, at, local.buffered, read),
    }
}

/// Recovers all publications after the client's offset.
fn merge_stream(
    recover: &RecoveryRequest,
    at: Position,
    buffered: &[Position],
    read: HistoryRead<'_>,
    limit: usize,
) -> Result<StartPosition, ReadAgain> {
    let (since, top) = (recover.offset, read.top.offset);
    if !recover.epoch.matches(read.top.epoch) || since > top.max(at.offset) {
        return Ok(StartPosition::at(at));
    }
    // Publications that were read beyond the channel's position here will be delivered live. A client may be ahead of this
    // hub, since it was connected to another.
    let end = at.offset.max(since);
    if end - since > limit as u64 {
        return Ok(StartPosition::at(at));
    }
    let wanted = (end.min(top)).saturating_sub(since) as usize;
    let follows = |(distance, offset): (u64, &u64)| offset.checked_sub(since) == Some(distance);
    let is_complete = read.offsets.len() >= wanted && (1..).zip(&read.offsets[..wanted]).all(follows);
    if !is_complete {
        return Ok(StartPosition::at(at));
    }
    let from_buffer = contiguous_range(buffered, top.max(since), end).ok_or(ReadAgain)?;
    let skip_up_to = if since > at.offset { since } else { 0 };
    Ok(StartPosition { at, skip_up_to, is_recovered: true, from_history: 0..wanted, from_buffer })
}

/// Returns where in `buffered` the publications after offset `before` up to `end` are, if all of them are there.
fn contiguous_range(buffered: &[Position], before: u64, end: u64) -> Option<Range<usize>> {
    if before >= end {
        return Some(0..0);
    }
    let first = buffered.iter().position(|position| position.offset > before)?;
    let length = usize::try_from(end - before).ok()?;
    let found = buffered.get(first..first.checked_add(length)?)?;
    let follows = |(distance, position): (u64, &Position)| position.offset.checked_sub(before) == Some(distance);
    let is_complete = (1..).zip(found).all(follows);
    is_complete.then_some(first..first + length)
}

/// Recovers the newest publication.
fn merge_cache(
    recover: &RecoveryRequest,
    at: Position,
    buffered: &[Position],
    read: HistoryRead<'_>,
) -> Result<StartPosition, ReadAgain> {
    let top = read.top.offset;
    let newest = at.offset.max(top);
    let skip_up_to = if top > at.offset { top } else { 0 };
    let client_has_it = recover.offset == newest && newest > 0 && recover.epoch == RequestedEpoch::Exactly(at.epoch);
    let start = StartPosition { skip_up_to, ..StartPosition::recovered(at) };
    if client_has_it {
        return Ok(start);
    }
    if at.offset > top {
        let is_newest = |last: &usize| buffered[*last].offset == at.offset;
        let last = buffered.len().checked_sub(1).filter(is_newest).ok_or(ReadAgain)?;
        return Ok(StartPosition { from_buffer: last..last + 1, ..start });
    }
    let is_there = read.offsets.last() == Some(&top);
    let from_history = if is_there { read.offsets.len() - 1..read.offsets.len() } else { 0..0 };
    Ok(StartPosition { from_history, is_recovered: is_there, ..start })
}

#[cfg(test)]
mod tests;
