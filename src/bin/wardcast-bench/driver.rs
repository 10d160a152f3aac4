//! Publishes: at a fixed rate or with a fixed number outstanding, until everything has been delivered.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::clock::{Clock, PATIENCE};
use crate::crowd::{Crowd, Note};
use crate::error::{BenchError, Result, While};
use crate::outlet::{Answer, Outlet};
use crate::stamp::Stamp;
use crate::tally::latencies;

/// The token of the crowd's waker, beyond those of any outlet.
pub(crate) const CROWD: Token = Token(usize::MAX);
/// How long a lane rests after a refusal, so that a full server is asked again but not hammered.
const REST: Duration = Duration::from_millis(5);

/// When the next publication goes out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many a second, whatever comes back.
    Rate(f64),
    /// As soon as one has reached everyone: so many are outstanding, one a lane.
    ClosedLoop(u16),
}

impl std::fmt::Display for Pace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate(rate) => write!(formatter, "{rate}/s"),
            Self::ClosedLoop(outstanding) => write!(formatter, "closed loop of {outstanding}"),
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
        rested && self.answered && (matches!(pace, Pace::Rate(_)) || !self.outstanding())
    }
}

/// The publishing side of a run.
#[derive(Debug)]
pub(crate) struct Driver<'a, O> {
    poll: Poll,
    events: Events,
    outlet: O,
    crowd: &'a Crowd,
    clock: Clock,
    pace: Pace,
    size: usize,
    lanes: Vec<Lane>,
    moved: Instant,
    delivered: u64,
    last_refusal: String,
    /// Publications that were taken.
    pub(crate) published: u64,
    /// Publications that were refused (and tried again).
    pub(crate) refused: u64,
    /// From a publication's sending to the server's answer.
    pub(crate) answer_time: Histogram<u64>,
}

impl<'a, O: Outlet> Driver<'a, O> {
    /// A driver for an outlet of `lanes` lanes, whose publications carry `size` bytes of data.
    pub(crate) fn new(
        poll: Poll,
        outlet: O,
        crowd: &'a Crowd,
        clock: Clock,
        (pace, lanes, size): (Pace, usize, usize),
    ) -> Self {
        let through = vec![0; crowd.threads];
        let lane = || Lane { sent: 0, sent_at: 0, answered: true, rests_until: None, through: through.clone() };
        Self {
            poll,
            events: Events::with_capacity(256),
            outlet,
            crowd,
            clock,
            pace,
            size,
            lanes: (0..lanes).map(|_| lane()).collect(),
            moved: Instant::now(),
            delivered: 0,
            last_refusal: String::new(),
            published: 0,
            refused: 0,
            answer_time: latencies(),
        }
    }

    /// Publishes for `time`, then waits until all of it has been answered and delivered. Its books begin anew with each
    /// call, so that what is counted within one is whole.
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<()> {
        self.published = 0;
        self.refused = 0;
        self.answer_time.reset();
        self.moved = Instant::now();
        let start = Instant::now();
        let mut due = start;
        let mut was_held_up = false;
        while start.elapsed() < time {
            let now = Instant::now();
            let wait = match self.lanes.iter().position(|lane| lane.free(self.pace)) {
                Some(lane) if due <= now => {
                    // Held up by a server that does not answer: the wait is part of the latency.
                    let late = if was_held_up { now.saturating_duration_since(due) } else { Duration::ZERO };
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
        while self.lanes.iter().any(Lane::outstanding) {
            self.step(Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn publish(&mut self, lane: usize, late: Duration) -> Result<()> {
        let now = self.clock.now();
        let late = u64::try_from(late.as_nanos()).unwrap_or(0);
        let books = &mut self.lanes[lane];
        books.sent += 1;
        books.sent_at = now;
        books.answered = false;
        let number = u16::try_from(lane).unwrap_or(u16::MAX);
        let stamp = Stamp { lane: number, sequence: books.sent, sent: now.saturating_sub(late) };
        if let Some(answer) = self.outlet.send(lane, &stamp.data(self.size))? {
            self.on_answer(lane, answer);
        }
        Ok(())
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
            self.on_answer(lane, answer);
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

    fn on_answer(&mut self, lane: usize, answer: Answer) {
        let books = &mut self.lanes[lane];
        books.answered = true;
        books.rests_until = None;
        match answer {
            Answer::Taken => {
                self.moved = Instant::now();
                self.last_refusal.clear();
                self.published += 1;
                self.answer_time.saturating_record(self.clock.now().saturating_sub(books.sent_at));
            }
            Answer::Refused(text) => {
                // Its number is free again, so that refusals are no gaps.
                books.sent -= 1;
                books.rests_until = Some(Instant::now() + REST);
                self.refused += 1;
                self.last_refusal = text;
            }
        }
    }

    fn check_progress(&mut self) -> Result<()> {
        let delivered = self.crowd.shared.delivered.load(Ordering::Relaxed);
        if delivered != self.delivered || !self.lanes.iter().any(Lane::outstanding) && self.last_refusal.is_empty() {
            self.delivered = delivered;
            self.moved = Instant::now();
        }
        if self.crowd.shared.live.load(Ordering::Relaxed) == 0 {
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
