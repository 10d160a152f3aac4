//! The two formats of the protocol, and everything that differs between them. The handshake decides which one a connection has.

use std::ops::Range;

use bytes::Bytes;

use super::{
    command::{self, Command, Diagnosis, MalformedCommand},
    encode, frame,
    push::Push,
    reply::Reply,
};

/// The format of a connection's commands, replies and pushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON in text frames. Newlines separate the messages of a frame.
    #[default]
    Json,
    /// Protobuf in binary frames. Each message is preceded by its length.
    Protobuf,
}

impl Format {
    /// Returns the range of the first message in the rest of a frame, and the position of the next one. There always is a first
    /// message; it may be empty.
    ///
    /// # Errors
    /// [`MalformedCommand`] if the rest is shorter than the length of the message.
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

    /// Parses one message.
    ///
    /// # Errors
    /// [`MalformedCommand`]
    pub fn parse_command(self, message: &[u8]) -> Result<Command<'_>, MalformedCommand> {
        match self {
            Self::Json => command::parse_json(std::str::from_utf8(message).map_err(|_| MalformedCommand)?),
            Self::Protobuf => command::parse_protobuf(message),
        }
    }

    /// Finds the fault in a message that is not a command.
    pub fn diagnose(self, message: &[u8]) -> Diagnosis {
        match (self, std::str::from_utf8(message)) {
            (Self::Json, Ok(line)) => command::diagnose_json(line),
            (Self::Json, Err(_)) => Diagnosis::without_id("not text"),
            (Self::Protobuf, _) => command::diagnose_protobuf(message),
        }
    }

    /// Encodes a reply as a frame.
    pub fn encode_reply(self, id: u32, reply: &Reply<'_>) -> Bytes {
        match self {
            Self::Json => frame::encode_text(&encode::json::encode_reply(id, reply)),
            Self::Protobuf => frame::encode_binary(&encode::protobuf::encode_reply(id, reply)),
        }
    }

    /// Encodes a push as a frame.
    pub fn encode_push(self, push: &Push<'_>) -> Bytes {
        match self {
            Self::Json => frame::encode_text(&encode::json::encode_push(push)),
            Self::Protobuf => frame::encode_binary(&encode::protobuf::encode_push(push)),
        }
    }

    /// Encodes the ping of SDK sessions, an empty reply, as a frame.
    pub fn encode_ping(self) -> Bytes {
        match self {
            Self::Json => frame::JSON_PING,
            Self::Protobuf => frame::PROTOBUF_PING,
        }
    }
}
