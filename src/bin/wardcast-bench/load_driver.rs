//! The publishing side of a run: publishes at a fixed rate or in a closed loop, until everything is answered and delivered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Token};

use crate::clock::{self, NO_PROGRESS_TIMEOUT};
use crate::connection::{ReadBuffer, wait_for_events};
use crate::error::{Result, fail, no_progress};
use crate::{
    clients::Clients, delivery_stats::Latencies, publication_stamp::PublicationStamp, remedies, report::thousands,
    run::Run,
};

/// The token of the receiving threads' waker, larger than the number of any publisher.
pub(crate) const CLIENTS_TOKEN: Token = Token(usize::MAX);
/// How long a publisher waits after a refusal, so that a full server is asked again but not flooded.
const RETRY_DELAY: Duration = Duration::from_millis(5);
/// How long outstanding publications are awaited after Ctrl-C, or if not all of them need to arrive.
const FINAL_WAIT: Duration = Duration::from_secs(2);
/// How long the driver sleeps at most while it has nothing to publish.
const POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// The same while it waits for the last answers and deliveries.
const FINAL_POLL_TIMEOUT: Duration = Duration::from_millis(20);

/// When the next publication is sent.
#[derive(Clone, Copy)]
pub(crate) enum Workload {
    /// At a fixed rate per second, whatever the answers.
    Rate(f64),
    /// This many publications are outstanding, one per publisher, each until all clients have it.
    ClosedLoop(u16),
    /// This many calls are outstanding, each until it is answered.
    ClosedLoopCalls(u16),
}

impl Workload {
    /// The workload in words.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Rate(rate) => format!("{rate}/s"),
            Self::ClosedLoop(outstanding) => format!("closed loop of {outstanding}"),
            Self::ClosedLoopCalls(calls) => format!("closed loop of {calls} calls"),
        }
    }
}

/// The answer to one call: a publication, a batch or a broadcast.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishAnswer {
    /// How many publications were accepted, so that they will be delivered.
    pub(crate) accepted: u32,
    /// The error of each publication that was refused, such as 111 (too many requests).
    pub(crate) refused: Vec<String>,
}

/// Sends the publications of a number of publishers. The next publication of a publisher waits for the answer to the
/// previous one.
pub(crate) trait PublishTransport {
    /// Sends a publication of a publisher that waits for no answer. Returns the answer if it is known at once.
    fn send(&mut self, publisher: usize, data: &[u8]) -> Result<Option<PublishAnswer>>;

    /// Handles an event of the run's `poll`, whose token is the number of a publisher. Returns its answer, if one came.
    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer) -> Result<Option<PublishAnswer>>;
}

/// What is published, how, and when.
pub(crate) struct Load {
    /// How publications are sent.
    pub(crate) transport: Box<dyn PublishTransport>,
    /// When they are sent.
    pub(crate) workload: Workload,
    /// How many publishers send them.
    pub(crate) publishers: usize,
    /// Bytes of their data.
    pub(crate) size: usize,
}

#[derive(Clone)]
struct PublisherState {
    last_sequence: u32,
    /// When its last publication was sent or, if the hub held it up, when it was due.
    sent_at: u64,
    is_answered: bool,
    retry_at: Option<Instant>,
}

/// The publishing side of a run. Its counts are those of the current phase.
pub(crate) struct LoadDriver<'a> {
    /// The run.
    pub(crate) run: &'a mut Run,
    /// The receiving side.
    pub(crate) clients: &'a Clients,
    load: Load,
    events: Events,
    buffer: ReadBuffer,
    publishers: Vec<PublisherState>,
    /// The counts when they last changed, and when that was.
    last_progress: ([u64; 2], Instant),
    /// Whether any publication was accepted since the run began.
    has_accepted: bool,
    progress: ProgressLine,
    /// Publications that were accepted.
    pub(crate) published: u64,
    /// Publications that were refused, by error.
    refusals: BTreeMap<String, u64>,
    /// Publications that were due while every publisher waited for the server.
    held_up: u64,
    /// From sending a publication to its answer; if it was held up, from when it was due.
    answer_time: Latencies,
}

impl<'a> LoadDriver<'a> {
    /// A driver that has published nothing.
    pub(crate) fn new(run: &'a mut Run, clients: &'a Clients, load: Load) -> Self {
        let publisher = PublisherState { last_sequence: 0, sent_at: 0, is_answered: true, retry_at: None };
        Self {
            run,
            clients,
            events: Events::with_capacity(256),
            buffer: ReadBuffer::new(),
            publishers: vec![publisher; load.publishers],
            load,
            last_progress: ([0; 2], Instant::now()),
            has_accepted: false,
            progress: ProgressLine { phase: "", start: Instant::now(), time: Duration::ZERO, delivered_before: 0 },
            published: 0,
            refusals: BTreeMap::new(),
            held_up: 0,
            answer_time: Latencies::default(),
        }
    }

    /// Ends publishing. The publishers' connections end with the result.
    pub(crate) fn into_load(self) -> Load {
        self.load
    }

    /// Publishes for `time` or until Ctrl-C, then waits until everything is answered and delivered. Returns how long that
    /// took.
    pub(crate) fn run_for(&mut self, phase: &'static str, time: Duration) -> Result<Duration> {
        let start = Instant::now();
        self.run_until(phase, time, |_| Ok(start.elapsed() >= time))
    }

    /// The same until `is_over`, which is called often. `time` is how long that should take.
    pub(crate) fn run_until(
        &mut self,
        phase: &'static str,
        time: Duration,
        mut is_over: impl FnMut(&mut Run) -> Result<bool>,
    ) -> Result<Duration> {
        self.start_phase(phase, time);
        let start = Instant::now();
        let (mut due, mut was_held_up) = (start, false);
        while !is_over(self.run)? && !self.run.terminal.is_interrupted() {
            let now = Instant::now();
            let timeout = match self.free_publisher() {
                Some(publisher) if due <= now => {
                    // The server held it up by not answering: the wait is part of its latency.
                    let late = if was_held_up { now.saturating_duration_since(due) } else { Duration::ZERO };
                    self.held_up += u64::from(was_held_up);
                    self.publish(publisher, late)?;
                    if let Workload::Rate(rate) = self.load.workload {
                        due += Duration::from_secs_f64(1.0 / rate);
                    }
                    was_held_up &= due <= now;
                    Duration::ZERO
                }
                Some(_) => due - now,
                None => {
                    was_held_up = matches!(self.load.workload, Workload::Rate(_)) && due <= now;
                    RETRY_DELAY
                }
            };
            self.handle_events(timeout.min(POLL_TIMEOUT).min(time))?;
        }
        // After Ctrl-C, and if publications are lost to clients that did not recover, not everything need be delivered.
        let may_be_incomplete = self.clients.shared.unrecovered.get() > 0 || self.run.terminal.is_interrupted();
        let end = may_be_incomplete.then(|| Instant::now() + FINAL_WAIT);
        while self.outstanding().next().is_some() && end.is_none_or(|end| Instant::now() < end) {
            self.handle_events(FINAL_POLL_TIMEOUT)?;
        }
        Ok(start.elapsed())
    }

    /// Publishes until `count` publications are accepted, as fast as they are answered, without regard to deliveries.
    pub(crate) fn publish_count(&mut self, phase: &'static str, count: u64) -> Result<()> {
        self.start_phase(phase, Duration::ZERO);
        while self.published < count && !self.run.terminal.is_interrupted() {
            let unanswered = self.publishers.iter().filter(|publisher| !publisher.is_answered).count() as u64;
            match self.free_publisher().filter(|_| self.published + unanswered < count) {
                Some(publisher) => self.publish(publisher, Duration::ZERO)?,
                None => self.handle_events(RETRY_DELAY)?,
            }
        }
        Ok(())
    }

    /// Waits until `count` deliveries have come since the run began, or no more come. Only for clients that do not check
    /// sequence numbers: for others, no phase ends before everything is delivered.
    pub(crate) fn await_deliveries(&mut self, count: u64) -> Result<()> {
        let (mut last, mut last_progress_at) = (self.clients.shared.delivered.get(), Instant::now());
        while self.clients.options.publishers == 0 && last < count && last_progress_at.elapsed() < FINAL_WAIT {
            self.handle_events(FINAL_POLL_TIMEOUT)?;
            let delivered = self.clients.shared.delivered.get();
            if delivered > last {
                (last, last_progress_at) = (delivered, Instant::now());
            }
        }
        Ok(())
    }

    /// Reports how many publications were accepted in these `seconds`, and how they were answered.
    pub(crate) fn report_publications(&mut self, seconds: f64) {
        let report = &mut self.run.report;
        report.set_number("seconds", seconds);
        report.set("publications", self.published);
        report.set_number("publications_per_second", self.published as f64 / seconds);
        report.set("publications_refused", self.refusals.values().sum::<u64>());
        report.set_counts("refusals", &self.refusals);
        remedies::add_notes(report, &self.refusals);
        report.set("publications_held_up", self.held_up);
        report.set_percentiles("publish_answer", &self.answer_time);
    }

    fn start_phase(&mut self, phase: &'static str, time: Duration) {
        (self.published, self.held_up) = (0, 0);
        self.refusals.clear();
        self.answer_time.0.reset();
        self.last_progress.1 = Instant::now();
        self.progress =
            ProgressLine { phase, start: Instant::now(), time, delivered_before: self.clients.shared.delivered.get() };
    }

    fn is_outstanding(&self, publisher: usize) -> bool {
        let PublisherState { is_answered, last_sequence, .. } = self.publishers[publisher];
        !is_answered || !self.clients.shared.is_completed(publisher, last_sequence)
    }

    /// The publishers whose last publications are not answered, or not delivered to all clients.
    fn outstanding(&self) -> impl Iterator<Item = usize> {
        (0..self.publishers.len()).filter(|publisher| self.is_outstanding(*publisher))
    }

    fn free_publisher(&self) -> Option<usize> {
        let is_closed_loop = matches!(self.load.workload, Workload::ClosedLoop(_));
        (0..self.publishers.len()).find(|number| {
            let PublisherState { is_answered, retry_at, .. } = self.publishers[*number];
            let may_try = retry_at.is_none_or(|at| at <= Instant::now());
            may_try && is_answered && (!is_closed_loop || !self.is_outstanding(*number))
        })
    }

    fn publish(&mut self, publisher: usize, late: Duration) -> Result<()> {
        let state = &mut self.publishers[publisher];
        state.last_sequence += 1;
        state.sent_at = clock::now().saturating_sub(late.as_nanos() as u64);
        state.is_answered = false;
        let stamp =
            PublicationStamp { publisher: publisher as u16, sequence: state.last_sequence, sent_at: state.sent_at };
        match self.load.transport.send(publisher, &stamp.data(self.load.size))? {
            Some(answer) => self.on_answer(publisher, answer),
            None => Ok(()),
        }
    }

    /// Waits for events, at most for `timeout`, and handles them.
    fn handle_events(&mut self, timeout: Duration) -> Result<()> {
        wait_for_events(&mut self.run.poll, &mut self.events, timeout)?;
        let mut answers = Vec::new();
        for event in self.events.iter().filter(|event| event.token() != CLIENTS_TOKEN) {
            let answer = self.load.transport.on_event(event, &mut self.buffer)?;
            answers.extend(answer.map(|answer| (event.token().0, answer)));
        }
        answers.into_iter().try_for_each(|(publisher, answer)| self.on_answer(publisher, answer))?;
        self.check_progress()
    }

    fn on_answer(&mut self, publisher: usize, answer: PublishAnswer) -> Result<()> {
        let state = &mut self.publishers[publisher];
        state.is_answered = true;
        state.retry_at = None;
        if answer.accepted > 0 {
            self.has_accepted = true;
            self.published += u64::from(answer.accepted);
            self.answer_time.record(state.sent_at, clock::now());
        }
        let Some(last) = answer.refused.last() else {
            return Ok(());
        };
        // An error that would come again and again ends the run at once.
        if !self.has_accepted && answer.accepted == 0 && !is_temporary(last) {
            return fail(format!("the first publication was refused: {last}"));
        }
        // Its number is used again, so that refusals are not gaps.
        state.last_sequence -= u32::from(answer.accepted == 0);
        state.retry_at = Some(Instant::now() + RETRY_DELAY);
        for error in answer.refused {
            *self.refusals.entry(error).or_default() += 1;
        }
        Ok(())
    }

    fn check_progress(&mut self) -> Result<()> {
        let Clients { shared, options, .. } = self.clients;
        let counts = [self.published, shared.delivered.get()];
        let is_refused = self.publishers.iter().any(|publisher| publisher.retry_at.is_some());
        if counts != self.last_progress.0 || !is_refused && self.outstanding().next().is_none() {
            self.last_progress = (counts, Instant::now());
        }
        let progress = &self.progress;
        self.run.terminal.show_progress(|| progress.line(counts, options.connections > 0));
        if options.connections > 0 && shared.ended.get() == shared.opened.get() {
            return fail("every connection has been closed");
        }
        if self.last_progress.1.elapsed() > NO_PROGRESS_TIMEOUT {
            let (outstanding, refusals) = (self.outstanding().count(), &self.refusals);
            return no_progress(format_args!(
                "waiting for {outstanding} publications to be answered and delivered (refused: {refusals:?})"
            ));
        }
        Ok(())
    }
}

/// Returns whether the same publication or handshake may be accepted later: the hub says so, or the session or address is too fast.
pub(crate) fn is_temporary(error: &str) -> bool {
    ["\"temporary\":true", "HTTP/1.1 429", "HTTP/1.1 503"].iter().any(|word| error.contains(word))
}

/// The progress line of a phase.
struct ProgressLine {
    phase: &'static str,
    start: Instant,
    time: Duration,
    delivered_before: u64,
}

impl ProgressLine {
    /// The line, with the rates since the phase began.
    fn line(&self, [published, delivered]: [u64; 2], has_clients: bool) -> String {
        let (seconds, time) = (self.start.elapsed().as_secs_f64(), self.time.as_secs_f64().ceil());
        let rate = |count: u64| thousands((count as f64 / seconds) as u64);
        let mut line = format!("{} {seconds:.0} of {time} s, {} publications/s", self.phase, rate(published));
        if has_clients {
            line += &format!(", {} deliveries/s", rate(delivered - self.delivered_before));
        }
        line
    }
}
