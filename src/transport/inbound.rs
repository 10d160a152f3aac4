//! The read half of a connection: a stream of whole messages. Bytes are read into one buffer per thread, and from there
//! fed to the connection's [`MessageReader`].

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix_http::ws::Frame;
use bytes::BytesMut;
use futures_util::Stream;
use tokio::io::ReadBuf;

use super::{
    Outbox, TransportLimits,
    outbox::ReadState,
    reader::{MessageReader, Violation},
};

/// Maximum bytes of one read.
const READ_BUFFER_BYTES: usize = 64 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER_BYTES]);
}

/// Reads once from the socket, and discards what arrives. Ready with its length, which is 0 at the end of the connection.
pub(super) fn poll_discard(outbox: &Outbox, cx: &mut Context<'_>) -> Poll<usize> {
    READ_BUFFER.with_borrow_mut(|read_buffer| {
        let mut buffer = ReadBuf::new(read_buffer);
        let Ok(()) = ready!(outbox.poll_read(cx, &mut buffer)) else { return Poll::Ready(0) };
        Poll::Ready(buffer.filled().len())
    })
}

/// What the stream of a connection yields.
#[derive(Debug)]
pub enum InboundEvent {
    /// A whole message, or a control frame.
    Frame(Frame),
    /// The reading was paused, and goes on: the outbox has room for replies again.
    Drained,
}

/// The stream of a connection's messages and control frames, in order. It ends when the connection ends. After a close
/// frame or a violation it yields nothing more. While the reading is paused ([`Outbox::pause_reading`]), it yields
/// nothing and the socket is not read, so that the peer's TCP stops sending.
pub struct Inbound {
    outbox: Arc<Outbox>,
    reader: MessageReader,
    has_ended: bool,
}

impl Inbound {
    /// Creates the stream of the socket that `outbox` owns. `read` are the bytes that arrived together with the
    /// handshake, which has negotiated compression or not.
    pub fn new(outbox: Arc<Outbox>, read: BytesMut, limits: TransportLimits, accepts_compression: bool) -> Self {
        Self { outbox, reader: MessageReader::new(read, limits, accepts_compression), has_ended: false }
    }

    /// Reads once from the socket. Ready with `false` at the end of the connection.
    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        READ_BUFFER.with_borrow_mut(|read_buffer| {
            let mut buffer = ReadBuf::new(read_buffer);
            let Ok(()) = ready!(self.outbox.poll_read(cx, &mut buffer)) else { return Poll::Ready(false) };
            self.reader.feed(buffer.filled());
            Poll::Ready(!buffer.filled().is_empty())
        })
    }
}

impl Stream for Inbound {
    type Item = Result<InboundEvent, Violation>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.has_ended {
            match ready!(this.outbox.poll_read_state(cx)) {
                ReadState::Open => {}
                ReadState::Drained => return Poll::Ready(Some(Ok(InboundEvent::Drained))),
                ReadState::Closing => break,
            }
            match this.reader.next_message() {
                Ok(Some(frame)) => {
                    this.has_ended = matches!(frame, Frame::Close(_));
                    if !this.reader.has_open_message() {
                        // The buffer of a busy client may always end inside a frame. What counts is that messages end.
                        this.outbox.note_incomplete_message(false);
                    }
                    return Poll::Ready(Some(Ok(InboundEvent::Frame(frame))));
                }
                Ok(None) => {
                    this.outbox.note_incomplete_message(this.reader.is_incomplete());
                    this.has_ended = !ready!(this.poll_read_more(cx));
                    if this.has_ended {
                        return Poll::Ready(None);
                    }
                }
                Err(violation) => {
                    this.has_ended = true;
                    return Poll::Ready(Some(Err(violation)));
                }
            }
        }
        // Nothing after a close is handled (RFC 6455 §5.5.1). Bytes that still arrive are discarded until the peer has
        // left.
        this.reader.discard();
        while ready!(this.poll_read_more(cx)) {
            this.reader.discard();
        }
        Poll::Ready(None)
    }
}
