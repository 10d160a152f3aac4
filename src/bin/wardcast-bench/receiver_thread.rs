//! One receiving thread: opens its share of the connections, then reads whatever epoll reports until told to stop.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::clients::{ClientBehavior, ClientOptions, ClientStats, SharedState, ThreadEvent};
use crate::delivery_stats::DeliveryStats;
use crate::error::{IoContext, Result};
use crate::publication_stamp::StampFinder;
use crate::run_clock::RunClock;
use crate::simulated_client::{ClientProtocol, ConnectionState, EndReason, ReadContext, SimulatedClient};
use crate::socket::{ClientSocket, SocketOptions};
use crate::stream_position::{StreamPosition, SubscribeMode};
use crate::upgrade;

/// One buffer for all connections of a thread. A publication of 64 KiB fits with room to spare.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long a thread sleeps before it looks whether it should stop.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The same while its clients wait to be called back, which is timed from the call.
const RECONNECT_POLL_TIMEOUT: Duration = Duration::from_millis(1);

/// What a client that was cut remembers.
#[derive(Debug)]
struct DisconnectedClient {
    newest_sequences: Box<[u32]>,
    position: Option<StreamPosition>,
}

/// One receiving thread.
#[derive(Debug)]
pub(crate) struct ReceiverThread {
    thread: usize,
    client_options: Arc<ClientOptions>,
    shared: Arc<SharedState>,
    events: mpsc::Sender<ThreadEvent>,
    waker: Arc<Waker>,
    poll: Poll,
    connections: Vec<Option<SimulatedClient>>,
    /// Whom of them was cut, by place; none before that.
    disconnected: Option<Vec<Option<DisconnectedClient>>>,
    /// The place that is opened next.
    next: usize,
    in_flight: usize,
    has_sent_opened: bool,
    context: ReadContext,
    /// What it has to show (its books are at the desk until it has run).
    pub(crate) stats: ClientStats,
}

impl ReceiverThread {
    /// A thread that has not begun.
    pub(crate) fn new(
        thread: usize,
        client_options: Arc<ClientOptions>,
        clock: RunClock,
        shared: Arc<SharedState>,
        events: mpsc::Sender<ThreadEvent>,
        waker: Arc<Waker>,
    ) -> Result<Self> {
        let deliveries = DeliveryStats::new(client_options.publishers);
        Ok(Self {
            thread,
            client_options,
            shared,
            events,
            waker,
            poll: Poll::new().context(|| "epoll")?,
            connections: Vec::new(),
            disconnected: None,
            next: 0,
            in_flight: 0,
            has_sent_opened: false,
            context: ReadContext { clock, deliveries, finder: StampFinder::default(), measured_from: u64::MAX },
            stats: ClientStats::new(DeliveryStats::new(0)),
        })
    }

    /// Opens, reads, and comes back when told to stop.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.disconnect_if_requested();
            self.open_more();
            match self.poll.poll(
                &mut events,
                Some(if self.is_waiting_to_reconnect() { RECONNECT_POLL_TIMEOUT } else { POLL_TIMEOUT }),
            ) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error).context(|| "epoll"),
                _ => {}
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            self.context.measured_from = self.shared.measured_from.load(Ordering::Relaxed);
            let (delivered, unrecovered) =
                (self.context.deliveries.delivered, self.context.deliveries.recoveries.unrecovered);
            events.iter().for_each(|event| self.on_event(event, &mut buffer));
            self.shared.delivered.fetch_add(self.context.deliveries.delivered - delivered, Ordering::Release);
            self.shared
                .unrecovered
                .fetch_add(self.context.deliveries.recoveries.unrecovered - unrecovered, Ordering::Relaxed);
            self.send_completed();
        }
        std::mem::swap(&mut self.context.deliveries, &mut self.stats.deliveries);
        Ok(())
    }

    /// This thread's share: every `threads`-th connection.
    fn client_count(&self) -> usize {
        let ClientOptions { connections, threads, .. } = &*self.client_options;
        connections / threads + usize::from(self.thread < connections % threads)
    }

    /// Cuts all connections, once that is asked for.
    fn disconnect_if_requested(&mut self) {
        if self.disconnected.is_some() || !self.shared.disconnect_requested.load(Ordering::Relaxed) {
            return;
        }
        let disconnect = |client: SimulatedClient| {
            let SimulatedClient { socket, newest_sequences, position, .. } = client;
            socket.reset();
            DisconnectedClient { newest_sequences, position }
        };
        self.disconnected = Some(self.connections.iter_mut().map(|slot| slot.take().map(disconnect)).collect());
        self.next = 0;
        // What is told of opening is told of coming back.
        self.stats.time_to_101.reset();
        self.stats.time_to_ready.reset();
        self.send_event(ThreadEvent::Disconnected);
    }

    /// Whether all were cut and are not called back.
    fn is_waiting_to_reconnect(&self) -> bool {
        self.disconnected.is_some() && self.shared.reconnect_started_at.load(Ordering::Relaxed) == 0
    }

    fn open_more(&mut self) {
        if self.is_waiting_to_reconnect() {
            return;
        }
        let client_count = self.client_count();
        let at_once = match self.disconnected {
            None => self.client_options.concurrency,
            Some(_) => self.client_options.reconnect_concurrency,
        };
        self.connections.resize_with(client_count, || None);
        while self.in_flight < at_once.div_ceil(self.client_options.threads).max(1) && self.next < client_count {
            let index = self.next;
            self.next += 1;
            self.in_flight += 1;
            match self.connect(index) {
                Ok(client) => self.connections[index] = Some(client),
                Err(error) => self.on_failed(index, &format!("connecting: {error}")),
            }
        }
        if !self.has_sent_opened && self.in_flight == 0 && self.next == client_count {
            self.has_sent_opened = true;
            self.send_event(ThreadEvent::Opened);
        }
    }

    /// The number of a connection among those of all threads.
    fn client_number(&self, index: usize) -> usize {
        index * self.client_options.threads + self.thread
    }

    fn connect(&mut self, index: usize) -> io::Result<SimulatedClient> {
        let client_number = self.client_number(index);
        let turn = |items: usize| client_number % items.max(1);
        let client_options = self.client_options.clone();
        let mode = match &self.disconnected {
            None if client_options.is_positioned => SubscribeMode::Positioned,
            None => SubscribeMode::Plain,
            Some(disconnected) => {
                let position = disconnected[index].as_ref().and_then(|disconnected| disconnected.position.clone());
                SubscribeMode::Recover(position.ok_or_else(|| io::Error::other("its connection had ended before"))?)
            }
        };
        let target = &client_options.targets[turn(client_options.targets.len())];
        let protocol = match client_options.tokens.get(turn(client_options.tokens.len())) {
            None => ClientProtocol::BareDeliveries,
            Some(token) => ClientProtocol::WebSocket {
                request: upgrade::request(target, token),
                channel: client_options.channels.get(turn(client_options.channels.len())).cloned(),
                mode,
            },
        };
        let options = match u32::try_from(turn(client_options.source_addresses)) {
            Ok(offset) if client_options.source_addresses > 1 => {
                let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + offset);
                SocketOptions { source: Some(source), ..client_options.socket.clone() }
            }
            _ => client_options.socket.clone(),
        };
        let mut socket = ClientSocket::open(target, &options)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket.tcp, Token(index), interest)?;
        let disconnected = self.disconnected.as_mut().and_then(|disconnected| disconnected[index].take());
        let newest_sequences = disconnected.map_or_else(
            || vec![0; client_options.publishers].into_boxed_slice(),
            |disconnected| disconnected.newest_sequences,
        );
        Ok(SimulatedClient::new(socket, protocol, newest_sequences, self.context.clock.now()))
    }

    fn on_event(&mut self, event: &Event, buffer: &mut [u8]) {
        let index = event.token().0;
        let Some(Some(client)) = self.connections.get_mut(index) else {
            return;
        };
        let before = client.state;
        let closing = event.is_read_closed() || event.is_error();
        let result = if before == ConnectionState::Live && self.client_options.behavior == ClientBehavior::Stall {
            match closing || event.is_write_closed() {
                true => Err(EndReason("let go by the server".to_owned())),
                false => Ok(()),
            }
        } else {
            client.on_ready(buffer, &mut self.context, closing)
        };
        match result {
            Ok(()) if before != ConnectionState::Live && client.state == ConnectionState::Live => self.on_ready(index),
            Ok(()) => {}
            Err(EndReason(reason)) if before == ConnectionState::Live => self.on_closed(index, reason),
            Err(EndReason(reason)) => self.on_failed(index, &reason),
        }
    }

    fn on_ready(&mut self, index: usize) {
        self.in_flight -= 1;
        let now = self.context.clock.now();
        if self.disconnected.is_some() {
            self.stats
                .time_to_recovery
                .saturating_record(now.saturating_sub(self.shared.reconnect_started_at.load(Ordering::Relaxed)));
            self.shared.reconnected.fetch_add(1, Ordering::Relaxed);
        } else {
            self.context.deliveries.add_client();
            self.shared.opened.fetch_add(1, Ordering::Relaxed);
            self.shared.live.fetch_add(1, Ordering::Relaxed);
        }
        let Some(client) = &mut self.connections[index] else {
            return;
        };
        let took = |since: u64| since.saturating_sub(client.connecting_at);
        self.stats.time_to_101.saturating_record(took(client.upgraded_at));
        self.stats.time_to_ready.saturating_record(took(now));
        match self.client_options.behavior {
            ClientBehavior::ConnectAndClose => {
                client.send_close();
                self.connections[index] = None;
                self.shared.live.fetch_sub(1, Ordering::Relaxed);
            }
            ClientBehavior::Stall => {
                let port = client.socket.tcp.local_addr().map(|address| address.port());
                if let Ok(mut ports) = self.shared.ports.lock() {
                    ports.extend(port);
                }
            }
            ClientBehavior::Receive | ClientBehavior::Reconnect | ClientBehavior::Connect => {}
        }
    }

    fn on_closed(&mut self, index: usize, reason: String) {
        if let Some(client) = self.connections[index].take() {
            self.context.deliveries.remove_client(&client.newest_sequences);
        }
        self.shared.live.fetch_sub(1, Ordering::Relaxed);
        self.stats.closed_at.push(self.context.clock.now());
        *self.stats.closed.entry(reason).or_default() += 1;
    }

    fn on_failed(&mut self, index: usize, reason: &str) {
        let client = self.connections[index].take();
        self.in_flight -= 1;
        if let Some(disconnected) = &mut self.disconnected {
            let newest_sequences = client
                .map(|client| client.newest_sequences)
                .or(disconnected[index].take().map(|disconnected| disconnected.newest_sequences));
            newest_sequences
                .iter()
                .for_each(|newest_sequences| self.context.deliveries.remove_client(newest_sequences));
            self.shared.live.fetch_sub(u64::from(newest_sequences.is_some()), Ordering::Relaxed);
            self.shared.reconnected.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
        }
        let may_fail = match self.client_options.behavior {
            ClientBehavior::Receive | ClientBehavior::Stall => false,
            ClientBehavior::Reconnect => self.disconnected.is_some(),
            ClientBehavior::Connect | ClientBehavior::ConnectAndClose => true,
        };
        if !may_fail {
            let client_number = self.client_number(index);
            let target = &self.client_options.targets[client_number % self.client_options.targets.len()];
            self.send_event(ThreadEvent::Failed(format!(
                "connection {client_number} to {}: {reason}",
                target.authority
            )));
        }
        *self.stats.failed.entry(reason.to_owned()).or_default() += 1;
    }

    fn send_completed(&mut self) {
        if !self.context.deliveries.completed.is_empty() {
            let completed = std::mem::take(&mut self.context.deliveries.completed);
            self.send_event(ThreadEvent::Completed(self.thread, completed));
        }
    }

    fn send_event(&self, event: ThreadEvent) {
        // A conductor that no longer listens is about to set `stop`.
        let _ = self.events.send(event);
        let _ = self.waker.wake();
    }
}
