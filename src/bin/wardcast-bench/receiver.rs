//! One receiving thread: opens its share of the connections, then reads whatever epoll reports until told to stop.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::clock::Clock;
use crate::connection::{Connection, Desk, Ended, Script, Stage};
use crate::crowd::{Note, Outcome, Plan, Purpose, Shared};
use crate::error::{Result, While};
use crate::handshake;
use crate::socket::{Socket, SocketOptions};
use crate::stamp::Finder;
use crate::tally::Tally;

/// One buffer for all connections of a thread. A publication of 64 KiB fits with room to spare.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long a thread sleeps before it looks whether it should stop.
const NAP: Duration = Duration::from_millis(100);

/// One receiving thread.
#[derive(Debug)]
pub(crate) struct Receiver {
    thread: usize,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    notes: mpsc::Sender<Note>,
    waker: Arc<Waker>,
    poll: Poll,
    connections: Vec<Option<Connection>>,
    in_flight: usize,
    announced: bool,
    desk: Desk,
    /// What it has to show (its books are at the desk until it has run).
    pub(crate) outcome: Outcome,
}

impl Receiver {
    /// A thread that has not begun.
    pub(crate) fn new(
        thread: usize,
        plan: Arc<Plan>,
        clock: Clock,
        shared: Arc<Shared>,
        notes: mpsc::Sender<Note>,
        waker: Arc<Waker>,
    ) -> Result<Self> {
        let tally = Tally::new(plan.lanes);
        Ok(Self {
            thread,
            plan,
            shared,
            notes,
            waker,
            poll: Poll::new().during(|| "epoll")?,
            connections: Vec::new(),
            in_flight: 0,
            announced: false,
            desk: Desk { clock, tally, finder: Finder::default(), measured_from: u64::MAX },
            outcome: Outcome::new(Tally::new(0)),
        })
    }

    /// Opens, reads, and comes back when told to stop.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.open_more();
            match self.poll.poll(&mut events, Some(NAP)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error).during(|| "epoll"),
                _ => {}
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            self.desk.measured_from = self.shared.measured_from.load(Ordering::Relaxed);
            let delivered = self.desk.tally.delivered;
            events.iter().for_each(|event| self.on_event(event, &mut buffer));
            self.shared.delivered.fetch_add(self.desk.tally.delivered - delivered, Ordering::Release);
            self.tell_completed();
        }
        std::mem::swap(&mut self.desk.tally, &mut self.outcome.tally);
        Ok(())
    }

    /// This thread's share: every `threads`-th connection.
    fn share(&self) -> usize {
        let Plan { connections, threads, .. } = &*self.plan;
        connections / threads + usize::from(self.thread < connections % threads)
    }

    fn open_more(&mut self) {
        let share = self.share();
        let at_once = self.plan.concurrency.div_ceil(self.plan.threads).max(1);
        while self.in_flight < at_once && self.connections.len() < share {
            let place = self.connections.len();
            self.connections.push(None);
            self.in_flight += 1;
            match self.dial(place) {
                Ok(connection) => self.connections[place] = Some(connection),
                Err(error) => self.on_failed(place, &format!("connecting: {error}")),
            }
        }
        if !self.announced && self.in_flight == 0 && self.connections.len() == share {
            self.announced = true;
            self.tell(Note::Opened);
        }
    }

    /// The number of a connection among those of all threads.
    fn number(&self, place: usize) -> usize {
        place * self.plan.threads + self.thread
    }

    fn dial(&self, place: usize) -> io::Result<Connection> {
        let number = self.number(place);
        let turn = |items: usize| number % items.max(1);
        let plan = &self.plan;
        let target = &plan.targets[turn(plan.targets.len())];
        let script = match plan.tokens.get(turn(plan.tokens.len())) {
            None => Script::Deliveries,
            Some(token) => Script::WebSocket {
                request: handshake::request(target, token),
                channel: plan.channels.get(turn(plan.channels.len())).cloned(),
            },
        };
        let options = match u32::try_from(turn(plan.source_addresses)) {
            Ok(offset) if plan.source_addresses > 1 => {
                let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + offset);
                SocketOptions { source: Some(source), ..plan.socket.clone() }
            }
            _ => plan.socket.clone(),
        };
        let mut socket = Socket::open(target, &options)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket.tcp, Token(place), interest)?;
        Ok(Connection::new(socket, script, plan.lanes, self.desk.clock.now()))
    }

    fn on_event(&mut self, event: &Event, buffer: &mut [u8]) {
        let place = event.token().0;
        let Some(Some(connection)) = self.connections.get_mut(place) else {
            return;
        };
        let before = connection.stage;
        let closing = event.is_read_closed() || event.is_error();
        let result = if before == Stage::Live && self.plan.purpose == Purpose::Stall {
            match closing || event.is_write_closed() {
                true => Err(Ended("let go by the server".to_owned())),
                false => Ok(()),
            }
        } else {
            connection.ready(buffer, &mut self.desk, closing)
        };
        match result {
            Ok(()) if before != Stage::Live && connection.stage == Stage::Live => self.on_stands(place),
            Ok(()) => {}
            Err(Ended(reason)) if before == Stage::Live => self.on_ended(place, reason),
            Err(Ended(reason)) => self.on_failed(place, &reason),
        }
    }

    fn on_stands(&mut self, place: usize) {
        self.in_flight -= 1;
        self.desk.tally.join();
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        self.shared.live.fetch_add(1, Ordering::Relaxed);
        let Some(connection) = &mut self.connections[place] else {
            return;
        };
        let took = |since: u64| since.saturating_sub(connection.began);
        self.outcome.upgrade.saturating_record(took(connection.upgraded));
        self.outcome.stand.saturating_record(took(self.desk.clock.now()));
        match self.plan.purpose {
            Purpose::StormAndLeave => {
                connection.say_goodbye();
                self.connections[place] = None;
                self.shared.live.fetch_sub(1, Ordering::Relaxed);
            }
            Purpose::Stall => {
                let port = connection.socket.tcp.local_addr().map(|address| address.port());
                if let Ok(mut ports) = self.shared.ports.lock() {
                    ports.extend(port);
                }
            }
            Purpose::Receive | Purpose::Storm => {}
        }
    }

    fn on_ended(&mut self, place: usize, reason: String) {
        if let Some(connection) = self.connections[place].take() {
            self.desk.tally.leave(&connection.last);
        }
        self.shared.live.fetch_sub(1, Ordering::Relaxed);
        self.outcome.ended_at.push(self.desk.clock.now());
        *self.outcome.ended.entry(reason).or_default() += 1;
    }

    fn on_failed(&mut self, place: usize, reason: &str) {
        self.connections[place] = None;
        self.in_flight -= 1;
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        if matches!(self.plan.purpose, Purpose::Receive | Purpose::Stall) {
            let number = self.number(place);
            let target = &self.plan.targets[number % self.plan.targets.len()];
            self.tell(Note::Failed(format!("connection {number} to {}: {reason}", target.authority)));
        }
        *self.outcome.failed.entry(reason.to_owned()).or_default() += 1;
    }

    fn tell_completed(&mut self) {
        if !self.desk.tally.completed.is_empty() {
            let completed = std::mem::take(&mut self.desk.tally.completed);
            self.tell(Note::Completed(self.thread, completed));
        }
    }

    fn tell(&self, note: Note) {
        // A conductor that no longer listens is about to set `stop`.
        let _ = self.notes.send(note);
        let _ = self.waker.wake();
    }
}
