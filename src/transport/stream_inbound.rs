//! The read half of a connection that is an HTTP response: its client's commands come in other requests, and the socket only
//! shows when the client has left.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix_http::ws::Frame;
use bytes::Bytes;
use futures_util::Stream;

use super::{InboundEvent, Outbox, Violation, inbound, outbox::ReadState};
use crate::emulation::CommandReceiver;

/// Maximum bytes that a client may send behind its request: they are discarded, since the response says that no other request
/// is answered. Above it the connection ends.
const MAX_DISCARDED_BYTES: usize = 64 * 1024;

/// The stream of a client's messages, in the order in which they were queued. It ends when the connection ends. While the
/// reading is paused ([`Outbox::pause_reading`]), it yields nothing, and the client's messages stay in their queue.
pub struct StreamInbound {
    outbox: Arc<Outbox>,
    /// `None`: the client sends no commands.
    commands: Option<CommandReceiver>,
    is_text: bool,
    discarded_bytes: usize,
}

impl StreamInbound {
    /// Creates the stream of the client that reads what `outbox` sends. Its commands are text, or binary data.
    pub fn new(outbox: Arc<Outbox>, commands: Option<CommandReceiver>, is_text: bool) -> Self {
        Self { outbox, commands, is_text, discarded_bytes: 0 }
    }

    /// Ready when the client has left, or sends without end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.discarded_bytes <= MAX_DISCARDED_BYTES {
            match ready!(inbound::poll_discard(&self.outbox, cx)) {
                0 => return Poll::Ready(()),
                bytes => self.discarded_bytes += bytes,
            }
        }
        Poll::Ready(())
    }

    fn frame(&self, message: Bytes) -> Frame {
        if self.is_text { Frame::Text(message) } else { Frame::Binary(message) }
    }
}

impl Stream for StreamInbound {
    type Item = Result<InboundEvent, Violation>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.poll_end(cx).is_ready() {
            return Poll::Ready(None);
        }
        match ready!(this.outbox.poll_read_state(cx)) {
            ReadState::Open => {}
            ReadState::Drained => return Poll::Ready(Some(Ok(InboundEvent::Drained))),
            // What waits is not handled any more. The stream ends when the client has left.
            ReadState::Closing => return Poll::Pending,
        }
        match &this.commands {
            Some(commands) => {
                let message = ready!(commands.poll_next(cx));
                // The reader of a WebSocket checks it, too.
                if this.is_text && std::str::from_utf8(&message).is_err() {
                    return Poll::Ready(Some(Err(Violation::NotUtf8)));
                }
                Poll::Ready(Some(Ok(InboundEvent::Frame(this.frame(message)))))
            }
            None => Poll::Pending,
        }
    }
}
