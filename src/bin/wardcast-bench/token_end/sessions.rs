//! The sessions of `revoke` and `expiry`: those whose tokens end, some of which do not read, and others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix_http::ws::OpCode;
use mio::{Events, Poll, Token};

use super::{CHANNEL, NEVER, TokenEndArgs};
use crate::connection::{ReadBuffer, SocketOptions, wait_for_events};
use crate::delivery_stats::Latencies;
use crate::error::{BenchError, Context, Result, fail};
use crate::publication_stamp::StampFinder;
use crate::websocket::{WebSocket, write_frame};
use crate::{clock, hub_under_test::HubUnderTest, run::Run};

/// Handshakes at a time.
const CONCURRENCY: usize = 64;
/// The receive buffer of a session that does not read.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// What a session is.
pub(super) struct SessionPlan {
    pub(super) user: String,
    /// `exp`.
    pub(super) expires_at: u64,
    /// When its token ends, by the clock of this program; `None` for the other sessions.
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
    closed: Option<(u64, String)>,
}

/// The sessions.
pub(super) struct Sessions {
    poll: Poll,
    events: Events,
    buffer: ReadBuffer,
    finder: StampFinder,
    list: Vec<Session>,
    nodes: usize,
    others: [Latencies; 2],
    is_after: bool,
    deliveries: u64,
    /// Deliveries of publications that were sent after the end of the session's token.
    late: u64,
}

impl Sessions {
    /// Opens all sessions, spread over the hubs.
    pub(super) fn open(
        hub: &HubUnderTest<'_>,
        run: &Run,
        args: &TokenEndArgs,
        plan: impl Fn(usize, bool) -> SessionPlan,
    ) -> Result<Self> {
        let (meant, count) = (args.connections as usize, (args.connections + args.others) as usize);
        let options = hub.socket_options(&hub.targets)?;
        let mut sessions = Self {
            poll: Poll::new().context("epoll")?,
            events: Events::with_capacity(1024),
            buffer: ReadBuffer::new(),
            finder: StampFinder::default(),
            list: Vec::with_capacity(count),
            nodes: hub.targets.len(),
            others: [Latencies::default(), Latencies::default()],
            is_after: false,
            deliveries: 0,
            late: 0,
        };
        let mut live = 0;
        while live < count {
            while sessions.list.len() < count && sessions.list.len() < live + CONCURRENCY {
                let number = sessions.list.len();
                let plan = plan(number, number < meant);
                let token = hub.token_of(&plan.user, plan.expires_at)?;
                let is_stalled = number < usize::from(args.stalled);
                let receive_buffer = is_stalled.then_some(STALLED_RECEIVE_BYTES);
                let options = SocketOptions { receive_buffer, ..options.clone() };
                let node = number % sessions.nodes;
                let credentials = hub.send_token().credentials(&token);
                let source = (sessions.poll.registry(), Token(number));
                let websocket = WebSocket::open(&hub.targets[node], credentials, &options, source)?;
                sessions.list.push(Session {
                    websocket: Some(Box::new(websocket)),
                    end: plan.end,
                    node,
                    is_live: false,
                    is_stalled,
                    last_delivery: None,
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

    /// From now on deliveries to others count as after the end.
    pub(super) fn begin_after(&mut self) {
        self.is_after = true;
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

    fn read(&mut self, timeout: Duration) -> Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let waited = wait_for_events(&mut self.poll, &mut events, timeout);
        for event in &events {
            let is_closing = event.is_read_closed() || event.is_error();
            self.on_ready(event.token().0, is_closing);
        }
        self.events = events;
        waited
    }

    fn on_ready(&mut self, number: usize, is_closing: bool) {
        let Self { list, buffer, finder, others, is_after, deliveries, late, .. } = self;
        let Some(session) = list.get_mut(number) else { return };
        if session.is_stalled && session.is_live {
            return;
        }
        let Some(mut websocket) = session.websocket.take() else { return };
        let (end, is_live, last) = (&session.end, &mut session.is_live, &mut session.last_delivery);
        let result = websocket.on_ready(buffer, is_closing, |message, out, now| {
            if let Some(stamp) = finder.find(message) {
                *deliveries += 1;
                *last = Some((now, stamp.sent_at));
                match end {
                    Some(end) => *late += u64::from(stamp.sent_at > end.load(Ordering::Acquire)),
                    None => others[usize::from(*is_after)].record(stamp.sent_at, now),
                }
                return Ok(());
            }
            let text = String::from_utf8_lossy(message);
            if text.contains("\"error\"") {
                return fail(format!("answered {text}"));
            }
            if text.contains("\"connect\":") {
                let command = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{CHANNEL}\"}}}}");
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

    /// Has the stalled sessions read what the kernel has for them, and reports. `revoked` is when a revocation was called for, and
    /// from when a node that was frozen could obey it.
    pub(super) fn finish(mut self, run: &mut Run, revoked: Option<(u64, u64)>) -> Result<()> {
        let stalled: Vec<usize> = (0..self.list.len()).filter(|number| self.list[*number].is_stalled).collect();
        let received = self.deliveries;
        for number in stalled {
            self.list[number].is_stalled = false;
            self.on_ready(number, true);
            self.list[number].is_stalled = true;
        }
        let (mut last_bytes, mut closes) = (Latencies::default(), Latencies::default());
        let (mut reasons, mut open) = (BTreeMap::new(), 0_u64);
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
                Some((at, reason)) => {
                    *reasons.entry(reason.clone()).or_insert(0) += 1;
                    if !session.is_stalled {
                        closes.record(end, *at);
                        last_bytes.record(end, session.last_delivery.map_or(end, |(read, _)| read.max(end)));
                    }
                }
                None => open += 1,
            }
            debug_assert_ne!(end, NEVER);
        }
        let report = &mut run.report;
        report.set("deliveries", self.deliveries);
        report.set("token_end_stalled_deliveries", self.deliveries - received);
        report.set("token_end_late", self.late);
        report.set("token_end_open", open);
        report.set_counts("connections_closed", &reasons);
        report.set_percentiles("token_end_last_byte", &last_bytes);
        report.set_percentiles("token_end_close", &closes);
        let [before, after] = &self.others;
        report.set_percentiles("token_end_others_before", before);
        report.set_percentiles("token_end_others_after", after);
        Ok(())
    }
}
