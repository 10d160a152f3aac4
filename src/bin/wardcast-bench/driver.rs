//! Publishes: at a fixed rate or with a fixed number outstanding, until everything has been delivered.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::clock::{Clock, PATIENCE};
use crate::console::Console;
use crate::crowd::{Crowd, Note};
use crate::error::{BenchError, Result, While};
use crate::outlet::{Answer, Outlet};
use crate::report::thousands;
use crate::stamp::Stamp;
use crate::tally::latencies;

/// The token of the crowd's waker, beyond those of any outlet.
pub(crate) const CROWD: Token = Token(usize::MAX);
/// How long a lane rests after a refusal, so that a full server is asked again but not hammered.
const REST: Duration = Duration::from_millis(5);
/// How long what is outstanding is waited for after Ctrl-C, or where not all of it need come.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Whether the same publication may be taken later: the hub says so, or this session or address is only too fast.
fn is_passing(error: &str) -> bool {
    ["\"temporary\":true", "HTTP/1.1 429", "HTTP/1.1 503"].iter().any(|word| error.contains(word))
}

/// When the next publication goes out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many a second, whatever comes back.
    Rate(f64),
    /// As soon as one has reached everyone: so many are outstanding, one a lane.
    ClosedLoop(u16),
    /// As soon as one is answered, so many at a time.
    Answered(u16),
}

impl std::fmt::Display for Pace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate(rate) => write!(formatter, "{rate}/s"),
            Self::ClosedLoop(outstanding) => write!(formatter, "closed loop of {outstanding}"),
            Self::Answered(calls) => write!(formatter, "closed loop of {calls} calls"),
        }
    }
}

#[derive(Debug)]
struct Lane {
    sent: u32,
    sent_at: u64,
    answered: bool,
    rests_until: Option<Instant>,
    /// The newest publication each receiving thread is through with.
    through: Vec<u32>,
}

impl Lane {
    fn outstanding(&self) -> bool {
        !self.answered || self.through.iter().any(|through| *through < self.sent)
    }

    fn free(&self, pace: Pace) -> bool {
        let rested = self.rests_until.is_none_or(|until| until <= Instant::now());
        rested && self.answered && (!matches!(pace, Pace::ClosedLoop(_)) || !self.outstanding())
    }
}

/// The line that a person reads meanwhile.
#[derive(Debug)]
struct Progress {
    stage: &'static str,
    start: Instant,
    time: Duration,
    /// When the rates were counted last, and the publications and deliveries at that time.
    counted: (Instant, u64, u64),
    rates: String,
}

impl Progress {
    fn new(stage: &'static str, time: Duration, delivered: u64) -> Self {
        let start = Instant::now();
        Self { stage, start, time, counted: (start, 0, delivered), rates: String::new() }
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
        format!("{} {past} of {} s{}", self.stage, all.ceil(), self.rates)
    }
}

/// The publishing side of a run.
#[derive(Debug)]
pub(crate) struct Driver<'a, O> {
    poll: Poll,
    events: Events,
    outlet: O,
    crowd: &'a Crowd,
    console: &'a Console,
    clock: Clock,
    pace: Pace,
    size: usize,
    lanes: Vec<Lane>,
    moved: Instant,
    delivered: u64,
    last_refusal: String,
    /// Whether anything was taken since the run began.
    has_taken: bool,
    progress: Progress,
    /// Publications that were taken.
    pub(crate) published: u64,
    /// Publications that were refused, by the error.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Publications that were due while the server kept every lane waiting.
    pub(crate) held_up: u64,
    /// From a publication's sending to the server's answer; from when it was due, if it was held up.
    pub(crate) answer_time: Histogram<u64>,
}

impl<'a, O: Outlet> Driver<'a, O> {
    /// A driver for an outlet of `lanes` lanes, whose publications carry `size` bytes of data.
    pub(crate) fn new(
        poll: Poll,
        outlet: O,
        (crowd, console): (&'a Crowd, &'a Console),
        clock: Clock,
        (pace, lanes, size): (Pace, usize, usize),
    ) -> Self {
        // A crowd that only counts tells of no publication that it is complete.
        let through = vec![0; if crowd.lanes == 0 { 0 } else { crowd.threads }];
        let lane = || Lane { sent: 0, sent_at: 0, answered: true, rests_until: None, through: through.clone() };
        Self {
            poll,
            events: Events::with_capacity(256),
            outlet,
            crowd,
            console,
            clock,
            pace,
            size,
            lanes: (0..lanes).map(|_| lane()).collect(),
            moved: Instant::now(),
            delivered: 0,
            last_refusal: String::new(),
            has_taken: false,
            progress: Progress::new("", Duration::ZERO, 0),
            published: 0,
            refusals: BTreeMap::new(),
            held_up: 0,
            answer_time: latencies(),
        }
    }

    /// Publishes for `time` or until Ctrl-C, then waits until all of it has been answered and delivered. Its books begin anew
    /// with each call, so that what is counted within one is whole. Returns how long it took.
    pub(crate) fn run_for(&mut self, stage: &'static str, time: Duration) -> Result<Duration> {
        let start = Instant::now();
        self.run_until(stage, time, || Ok(start.elapsed() >= time))
    }

    /// The same until it `is_over`, which is asked often; `time` is how long that is thought to take.
    pub(crate) fn run_until(
        &mut self,
        stage: &'static str,
        time: Duration,
        mut is_over: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        self.begin(stage, time);
        let start = Instant::now();
        let mut due = start;
        let mut was_held_up = false;
        while !is_over()? && !self.console.is_interrupted() {
            let now = Instant::now();
            let wait = match self.lanes.iter().position(|lane| lane.free(self.pace)) {
                Some(lane) if due <= now => {
                    // Held up by a server that does not answer: the wait is part of the latency.
                    let late = if was_held_up { now.saturating_duration_since(due) } else { Duration::ZERO };
                    self.held_up += u64::from(was_held_up);
                    self.publish(lane, late)?;
                    if let Pace::Rate(rate) = self.pace {
                        due += Duration::from_secs_f64(1.0 / rate);
                    }
                    was_held_up &= due <= now;
                    Duration::ZERO
                }
                Some(_) => due - now,
                None => {
                    was_held_up = matches!(self.pace, Pace::Rate(_)) && due <= now;
                    REST
                }
            };
            self.step(wait.min(Duration::from_millis(200)).min(time))?;
        }
        // Nobody waits for what cannot come.
        let is_lost = self.crowd.shared.unrecovered.load(Ordering::Relaxed) > 0;
        let enough = (is_lost || self.console.is_interrupted()).then(|| Instant::now() + LAST_WAIT);
        while self.lanes.iter().any(Lane::outstanding) && enough.is_none_or(|end| Instant::now() < end) {
            self.step(Duration::from_millis(20))?;
        }
        Ok(start.elapsed())
    }

    /// Publishes until so many were taken, as fast as they are answered, to whomever it reaches.
    pub(crate) fn publish_count(&mut self, stage: &'static str, count: u64) -> Result<()> {
        self.begin(stage, Duration::ZERO);
        while self.published < count && !self.console.is_interrupted() {
            let under_way = self.lanes.iter().filter(|lane| !lane.answered).count() as u64;
            let free = self.lanes.iter().position(|lane| lane.free(Pace::Answered(0)));
            match free.filter(|_| self.published + under_way < count) {
                Some(lane) => self.publish(lane, Duration::ZERO)?,
                None => self.step(REST)?,
            }
        }
        Ok(())
    }

    fn begin(&mut self, stage: &'static str, time: Duration) {
        self.published = 0;
        self.refusals.clear();
        self.held_up = 0;
        self.answer_time.reset();
        self.moved = Instant::now();
        self.progress = Progress::new(stage, time, self.crowd.shared.delivered.load(Ordering::Relaxed));
    }

    /// Waits until so many deliveries have come since the run began; fewer, when no more come.
    pub(crate) fn await_deliveries(&mut self, count: u64) -> Result<()> {
        let delivered = || self.crowd.shared.delivered.load(Ordering::Acquire);
        let (mut last, mut moved) = (delivered(), Instant::now());
        while last < count && moved.elapsed() < LAST_WAIT {
            self.step(Duration::from_millis(20))?;
            let now = self.crowd.shared.delivered.load(Ordering::Acquire);
            if now > last {
                (last, moved) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn publish(&mut self, lane: usize, late: Duration) -> Result<()> {
        let now = self.clock.now();
        let late = u64::try_from(late.as_nanos()).unwrap_or(0);
        let books = &mut self.lanes[lane];
        books.sent += 1;
        books.sent_at = now.saturating_sub(late);
        books.answered = false;
        let number = u16::try_from(lane).unwrap_or(u16::MAX);
        let stamp = Stamp { lane: number, sequence: books.sent, sent: books.sent_at };
        match self.outlet.send(lane, &stamp.data(self.size))? {
            Some(answer) => self.on_answer(lane, answer),
            None => Ok(()),
        }
    }

    /// Waits for something to happen, at most so long, and books it.
    fn step(&mut self, wait: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error).during(|| "epoll"),
            _ => {}
        }
        let mut answers = Vec::new();
        for event in &self.events {
            if event.token() != CROWD {
                self.outlet.ready(event.token().0, &mut answers)?;
            }
        }
        for (lane, answer) in answers {
            self.on_answer(lane, answer)?;
        }
        while let Ok(note) = self.crowd.notes.try_recv() {
            if let Note::Completed(thread, publications) = note {
                for (lane, sequence) in publications {
                    if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
                        lane.through[thread] = sequence;
                    }
                }
            }
        }
        self.check_progress()
    }

    fn on_answer(&mut self, lane: usize, answer: Answer) -> Result<()> {
        let books = &mut self.lanes[lane];
        books.answered = true;
        books.rests_until = None;
        if answer.taken > 0 {
            self.moved = Instant::now();
            self.has_taken = true;
            self.last_refusal.clear();
            self.published += u64::from(answer.taken);
            self.answer_time.saturating_record(self.clock.now().saturating_sub(books.sent_at));
        }
        let Some(last) = answer.refused.last() else {
            return Ok(());
        };
        // An error that would come again and again is told at once.
        if !self.has_taken && answer.taken == 0 && !is_passing(last) {
            return Err(BenchError::Refused(format!("the first publication was refused: {last}")));
        }
        // Its number is free again, so that refusals are no gaps.
        books.sent -= u32::from(answer.taken == 0);
        books.rests_until = Some(Instant::now() + REST);
        self.last_refusal.clone_from(last);
        for error in answer.refused {
            *self.refusals.entry(error).or_default() += 1;
        }
        Ok(())
    }

    fn check_progress(&mut self) -> Result<()> {
        let delivered = self.crowd.shared.delivered.load(Ordering::Relaxed);
        if delivered != self.delivered || !self.lanes.iter().any(Lane::outstanding) && self.last_refusal.is_empty() {
            self.delivered = delivered;
            self.moved = Instant::now();
        }
        if self.console.is_due() {
            let counts = (self.published, self.crowd.shared.delivered.load(Ordering::Relaxed));
            let line = self.progress.line(counts, self.crowd.connections > 0);
            self.console.show(|| line);
        }
        if self.crowd.connections > 0 && self.crowd.shared.live.load(Ordering::Relaxed) == 0 {
            return Err(BenchError::Refused("every connection has been closed".to_owned()));
        }
        if self.moved.elapsed() > PATIENCE {
            let outstanding = self.lanes.iter().filter(|lane| lane.outstanding()).count();
            let mut what = format!("waiting for {outstanding} publications to be answered and delivered");
            if !self.last_refusal.is_empty() {
                what = format!("{what} (the server last refused with {})", self.last_refusal);
            }
            return Err(BenchError::Stuck(what));
        }
        Ok(())
    }
}
