//! The write half of a connection: a queue of frames with a limit in bytes, and the state of closing and expiry.
//!
//! Frames are shared between connections and written with `writev`. The usual flush comes from the hub and uses a waker
//! that does nothing. Only when the socket is full is a task started, which waits with a real waker; until it has
//! written everything, session and hub only queue.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Socket, TransportLimits,
    closing::{ClosePhase, ClosePolicy},
    socket,
};
use crate::clock::{Clock, NEVER, WallTime};

/// Maximum frames of one `writev`.
const MAX_SLICES: usize = 64;
/// Cost of a queued frame beyond its bytes: its place in the queue, and the allocation of a frame that is not shared.
const FRAME_COST_BYTES: usize = 96;

/// The write half of a connection, shared by its session and its hub. It alone knows when the token expires and whether
/// the connection is closing. Session and hub live on one thread, so the lock is never contended; it is there because
/// actix messages must be `Send`.
pub struct Outbox(Mutex<OutboxState>);

struct OutboxState {
    socket: Box<dyn Socket>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Upper bound of the bytes that TLS has accepted and not yet passed to the kernel. Always 0 on plain TCP.
    tls_buffered_bytes: usize,
    limit_bytes: usize,
    expires_at: WallTime,
    phase: ClosePhase,
    /// Whether the first frame is partly written. Its rest has to come before anything else.
    is_mid_frame: bool,
    /// The waker of the task that waits for the full socket, if there is one. The runtime keeps one write waker per
    /// socket, so every write must use this one while the task waits.
    write_waker: Option<Waker>,
    /// Since when a message from the client has been incomplete.
    incomplete_since: Option<Instant>,
    has_pong: bool,
}

/// What the caller has to do after a frame was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// The queue was empty: the caller should flush.
    NeedsFlush,
    /// Other frames wait already, and their flush will write this one, too.
    FlushPending,
}

/// The result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushOutcome {
    /// The kernel has everything, or a task waits for the full socket already.
    Done,
    /// The socket is full. A task was started that writes the rest.
    Pending,
}

/// Why a frame was not queued, or the queue not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The token has expired.
    #[error("token expired")]
    Expired,
    /// The peer reads too slowly: the frame would exceed the limit.
    #[error("outbox limit exceeded")]
    Slow,
    /// The connection is closing, or has failed.
    #[error("connection closing")]
    Closing,
}

impl Outbox {
    /// Creates the outbox that owns `socket`, and sets the socket's options.
    ///
    /// # Errors
    /// The connection has ended.
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

    /// Sets when the token expires. From then on no frame is queued and none that is queued is written. A close that
    /// has started keeps the expiry that it started with.
    pub fn set_expiry(&self, at: WallTime) {
        let mut state = self.0.lock();
        if state.phase == ClosePhase::Open {
            state.expires_at = at;
        }
    }

    /// When the token expires, in milliseconds since the epoch.
    pub fn expires_at(&self) -> WallTime {
        self.0.lock().expires_at
    }

    /// Returns whether the token of an open connection has expired.
    pub fn has_expired(&self, now: WallTime) -> bool {
        let state = self.0.lock();
        state.phase == ClosePhase::Open && now >= state.expires_at
    }

    /// Queues a frame. Writes only if the limit would be exceeded: then the socket may have room for what waits.
    ///
    /// # Errors
    /// [`PushError`]. The frame is not queued, and the connection is not closed.
    pub fn push(&self, now: WallTime, frame: Bytes) -> Result<PushOutcome, PushError> {
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

    /// Writes as much as the socket accepts. If it is full, starts a task that writes the rest.
    ///
    /// # Errors
    /// [`PushError::Expired`] if the token of an open connection has expired; nothing was written.
    /// [`PushError::Closing`] if writing failed, or the token expired during a close; the connection is aborted.
    pub fn flush(self: &Arc<Self>, clock: &Clock, now: WallTime) -> Result<FlushOutcome, PushError> {
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

    /// Starts to close the connection: queues `close_frames`, after which the write half of the socket is shut down,
    /// and flushes. `policy` says what happens to the frames that wait. Does nothing if the connection is closing
    /// already.
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

    /// Ends the connection at once: drops the queue and the bytes that wait in the kernel, and wakes the task that
    /// reads.
    pub fn abort(&self) {
        self.0.lock().abort();
    }

    /// Aborts the connection if frames wait for a full socket. For a session that has stopped reading: a peer that
    /// reads a byte at a time could otherwise keep the frames for ever. If nothing waits, the bytes that the kernel has
    /// may still arrive.
    pub fn abort_if_waiting(&self) {
        let mut state = self.0.lock();
        if state.write_waker.is_some() {
            state.abort();
        }
    }

    /// Returns whether a task waits for the full socket.
    pub fn is_blocked(&self) -> bool {
        self.0.lock().write_waker.is_some()
    }

    /// Notes that the client has answered a ping. A flag instead of a message to the hub, so that a flood of pongs
    /// costs nothing.
    pub fn note_pong(&self) {
        self.0.lock().has_pong = true;
    }

    /// Returns whether the client has answered since the last call.
    pub fn take_pong(&self) -> bool {
        std::mem::take(&mut self.0.lock().has_pong)
    }

    /// Returns whether the connection is closing or closed: nothing more is queued, and nothing that arrives is
    /// handled.
    pub fn is_closing(&self) -> bool {
        self.0.lock().phase != ClosePhase::Open
    }

    /// When a connection that is closing is aborted if its peer has not left; `None` while it is open.
    pub fn abort_at(&self) -> Option<Instant> {
        self.0.lock().phase.abort_at()
    }

    /// Since when a message from the client has been incomplete; `None` if none is.
    pub fn incomplete_since(&self) -> Option<Instant> {
        self.0.lock().incomplete_since
    }

    pub(super) fn note_incomplete_message(&self, is_incomplete: bool) {
        let mut state = self.0.lock();
        state.incomplete_since = is_incomplete.then(|| state.incomplete_since.unwrap_or_else(Instant::now));
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().socket).poll_read(cx, buffer)
    }
}

/// Writes the rest after a flush found the socket full. Ends when everything is written or the connection is aborted.
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

    /// Handles the expiry of the token. An open connection is left to the caller, which can still close it with a close
    /// frame. A connection that is closing or blocked is aborted, since publications may wait in its queue.
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

    /// Drops the queued frames, so that a close frame may be sent even after the token has expired. Returns `false` if
    /// a part of them has been written.
    fn drop_backlog(&mut self) -> bool {
        if self.is_mid_frame || self.write_waker.is_some() || self.tls_buffered_bytes > 0 {
            return false;
        }
        self.clear_queue();
        self.expires_at = NEVER;
        true
    }

    fn clear_queue(&mut self) {
        // A new queue instead of `clear`: an idle connection keeps no buffer.
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

    /// Writes as much as the socket accepts, with the waiting task's waker if there is one. Outside of tokio's budget,
    /// which after 128 operations would report a socket as full that is not.
    fn try_write(&mut self) -> Poll<io::Result<()>> {
        let waker = self.write_waker.clone().unwrap_or_else(|| Waker::noop().clone());
        let mut written = tokio::task::unconstrained(poll_fn(|cx| self.poll_write(cx)));
        Pin::new(&mut written).poll(&mut Context::from_waker(&waker))
    }

    /// Writes the queue. Ready when the queue is empty, TLS has passed everything to the kernel, and a closing socket
    /// is shut down.
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

    /// Removes written bytes from the front of the queue.
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
