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

use super::{
    Socket, TransportLimits,
    closing::{ClosePhase, ClosePolicy},
    socket,
};
use crate::clock::{Clock, Millis, NEVER};

/// Frames that one `writev` carries.
const MAX_SLICES: usize = 64;
/// What a waiting frame costs beyond its bytes: its place in the queue, and the allocation of one that nobody shares.
const FRAME_COST_BYTES: usize = 96;

/// The outbound half of a connection, shared by its session and its hub. Both live on one thread, so the lock is never
/// contended; it is there because actix messages are `Send`.
pub struct Outbox(Mutex<OutboxState>);

struct OutboxState {
    socket: Box<dyn Socket>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Bytes that TLS has taken and not yet handed to the kernel; an upper bound, always 0 on plain TCP.
    tls_buffered_bytes: usize,
    limit_bytes: usize,
    expires_at: Millis,
    phase: ClosePhase,
    /// The frame at the front is partly written: nothing else may come before its end.
    is_mid_frame: bool,
    /// The waker of the task that waits for the socket. There is one slot per direction in the kernel's registration, so
    /// every write while it waits has to use it.
    write_waker: Option<Waker>,
    incomplete_since: Option<Instant>,
    has_pong: bool,
}

/// What became of a frame that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// It is the first that waits: whoever pushed it should flush.
    NeedsFlush,
    /// Others wait already, and somebody will flush.
    FlushPending,
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushOutcome {
    /// Everything is with the kernel, or somebody waits for the socket already.
    Done,
    /// The socket was full; a task carries on when it is not.
    Pending,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
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

impl Outbox {
    /// The outbound half of `socket`.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn new(socket: impl Socket, limits: &TransportLimits) -> io::Result<Arc<Self>> {
        socket::set_socket_options(socket.tcp(), limits)?;
        Ok(Arc::new(Self(Mutex::new(OutboxState {
            socket: Box::new(socket),
            queue: VecDeque::new(),
            queued_bytes: 0,
            tls_buffered_bytes: 0,
            limit_bytes: limits.outbox_bytes,
            expires_at: NEVER,
            phase: ClosePhase::Open,
            is_mid_frame: false,
            write_waker: None,
            incomplete_since: None,
            has_pong: false,
        }))))
    }

    /// Sets when the token expires. From then on no frame is queued and none that is queued is written. A close that has
    /// started keeps the expiry that it started with.
    pub fn set_expiry(&self, at: Millis) {
        let mut state = self.0.lock();
        if state.phase == ClosePhase::Open {
            state.expires_at = at;
        }
    }

    /// When the token expires, in milliseconds since the epoch.
    pub fn expires_at(&self) -> Millis {
        self.0.lock().expires_at
    }

    /// Returns whether the token of an open connection has expired.
    pub fn has_expired(&self, now: Millis) -> bool {
        let state = self.0.lock();
        state.phase == ClosePhase::Open && now >= state.expires_at
    }

    /// Queues a frame. Does not write, unless there seems to be no room: then the socket is asked first.
    ///
    /// # Errors
    /// [`PushError`]; the frame is not queued, and the connection is left as it is.
    pub fn push(&self, now: Millis, frame: Bytes) -> Result<PushOutcome, PushError> {
        let mut state = self.0.lock();
        if state.phase != ClosePhase::Open {
            return Err(PushError::Closing);
        }
        if now >= state.expires_at {
            return Err(PushError::Expired);
        }
        if !state.has_space_for(&frame) {
            if let Poll::Ready(Err(_)) = state.try_write() {
                return Err(PushError::Closing);
            }
            if !state.has_space_for(&frame) {
                return Err(PushError::Slow);
            }
        }
        let outcome = if state.queue.is_empty() && state.write_waker.is_none() {
            PushOutcome::NeedsFlush
        } else {
            PushOutcome::FlushPending
        };
        state.enqueue(frame);
        Ok(outcome)
    }

    /// Writes what the socket takes. When it is full, a task carries on.
    ///
    /// # Errors
    /// [`PushError::Expired`] when the time is over; then nothing was written.
    pub fn flush(self: &Arc<Self>, clock: &Clock, now: Millis) -> Result<FlushOutcome, PushError> {
        let mut state = self.0.lock();
        if state.write_waker.is_some() {
            return Ok(FlushOutcome::Done);
        }
        if now >= state.expires_at {
            return Err(state.expire());
        }
        match state.try_write() {
            Poll::Ready(Ok(())) => Ok(FlushOutcome::Done),
            Poll::Ready(Err(_)) => {
                state.abort();
                Err(PushError::Closing)
            }
            Poll::Pending => {
                state.write_waker = Some(Waker::noop().clone());
                drop(state);
                actix_rt::spawn(write_when_ready(self.clone(), clock.clone()));
                Ok(FlushOutcome::Pending)
            }
        }
    }

    /// Starts to close the connection: queues `close_frames`, after which the write half of the socket is shut down, and
    /// flushes. `policy` says what happens to the frames that wait. Does nothing if the connection is closing already.
    pub fn close(self: &Arc<Self>, close_frames: impl IntoIterator<Item = Bytes>, policy: ClosePolicy, clock: &Clock) {
        let mut state = self.0.lock();
        if state.phase != ClosePhase::Open {
            return;
        }
        let can_send = match policy {
            ClosePolicy::SendBacklog => true,
            ClosePolicy::DropBacklog => state.drop_backlog(),
            ClosePolicy::Abort => false,
        };
        if !can_send {
            return state.abort();
        }
        close_frames.into_iter().for_each(|frame| state.enqueue(frame));
        state.phase = state.phase.closing();
        drop(state);
        let _ = self.flush(clock, clock.now());
    }

    /// Ends the connection at once: the queue is dropped, what waits in the kernel too, and whoever reads is woken.
    pub fn abort(&self) {
        self.0.lock().abort();
    }

    /// Nobody reads from the connection any more: what still waits for a socket that is full is dropped with it, or a peer
    /// that sips could keep it for ever. What the kernel has already is left to arrive.
    pub fn abort_if_waiting(&self) {
        let mut state = self.0.lock();
        if state.write_waker.is_some() {
            state.abort();
        }
    }

    /// Whether a full socket is waited for.
    pub fn is_blocked(&self) -> bool {
        self.0.lock().write_waker.is_some()
    }

    /// The peer has answered a ping. A flag and not a message to the hub: a flood of answers costs nothing.
    pub fn note_pong(&self) {
        self.0.lock().has_pong = true;
    }

    /// Whether the peer has answered since this was asked last.
    pub fn take_pong(&self) -> bool {
        std::mem::take(&mut self.0.lock().has_pong)
    }

    /// Returns whether the connection is closing or closed: nothing more is queued, and nothing that arrives is handled.
    pub fn is_closing(&self) -> bool {
        self.0.lock().phase != ClosePhase::Open
    }

    /// When a connection that is closing is aborted if its peer has not left; `None` while it is open.
    pub fn abort_at(&self) -> Option<Instant> {
        self.0.lock().phase.abort_at()
    }

    /// How long a message from the peer has been incomplete.
    pub fn incomplete_message_age(&self) -> Duration {
        self.0.lock().incomplete_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn note_incomplete_message(&self, is_incomplete: bool) {
        let mut state = self.0.lock();
        state.incomplete_since = is_incomplete.then(|| state.incomplete_since.unwrap_or_else(Instant::now));
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().socket).poll_read(cx, buffer)
    }
}

/// Carries on where a flush met a full socket. Ends when everything is written or the connection is cut.
async fn write_when_ready(outbox: Arc<Outbox>, clock: Clock) {
    poll_fn(|cx| {
        let mut state = outbox.0.lock();
        state.write_waker = Some(cx.waker().clone());
        if clock.now() >= state.expires_at {
            state.expire();
        }
        let written = ready!(state.poll_write(cx));
        if written.is_err() {
            state.abort();
        }
        state.write_waker = None;
        Poll::Ready(())
    })
    .await;
}

impl OutboxState {
    fn has_space_for(&self, frame: &Bytes) -> bool {
        let cost_bytes = (self.queue.len() + 1) * FRAME_COST_BYTES + frame.len();
        self.queued_bytes + self.tls_buffered_bytes + cost_bytes <= self.limit_bytes
    }

    /// The time is over. Whoever closes an open connection for it can still say so; one that is closing is cut, since what
    /// waits there may be publications.
    fn expire(&mut self) -> PushError {
        if self.phase == ClosePhase::Open && self.write_waker.is_none() {
            return PushError::Expired;
        }
        self.abort();
        PushError::Closing
    }

    fn enqueue(&mut self, frame: Bytes) {
        self.queued_bytes += frame.len();
        self.queue.push_back(frame);
    }

    /// Drops the queued frames, so that a close frame may be sent even after the token has expired. Returns `false` if a part
    /// of them has been written.
    fn drop_backlog(&mut self) -> bool {
        if self.is_mid_frame || self.write_waker.is_some() || self.tls_buffered_bytes > 0 {
            return false;
        }
        self.clear_queue();
        self.expires_at = NEVER;
        true
    }

    fn clear_queue(&mut self) {
        // Not `clear`: an idle connection holds no buffer.
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        self.is_mid_frame = false;
    }

    fn abort(&mut self) {
        self.clear_queue();
        self.tls_buffered_bytes = 0;
        self.phase = self.phase.closed();
        socket::abort(self.socket.tcp());
    }

    /// Writes what the socket takes now, with whatever waker is right. Outside tokio's budget, which after 128 operations
    /// would call a socket full that is not.
    fn try_write(&mut self) -> Poll<io::Result<()>> {
        let waker = self.write_waker.clone().unwrap_or_else(|| Waker::noop().clone());
        let mut written = tokio::task::unconstrained(poll_fn(|cx| self.poll_write(cx)));
        Pin::new(&mut written).poll(&mut Context::from_waker(&waker))
    }

    /// Ready when the queue is empty, TLS holds nothing back, and a closing socket is shut down.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.phase, ClosePhase::Closed { .. }) {
            return Poll::Ready(Ok(()));
        }
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(frame);
                count += 1;
            }
            let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.tls_buffered_bytes = (self.tls_buffered_bytes + written).min(self.socket.max_buffered_bytes());
            self.remove_written(written);
        }
        if self.queue.capacity() > 4 {
            self.queue = VecDeque::new();
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.tls_buffered_bytes = 0;
        if matches!(self.phase, ClosePhase::Closing { .. }) {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            self.phase = self.phase.closed();
        }
        Poll::Ready(Ok(()))
    }

    fn remove_written(&mut self, written: usize) {
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
