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
use crate::standing::{Standing, Wish};
use crate::tally::Tally;

/// One buffer for all connections of a thread. A publication of 64 KiB fits with room to spare.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long a thread sleeps before it looks whether it should stop.
const NAP: Duration = Duration::from_millis(100);
/// The same while its clients wait to be called back, which is timed from the call.
const WATCH: Duration = Duration::from_millis(1);

/// What a client that was cut remembers.
#[derive(Debug)]
struct Absent {
    last: Box<[u32]>,
    standing: Option<Standing>,
}

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
    /// Whom of them was cut, by place; none before that.
    absent: Option<Vec<Option<Absent>>>,
    /// The place that is opened next.
    next: usize,
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
            absent: None,
            next: 0,
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
            self.go_away();
            self.open_more();
            match self.poll.poll(&mut events, Some(if self.is_away() { WATCH } else { NAP })) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error).during(|| "epoll"),
                _ => {}
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            self.desk.measured_from = self.shared.measured_from.load(Ordering::Relaxed);
            let (delivered, unrecovered) = (self.desk.tally.delivered, self.desk.tally.recoveries.unrecovered);
            events.iter().for_each(|event| self.on_event(event, &mut buffer));
            self.shared.delivered.fetch_add(self.desk.tally.delivered - delivered, Ordering::Release);
            self.shared.unrecovered.fetch_add(self.desk.tally.recoveries.unrecovered - unrecovered, Ordering::Relaxed);
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

    /// Cuts all connections, once that is asked for.
    fn go_away(&mut self) {
        if self.absent.is_some() || !self.shared.away.load(Ordering::Relaxed) {
            return;
        }
        let cut = |connection: Connection| {
            let Connection { socket, last, standing, .. } = connection;
            socket.cut();
            Absent { last, standing }
        };
        self.absent = Some(self.connections.iter_mut().map(|place| place.take().map(cut)).collect());
        self.next = 0;
        // What is told of opening is told of coming back.
        self.outcome.upgrade.reset();
        self.outcome.stand.reset();
        self.tell(Note::Cut);
    }

    /// Whether all were cut and are not called back.
    fn is_away(&self) -> bool {
        self.absent.is_some() && self.shared.called_back.load(Ordering::Relaxed) == 0
    }

    fn open_more(&mut self) {
        if self.is_away() {
            return;
        }
        let share = self.share();
        let at_once = match self.absent {
            None => self.plan.concurrency,
            Some(_) => self.plan.returning,
        };
        self.connections.resize_with(share, || None);
        while self.in_flight < at_once.div_ceil(self.plan.threads).max(1) && self.next < share {
            let place = self.next;
            self.next += 1;
            self.in_flight += 1;
            match self.dial(place) {
                Ok(connection) => self.connections[place] = Some(connection),
                Err(error) => self.on_failed(place, &format!("connecting: {error}")),
            }
        }
        if !self.announced && self.in_flight == 0 && self.next == share {
            self.announced = true;
            self.tell(Note::Opened);
        }
    }

    /// The number of a connection among those of all threads.
    fn number(&self, place: usize) -> usize {
        place * self.plan.threads + self.thread
    }

    fn dial(&mut self, place: usize) -> io::Result<Connection> {
        let number = self.number(place);
        let turn = |items: usize| number % items.max(1);
        let plan = self.plan.clone();
        let wish = match &self.absent {
            None if plan.is_positioned => Wish::Positioned,
            None => Wish::Plain,
            Some(absent) => {
                let standing = absent[place].as_ref().and_then(|absent| absent.standing.clone());
                Wish::Recover(standing.ok_or_else(|| io::Error::other("its connection had ended before"))?)
            }
        };
        let target = &plan.targets[turn(plan.targets.len())];
        let script = match plan.tokens.get(turn(plan.tokens.len())) {
            None => Script::Deliveries,
            Some(token) => Script::WebSocket {
                request: handshake::request(target, token),
                channel: plan.channels.get(turn(plan.channels.len())).cloned(),
                wish,
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
        let absent = self.absent.as_mut().and_then(|absent| absent[place].take());
        let last = absent.map_or_else(|| vec![0; plan.lanes].into_boxed_slice(), |absent| absent.last);
        Ok(Connection::new(socket, script, last, self.desk.clock.now()))
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
        let now = self.desk.clock.now();
        if self.absent.is_some() {
            self.outcome.back.saturating_record(now.saturating_sub(self.shared.called_back.load(Ordering::Relaxed)));
            self.shared.returned.fetch_add(1, Ordering::Relaxed);
        } else {
            self.desk.tally.join();
            self.shared.opened.fetch_add(1, Ordering::Relaxed);
            self.shared.live.fetch_add(1, Ordering::Relaxed);
        }
        let Some(connection) = &mut self.connections[place] else {
            return;
        };
        let took = |since: u64| since.saturating_sub(connection.began);
        self.outcome.upgrade.saturating_record(took(connection.upgraded));
        self.outcome.stand.saturating_record(took(now));
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
            Purpose::Receive | Purpose::Return | Purpose::Storm => {}
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
        let connection = self.connections[place].take();
        self.in_flight -= 1;
        if let Some(absent) = &mut self.absent {
            let last = connection.map(|connection| connection.last).or(absent[place].take().map(|absent| absent.last));
            last.iter().for_each(|last| self.desk.tally.leave(last));
            self.shared.live.fetch_sub(u64::from(last.is_some()), Ordering::Relaxed);
            self.shared.returned.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
        }
        let may_fail = match self.plan.purpose {
            Purpose::Receive | Purpose::Stall => false,
            Purpose::Return => self.absent.is_some(),
            Purpose::Storm | Purpose::StormAndLeave => true,
        };
        if !may_fail {
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
