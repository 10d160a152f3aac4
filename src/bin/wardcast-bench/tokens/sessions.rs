//! The sessions of `revoke`, `expiry`, `refresh` and `forged`: their tokens end or are refreshed, some do not read, and others
//! only stay connected.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix_http::ws::OpCode;
use mio::{Events, Poll, Token};

use crate::connection::{ReadBuffer, SocketOptions, wait_for_events};
use crate::delivery_stats::Latencies;
use crate::error::{BenchError, Context, Result, fail};
use crate::publication_stamp::StampFinder;
use crate::websocket::{WebSocket, write_frame};
use crate::{clock, hub_under_test::HubUnderTest, run::Run};

/// A time that has not come.
pub(super) const NEVER: u64 = u64::MAX;
/// Handshakes at a time.
const CONCURRENCY: usize = 64;
/// The receive buffer of a session that does not read.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// The beginning of the reply to a refresh command, whose id is 3.
const REFRESH_REPLY: &[u8] = b"{\"id\":3,\"refresh\":";

/// What a session is.
pub(super) struct SessionPlan {
    pub(super) user: String,
    /// `exp`.
    pub(super) expires_at: u64,
    /// When its token ends, by the clock of this program; `None` if it does not end.
    pub(super) end: Option<Arc<AtomicU64>>,
}

struct Session {
    websocket: Option<Box<WebSocket>>,
    end: Option<Arc<AtomicU64>>,
    node: usize,
    is_live: bool,
    is_stalled: bool,
    /// The clock when the last delivery was read, and when it had been sent.
    last_delivery: Option<(u64, u64)>,
    /// The number of the newest publication; 0 before the first.
    newest: u64,
    /// When its refresh was due, if it has no answer.
    refresh_due: Option<u64>,
    closed: Option<(u64, String)>,
}

/// The sessions.
pub(super) struct Sessions {
    poll: Poll,
    events: Events,
    buffer: ReadBuffer,
    finder: StampFinder,
    list: Vec<Session>,
    channel: String,
    nodes: usize,
    /// When the deliveries to sessions that stay were sent, and when they were read.
    timed: Vec<(u64, u64)>,
    /// From when a refresh was due to its answer.
    refreshed: Latencies,
    /// Publications that sessions that stay have not received although they have received later ones.
    missed: u64,
    deliveries: u64,
    /// Deliveries of publications that were sent after the end of the session's token.
    late: u64,
}

impl Sessions {
    /// Opens the sessions with these numbers, spread over the hubs and subscribed to a channel. The first ones do not read.
    pub(super) fn open(
        (hub, channel): (&HubUnderTest<'_>, &str),
        run: &Run,
        numbers: Range<usize>,
        stalled: usize,
        plan: impl Fn(usize) -> SessionPlan,
    ) -> Result<Self> {
        let count = numbers.len();
        let options = hub.socket_options(&hub.targets)?;
        let mut sessions = Self {
            poll: Poll::new().context("epoll")?,
            events: Events::with_capacity(1024),
            buffer: ReadBuffer::new(),
            finder: StampFinder::default(),
            list: Vec::with_capacity(count),
            channel: channel.to_owned(),
            nodes: hub.targets.len(),
            timed: Vec::new(),
            refreshed: Latencies::default(),
            missed: 0,
            deliveries: 0,
            late: 0,
        };
        let mut live = 0;
        while live < count {
            while sessions.list.len() < count && sessions.list.len() < live + CONCURRENCY {
                let index = sessions.list.len();
                let number = numbers.start + index;
                let plan = plan(number);
                let token = hub.token_of(&plan.user, plan.expires_at)?;
                let is_stalled = index < stalled;
                let receive_buffer = is_stalled.then_some(STALLED_RECEIVE_BYTES);
                let options = SocketOptions { receive_buffer, ..options.clone() };
                let node = number % sessions.nodes;
                let credentials = hub.send_token().credentials(&token);
                let source = (sessions.poll.registry(), Token(index));
                let websocket = WebSocket::open(&hub.targets[node], credentials, &options, source)?;
                sessions.list.push(Session {
                    websocket: Some(Box::new(websocket)),
                    end: plan.end,
                    node,
                    is_live: false,
                    is_stalled,
                    last_delivery: None,
                    newest: 0,
                    refresh_due: None,
                    closed: None,
                });
            }
            sessions.read(Duration::from_millis(100))?;
            if let Some((_, reason)) = sessions.list.iter().find_map(|session| session.closed.as_ref()) {
                return fail(format!("a connection ended: {reason}"));
            }
            live = sessions.list.iter().filter(|session| session.is_live).count();
            if run.terminal.is_interrupted() {
                return fail("interrupted");
            }
        }
        Ok(sessions)
    }

    /// Reads for a time.
    pub(super) fn read_for(&mut self, time: Duration, run: &Run) -> Result<()> {
        self.read_until(run, time, |_| false)
    }

    /// Reads until something is so, or for a time.
    pub(super) fn read_until(&mut self, run: &Run, time: Duration, is_done: impl Fn(&Self) -> bool) -> Result<()> {
        let until = clock::now() + time.as_nanos() as u64;
        while clock::now() < until && !is_done(self) && !run.terminal.is_interrupted() {
            let left = Duration::from_nanos(until.saturating_sub(clock::now()));
            self.read(left.min(Duration::from_millis(10)))?;
        }
        Ok(())
    }

    /// Returns whether all sessions that read and whose tokens end have ended.
    pub(super) fn have_readers_ended(&self) -> bool {
        self.list.iter().all(|session| session.end.is_none() || session.is_stalled || session.closed.is_some())
    }

    /// Returns whether all sessions that are open have the answers to their refreshes.
    pub(super) fn have_refreshed(&self) -> bool {
        self.list.iter().all(|session| session.refresh_due.is_none() || session.closed.is_some())
    }

    /// Returns whether all sessions that read and are open have received a publication.
    pub(super) fn have_received_any(&self) -> bool {
        self.list.iter().all(|session| session.newest > 0 || session.is_stalled || session.closed.is_some())
    }

    /// Returns whether all sessions that are open have received this publication.
    pub(super) fn have_received(&self, number: u64) -> bool {
        self.list.iter().all(|session| session.newest == number || session.closed.is_some())
    }

    /// Sends a new token for a session.
    pub(super) fn refresh(&mut self, index: usize, token: &str, due: u64) {
        let session = &mut self.list[index];
        let Some(websocket) = &mut session.websocket else { return };
        session.refresh_due = Some(due);
        let command = format!("{{\"id\":3,\"refresh\":{{\"token\":\"{token}\"}}}}");
        if let Err(BenchError(reason)) = websocket.send(command.as_bytes()) {
            session.closed = Some((clock::now(), reason));
        }
    }

    /// Reads what has come, and waits for it until the timeout.
    pub(super) fn read(&mut self, timeout: Duration) -> Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let waited = wait_for_events(&mut self.poll, &mut events, timeout);
        for event in &events {
            let is_closing = event.is_read_closed() || event.is_error();
            self.on_ready(event.token().0, is_closing);
        }
        self.events = events;
        waited
    }

    fn on_ready(&mut self, index: usize, is_closing: bool) {
        let Self { list, channel, buffer, finder, timed, refreshed, missed, deliveries, late, .. } = self;
        let Some(session) = list.get_mut(index) else { return };
        if session.is_stalled && session.is_live {
            return;
        }
        let Some(mut websocket) = session.websocket.take() else { return };
        let Session { end, is_live, last_delivery, newest, refresh_due, .. } = session;
        let result = websocket.on_ready(buffer, is_closing, |message, out, now| {
            if let Some(stamp) = finder.find(message) {
                *deliveries += 1;
                *last_delivery = Some((now, stamp.sent_at));
                let previous = std::mem::replace(newest, stamp.sequence.into());
                match end {
                    Some(end) => *late += u64::from(stamp.sent_at > end.load(Ordering::Acquire)),
                    None => {
                        timed.push((stamp.sent_at, now));
                        *missed += if previous == 0 { 0 } else { newest.abs_diff(previous + 1) };
                    }
                }
                return Ok(());
            }
            if message.starts_with(REFRESH_REPLY) {
                refresh_due.take().into_iter().for_each(|due| refreshed.record(due, now));
                return Ok(());
            }
            let text = String::from_utf8_lossy(message);
            if text.contains("\"error\"") {
                return fail(format!("answered {text}"));
            }
            if text.contains("\"connect\":") {
                let command = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
                write_frame(out, OpCode::Text, command.as_bytes());
            }
            *is_live |= text.contains("\"subscribe\":");
            Ok(())
        });
        match result {
            Ok(()) => session.websocket = Some(websocket),
            Err(BenchError(reason)) => session.closed = Some((clock::now(), reason)),
        }
    }

    /// Has the stalled sessions read what the kernel has for them, and reports how the tokens have ended. `revoked` is when a
    /// revocation was called for, and from when a node that was frozen could obey it.
    pub(super) fn report_ends(mut self, run: &mut Run, revoked: Option<(u64, u64)>) -> Result<()> {
        let stalled: Vec<usize> = (0..self.list.len()).filter(|index| self.list[*index].is_stalled).collect();
        let received = self.deliveries;
        for index in stalled {
            self.list[index].is_stalled = false;
            self.on_ready(index, true);
            self.list[index].is_stalled = true;
        }
        let (mut last_bytes, mut closes) = (Latencies::default(), Latencies::default());
        let mut open = 0_u64;
        for session in &self.list {
            let Some(end) = &session.end else { continue };
            let end = end.load(Ordering::Acquire);
            let end = match revoked {
                // All nodes but the last go on while that one is frozen.
                Some((_, resumed)) if self.nodes > 1 && session.node == self.nodes - 1 => resumed,
                Some((called, _)) => called,
                None => end,
            };
            match &session.closed {
                Some((at, _)) if !session.is_stalled => {
                    closes.record(end, *at);
                    last_bytes.record(end, session.last_delivery.map_or(end, |(read, _)| read.max(end)));
                }
                Some(_) => {}
                None => open += 1,
            }
            debug_assert_ne!(end, NEVER);
        }
        let report = &mut run.report;
        report.set("deliveries", self.deliveries);
        report.set("token_end_stalled_deliveries", self.deliveries - received);
        report.set("token_end_late", self.late);
        report.set("token_end_open", open);
        report.set_counts("connections_closed", &self.close_reasons());
        report.set_percentiles("token_end_last_byte", &last_bytes);
        report.set_percentiles("token_end_close", &closes);
        Ok(())
    }

    /// Reports the refreshes, and what the sessions have missed of the publications.
    pub(super) fn report_refreshes(&self, run: &mut Run, published: u64) {
        let open = self.list.iter().filter(|session| session.closed.is_none());
        let missing: u64 = open.map(|session| published.saturating_sub(session.newest)).sum();
        let report = &mut run.report;
        report.set("deliveries", self.deliveries);
        report.set("sequence_missed", self.missed + missing);
        report.set("refreshed", self.refreshed.0.len());
        report.set_percentiles("refresh_answer", &self.refreshed);
    }

    /// Reports the deliveries before a time and within it, and the sessions that have ended.
    pub(super) fn report_deliveries(&self, (from, to): (u64, u64), run: &mut Run) {
        let (mut before, mut during) = (Latencies::default(), Latencies::default());
        for (sent_at, read_at) in self.timed.iter().copied().filter(|(sent_at, _)| *sent_at < to) {
            let latencies = if read_at < from { &mut before } else { &mut during };
            latencies.record(sent_at, read_at);
        }
        run.report.set_percentiles("beside_before", &before);
        run.report.set_percentiles("beside_during", &during);
        run.report.set_counts("beside_closed", &self.close_reasons());
    }

    fn close_reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for (_, reason) in self.list.iter().filter_map(|session| session.closed.as_ref()) {
            *reasons.entry(reason.clone()).or_insert(0) += 1;
        }
        reasons
    }
}
