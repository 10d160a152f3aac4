//! The write half of a connection: a queue of frames with a limit in bytes, and the state of closing and expiry.
//!
//! Frames are shared between connections and written with `writev`. The usual flush comes from the hub and uses a waker
//! that does nothing. Only when the socket is full is a task started, which waits with a real waker; until it has
//! written everything, session and hub only queue.

mod close_cause;
mod outcome;
mod waiting_writer;

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

pub(super) use self::outcome::ReadState;
use self::waiting_writer::write_when_ready;
pub use self::{
    close_cause::CloseCause,
    outcome::{FlushOutcome, PushError},
    waiting_writer::blocked_bytes_of_this_thread,
};
use super::{
    Socket, TransportLimits,
    blocked::Blocked,
    closing::{ClosePhase, ClosePolicy},
    write_gate,
};
use crate::clock::{Clock, NEVER, WallTime};

/// Maximum frames of one `writev`.
const MAX_SLICES: usize = 64;
/// Cost of a queued frame beyond its bytes: its place in the queue, and the allocation of a frame that is not shared.
const FRAME_COST_BYTES: usize = 96;
/// The low-water mark as a part of the limit. A reply of at most half the limit ([`Limits::client_reply_bytes`]) is queued
/// on top of a quarter, which leaves a quarter for publications.
///
/// [`Limits::client_reply_bytes`]: crate::config::Limits::client_reply_bytes
const LOW_WATER_DIVISOR: usize = 4;
/// The expiry of a token that is revoked: earlier than any date.
const REVOKED: WallTime = WallTime::from_unix_millis(i64::MIN);

/// The write half of a connection, shared by its session and its hub. It alone knows when the token expires and whether
/// the connection is closing. Session and hub live on one thread, so the lock is never contended; it is there because
/// actix messages must be `Send`.
pub struct Outbox(Mutex<OutboxState>);

struct OutboxState {
    socket: Box<dyn Socket>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Bytes that TLS has accepted and the kernel has not. Always 0 on plain TCP.
    tls_buffered_bytes: usize,
    limit_bytes: usize,
    /// Queued bytes up to the end of the last reply; 0 when the socket has accepted all replies.
    reply_backlog_bytes: usize,
    expires_at: WallTime,
    phase: ClosePhase,
    /// Whether publications are queued that are neither written nor wait for a full socket.
    has_publications: bool,
    /// Whether the first frame is partly written. Its rest has to come before anything else.
    is_mid_frame: bool,
    /// Exists while a task waits for the full socket. Boxed: few connections have it, and all would pay for the memory.
    blocked: Option<Box<Blocked>>,
    /// Whether the session takes no command, and nothing is read, until the replies have room.
    is_reading_paused: bool,
    /// Since when a message from the client has been incomplete.
    incomplete_since: Option<Instant>,
    has_pong: bool,
    is_command_pending: bool,
    /// Boxed: an open connection has none.
    close_cause: Option<Box<CloseCause>>,
}

impl Outbox {
    /// Creates the outbox that owns `socket`, and sets the socket's options.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn new(socket: impl Socket, limits: &TransportLimits) -> io::Result<Arc<Self>> {
        socket.kernel_socket().set_buffering(limits.unsent_bytes)?;
        socket.kernel_socket().set_unacknowledged_timeout(limits.unacknowledged_timeout)?;
        Ok(Arc::new(Self(Mutex::new(OutboxState {
            socket: Box::new(socket),
            queue: VecDeque::new(),
            queued_bytes: 0,
            tls_buffered_bytes: 0,
            limit_bytes: limits.outbox_bytes,
            reply_backlog_bytes: 0,
            expires_at: NEVER,
            phase: ClosePhase::Open,
            has_publications: false,
            is_mid_frame: false,
            blocked: None,
            is_reading_paused: false,
            incomplete_since: None,
            has_pong: false,
            is_command_pending: false,
            close_cause: None,
        }))))
    }

    /// Sets when the token expires. From then on no frame is queued and none that is queued is written. A close that
    /// has started keeps the expiry that it started with.
    pub fn set_expiry(&self, at: WallTime) {
        let mut state = self.0.lock();
        if state.phase == ClosePhase::Open && state.expires_at != REVOKED {
            state.expires_at = at;
        }
    }

    /// Ends the token now, whatever its expiry is: no frame is queued any more, and none that is queued is written. The caller
    /// closes the connection, unless it is closing: then it is aborted if a backlog still waits before its close frame. Returns
    /// whether it was open and not revoked.
    pub fn revoke(&self) -> bool {
        let mut state = self.0.lock();
        if matches!(state.phase, ClosePhase::Closing { .. }) {
            state.abort();
        }
        let is_new = state.phase == ClosePhase::Open && state.expires_at != REVOKED;
        if is_new {
            state.expires_at = REVOKED;
        }
        is_new
    }

    /// When the token expires, in milliseconds since the epoch.
    pub fn expires_at(&self) -> WallTime {
        self.0.lock().expires_at
    }

    /// Checks that the token of an open connection has not ended. A connection that is closing needs none.
    ///
    /// # Errors
    /// [`PushError::Expired`] or [`PushError::Revoked`].
    pub fn check_token(&self, now: WallTime) -> Result<(), PushError> {
        let state = self.0.lock();
        if state.phase == ClosePhase::Open && now >= state.expires_at { Err(state.end_of_token()) } else { Ok(()) }
    }

    /// Queues a frame. Writes only if the limit would be exceeded: then the socket may have room for what waits.
    ///
    /// # Errors
    /// [`PushError`]. The frame is not queued, and the connection is not closed.
    pub fn push(&self, now: WallTime, frame: Bytes) -> Result<(), PushError> {
        self.0.lock().push(now, frame)
    }

    /// Queues a publication. It is not written while the thread's hub may lack revocations.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub fn push_publication(&self, now: WallTime, frame: Bytes) -> Result<(), PushError> {
        let mut state = self.0.lock();
        state.push(now, frame)?;
        state.has_publications = true;
        Ok(())
    }

    /// Queues a frame that answers the client. Until it has left, [`Outbox::pause_reading`] may hold up the client's
    /// next command.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub fn push_reply(&self, now: WallTime, frame: Bytes) -> Result<(), PushError> {
        let mut state = self.0.lock();
        state.push(now, frame)?;
        state.reply_backlog_bytes = state.queued_bytes;
        Ok(())
    }

    /// Keeps the answer to a ping that arrived while the socket is full; it replaces an earlier one, since a client needs only
    /// the pong for its latest ping (RFC 6455 §5.5.3). So a client that does not read gets no pongs, however many pings it
    /// sends. Returns `false` if the socket is not full: then the caller queues the pong.
    pub fn defer_pong(&self, pong: &Bytes) -> bool {
        let mut state = self.0.lock();
        let Some(blocked) = &mut state.blocked else { return false };
        blocked.pong = Some(pong.clone());
        true
    }

    /// Writes as much as the socket accepts. If it is full, starts a task that writes the rest.
    ///
    /// # Errors
    /// [`PushError::Expired`] or [`PushError::Revoked`] if the token of an open connection has ended; nothing was written.
    /// [`PushError::Closing`] if writing failed, or the token expired during a close; the connection is aborted.
    pub fn flush(self: &Arc<Self>, clock: &Clock, now: WallTime) -> Result<FlushOutcome, PushError> {
        let mut state = self.0.lock();
        if state.blocked.is_some() {
            return Ok(FlushOutcome::Done);
        }
        if now >= state.expires_at {
            return Err(state.expire());
        }
        let is_held = state.has_publications && !write_gate::is_open(now);
        let written = if is_held { Poll::Pending } else { state.try_write() };
        match written {
            Poll::Ready(Ok(())) => Ok(FlushOutcome::Done),
            Poll::Ready(Err(_)) => {
                state.abort();
                Err(PushError::Closing)
            }
            Poll::Pending => {
                state.blocked = Some(Box::new(Blocked::new()));
                drop(state);
                actix_rt::spawn(write_when_ready(self.clone(), clock.clone()));
                Ok(FlushOutcome::Pending)
            }
        }
    }

    /// Starts to close the connection: queues `close_frame`, after which the write half of the socket is shut down,
    /// and flushes. `policy` says what happens to the frames that wait. Does nothing if the connection is closing
    /// already.
    pub fn close(self: &Arc<Self>, close_frame: Bytes, policy: ClosePolicy, clock: &Clock) {
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
        state.enqueue(close_frame);
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
        if state.blocked.is_some() {
            state.abort();
        }
    }

    /// Returns how many bytes wait for the socket.
    pub fn queued_bytes(&self) -> usize {
        self.0.lock().queued_bytes
    }

    /// Returns whether the kernel has not accepted everything that was queued.
    pub fn has_backlog(&self) -> bool {
        self.0.lock().backlog_bytes() > 0
    }

    /// When the last byte left an outbox whose socket is full, or when the socket became full; `None` if it is not.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.0.lock().blocked.as_ref().map(|blocked| blocked.progress_at)
    }

    /// Pauses the reading if the client has to read its replies first: some of them have not left, and more than the
    /// low-water mark is queued. Returns whether the reading is paused now. The caller has flushed. When there is room,
    /// the stream of the connection goes on with [`InboundEvent::Drained`](super::InboundEvent::Drained).
    pub fn pause_reading(&self) -> bool {
        let mut state = self.0.lock();
        state.is_reading_paused |= state.must_drain();
        state.is_reading_paused
    }

    /// Returns whether replies fill the outbox, so that the client's next command has to wait.
    pub fn must_drain(&self) -> bool {
        self.0.lock().must_drain()
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

    /// Notes whether a command of the client waits for the broker or for a hook. What the client sends meanwhile is read after it.
    pub fn set_command_pending(&self, is_pending: bool) {
        let mut state = self.0.lock();
        state.is_command_pending = is_pending;
        // The rest of a message is not read meanwhile.
        state.incomplete_since = state.incomplete_since.map(|_| Instant::now());
    }

    /// Returns whether a command of the client waits, as [`Self::set_command_pending`] has noted.
    pub fn is_command_pending(&self) -> bool {
        self.0.lock().is_command_pending
    }

    /// Returns whether the client cannot answer a ping at the moment: the ping may wait behind what the client has to read
    /// first, and the pong behind a command.
    pub fn holds_up_pongs(&self) -> bool {
        let state = self.0.lock();
        state.blocked.is_some() || state.is_command_pending
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

    /// Since when a message from the client has been incomplete; `None` if none is, or if nothing is read.
    pub fn incomplete_since(&self) -> Option<Instant> {
        let state = self.0.lock();
        state.incomplete_since.filter(|_| !state.is_reading_paused && !state.is_command_pending)
    }

    pub(super) fn note_incomplete_message(&self, is_incomplete: bool) {
        let mut state = self.0.lock();
        state.incomplete_since = is_incomplete.then(|| state.incomplete_since.unwrap_or_else(Instant::now));
    }

    /// Ready when the connection may be read: at once, unless the reading is paused.
    pub(super) fn poll_read_state(&self, cx: &Context<'_>) -> Poll<ReadState> {
        let mut state = self.0.lock();
        if state.phase != ClosePhase::Open {
            return Poll::Ready(ReadState::Closing);
        }
        if !state.is_reading_paused {
            return Poll::Ready(ReadState::Open);
        }
        if state.must_drain()
            && let Some(blocked) = &mut state.blocked
        {
            blocked.read_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.is_reading_paused = false;
        // The rest of a message could not be read meanwhile.
        state.incomplete_since = state.incomplete_since.map(|_| Instant::now());
        Poll::Ready(ReadState::Drained)
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().socket).poll_read(cx, buffer)
    }
}

impl OutboxState {
    fn push(&mut self, now: WallTime, frame: Bytes) -> Result<(), PushError> {
        if self.phase != ClosePhase::Open {
            return Err(PushError::Closing);
        }
        if now >= self.expires_at {
            return Err(self.end_of_token());
        }
        if !self.has_space_for(&frame) {
            if write_gate::is_open(now)
                && let Poll::Ready(Err(_)) = self.try_write()
            {
                return Err(PushError::Closing);
            }
            if !self.has_space_for(&frame) {
                return Err(PushError::Slow);
            }
        }
        self.enqueue(frame);
        Ok(())
    }

    fn has_space_for(&self, frame: &Bytes) -> bool {
        self.backlog_bytes() + FRAME_COST_BYTES + frame.len() <= self.limit_bytes
    }

    /// What counts against the limit.
    fn backlog_bytes(&self) -> usize {
        self.queued_bytes + self.tls_buffered_bytes + self.queue.len() * FRAME_COST_BYTES
    }

    /// Returns whether replies have not left, and more than the low-water mark is queued. Publications alone never hold
    /// up a command: it may be the `unsubscribe` that ends them.
    fn must_drain(&self) -> bool {
        let low_water_bytes = self.limit_bytes / LOW_WATER_DIVISOR;
        self.phase == ClosePhase::Open && self.reply_backlog_bytes > 0 && self.backlog_bytes() > low_water_bytes
    }

    fn wake_paused_reader(&mut self) {
        if let Some(waker) = self.blocked.as_mut().and_then(|blocked| blocked.read_waker.take()) {
            waker.wake();
        }
    }

    /// Handles the expiry of the token. An open connection is left to the caller, which can still close it with a close
    /// frame. A connection that is closing or blocked is aborted, since publications may wait in its queue.
    fn expire(&mut self) -> PushError {
        if self.phase == ClosePhase::Open && self.blocked.is_none() {
            return self.end_of_token();
        }
        self.abort();
        PushError::Closing
    }

    /// Returns how a token ended whose expiry has passed.
    fn end_of_token(&self) -> PushError {
        if self.expires_at == REVOKED { PushError::Revoked } else { PushError::Expired }
    }

    fn enqueue(&mut self, frame: Bytes) {
        self.queued_bytes += frame.len();
        self.queue.push_back(frame);
    }

    /// Queues a control frame before the frames that wait. They may be many, and the client waits for this one.
    fn enqueue_next(&mut self, frame: Bytes) {
        if self.phase != ClosePhase::Open {
            return;
        }
        self.queued_bytes += frame.len();
        if self.reply_backlog_bytes > 0 {
            self.reply_backlog_bytes += frame.len();
        }
        self.queue.insert(usize::from(self.is_mid_frame), frame);
    }

    /// Drops the queued frames, so that a close frame may be sent even after the token has expired. Returns `false` if
    /// a part of them has been written.
    fn drop_backlog(&mut self) -> bool {
        if self.is_mid_frame || self.blocked.is_some() || self.tls_buffered_bytes > 0 {
            return false;
        }
        self.clear_queue();
        self.expires_at = NEVER;
        true
    }

    fn clear_queue(&mut self) {
        // A new queue instead of `clear`: an idle connection keeps no buffer.
        self.queue = VecDeque::new();
        (self.queued_bytes, self.reply_backlog_bytes) = (0, 0);
        (self.has_publications, self.is_mid_frame) = (false, false);
    }

    fn abort(&mut self) {
        self.clear_queue();
        self.tls_buffered_bytes = 0;
        self.phase = self.phase.closed();
        // This wakes the tasks that read and write, too.
        self.socket.kernel_socket().abort();
    }

    /// Writes as much as the socket accepts, with the waiting task's waker if there is one. Outside of tokio's budget,
    /// which after 128 operations would report a socket as full that is not.
    fn try_write(&mut self) -> Poll<io::Result<()>> {
        let waker = self.blocked.as_ref().map_or_else(|| Waker::noop().clone(), |blocked| blocked.write_waker.clone());
        let mut written = tokio::task::unconstrained(poll_fn(|cx| self.poll_write(cx)));
        Pin::new(&mut written).poll(&mut Context::from_waker(&waker))
    }

    /// Writes the queue, and wakes the task that reads if the replies have room again.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unsent_bytes = self.queued_bytes + self.tls_buffered_bytes;
        let mut written = self.poll_write_queue(cx);
        let has_progress = self.queued_bytes + self.tls_buffered_bytes < unsent_bytes;
        if let Some(blocked) = self.blocked.as_mut().filter(|_| has_progress) {
            blocked.progress_at = Instant::now();
        }
        // At most one for each time that the client has read something.
        if (has_progress || written.is_ready())
            && let Some(pong) = self.blocked.as_mut().and_then(|blocked| blocked.pong.take())
        {
            self.enqueue_next(pong);
            written = self.poll_write_queue(cx);
        }
        if !self.must_drain() {
            self.wake_paused_reader();
        }
        written
    }

    /// Writes the queue. Ready when the queue is empty, TLS has passed everything to the kernel, and a closing socket
    /// is shut down.
    fn poll_write_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.poll_write_frames(cx);
        self.tls_buffered_bytes = self.socket.buffered_bytes();
        written
    }

    fn poll_write_frames(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
            self.remove_written(written);
        }
        if self.queue.capacity() > 4 {
            self.queue = VecDeque::new();
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        // Not before: TLS may have held some.
        self.has_publications = false;
        if matches!(self.phase, ClosePhase::Closing { .. }) {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            self.phase = self.phase.closed();
        }
        Poll::Ready(Ok(()))
    }

    /// Removes written bytes from the front of the queue.
    fn remove_written(&mut self, written: usize) {
        self.queued_bytes -= written;
        self.reply_backlog_bytes = self.reply_backlog_bytes.saturating_sub(written);
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
