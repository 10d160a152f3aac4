//! Reading: a stream of whole messages from a socket. What is read lands in one scratch buffer per thread, and from there in
//! the connection's [`Reader`].

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
    Bounds, Outbox,
    reader::{Reader, Violation},
};

/// Bytes that one read may take.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// The inbound half of a connection: whole messages and control frames, in order. It ends with the connection, after a
/// close frame, and after a violation.
pub struct Inbound {
    outbox: Arc<Outbox>,
    reader: Reader,
    is_over: bool,
}

impl Inbound {
    /// Reads from the socket of `outbox`, after what was `read` with the handshake.
    pub fn new(outbox: Arc<Outbox>, read: BytesMut, bounds: Bounds) -> Self {
        Self { outbox, reader: Reader::new(read, bounds), is_over: false }
    }

    /// Reads once from the socket. `false` at its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let Ok(()) = ready!(self.outbox.poll_read(cx, &mut buffer)) else { return Poll::Ready(false) };
            self.reader.feed(buffer.filled());
            Poll::Ready(!buffer.filled().is_empty())
        })
    }
}

impl Stream for Inbound {
    type Item = Result<Frame, Violation>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.is_over && !this.outbox.is_closing() {
            match this.reader.message() {
                Ok(Some(frame)) => {
                    this.is_over = matches!(frame, Frame::Close(_));
                    if !this.reader.is_amid_message() {
                        // A busy client may never be read to the end of a frame; what counts is that messages end.
                        this.outbox.note_incomplete(false);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) => {
                    this.outbox.note_incomplete(this.reader.is_incomplete());
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
        this.reader.forget();
        while ready!(this.poll_fill(cx)) {
            this.reader.forget();
        }
        Poll::Ready(None)
    }
}
