//! The task that writes the backlog of a full socket.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
};

use super::Outbox;
use crate::{
    clock::Clock,
    transport::{closing::ClosePhase, write_gate},
};

/// Writes the rest after a flush found the socket full. Ends when everything is written or the connection is aborted.
pub(super) async fn write_when_ready(outbox: Arc<Outbox>, clock: Clock) {
    let is_closed = || matches!(outbox.0.lock().phase, ClosePhase::Closed { .. });
    while !write_until_held(&outbox, &clock).await {
        write_gate::wait_until_open(&clock, is_closed).await;
    }
}

/// Returns whether everything is written or the connection is aborted, and not held.
async fn write_until_held(outbox: &Outbox, clock: &Clock) -> bool {
    poll_fn(|cx| {
        let mut state = outbox.0.lock();
        if let Some(blocked) = &mut state.blocked {
            blocked.write_waker.clone_from(cx.waker());
        }
        let now = clock.now();
        if now >= state.expires_at {
            state.expire();
        }
        if !matches!(state.phase, ClosePhase::Closed { .. }) && !write_gate::is_open(now) {
            return Poll::Ready(false);
        }
        let written = ready!(state.poll_write(cx));
        if written.is_err() {
            state.abort();
        }
        state.wake_paused_reader();
        state.blocked = None;
        // A client that has just read a full socket is alive, although it may not have come to the last ping.
        state.has_pong = true;
        Poll::Ready(true)
    })
    .await
}
