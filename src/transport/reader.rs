//! Decodes bytes into whole messages, strictly by RFC 6455. Pure: the caller feeds the bytes that it reads from a
//! socket and asks for messages. Bytes are kept only while a frame or a message is incomplete.

use actix_http::ws::{self, Frame};
use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::{
    TransportLimits,
    assembler::{self, AssembledMessage, PartialMessage},
    header::{self, FrameContext},
};
use crate::protocol::disconnect;

/// A broken rule of RFC 6455. The connection is failed with its code (§7.1.7), and nothing more is read. The text is
/// the reason in the close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Framing (§5).
    #[error("{0}")]
    Protocol(&'static str),
    /// Text that is not UTF-8 (§8.1).
    #[error("{}", disconnect::INVALID_UTF8_REASON)]
    NotUtf8,
    /// A message over a limit.
    #[error("{}", disconnect::MESSAGE_TOO_BIG_REASON)]
    TooBig,
}

impl Violation {
    /// The close code (RFC 6455 §7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => disconnect::PROTOCOL_ERROR,
            Self::NotUtf8 => disconnect::INVALID_UTF8,
            Self::TooBig => disconnect::MESSAGE_TOO_BIG,
        }
    }
}

/// The decoder of one connection, with the bytes that are not yet a whole message.
pub struct MessageReader {
    codec: ws::Codec,
    limits: TransportLimits,
    buffer: BytesMut,
    partial: Option<Box<PartialMessage>>,
}

impl MessageReader {
    /// Creates a reader. `read` are the bytes that arrived together with the handshake.
    pub fn new(read: BytesMut, limits: TransportLimits) -> Self {
        // An empty buffer of the HTTP reader still owns 8 KiB.
        let buffer = if read.is_empty() { BytesMut::new() } else { read };
        let codec = ws::Codec::new().max_size(limits.message_bytes);
        Self { codec, limits, buffer, partial: None }
    }

    /// Appends bytes from the socket.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns whether a fragmented message has begun and not ended.
    pub fn has_open_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Bytes that are kept for an incomplete frame or message.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() + self.partial.as_ref().map_or(0, |partial| partial.len())
    }

    /// Returns whether a frame or a message is incomplete.
    pub fn is_incomplete(&self) -> bool {
        !self.buffer.is_empty() || self.partial.is_some()
    }

    /// Drops everything that is buffered.
    pub fn discard(&mut self) {
        self.partial = None;
        self.buffer = BytesMut::new();
    }

    /// Decodes the next frame; `None` while it is incomplete.
    fn next_frame(&mut self) -> Result<Option<Frame>, Violation> {
        let buffered_bytes = self.partial.as_ref().map_or(0, |partial| partial.len());
        let context = FrameContext {
            is_continuing: self.partial.is_some(),
            remaining_bytes: self.limits.message_bytes.saturating_sub(buffered_bytes),
        };
        let Some(header) = header::parse(&self.buffer, context)? else { return Ok(None) };
        if self.buffer.len() < header.frame_bytes() {
            return Ok(None);
        }
        if header.is_close {
            let (start, end) = (header.header_bytes, header.frame_bytes());
            if let Some(mask) = self.buffer[..start].last_chunk::<4>() {
                header::check_close_payload(*mask, &self.buffer[start..end])?;
            }
        }
        let frame = self.codec.decode(&mut self.buffer).map_err(|_| Violation::Protocol("invalid frame"))?;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(frame)
    }

    /// Decodes the next whole message or control frame; `None` while it is incomplete.
    ///
    /// # Errors
    /// The broken rule. The caller fails the connection and does not call this again.
    pub fn next_message(&mut self) -> Result<Option<Frame>, Violation> {
        while let Some(frame) = self.next_frame()? {
            match frame {
                Frame::Text(text) if std::str::from_utf8(&text).is_err() => return Err(Violation::NotUtf8),
                Frame::Continuation(item) => match assembler::add_fragment(&mut self.partial, item, &self.limits)? {
                    Some(AssembledMessage::Text(text)) => return Ok(Some(Frame::Text(text))),
                    Some(AssembledMessage::Binary(binary)) => return Ok(Some(Frame::Binary(binary))),
                    None => {}
                },
                whole => return Ok(Some(whole)),
            }
        }
        Ok(None)
    }
}
