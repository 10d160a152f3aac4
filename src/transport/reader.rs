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
use crate::{
    deflate::{self, InflateError},
    protocol::{FrameRule, disconnect, frame},
};

/// A broken rule of RFC 6455, or of RFC 7692. The connection is failed with its code (§7.1.7), and nothing more is read. The text is
/// the reason in the close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Framing (§5).
    #[error("{}", .0.text())]
    Protocol(FrameRule),
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

impl From<FrameRule> for Violation {
    fn from(rule: FrameRule) -> Self {
        Self::Protocol(rule)
    }
}

impl From<InflateError> for Violation {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::TooBig => Self::TooBig,
            InflateError::Malformed => FrameRule::ValidCompression.into(),
        }
    }
}

/// The decoder of one connection, with the bytes that are not yet a whole message.
pub struct MessageReader {
    codec: ws::Codec,
    message_bytes: usize,
    message_fragments: u32,
    /// Whether the connection has negotiated compression.
    accepts_compression: bool,
    buffer: BytesMut,
    partial: Option<Box<PartialMessage>>,
}

impl MessageReader {
    /// Creates a reader. `read` are the bytes that arrived together with the handshake, which has negotiated compression or not.
    pub fn new(read: BytesMut, limits: TransportLimits, accepts_compression: bool) -> Self {
        // An empty buffer of the HTTP reader still owns 8 KiB.
        let buffer = if read.is_empty() { BytesMut::new() } else { read };
        let codec = ws::Codec::new().max_size(limits.message_bytes);
        let message_fragments = u32::try_from(limits.message_fragments).unwrap_or(u32::MAX);
        let message_bytes = limits.message_bytes;
        Self { codec, message_bytes, message_fragments, accepts_compression, buffer, partial: None }
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

    /// Decodes the next frame, with whether it begins a compressed message; `None` while it is incomplete.
    fn next_frame(&mut self) -> Result<Option<(Frame, bool)>, Violation> {
        let buffered_bytes = self.partial.as_ref().map_or(0, |partial| partial.len());
        let context = FrameContext {
            is_continuing: self.partial.is_some(),
            remaining_bytes: self.message_bytes.saturating_sub(buffered_bytes),
            accepts_compression: self.accepts_compression,
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
        if header.is_compressed {
            // The codec knows no extension.
            self.buffer[0] &= !frame::COMPRESSED;
        }
        let frame = self.codec.decode(&mut self.buffer).map_err(|_| FrameRule::ValidFrame)?;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(frame.map(|frame| (frame, header.is_compressed)))
    }

    /// Decodes the next whole message or control frame; `None` while it is incomplete.
    ///
    /// # Errors
    /// The broken rule. The caller fails the connection and does not call this again.
    pub fn next_message(&mut self) -> Result<Option<Frame>, Violation> {
        while let Some((frame, is_compressed)) = self.next_frame()? {
            match frame {
                Frame::Text(payload) if is_compressed => return self.inflate(&payload, true).map(Some),
                Frame::Binary(payload) if is_compressed => return self.inflate(&payload, false).map(Some),
                Frame::Text(text) if std::str::from_utf8(&text).is_err() => return Err(Violation::NotUtf8),
                Frame::Continuation(item) => {
                    let max_fragments = self.message_fragments as usize;
                    let partial = &mut self.partial;
                    match assembler::add_fragment(partial, item, is_compressed, max_fragments)? {
                        Some(AssembledMessage { is_text, is_compressed: true, payload }) => {
                            return self.inflate(&payload, is_text).map(Some);
                        }
                        Some(AssembledMessage { is_text: true, payload, .. }) => return Ok(Some(Frame::Text(payload))),
                        Some(AssembledMessage { payload, .. }) => return Ok(Some(Frame::Binary(payload))),
                        None => {}
                    }
                }
                whole => return Ok(Some(whole)),
            }
        }
        Ok(None)
    }

    /// Inflates a message, within the limit of any other one.
    fn inflate(&self, payload: &[u8], is_text: bool) -> Result<Frame, Violation> {
        let message = deflate::inflate(payload, self.message_bytes)?;
        match is_text {
            true if std::str::from_utf8(&message).is_err() => Err(Violation::NotUtf8),
            true => Ok(Frame::Text(message)),
            false => Ok(Frame::Binary(message)),
        }
    }
}
