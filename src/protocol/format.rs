//! The two formats in which the protocol is spoken, and all that differs between them. A connection has one from its
//! handshake to its end.

use std::ops::Range;

use bytes::Bytes;

use super::{
    command::{self, Command, MalformedCommand},
    disconnect::Disconnect,
    encode, frame,
    push::Push,
    reply::Reply,
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
    /// [`MalformedCommand`]: a length that there is not as much of.
    pub fn find_first_message(self, rest: &[u8]) -> Result<(Range<usize>, usize), MalformedCommand> {
        match self {
            Self::Json => {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                Ok((0..end, end + 1))
            }
            Self::Protobuf => {
                let (length, start) = command::read_varint(rest)?;
                let length = usize::try_from(length).map_err(|_| MalformedCommand)?;
                let end = start.checked_add(length).filter(|end| *end <= rest.len()).ok_or(MalformedCommand)?;
                Ok((start..end, end))
            }
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// [`MalformedCommand`]
    pub fn parse_command(self, message: &[u8]) -> Result<Command<'_>, MalformedCommand> {
        match self {
            Self::Json => command::parse_json(std::str::from_utf8(message).map_err(|_| MalformedCommand)?),
            Self::Protobuf => command::parse_protobuf(message),
        }
    }

    /// The frame of an answer.
    pub fn encode_reply(self, id: u32, reply: &Reply<'_>) -> Bytes {
        match self {
            Self::Json => frame::encode_text(&encode::json::encode_reply(id, reply)),
            Self::Protobuf => frame::encode_binary(&encode::protobuf::encode_reply(id, reply)),
        }
    }

    /// The frame of a push.
    pub fn encode_push(self, push: &Push<'_>) -> Bytes {
        match self {
            Self::Json => frame::encode_text(&encode::json::encode_push(push)),
            Self::Protobuf => frame::encode_binary(&encode::protobuf::encode_push(push)),
        }
    }

    /// The frame of an empty reply: the ping of SDK sessions.
    pub fn encode_ping(self) -> Bytes {
        match self {
            Self::Json => frame::JSON_PING,
            Self::Protobuf => frame::PROTOBUF_PING,
        }
    }

    /// The last two frames of a connection that we close: why as a push, then the close frame itself.
    pub fn close_frames(self, disconnect: &Disconnect) -> [Bytes; 2] {
        [
            self.encode_push(&Push::Disconnect(disconnect)),
            frame::encode_close(Some(disconnect.code()), disconnect.reason()),
        ]
    }
}
