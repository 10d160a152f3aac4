//! The commands of one frame, taken one by one.

use bytes::{Buf, Bytes};

use crate::protocol::{Format, MalformedCommand};

/// A frame of which some commands are not handled yet.
#[derive(Default)]
pub(in crate::session) struct CommandBuffer {
    frame: Option<Bytes>,
    /// Bytes of `frame` up to the command after the current one.
    consumed: u32,
    /// The next command was put back. It was counted when it was taken first.
    is_put_back: bool,
}

impl CommandBuffer {
    /// Replaces the frame; the one before it has been handled.
    pub(in crate::session) fn fill(&mut self, frame: Bytes) {
        *self = Self { frame: Some(frame), consumed: 0, is_put_back: false };
    }

    /// Returns the next command, unparsed; `None` when all are handled. Commands after a malformed one are not found.
    pub(super) fn next(&mut self, format: Format) -> Option<Result<Bytes, MalformedCommand>> {
        let mut frame = self.frame.take()?;
        let consumed = std::mem::take(&mut self.consumed) as usize;
        frame.advance(consumed.min(frame.len()));
        if consumed > 0 && frame.is_empty() {
            return None;
        }
        Some(format.find_first_message(&frame).map(|(message, next)| {
            // A frame has at most `limits.message_bytes`, far below 4 GiB.
            self.consumed = u32::try_from(next).unwrap_or(u32::MAX);
            let message = frame.slice(message);
            self.frame = Some(frame);
            message
        }))
    }

    /// Puts the current command back: `next` returns it again.
    pub(super) fn put_back(&mut self) {
        (self.consumed, self.is_put_back) = (0, true);
    }

    /// Returns whether the current command was put back before.
    pub(super) fn take_put_back(&mut self) -> bool {
        std::mem::take(&mut self.is_put_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_one_by_one_and_again_after_put_back() {
        let all =
            |commands: &mut CommandBuffer| std::iter::from_fn(|| commands.next(Format::Json)?.ok()).collect::<Vec<_>>();
        let lines = |text: &'static str| {
            let mut commands = CommandBuffer::default();
            commands.fill(Bytes::from_static(text.as_bytes()));
            all(&mut commands)
        };
        assert_eq!(lines("a\nb"), ["a", "b"]);
        assert_eq!(lines("a\n\nb\n"), ["a", "", "b"]);
        assert_eq!(lines(""), [""]);
        assert_eq!(lines("\n"), [""]);
        let mut commands = CommandBuffer::default();
        commands.fill(Bytes::from_static(b"a\nb"));
        commands.next(Format::Json).unwrap().unwrap();
        commands.put_back();
        assert_eq!(all(&mut commands), ["a", "b"]);
    }
}
