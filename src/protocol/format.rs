//! The two formats in which the protocol is spoken, and all that differs between them. A connection has one from its
//! handshake to its end.

use std::ops::Range;

use bytes::Bytes;

use super::{
    command::{self, Command, Malformed},
    disconnect::Disconnect,
    frame,
    push::Push,
    reply::Reply,
    write,
};

/// How a connection's commands, replies and pushes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Text frames; messages are separated by newlines.
    #[default]
    Json,
    /// Binary frames; each message is preceded by its length.
    Protobuf,
}

impl Format {
    /// The first message of what is left of a frame, and where the next begins. A frame always has one, which may be empty.
    ///
    /// # Errors
    /// [`Malformed`]: a length that there is not as much of.
    pub fn first_message(self, rest: &[u8]) -> Result<(Range<usize>, usize), Malformed> {
        match self {
            Self::Json => {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                Ok((0..end, end + 1))
            }
            Self::Protobuf => {
                let (length, start) = command::varint(rest)?;
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                let end = start.checked_add(length).filter(|end| *end <= rest.len()).ok_or(Malformed)?;
                Ok((start..end, end))
            }
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn command(self, message: &[u8]) -> Result<Command<'_>, Malformed> {
        match self {
            Self::Json => command::json(std::str::from_utf8(message).map_err(|_| Malformed)?),
            Self::Protobuf => command::protobuf(message),
        }
    }

    /// The frame of an answer.
    pub fn reply(self, id: u32, reply: &Reply<'_>) -> Bytes {
        match self {
            Self::Json => frame::text(&write::json::reply(id, reply)),
            Self::Protobuf => frame::binary(&write::protobuf::reply(id, reply)),
        }
    }

    /// The frame of a push.
    pub fn push(self, push: &Push<'_>) -> Bytes {
        match self {
            Self::Json => frame::text(&write::json::push(push)),
            Self::Protobuf => frame::binary(&write::protobuf::push(push)),
        }
    }

    /// The frame of an empty reply: the ping of SDK sessions.
    pub fn ping(self) -> Bytes {
        match self {
            Self::Json => frame::EMPTY_REPLY,
            Self::Protobuf => frame::EMPTY_PROTOBUF_REPLY,
        }
    }

    /// The last two frames of a connection that we close: why as a push, then the close frame itself.
    pub fn farewell(self, disconnect: &Disconnect) -> [Bytes; 2] {
        [self.push(&Push::Disconnect(disconnect)), frame::close(Some(disconnect.code()), disconnect.reason())]
    }
}
