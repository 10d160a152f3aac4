//! Writing: a queue of shared frames per connection, counted in bytes, written with `writev` by whoever flushes it. The
//! usual flush is the hub's, with a waker that does nothing; only when the socket is full a task is started that waits
//! with a real one, and until it is through the hub only queues.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Bounds, Socket, socket};
use crate::clock::{Clock, Millis, NEVER};

/// Frames that one `writev` carries.
const SLICES: usize = 64;
/// What a waiting frame costs beyond its bytes: its place in the queue, and the allocation of one that nobody shares.
const FRAME_COST_BYTES: usize = 96;

/// The outbound half of a connection, shared by its session and its hub. Both live on one thread, so the lock is never
/// contended; it is there because actix messages are `Send`.
pub struct Outbox(Mutex<Inner>);

struct Inner {
    socket: Box<dyn Socket>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Bytes that TLS has taken and not yet handed to the kernel; an upper bound, always 0 on plain TCP.
    unflushed_bytes: usize,
    limit_bytes: usize,
    expires_at: Millis,
    phase: Phase,
    /// The frame at the front is partly written: nothing else may come before its end.
    is_mid_frame: bool,
    /// The waker of the task that waits for the socket. There is one slot per direction in the kernel's registration, so
    /// every write while it waits has to use it.
    waiter: Option<Waker>,
    incomplete_since: Option<Instant>,
    has_answered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The last frame is queued; after it the socket is shut down.
    Closing,
    /// Nothing more is written.
    Shut,
}

/// What became of a frame that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is the first that waits: whoever pushed it should flush.
    First,
    /// Others wait already, and somebody will flush.
    Behind,
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything is with the kernel, or somebody waits for the socket already.
    All,
    /// The socket was full; a task carries on when it is not.
    Later,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The token's time is over.
    #[error("expired")]
    Expired,
    /// The peer reads too slowly: the limit would be passed.
    #[error("slow")]
    Slow,
    /// The connection is closing or gone.
    #[error("closing")]
    Closing,
}

/// What happens to frames that wait when a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// They go out before the farewell.
    Send,
    /// They do not. If one of them is half out, there can be no farewell either.
    Drop,
}

impl Outbox {
    /// The outbound half of `socket`.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn new(socket: impl Socket, bounds: &Bounds) -> io::Result<Arc<Self>> {
        socket::tune(socket.tcp(), bounds)?;
        Ok(Arc::new(Self(Mutex::new(Inner {
            socket: Box::new(socket),
            queue: VecDeque::new(),
            queued_bytes: 0,
            unflushed_bytes: 0,
            limit_bytes: bounds.outbox_bytes,
            expires_at: NEVER,
            phase: Phase::Open,
            is_mid_frame: false,
            waiter: None,
            incomplete_since: None,
            has_answered: false,
        }))))
    }

    /// From `at` on no frame is taken and none that waits is written.
    pub fn expire_at(&self, at: Millis) {
        self.0.lock().expires_at = at;
    }

    /// Queues a frame. Does not write, unless there seems to be no room: then the socket is asked first.
    ///
    /// # Errors
    /// [`Refused`]; the frame is not queued, and the connection is left as it is.
    pub fn push(&self, now: Millis, frame: Bytes) -> Result<Pushed, Refused> {
        let mut inner = self.0.lock();
        if inner.phase != Phase::Open {
            return Err(Refused::Closing);
        }
        if now >= inner.expires_at {
            return Err(Refused::Expired);
        }
        if !inner.has_room_for(&frame) {
            if let Poll::Ready(Err(_)) = inner.try_write() {
                return Err(Refused::Closing);
            }
            if !inner.has_room_for(&frame) {
                return Err(Refused::Slow);
            }
        }
        let pushed = if inner.queue.is_empty() && inner.waiter.is_none() { Pushed::First } else { Pushed::Behind };
        inner.enqueue(frame);
        Ok(pushed)
    }

    /// Writes what the socket takes. When it is full, a task carries on.
    ///
    /// # Errors
    /// [`Refused::Expired`] when the time is over; then nothing was written.
    pub fn flush(self: &Arc<Self>, clock: &Clock, now: Millis) -> Result<Flushed, Refused> {
        let mut inner = self.0.lock();
        if inner.waiter.is_some() {
            return Ok(Flushed::All);
        }
        if now >= inner.expires_at {
            return Err(inner.expire());
        }
        match inner.try_write() {
            Poll::Ready(Ok(())) => Ok(Flushed::All),
            Poll::Ready(Err(_)) => {
                inner.cut();
                Err(Refused::Closing)
            }
            Poll::Pending => {
                inner.waiter = Some(Waker::noop().clone());
                drop(inner);
                actix_rt::spawn(wait_and_write(self.clone(), clock.clone()));
                Ok(Flushed::Later)
            }
        }
    }

    /// Queues `farewell`, after which the socket is shut down, and begins to write.
    pub fn close(self: &Arc<Self>, farewell: impl IntoIterator<Item = Bytes>, backlog: Backlog, clock: &Clock) {
        let mut inner = self.0.lock();
        if inner.phase != Phase::Open {
            return;
        }
        if backlog == Backlog::Drop {
            if inner.is_mid_frame || inner.waiter.is_some() || inner.unflushed_bytes > 0 {
                return inner.cut();
            }
            inner.forget_queue();
            // The farewell may say that the time is over.
            inner.expires_at = NEVER;
        }
        farewell.into_iter().for_each(|frame| inner.enqueue(frame));
        inner.phase = Phase::Closing;
        drop(inner);
        let _ = self.flush(clock, clock.now());
    }

    /// Ends the connection at once: the queue is dropped, what waits in the kernel too, and whoever reads is woken.
    pub fn cut(&self) {
        self.0.lock().cut();
    }

    /// Nobody reads from the connection any more: what still waits for a socket that is full is dropped with it, or a peer
    /// that sips could keep it for ever. What the kernel has already is left to arrive.
    pub fn abandon(&self) {
        let mut inner = self.0.lock();
        if inner.waiter.is_some() {
            inner.cut();
        }
    }

    /// Whether a full socket is waited for.
    pub fn is_full(&self) -> bool {
        self.0.lock().waiter.is_some()
    }

    /// The peer has answered a ping. A flag and not a message to the hub: a flood of answers costs nothing.
    pub fn note_answer(&self) {
        self.0.lock().has_answered = true;
    }

    /// Whether the peer has answered since this was asked last.
    pub fn take_answer(&self) -> bool {
        std::mem::take(&mut self.0.lock().has_answered)
    }

    /// Whether nothing that comes in matters any more.
    pub fn is_closing(&self) -> bool {
        self.0.lock().phase != Phase::Open
    }

    /// How long a message from the peer has been incomplete.
    pub fn incomplete_for(&self) -> Duration {
        self.0.lock().incomplete_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn note_incomplete(&self, is_incomplete: bool) {
        let mut inner = self.0.lock();
        inner.incomplete_since = is_incomplete.then(|| inner.incomplete_since.unwrap_or_else(Instant::now));
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().socket).poll_read(cx, buffer)
    }
}

/// Carries on where a flush met a full socket. Ends when everything is written or the connection is cut.
async fn wait_and_write(outbox: Arc<Outbox>, clock: Clock) {
    poll_fn(|cx| {
        let mut inner = outbox.0.lock();
        inner.waiter = Some(cx.waker().clone());
        if clock.now() >= inner.expires_at {
            inner.expire();
        }
        let written = ready!(inner.poll_write(cx));
        if written.is_err() {
            inner.cut();
        }
        inner.waiter = None;
        Poll::Ready(())
    })
    .await;
}

impl Inner {
    fn has_room_for(&self, frame: &Bytes) -> bool {
        let cost_bytes = (self.queue.len() + 1) * FRAME_COST_BYTES + frame.len();
        self.queued_bytes + self.unflushed_bytes + cost_bytes <= self.limit_bytes
    }

    /// The time is over. Whoever closes an open connection for it can still say so; one that is closing is cut, since what
    /// waits there may be publications.
    fn expire(&mut self) -> Refused {
        if self.phase == Phase::Open && self.waiter.is_none() {
            return Refused::Expired;
        }
        self.cut();
        Refused::Closing
    }

    fn enqueue(&mut self, frame: Bytes) {
        self.queued_bytes += frame.len();
        self.queue.push_back(frame);
    }

    fn forget_queue(&mut self) {
        // Not `clear`: an idle connection holds no buffer.
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        self.is_mid_frame = false;
    }

    fn cut(&mut self) {
        self.forget_queue();
        self.unflushed_bytes = 0;
        self.phase = Phase::Shut;
        socket::cut(self.socket.tcp());
    }

    /// Writes what the socket takes now, with whatever waker is right. Outside tokio's budget, which after 128 operations
    /// would call a socket full that is not.
    fn try_write(&mut self) -> Poll<io::Result<()>> {
        let waker = self.waiter.clone().unwrap_or_else(|| Waker::noop().clone());
        let mut written = tokio::task::unconstrained(poll_fn(|cx| self.poll_write(cx)));
        Pin::new(&mut written).poll(&mut Context::from_waker(&waker))
    }

    /// Ready when the queue is empty, TLS holds nothing back, and a closing socket is shut down.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase == Phase::Shut {
            return Poll::Ready(Ok(()));
        }
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(frame);
                count += 1;
            }
            let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed_bytes = (self.unflushed_bytes + written).min(self.socket.holds_at_most());
            self.consume(written);
        }
        if self.queue.capacity() > 4 {
            self.queue = VecDeque::new();
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.unflushed_bytes = 0;
        if self.phase == Phase::Closing {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            self.phase = Phase::Shut;
        }
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, written: usize) {
        self.queued_bytes -= written;
        let mut left = written;
        while let Some(front) = self.queue.front_mut().filter(|front| left >= front.len() && left > 0) {
            left -= front.len();
            self.queue.pop_front();
        }
        self.is_mid_frame = left > 0;
        if let Some(front) = self.queue.front_mut() {
            front.advance(left);
        }
    }
}
