//! The task that writes the backlog of a full socket, and the list of those of a thread.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Weak},
    task::{Poll, ready},
};

use super::Outbox;
use crate::{
    clock::Clock,
    transport::{closing::ClosePhase, write_gate},
};

thread_local! {
    /// The outboxes of this thread whose sockets are full, each by its address in memory.
    static BLOCKED: RefCell<HashMap<usize, Weak<Outbox>>> = RefCell::default();
}

/// Returns how many bytes wait on this thread for clients whose sockets are full. Other outboxes are empty when the thread looks
/// for its next task, so only these are asked, however many connections there are.
pub fn blocked_bytes_of_this_thread() -> usize {
    let sum = |blocked: &HashMap<usize, Weak<Outbox>>| {
        blocked.values().filter_map(Weak::upgrade).map(|outbox| outbox.queued_bytes()).sum()
    };
    BLOCKED.with_borrow(sum)
}

/// Keeps an outbox in the list of its thread, until this is dropped.
struct Listed(usize);

impl Listed {
    fn new(outbox: &Arc<Outbox>) -> Self {
        let address = Arc::as_ptr(outbox).addr();
        BLOCKED.with_borrow_mut(|blocked| blocked.insert(address, Arc::downgrade(outbox)));
        Self(address)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        // Fails when the thread ends.
        _ = BLOCKED.try_with(|blocked| blocked.borrow_mut().remove(&self.0));
    }
}

/// Writes the rest after a flush found the socket full. Ends when everything is written or the connection is aborted.
pub(super) async fn write_when_ready(outbox: Arc<Outbox>, clock: Clock) {
    let _listed = Listed::new(&outbox);
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
