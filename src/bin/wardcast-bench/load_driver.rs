//! Publishes: at a fixed rate or with a fixed number outstanding, until everything has been delivered.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::clients::{Clients, ThreadEvent};
use crate::delivery_stats::latencies;
use crate::error::{BenchError, IoContext, Result};
use crate::publication_stamp::PublicationStamp;
use crate::publish_transport::{PublishAnswer, PublishTransport};
use crate::report::thousands;
use crate::run_clock::{NO_PROGRESS_TIMEOUT, RunClock};
use crate::terminal::Terminal;

/// The token of the crowd's waker, beyond those of any outlet.
pub(crate) const CLIENTS_TOKEN: Token = Token(usize::MAX);
/// How long a lane rests after a refusal, so that a full server is asked again but not hammered.
const RETRY_DELAY: Duration = Duration::from_millis(5);
/// How long what is outstanding is waited for after Ctrl-C, or where not all of it need come.
const FINAL_WAIT: Duration = Duration::from_secs(2);

/// Whether the same publication may be taken later: the hub says so, or this session or address is only too fast.
fn is_temporary(error: &str) -> bool {
    ["\"temporary\":true", "HTTP/1.1 429", "HTTP/1.1 503"].iter().any(|word| error.contains(word))
}

/// When the next publication goes out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Workload {
    /// So many a second, whatever comes back.
    Rate(f64),
    /// As soon as one has reached everyone: so many are outstanding, one a lane.
    ClosedLoop(u16),
    /// As soon as one is answered, so many at a time.
    ClosedLoopCalls(u16),
}

impl std::fmt::Display for Workload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate(rate) => write!(formatter, "{rate}/s"),
            Self::ClosedLoop(is_outstanding) => write!(formatter, "closed loop of {is_outstanding}"),
            Self::ClosedLoopCalls(calls) => write!(formatter, "closed loop of {calls} calls"),
        }
    }
}

#[derive(Debug)]
struct PublisherState {
    last_sequence: u32,
    sent_at: u64,
    is_answered: bool,
    retry_at: Option<Instant>,
    /// The newest publication each receiving thread is through with.
    completed_by_thread: Vec<u32>,
}

impl PublisherState {
    fn is_outstanding(&self) -> bool {
        !self.is_answered
            || self.completed_by_thread.iter().any(|completed_by_thread| *completed_by_thread < self.last_sequence)
    }

    fn is_free(&self, workload: Workload) -> bool {
        let rested = self.retry_at.is_none_or(|until| until <= Instant::now());
        rested && self.is_answered && (!matches!(workload, Workload::ClosedLoop(_)) || !self.is_outstanding())
    }
}

/// The line that a person reads meanwhile.
#[derive(Debug)]
struct ProgressLine {
    phase: &'static str,
    start: Instant,
    time: Duration,
    /// When the rates were counted last, and the publications and deliveries at that time.
    counted: (Instant, u64, u64),
    rates: String,
}

impl ProgressLine {
    fn new(phase: &'static str, time: Duration, delivered: u64) -> Self {
        let start = Instant::now();
        Self { phase, start, time, counted: (start, 0, delivered), rates: String::new() }
    }

    /// The line; its rates are those of the last second.
    fn line(&mut self, (published, delivered): (u64, u64), is_delivered: bool) -> String {
        let (at, published_then, delivered_then) = self.counted;
        if at.elapsed() >= Duration::from_secs(1) {
            let per_second = |count: u64| thousands(&format!("{:.0}", count as f64 / at.elapsed().as_secs_f64()));
            self.rates = format!(", {} publications/s", per_second(published.saturating_sub(published_then)));
            if is_delivered {
                self.rates += &format!(", {} deliveries/s", per_second(delivered.saturating_sub(delivered_then)));
            }
            self.counted = (Instant::now(), published, delivered);
        }
        let (past, all) = (self.start.elapsed().as_secs(), self.time.as_secs_f64());
        format!("{} {past} of {} s{}", self.phase, all.ceil(), self.rates)
    }
}

/// The publishing side of a run.
#[derive(Debug)]
pub(crate) struct LoadDriver<'a, O> {
    poll: Poll,
    events: Events,
    transport: O,
    clients: &'a Clients,
    terminal: &'a Terminal,
    clock: RunClock,
    workload: Workload,
    size: usize,
    publishers: Vec<PublisherState>,
    last_progress_at: Instant,
    delivered: u64,
    last_refusal: String,
    /// Whether anything was taken since the run began.
    has_accepted: bool,
    progress: ProgressLine,
    /// Publications that were taken.
    pub(crate) published: u64,
    /// Publications that were refused, by the error.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Publications that were due while the server kept every lane waiting.
    pub(crate) held_up: u64,
    /// From a publication's sending to the server's answer; from when it was due, if it was held up.
    pub(crate) answer_time: Histogram<u64>,
}

impl<'a, O: PublishTransport> LoadDriver<'a, O> {
    /// A driver for an outlet of `lanes` lanes, whose publications carry `size` bytes of data.
    pub(crate) fn new(
        poll: Poll,
        transport: O,
        (clients, terminal): (&'a Clients, &'a Terminal),
        clock: RunClock,
        (workload, publishers, size): (Workload, usize, usize),
    ) -> Self {
        // A crowd that only counts tells of no publication that it is complete.
        let completed_by_thread = vec![0; if clients.publishers == 0 { 0 } else { clients.threads }];
        let publisher = || PublisherState {
            last_sequence: 0,
            sent_at: 0,
            is_answered: true,
            retry_at: None,
            completed_by_thread: completed_by_thread.clone(),
        };
        Self {
            poll,
            events: Events::with_capacity(256),
            transport,
            clients,
            terminal,
            clock,
            workload,
            size,
            publishers: (0..publishers).map(|_| publisher()).collect(),
            last_progress_at: Instant::now(),
            delivered: 0,
            last_refusal: String::new(),
            has_accepted: false,
            progress: ProgressLine::new("", Duration::ZERO, 0),
            published: 0,
            refusals: BTreeMap::new(),
            held_up: 0,
            answer_time: latencies(),
        }
    }

    /// Publishes for `time` or until Ctrl-C, then waits until all of it has been answered and delivered. Its books begin anew
    /// with each call, so that what is counted within one is whole. Returns how long it took.
    pub(crate) fn run_for(&mut self, phase: &'static str, time: Duration) -> Result<Duration> {
        let start = Instant::now();
        self.run_until(phase, time, || Ok(start.elapsed() >= time))
    }

    /// The same until it `is_over`, which is asked often; `time` is how long that is thought to take.
    pub(crate) fn run_until(
        &mut self,
        phase: &'static str,
        time: Duration,
        mut is_over: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        self.start_phase(phase, time);
        let start = Instant::now();
        let mut due = start;
        let mut was_held_up = false;
        while !is_over()? && !self.terminal.is_interrupted() {
            let now = Instant::now();
            let wait = match self.publishers.iter().position(|publisher| publisher.is_free(self.workload)) {
                Some(publisher) if due <= now => {
                    // Held up by a server that does not answer: the wait is part of the latency.
                    let late = if was_held_up { now.saturating_duration_since(due) } else { Duration::ZERO };
                    self.held_up += u64::from(was_held_up);
                    self.publish(publisher, late)?;
                    if let Workload::Rate(rate) = self.workload {
                        due += Duration::from_secs_f64(1.0 / rate);
                    }
                    was_held_up &= due <= now;
                    Duration::ZERO
                }
                Some(_) => due - now,
                None => {
                    was_held_up = matches!(self.workload, Workload::Rate(_)) && due <= now;
                    RETRY_DELAY
                }
            };
            self.poll_once(wait.min(Duration::from_millis(200)).min(time))?;
        }
        // Nobody waits for what cannot come.
        let is_lost = self.clients.shared.unrecovered.load(Ordering::Relaxed) > 0;
        let enough = (is_lost || self.terminal.is_interrupted()).then(|| Instant::now() + FINAL_WAIT);
        while self.publishers.iter().any(PublisherState::is_outstanding)
            && enough.is_none_or(|end| Instant::now() < end)
        {
            self.poll_once(Duration::from_millis(20))?;
        }
        Ok(start.elapsed())
    }

    /// Publishes until so many were taken, as fast as they are answered, to whomever it reaches.
    pub(crate) fn publish_count(&mut self, phase: &'static str, count: u64) -> Result<()> {
        self.start_phase(phase, Duration::ZERO);
        while self.published < count && !self.terminal.is_interrupted() {
            let under_way = self.publishers.iter().filter(|publisher| !publisher.is_answered).count() as u64;
            let is_free = self.publishers.iter().position(|publisher| publisher.is_free(Workload::ClosedLoopCalls(0)));
            match is_free.filter(|_| self.published + under_way < count) {
                Some(publisher) => self.publish(publisher, Duration::ZERO)?,
                None => self.poll_once(RETRY_DELAY)?,
            }
        }
        Ok(())
    }

    fn start_phase(&mut self, phase: &'static str, time: Duration) {
        self.published = 0;
        self.refusals.clear();
        self.held_up = 0;
        self.answer_time.reset();
        self.last_progress_at = Instant::now();
        self.progress = ProgressLine::new(phase, time, self.clients.shared.delivered.load(Ordering::Relaxed));
    }

    /// Waits until so many deliveries have come since the run began; fewer, when no more come.
    pub(crate) fn await_deliveries(&mut self, count: u64) -> Result<()> {
        let delivered = || self.clients.shared.delivered.load(Ordering::Acquire);
        let (mut last, mut last_progress_at) = (delivered(), Instant::now());
        while last < count && last_progress_at.elapsed() < FINAL_WAIT {
            self.poll_once(Duration::from_millis(20))?;
            let now = self.clients.shared.delivered.load(Ordering::Acquire);
            if now > last {
                (last, last_progress_at) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn publish(&mut self, publisher: usize, late: Duration) -> Result<()> {
        let now = self.clock.now();
        let late = u64::try_from(late.as_nanos()).unwrap_or(0);
        let publisher_state = &mut self.publishers[publisher];
        publisher_state.last_sequence += 1;
        publisher_state.sent_at = now.saturating_sub(late);
        publisher_state.is_answered = false;
        let number = u16::try_from(publisher).unwrap_or(u16::MAX);
        let stamp = PublicationStamp {
            publisher: number,
            sequence: publisher_state.last_sequence,
            sent: publisher_state.sent_at,
        };
        match self.transport.send(publisher, &stamp.data(self.size))? {
            Some(answer) => self.on_answer(publisher, answer),
            None => Ok(()),
        }
    }

    /// Waits for something to happen, at most so long, and books it.
    fn poll_once(&mut self, wait: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error).context(|| "epoll"),
            _ => {}
        }
        let mut answers = Vec::new();
        for event in &self.events {
            if event.token() != CLIENTS_TOKEN {
                self.transport.ready(event.token().0, &mut answers)?;
            }
        }
        for (publisher, answer) in answers {
            self.on_answer(publisher, answer)?;
        }
        while let Ok(event) = self.clients.events.try_recv() {
            if let ThreadEvent::Completed(thread, publications) = event {
                for (publisher, sequence) in publications {
                    if let Some(publisher) = self.publishers.get_mut(usize::from(publisher)) {
                        publisher.completed_by_thread[thread] = sequence;
                    }
                }
            }
        }
        self.check_progress()
    }

    fn on_answer(&mut self, publisher: usize, answer: PublishAnswer) -> Result<()> {
        let publisher_state = &mut self.publishers[publisher];
        publisher_state.is_answered = true;
        publisher_state.retry_at = None;
        if answer.accepted > 0 {
            self.last_progress_at = Instant::now();
            self.has_accepted = true;
            self.last_refusal.clear();
            self.published += u64::from(answer.accepted);
            self.answer_time.saturating_record(self.clock.now().saturating_sub(publisher_state.sent_at));
        }
        let Some(last) = answer.refused.last() else {
            return Ok(());
        };
        // An error that would come again and again is told at once.
        if !self.has_accepted && answer.accepted == 0 && !is_temporary(last) {
            return Err(BenchError::Failed(format!("the first publication was refused: {last}")));
        }
        // Its number is free again, so that refusals are no gaps.
        publisher_state.last_sequence -= u32::from(answer.accepted == 0);
        publisher_state.retry_at = Some(Instant::now() + RETRY_DELAY);
        self.last_refusal.clone_from(last);
        for error in answer.refused {
            *self.refusals.entry(error).or_default() += 1;
        }
        Ok(())
    }

    fn check_progress(&mut self) -> Result<()> {
        let delivered = self.clients.shared.delivered.load(Ordering::Relaxed);
        if delivered != self.delivered
            || !self.publishers.iter().any(PublisherState::is_outstanding) && self.last_refusal.is_empty()
        {
            self.delivered = delivered;
            self.last_progress_at = Instant::now();
        }
        if self.terminal.should_redraw() {
            let counts = (self.published, self.clients.shared.delivered.load(Ordering::Relaxed));
            let line = self.progress.line(counts, self.clients.connections > 0);
            self.terminal.show_progress(|| line);
        }
        if self.clients.connections > 0 && self.clients.shared.live.load(Ordering::Relaxed) == 0 {
            return Err(BenchError::Failed("every connection has been closed".to_owned()));
        }
        if self.last_progress_at.elapsed() > NO_PROGRESS_TIMEOUT {
            let is_outstanding = self.publishers.iter().filter(|publisher| publisher.is_outstanding()).count();
            let mut what = format!("waiting for {is_outstanding} publications to be answered and delivered");
            if !self.last_refusal.is_empty() {
                what = format!("{what} (the server last refused with {})", self.last_refusal);
            }
            return Err(BenchError::NoProgress(what));
        }
        Ok(())
    }
}
