//! One receiving thread: opens its share of the clients, then handles their events until it is told to stop.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, sync::atomic::Ordering, time::Duration};

use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use rustix::process::nice;

use crate::clients::{ClientBehavior, ClientOptions};
use crate::connection::{ReadBuffer, wait_for_events};
use crate::delivery_stats::{DeliveryStats, SharedState};
use crate::error::{BenchError, Context, Result, fail};
use crate::{clock, load_driver::is_temporary, simulated_client::SimulatedClient};

/// How long the thread sleeps before it checks again whether it should stop.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The same while its clients wait to reconnect, which is timed from the moment when they may.
const RECONNECT_POLL_TIMEOUT: Duration = Duration::from_millis(1);

/// The pause of a client that was refused while it reconnected, as the JavaScript SDK has it by default: at least the first of these, and
/// longer by a random time of up to as much, twice as much after each further refusal, and so on, but at most the second.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// How often a client is refused until it gives up.
const MAX_REFUSALS: u32 = 10;

/// What to add to the niceness of a thread, so that a server that wants the processor gets three quarters of it.
const LOWER_PRIORITY: i32 = 5;

/// The thread.
pub(crate) struct ReceiverThread {
    thread: usize,
    options: Arc<ClientOptions>,
    shared: Arc<SharedState>,
    waker: Arc<Waker>,
    poll: Poll,
    clients: Vec<SimulatedClient>,
    /// The index of the client that connects next.
    next: usize,
    connecting: usize,
    /// The clients that were refused while they reconnected: when they try again, and their index.
    retries: BinaryHeap<Reverse<(u64, usize)>>,
    has_opened: bool,
    has_disconnected: bool,
    buffer: ReadBuffer,
    stats: DeliveryStats,
}

impl ReceiverThread {
    /// The thread with this number, not started.
    pub(crate) fn new(
        thread: usize,
        options: Arc<ClientOptions>,
        shared: Arc<SharedState>,
        waker: Arc<Waker>,
    ) -> Result<Self> {
        let ClientOptions { connections, threads, publishers, .. } = *options;
        let numbers = (thread..connections).step_by(threads);
        Ok(Self {
            thread,
            waker,
            poll: Poll::new().context("epoll")?,
            clients: numbers.map(|number| SimulatedClient::new(number, publishers)).collect(),
            next: 0,
            connecting: 0,
            retries: BinaryHeap::new(),
            has_opened: false,
            has_disconnected: false,
            buffer: ReadBuffer::new(),
            stats: DeliveryStats::new(shared.clone(), publishers),
            options,
            shared,
        })
    }

    /// Opens the clients and handles their events until it is told to stop.
    pub(crate) fn run(mut self) -> Result<()> {
        if self.options.has_lower_priority {
            // Of this thread only, as Linux has it.
            nice(LOWER_PRIORITY).context("lowering the priority of a thread")?;
        }
        let mut events = Events::with_capacity(1024);
        loop {
            self.disconnect_if_requested();
            self.connect_more();
            let timeout = if self.is_waiting_to_reconnect() { RECONNECT_POLL_TIMEOUT } else { self.time_to_retry() };
            wait_for_events(&mut self.poll, &mut events, timeout)?;
            let is_stopped = self.shared.stop.load(Ordering::Relaxed);
            // Of clients that do not read, the last events count: the server may have closed them.
            if is_stopped && self.options.behavior != ClientBehavior::Stall {
                break;
            }
            self.stats.measured_from = self.shared.measured_from.get();
            events.iter().for_each(|event| self.on_event(event));
            self.share_counts();
            if is_stopped {
                break;
            }
        }
        self.shared.results.lock().delivery.0.add(&self.stats.latency.0).context("adding up latencies")
    }

    /// Tells the main thread of what has come, deliveries before the publications that they completed.
    fn share_counts(&mut self) {
        self.shared.received_bytes.add(std::mem::take(&mut self.buffer.received_bytes));
        self.shared.delivered.add(std::mem::take(&mut self.stats.delivered));
        if self.stats.completed.is_empty() {
            return;
        }
        for (publisher, sequence) in self.stats.completed.drain(..) {
            self.shared.completed[self.thread][publisher].store(sequence, Ordering::Release);
        }
        let _ = self.waker.wake();
    }

    /// Disconnects all clients, once that is requested.
    fn disconnect_if_requested(&mut self) {
        if self.has_disconnected || !self.shared.disconnect_requested.load(Ordering::Relaxed) {
            return;
        }
        let websockets = self.clients.iter_mut().filter_map(|client| client.websocket.take());
        websockets.for_each(|websocket| websocket.connection.reset());
        self.has_disconnected = true;
        self.next = 0;
        let mut results = self.shared.results.lock();
        // These times are reported of the second connection only.
        results.to_101.0.reset();
        results.to_live.0.reset();
        results.disconnected_threads += 1;
        self.shared.changed.notify_all();
    }

    /// Returns whether all clients are disconnected and may not yet reconnect.
    fn is_waiting_to_reconnect(&self) -> bool {
        self.has_disconnected && self.shared.reconnect_at.get() == 0
    }

    fn connect_more(&mut self) {
        if self.is_waiting_to_reconnect() {
            return;
        }
        let ClientOptions { concurrency, reconnect_concurrency, threads, .. } = *self.options;
        let at_once = if self.has_disconnected { reconnect_concurrency } else { concurrency };
        while self.connecting < at_once.div_ceil(threads).max(1)
            && let Some(index) = self.next_to_connect()
        {
            self.connecting += 1;
            let client = &mut self.clients[index];
            let connected = match self.has_disconnected && !client.has_position() {
                true => fail("connecting: the connection had ended before"),
                false => client.connect(&self.options, (self.poll.registry(), Token(index))),
            };
            if let Err(error) = connected {
                self.on_failed(index, error);
            }
        }
        if !self.has_opened && self.connecting == 0 && self.next == self.clients.len() {
            self.has_opened = true;
            self.shared.results.lock().opened_threads += 1;
            self.shared.changed.notify_all();
        }
    }

    /// The index of the client that connects next: one that has not tried yet, or one whose pause after a refusal is over.
    fn next_to_connect(&mut self) -> Option<usize> {
        if self.next < self.clients.len() {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.retries.peek().filter(|Reverse((at, _))| *at <= clock::now())?;
        self.retries.pop().map(|Reverse((_, index))| index)
    }

    /// How long the thread sleeps at most: until a client tries again.
    fn time_to_retry(&self) -> Duration {
        let next = self.retries.peek().map(|Reverse((at, _))| Duration::from_nanos(at.saturating_sub(clock::now())));
        next.map_or(POLL_TIMEOUT, |next| next.clamp(RECONNECT_POLL_TIMEOUT, POLL_TIMEOUT))
    }

    /// Has a client that was refused while it reconnected try again, unless it was refused for good or too often. Returns whether it
    /// will.
    fn retry_later(&mut self, index: usize, reason: &str) -> bool {
        let client = &mut self.clients[index];
        if !client.has_position() || !is_temporary(reason) || client.refusals >= MAX_REFUSALS {
            return false;
        }
        client.websocket = None;
        self.retries.push(Reverse((clock::now() + retry_delay(client.refusals).as_nanos() as u64, index)));
        client.refusals += 1;
        true
    }

    fn on_event(&mut self, event: &Event) {
        let index = event.token().0;
        let Some(client) = self.clients.get_mut(index).filter(|client| client.websocket.is_some()) else {
            return;
        };
        let was_live = client.is_live();
        let is_closing = event.is_read_closed() || event.is_error();
        let result = match was_live && self.options.behavior == ClientBehavior::Stall {
            true if is_closing || event.is_write_closed() => fail("closed by the server"),
            true => Ok(()),
            false => client.on_ready((&mut self.buffer, is_closing), &self.options, &mut self.stats),
        };
        match result {
            Ok(()) if !was_live && client.is_live() => self.on_live(index),
            Ok(()) => {}
            Err(error) if was_live => self.on_closed(index, error),
            Err(error) => self.on_failed(index, error),
        }
    }

    fn on_live(&mut self, index: usize) {
        self.connecting -= 1;
        let now = clock::now();
        let client = &mut self.clients[index];
        let mut results = self.shared.results.lock();
        if self.has_disconnected {
            results.to_recovered.record(self.shared.reconnect_at.get(), now);
            self.shared.reconnected.add(1);
        } else {
            self.stats.add_client();
            self.shared.opened.add(1);
        }
        let Some(websocket) = client.websocket.as_ref() else { return };
        results.to_101.record(client.connecting_at, websocket.upgraded_at.unwrap_or_default());
        results.to_live.record(client.connecting_at, now);
        if self.options.behavior == ClientBehavior::Stall {
            results.ports.extend(websocket.connection.local_port());
        }
        if self.options.behavior == ClientBehavior::ConnectAndClose {
            client.websocket.take().into_iter().for_each(|websocket| websocket.close());
        }
    }

    fn on_closed(&mut self, index: usize, BenchError(reason): BenchError) {
        self.end_client(index);
        let mut results = self.shared.results.lock();
        results.closed_at.push(clock::now());
        *results.closed.entry(reason).or_default() += 1;
    }

    fn on_failed(&mut self, index: usize, BenchError(reason): BenchError) {
        self.connecting -= 1;
        if self.has_disconnected && self.retry_later(index, &reason) {
            *self.shared.results.lock().refused.entry(reason).or_default() += 1;
            return;
        }
        if self.has_disconnected {
            if self.clients[index].has_position() {
                self.end_client(index);
            }
            self.shared.reconnected.add(1);
        } else {
            self.clients[index].websocket = None;
            self.shared.failed.add(1);
        }
        let mut results = self.shared.results.lock();
        let behavior = self.options.behavior;
        let may_fail = matches!(behavior, ClientBehavior::Connect | ClientBehavior::ConnectAndClose);
        if !may_fail && !self.has_disconnected {
            let number = self.clients[index].number;
            let target = &self.options.target(number).authority;
            results.error = Some(BenchError(format!("connection {number} to {target}: {reason}")));
            self.shared.changed.notify_all();
        }
        *results.failed.entry(reason).or_default() += 1;
    }

    /// Ends a client for good: no publication waits for it any longer.
    fn end_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.end();
        self.stats.remove_client(&client.newest);
        self.shared.ended.add(1);
    }
}

/// How long a client waits that was refused after this many refusals.
fn retry_delay(refusals: u32) -> Duration {
    let (min, max) = RETRY_DELAYS;
    let random = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    (min + min.saturating_mul(1 << refusals.min(16)).min(max).mul_f64(random)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_clients_wait_longer_each_time_and_not_together() {
        for (refusals, longest) in [(0, 1000), (1, 1500), (3, 4500), (10, 20_000), (40, 20_000)] {
            let delays: Vec<u128> = (0..200).map(|_| retry_delay(refusals).as_millis()).collect();
            assert!(delays.iter().all(|delay| (500..=longest).contains(delay)), "{refusals}: {delays:?}");
            assert!(delays.iter().max().unwrap() - delays.iter().min().unwrap() > (longest - 500) / 2, "{delays:?}");
        }
    }
}
