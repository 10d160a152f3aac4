//! The formats of a connection, and everything that differs between them: how commands, replies and pushes are encoded, and
//! how they are framed. The path of the handshake and what it negotiates decide which one a connection has.

use std::ops::Range;

use bytes::Bytes;

use super::{
    command::{self, Command, Diagnosis, MalformedCommand},
    encode, frame,
    push::Push,
    reply::Reply,
};
use crate::deflate::DeflateOptions;

/// The format of a connection's commands, replies and pushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON in text frames of a WebSocket. Newlines separate the messages of a frame.
    #[default]
    Json,
    /// Protobuf in binary frames of a WebSocket. Each message is preceded by its length.
    Protobuf,
    /// As [`Format::Json`], with permessage-deflate.
    DeflatedJson(DeflateOptions),
    /// As [`Format::Protobuf`], with permessage-deflate.
    DeflatedProtobuf(DeflateOptions),
    /// JSON in an HTTP response, in which each message is an event of a `text/event-stream`.
    EventStream,
    /// JSON in an HTTP response, in which each message is a line.
    JsonStream,
    /// Protobuf in an HTTP response. Each message is preceded by its length.
    ProtobufStream,
    /// The publications of one channel as events of a `text/event-stream`, in an HTTP response. There are no commands.
    ChannelEvents,
}

/// How messages are encoded, apart from their frames.
enum Encoding {
    Json,
    Protobuf,
}

impl Format {
    /// The formats of WebSockets without compression.
    pub const OF_WEBSOCKETS: [Self; 2] = [Self::Json, Self::Protobuf];
    /// The formats of HTTP responses.
    pub const OF_STREAMS: [Self; 4] = [Self::EventStream, Self::JsonStream, Self::ProtobufStream, Self::ChannelEvents];

    /// Returns the format of a WebSocket that has negotiated compression.
    pub fn with_compression(self, options: DeflateOptions) -> Self {
        match self {
            Self::Json => Self::DeflatedJson(options),
            Self::Protobuf => Self::DeflatedProtobuf(options),
            other => other,
        }
    }

    /// Returns the format without compression, and the options of compression if it has any.
    pub fn split_compression(self) -> (Self, Option<DeflateOptions>) {
        match self {
            Self::DeflatedJson(options) => (Self::Json, Some(options)),
            Self::DeflatedProtobuf(options) => (Self::Protobuf, Some(options)),
            other => (other, None),
        }
    }

    /// Returns whether the connection has negotiated compression.
    pub fn is_compressed(self) -> bool {
        self.split_compression().1.is_some()
    }

    fn encoding(self) -> Encoding {
        match self {
            Self::Json | Self::DeflatedJson(_) | Self::EventStream | Self::JsonStream | Self::ChannelEvents => {
                Encoding::Json
            }
            Self::Protobuf | Self::DeflatedProtobuf(_) | Self::ProtobufStream => Encoding::Protobuf,
        }
    }

    /// Returns whether messages are JSON.
    pub fn is_json(self) -> bool {
        matches!(self.encoding(), Encoding::Json)
    }

    /// Returns the format of messages as hooks call it.
    pub fn name(self) -> &'static str {
        if self.is_json() { "json" } else { "protobuf" }
    }

    /// Returns the kind of the connection as hooks call it.
    pub fn transport(self) -> &'static str {
        match self {
            Self::Json | Self::Protobuf | Self::DeflatedJson(_) | Self::DeflatedProtobuf(_) => "websocket",
            Self::EventStream | Self::ChannelEvents => "sse",
            Self::JsonStream | Self::ProtobufStream => "http_stream",
        }
    }

    /// Returns whether the connection is a WebSocket, and not an HTTP response.
    pub fn is_websocket(self) -> bool {
        Self::OF_WEBSOCKETS.contains(&self.split_compression().0)
    }

    /// Returns how messages travel, and how they are encoded, as the server API names it.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Json | Self::DeflatedJson(_) => ("websocket", "json"),
            Self::Protobuf | Self::DeflatedProtobuf(_) => ("websocket", "protobuf"),
            Self::EventStream => ("sse", "json"),
            Self::JsonStream => ("http_stream", "json"),
            Self::ProtobufStream => ("http_stream", "protobuf"),
            Self::ChannelEvents => ("channel_events", "json"),
        }
    }

    /// Returns the range of the first message in the rest of a frame, and the position of the next one. There always is a first
    /// message; it may be empty.
    ///
    /// # Errors
    /// [`MalformedCommand`] if the rest is shorter than the length of the message.
    pub fn find_first_message(self, rest: &[u8]) -> Result<(Range<usize>, usize), MalformedCommand> {
        match self.encoding() {
            Encoding::Json => {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                Ok((0..end, end + 1))
            }
            Encoding::Protobuf => {
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
        match self.encoding() {
            Encoding::Json => command::parse_json(std::str::from_utf8(message).map_err(|_| MalformedCommand)?),
            Encoding::Protobuf => command::parse_protobuf(message),
        }
    }

    /// Finds the fault in a message that is not a command.
    pub fn diagnose(self, message: &[u8]) -> Diagnosis {
        match (self.encoding(), std::str::from_utf8(message)) {
            (Encoding::Json, Ok(line)) => command::diagnose_json(line),
            (Encoding::Json, Err(_)) => Diagnosis::without_id("not text"),
            (Encoding::Protobuf, _) => command::diagnose_protobuf(message),
        }
    }

    /// Compresses frames that this format has encoded, one behind the other, if the connection has negotiated that.
    pub fn compress(self, frame: Bytes) -> Bytes {
        match self.split_compression().1 {
            Some(options) => frame::compress(&frame, options),
            None => frame,
        }
    }

    /// Encodes a reply as a frame, which is not compressed yet.
    pub fn encode_reply(self, id: u32, reply: &Reply<'_>) -> Bytes {
        match self.encoding() {
            Encoding::Json => self.frame(encode::json::encode_reply(id, reply)),
            Encoding::Protobuf => self.frame(encode::protobuf::encode_reply(id, reply)),
        }
    }

    /// Encodes a push as a frame, which is not compressed yet.
    pub fn encode_push(self, push: &Push<'_>) -> Bytes {
        match self {
            Self::ChannelEvents => encode::event::encode_push(push),
            _ => match self.encoding() {
                Encoding::Json => self.frame(encode::json::encode_push(push)),
                Encoding::Protobuf => self.frame(encode::protobuf::encode_push(push)),
            },
        }
    }

    /// Encodes the ping of SDK sessions, an empty reply, as a frame.
    pub fn encode_ping(self) -> Bytes {
        match self {
            Self::Json | Self::DeflatedJson(_) => frame::JSON_PING,
            Self::Protobuf | Self::DeflatedProtobuf(_) => frame::PROTOBUF_PING,
            Self::EventStream => Bytes::from_static(b"data: {}\n\n"),
            Self::JsonStream => Bytes::from_static(b"{}\n"),
            Self::ProtobufStream => Bytes::from_static(&[0]),
            Self::ChannelEvents => frame::EVENT_COMMENT,
        }
    }

    /// Encodes what keeps the connection of a plain session alive, to which its client sends no answer itself: a ping frame, a
    /// comment, or else an empty reply.
    pub fn encode_keep_alive(self) -> Bytes {
        match self {
            Self::Json | Self::Protobuf | Self::DeflatedJson(_) | Self::DeflatedProtobuf(_) => frame::NATIVE_PING,
            Self::EventStream | Self::ChannelEvents => frame::EVENT_COMMENT,
            Self::JsonStream | Self::ProtobufStream => self.encode_ping(),
        }
    }

    /// Encodes why the server closes the connection. A WebSocket has a frame for it, a stream only the push.
    pub fn encode_close(self, code: u16, reason: &str) -> Bytes {
        match self {
            _ if self.is_websocket() => frame::encode_close(Some(code), reason),
            _ => self.encode_push(&Push::Disconnect(code, reason)),
        }
    }

    fn frame(self, message: Vec<u8>) -> Bytes {
        match self {
            Self::Json | Self::DeflatedJson(_) => frame::encode_text(&message),
            Self::Protobuf | Self::DeflatedProtobuf(_) => frame::encode_binary(&message),
            Self::EventStream | Self::ChannelEvents => frame::encode_event(&message),
            Self::JsonStream => frame::encode_line(message),
            Self::ProtobufStream => message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;

    /// What a client of a stream sees of a close frame.
    fn close(format: Format) -> String {
        String::from_utf8_lossy(&format.encode_close(3001, "shutdown")).into_owned()
    }

    #[test]
    fn every_format_frames_messages_in_its_way() {
        let ping = |format: Format| format.encode_reply(7, &Reply::Ping).to_vec();
        assert_eq!(ping(Format::EventStream), b"data: {\"id\":7,\"ping\":{}}\n\n");
        assert_eq!(ping(Format::JsonStream), b"{\"id\":7,\"ping\":{}}\n");
        assert_eq!(ping(Format::ProtobufStream), ping(Format::Protobuf)[2..]);
        assert_eq!(ping(Format::Json)[2..], b"{\"id\":7,\"ping\":{}}"[..]);
    }

    #[test]
    fn streams_have_a_push_in_place_of_a_close_frame() {
        let push = r#"{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}"#;
        assert_eq!(close(Format::EventStream), format!("data: {push}\n\n"));
        assert_eq!(close(Format::JsonStream), format!("{push}\n"));
        let event = "event: disconnect\ndata: {\"code\":3001,\"reason\":\"shutdown\"}\n\n";
        assert_eq!(close(Format::ChannelEvents), event);
        assert!(close(Format::ProtobufStream).ends_with("shutdown"));
    }

    #[test]
    fn compression_changes_only_the_frames_of_long_messages() {
        let options = DeflateOptions { min_bytes: 100, max_bytes: 1000, level: 6 };
        let error = |length| ErrorCode::BadRequest.with_detail("x".repeat(length));
        for format in Format::OF_WEBSOCKETS {
            let compressed = format.with_compression(options);
            assert_eq!((compressed.names(), compressed.transport()), (format.names(), format.transport()));
            assert_eq!(compressed.encode_ping(), format.encode_ping());
            assert_eq!(compressed.encode_keep_alive(), format.encode_keep_alive());
            assert_eq!(compressed.encode_close(3001, "shutdown"), format.encode_close(3001, "shutdown"));
            let encode = |format: Format, length| format.encode_reply(7, &Reply::Error(&error(length)));
            assert_eq!(encode(compressed, 10), encode(format, 10));
            assert_eq!(encode(compressed, 500), encode(format, 500), "replies are measured before they are compressed");
            let frame = encode(format, 500);
            assert_eq!(compressed.compress(frame.clone()), frame::compress(&frame, options));
            assert!(compressed.compress(frame.clone()).len() < 100);
            assert_eq!(format.compress(frame.clone()), frame);
        }
        for format in Format::OF_STREAMS {
            assert_eq!(format.with_compression(options), format);
        }
    }

    #[test]
    fn each_format_is_of_a_websocket_or_of_a_stream() {
        assert!(Format::OF_WEBSOCKETS.into_iter().all(Format::is_websocket));
        assert!(!Format::OF_STREAMS.into_iter().any(Format::is_websocket));
    }
}
