//! The commands of one frame, taken one by one, and commands that were taken and put back.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::hooks::Approval;
use crate::{
    protocol::{Format, MalformedCommand},
    session::rate_limiter::RateVerdict,
};

/// A frame of which some commands are not handled yet.
#[derive(Default)]
pub(in crate::session) struct CommandBuffer {
    frame: Option<Bytes>,
    /// Bytes of `frame` up to the command after the current one.
    consumed: u32,
    /// Commands that were put back. Boxed: most sessions never have any, and all would pay for the memory.
    #[expect(clippy::box_collection, reason = "most sessions never have any, and all would pay for the memory")]
    put_back: Option<Box<VecDeque<BufferedCommand>>>,
}

/// A command as its client sent it.
#[derive(Clone, Debug)]
pub(in crate::session) struct BufferedCommand {
    pub(super) message: Result<Bytes, MalformedCommand>,
    /// What the rate limit has said of it; `None`: it was not counted yet.
    pub(super) verdict: Option<RateVerdict>,
    /// What a hook has said of it; `None`: none was asked.
    pub(super) approval: Option<Box<Approval>>,
}

impl BufferedCommand {
    /// Returns a command that the rate limit has counted.
    pub(super) fn counted(message: &Bytes, verdict: RateVerdict) -> Self {
        Self { message: Ok(message.clone()), verdict: Some(verdict), approval: None }
    }
}

impl CommandBuffer {
    /// Replaces the frame; the one before it has been handled.
    pub(in crate::session) fn fill(&mut self, frame: Bytes) {
        *self = Self { frame: Some(frame), consumed: 0, put_back: None };
    }

    /// Returns the next command; `None` when all are handled. Commands after a malformed one are not found.
    pub(super) fn next(&mut self, format: Format) -> Option<BufferedCommand> {
        if let Some(put_back) = &mut self.put_back {
            if let Some(command) = put_back.pop_front() {
                return Some(command);
            }
            self.put_back = None;
        }
        let mut frame = self.frame.take()?;
        let consumed = std::mem::take(&mut self.consumed) as usize;
        frame.advance(consumed.min(frame.len()));
        if consumed > 0 && frame.is_empty() {
            return None;
        }
        let message = format.find_first_message(&frame).map(|(message, next)| {
            // A frame has at most `limits.message_bytes`, far below 4 GiB.
            self.consumed = u32::try_from(next).unwrap_or(u32::MAX);
            let message = frame.slice(message);
            self.frame = Some(frame);
            message
        });
        Some(BufferedCommand { message, verdict: None, approval: None })
    }

    /// Puts commands back: `next` returns them again, before all others and in this order.
    pub(super) fn put_back(&mut self, commands: impl IntoIterator<Item = BufferedCommand>) {
        let mut commands: VecDeque<BufferedCommand> = commands.into_iter().collect();
        commands.extend(self.put_back.take().into_iter().flat_map(|later| *later));
        self.put_back = (!commands.is_empty()).then(|| Box::new(commands));
    }

    /// Returns whether a command comes next that was put back because its client has to read replies first. A hook may have
    /// answered the others.
    pub(super) fn has_postponed(&self) -> bool {
        let next = self.put_back.as_ref().and_then(|put_back| put_back.front());
        next.is_some_and(|command| command.approval.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all commands; returns their texts, each with whether it was counted.
    fn take_all(commands: &mut CommandBuffer) -> Vec<(String, bool)> {
        let taken = std::iter::from_fn(|| commands.next(Format::Json));
        let text = |message: Bytes| String::from_utf8(message.to_vec()).unwrap();
        taken.map(|command| (text(command.message.unwrap()), command.verdict.is_some())).collect()
    }

    fn buffer(text: &'static str) -> CommandBuffer {
        let mut commands = CommandBuffer::default();
        commands.fill(Bytes::from_static(text.as_bytes()));
        commands
    }

    #[test]
    fn commands_are_read_one_by_one() {
        for (text, expected) in [("a\nb", &["a", "b"][..]), ("a\n\nb\n", &["a", "", "b"]), ("", &[""]), ("\n", &[""])] {
            let taken = take_all(&mut buffer(text));
            assert_eq!(taken, expected.iter().map(|text| ((*text).to_owned(), false)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn commands_that_were_put_back_come_first_and_in_their_order() {
        let mut commands = buffer("a\nb\nc");
        let taken: Vec<BufferedCommand> = (0..2).map(|_| commands.next(Format::Json).unwrap()).collect();
        let counted = |command: BufferedCommand| BufferedCommand { verdict: Some(RateVerdict::Allowed), ..command };
        commands.put_back(taken.into_iter().map(counted));
        assert!(commands.has_postponed());
        let first = commands.next(Format::Json).unwrap();
        commands.put_back([first]);
        let expected = [("a", true), ("b", true), ("c", false)].map(|(text, counted)| (text.to_owned(), counted));
        assert_eq!(take_all(&mut commands), expected);
        assert!(!commands.has_postponed());
    }
}
