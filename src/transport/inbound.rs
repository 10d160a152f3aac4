//! Reading: bytes become whole messages, strictly. A connection keeps bytes only while a frame is incomplete; what is
//! read lands in one scratch buffer per thread first.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix_http::ws::{self, Frame};
use bytes::BytesMut;
use futures_util::Stream;
use tokio::io::ReadBuf;
use tokio_util::codec::Decoder;

use super::{
    Bounds, Outbox,
    assembler::{self, Message, Partial},
    header::{self, Expected},
};

/// Bytes that one read may take.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

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

/// The inbound half of a connection: whole messages and control frames, in order. It ends with the connection, after a
/// close frame, and after a violation.
pub struct Inbound {
    outbox: Arc<Outbox>,
    codec: ws::Codec,
    bounds: Bounds,
    unread: BytesMut,
    partial: Option<Box<Partial>>,
    is_over: bool,
}

impl Inbound {
    /// Reads from the socket of `outbox`, after what was `read` with the handshake.
    pub fn new(outbox: Arc<Outbox>, read: BytesMut, bounds: Bounds) -> Self {
        // An empty buffer of the HTTP reader still holds 8 KiB.
        let unread = if read.is_empty() { BytesMut::new() } else { read };
        let codec = ws::Codec::new().max_size(bounds.message_bytes);
        Self { outbox, codec, bounds, unread, partial: None, is_over: false }
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
    fn message(&mut self) -> Result<Option<Frame>, Violation> {
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

    /// Reads once from the socket. `false` at its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let Ok(()) = ready!(self.outbox.poll_read(cx, &mut buffer)) else { return Poll::Ready(false) };
            self.unread.extend_from_slice(buffer.filled());
            Poll::Ready(!buffer.filled().is_empty())
        })
    }
}

impl Stream for Inbound {
    type Item = Result<Frame, Violation>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.is_over && !this.outbox.is_closing() {
            match this.message() {
                Ok(Some(frame)) => {
                    this.is_over = matches!(frame, Frame::Close(_));
                    if this.partial.is_none() {
                        // A busy client may never be read to the end of a frame; what counts is that messages end.
                        this.outbox.note_incomplete(false);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) => {
                    this.outbox.note_incomplete(!this.unread.is_empty() || this.partial.is_some());
                    this.is_over = !ready!(this.poll_fill(cx));
                    if this.is_over {
                        return Poll::Ready(None);
                    }
                }
                Err(violation) => {
                    this.is_over = true;
                    return Poll::Ready(Some(Err(violation)));
                }
            }
        }
        // Nothing after a close is read as a message (§5.5.1); what still comes is thrown away until the peer is gone.
        this.partial = None;
        this.unread = BytesMut::new();
        while ready!(this.poll_fill(cx)) {
            this.unread.clear();
        }
        Poll::Ready(None)
    }
}
