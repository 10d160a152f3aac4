//! Bytes become whole messages, strictly by RFC 6455. Pure: what is read from a socket is fed, messages come out, and bytes
//! are kept only while a frame or a message is incomplete.

use actix_http::ws::{self, Frame};
use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::{
    TransportLimits,
    assembler::{self, AssembledMessage, PartialMessage},
    header::{self, FrameContext},
};
use crate::protocol::disconnect;

/// A broken rule of RFC 6455. The connection is failed with its code (§7.1.7) and nothing more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Framing (§5).
    #[error("{0}")]
    Protocol(&'static str),
    /// Text that is not UTF-8 (§8.1).
    #[error("text is UTF-8")]
    NotUtf8,
    /// A message over the limit.
    #[error("message over the limit")]
    TooBig,
}

impl Violation {
    /// The close code (§7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => disconnect::PROTOCOL_ERROR,
            Self::NotUtf8 => disconnect::INVALID_UTF8,
            Self::TooBig => disconnect::MESSAGE_TOO_BIG,
        }
    }
}

/// What has come and is no whole message yet.
pub struct MessageReader {
    codec: ws::Codec,
    limits: TransportLimits,
    buffer: BytesMut,
    partial: Option<Box<PartialMessage>>,
}

impl MessageReader {
    /// Begins with what came with the handshake.
    pub fn new(read: BytesMut, limits: TransportLimits) -> Self {
        // An empty buffer of the HTTP reader still holds 8 KiB.
        let buffer = if read.is_empty() { BytesMut::new() } else { read };
        let codec = ws::Codec::new().max_size(limits.message_bytes);
        Self { codec, limits, buffer, partial: None }
    }

    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message has begun and not ended.
    pub fn has_open_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Bytes that are kept for what is not complete.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() + self.partial.as_ref().map_or(0, |partial| partial.len())
    }

    /// Whether something is not complete.
    pub fn is_incomplete(&self) -> bool {
        !self.buffer.is_empty() || self.partial.is_some()
    }

    /// Forgets everything: nothing more is read as a message.
    pub fn discard(&mut self) {
        self.partial = None;
        self.buffer = BytesMut::new();
    }

    /// The next frame, if it is all there.
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
        let frame = self.codec.decode(&mut self.buffer).map_err(|_| Violation::Protocol("bad frame"))?;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(frame)
    }

    /// The next whole message or control frame, if it is all there.
    ///
    /// # Errors
    /// The rule that is broken; then the connection is failed, and nothing more is to be asked for.
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
