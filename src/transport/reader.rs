//! Bytes become whole messages, strictly by RFC 6455. Pure: what is read from a socket is fed, messages come out, and bytes
//! are kept only while a frame or a message is incomplete.

use actix_http::ws::{self, Frame};
use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::{
    Bounds,
    assembler::{self, Message, Partial},
    header::{self, Expected},
};

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
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
        }
    }
}

/// What has come and is no whole message yet.
pub struct Reader {
    codec: ws::Codec,
    bounds: Bounds,
    unread: BytesMut,
    partial: Option<Box<Partial>>,
}

impl Reader {
    /// Begins with what came with the handshake.
    pub fn new(read: BytesMut, bounds: Bounds) -> Self {
        // An empty buffer of the HTTP reader still holds 8 KiB.
        let unread = if read.is_empty() { BytesMut::new() } else { read };
        let codec = ws::Codec::new().max_size(bounds.message_bytes);
        Self { codec, bounds, unread, partial: None }
    }

    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Whether a message has begun and not ended.
    pub fn is_amid_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Bytes that are kept for what is not complete.
    pub fn kept_bytes(&self) -> usize {
        self.unread.len() + self.partial.as_ref().map_or(0, |partial| partial.len())
    }

    /// Whether something is not complete.
    pub fn is_incomplete(&self) -> bool {
        !self.unread.is_empty() || self.partial.is_some()
    }

    /// Forgets everything: nothing more is read as a message.
    pub fn forget(&mut self) {
        self.partial = None;
        self.unread = BytesMut::new();
    }

    /// The next frame, if it is all there.
    fn decode(&mut self) -> Result<Option<Frame>, Violation> {
        let held = self.partial.as_ref().map_or(0, |partial| partial.len());
        let expected = Expected {
            continuation: self.partial.is_some(),
            room_bytes: self.bounds.message_bytes.saturating_sub(held),
        };
        let Some(header) = header::read(&self.unread, expected)? else { return Ok(None) };
        if self.unread.len() < header.frame_bytes() {
            return Ok(None);
        }
        if header.is_close {
            let (start, end) = (header.header_bytes, header.frame_bytes());
            if let Some(mask) = self.unread[..start].last_chunk::<4>() {
                header::judge_close(*mask, &self.unread[start..end])?;
            }
        }
        let frame = self.codec.decode(&mut self.unread).map_err(|_| Violation::Protocol("bad frame"))?;
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
        Ok(frame)
    }

    /// The next whole message or control frame, if it is all there.
    ///
    /// # Errors
    /// The rule that is broken; then the connection is failed, and nothing more is to be asked for.
    pub fn message(&mut self) -> Result<Option<Frame>, Violation> {
        while let Some(frame) = self.decode()? {
            match frame {
                Frame::Text(text) if std::str::from_utf8(&text).is_err() => return Err(Violation::NotUtf8),
                Frame::Continuation(item) => match assembler::accept(&mut self.partial, item, &self.bounds)? {
                    Some(Message::Text(text)) => return Ok(Some(Frame::Text(text))),
                    Some(Message::Binary(binary)) => return Ok(Some(Frame::Binary(binary))),
                    None => {}
                },
                whole => return Ok(Some(whole)),
            }
        }
        Ok(None)
    }
}
