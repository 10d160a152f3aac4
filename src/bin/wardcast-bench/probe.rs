//! The probe: beside a load it measures the latency of other clients of the hub. A thread of its own does a few operations
//! per second on connections of its own, each at its time whatever became of the ones before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{os::fd::AsRawFd, os::fd::OwnedFd, sync::Arc, sync::mpsc, thread::JoinHandle};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::args::ApiArgs;
use crate::clock::{self, NO_PROGRESS_TIMEOUT};
use crate::connection::{ReadBuffer, wait_for_events};
use crate::delivery_stats::SharedState;
use crate::error::{BenchError, Context, Result, no_progress};
use crate::http_transport::PublishMethod;
use crate::probe_operations::{
    Commands, Echo, Handshakes, PROBE_PUBLISHERS, Pings, ProbeOperation, ProbeTarget, QuietChannel,
};
use crate::probe_stats::{PROBE_TIMES, ProbeStats, ProbeTime, Schedule};
use crate::{hub_under_test::HubUnderTest, remedies, run::Run};

/// Sockets of the probe, with room for handshakes that wait for their answers.
pub(crate) const PROBE_SOCKETS: usize = 100;
/// What follows the name of the load's channel in the name of the quiet one.
const QUIET_SUFFIX: &str = "-quiet";
/// How many users the probe connects as.
const PROBE_USERS: usize = 32;
/// How long unanswered operations are awaited at the end.
const FINAL_WAIT: Duration = Duration::from_secs(2);
/// How long the thread sleeps at most.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The token of the timer.
const TIMER: Token = Token(usize::MAX);
/// The number of tokens that the connections of each kind of operation may use.
const TOKENS_EACH: usize = 1 << 32;

/// The probe of a run.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    handle: JoinHandle<Result<ProbeStats>>,
}

impl Probe {
    /// Starts to probe a hub, beside the load on `channel` whose clients share `clients`.
    pub(crate) fn start(
        hub: &HubUnderTest<'_>,
        (args, channel): (&ApiArgs, &str),
        clients: Arc<SharedState>,
    ) -> Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let target = || {
            Ok(ProbeTarget {
                url: hub.targets[0].clone(),
                tokens: hub.tokens(PROBE_USERS)?,
                send_token: hub.send_token(),
                socket: hub.socket_options(&hub.targets)?,
                registry: poll.registry().try_clone().context("epoll")?,
            })
        };
        let channels = [format!("{channel}{QUIET_SUFFIX}")];
        let method = (PublishMethod::Publish, 1);
        let transport = hub.http_transport((poll.registry(), args), method, &channels, PROBE_PUBLISHERS)?;
        let operations: Vec<Box<dyn ProbeOperation + Send>> = vec![
            // The transport uses the numbers of publishers as tokens, so it is the first.
            Box::new(QuietChannel::open(transport, target()?, Token(PROBE_PUBLISHERS))?),
            Box::new(Commands::open(target()?, Token(TOKENS_EACH))?),
            Box::new(Pings::open(target()?, Token(2 * TOKENS_EACH))?),
            Box::new(Handshakes::new(target()?, Token(3 * TOKENS_EACH))),
            Box::new(Echo::open(poll.registry(), Token(4 * TOKENS_EACH))?),
        ];
        Self::spawn(poll, operations, clients)
    }

    /// Starts to probe the machine alone, beside a load whose clients share `clients`.
    pub(crate) fn start_without_hub(clients: Arc<SharedState>) -> Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let echo = Echo::open(poll.registry(), Token(0))?;
        Self::spawn(poll, vec![Box::new(echo)], clients)
    }

    /// Starts the thread and waits until its connections are open.
    fn spawn(poll: Poll, operations: Vec<Box<dyn ProbeOperation + Send>>, clients: Arc<SharedState>) -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC);
        let timer = timer.context("timerfd")?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE).context("epoll")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (buffer, stats) = (ReadBuffer::new(), ProbeStats::default());
        let thread = ProbeThread { poll, timer, operations, clients, stop: stop.clone(), buffer, stats };
        let (ready_sender, ready) = mpsc::channel();
        let run = move || thread.run(&ready_sender);
        let handle = std::thread::Builder::new().name("probe".to_owned()).spawn(run);
        let handle = handle.context("starting the probe thread")?;
        match ready.recv_timeout(NO_PROGRESS_TIMEOUT) {
            Ok(()) => Ok(Self { stop, handle }),
            Err(mpsc::RecvTimeoutError::Timeout) => no_progress("opening the connections of the probe"),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                join(handle)?;
                Err(BenchError("the probe ended early".to_owned()))
            }
        }
    }

    /// Ends the probe and reports what it measured.
    pub(crate) fn finish(self, run: &mut Run) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let stats = join(self.handle)?;
        let mut counts = std::collections::BTreeMap::new();
        for (time, name) in PROBE_TIMES {
            let latencies = stats.latencies(time);
            run.report.set_percentiles(&format!("probe_{name}"), latencies);
            if !latencies.0.is_empty() {
                counts.insert(name.to_owned(), latencies.0.len());
            }
        }
        run.report.set_counts("probe_operations", &counts);
        run.report.set_counts("probe_unanswered", &stats.unanswered);
        run.report.set_counts("probe_failures", &stats.failures);
        remedies::add_notes(&mut run.report, &stats.failures);
        Ok(())
    }
}

fn join(handle: JoinHandle<Result<ProbeStats>>) -> Result<ProbeStats> {
    handle.join().map_err(|_| BenchError("the probe thread panicked".to_owned()))?
}

/// The thread.
struct ProbeThread {
    poll: Poll,
    /// Wakes the thread at the time of the next operation. The timeout of epoll has only milliseconds.
    timer: OwnedFd,
    operations: Vec<Box<dyn ProbeOperation + Send>>,
    /// Says since when operations are recorded.
    clients: Arc<SharedState>,
    stop: Arc<AtomicBool>,
    buffer: ReadBuffer,
    stats: ProbeStats,
}

impl ProbeThread {
    /// Opens the connections, reports that they are `ready`, and does operations until it is stopped.
    fn run(mut self, ready: &mpsc::Sender<()>) -> Result<ProbeStats> {
        let mut events = Events::with_capacity(256);
        self.stats.measured_from = u64::MAX;
        while !self.operations.iter().all(|operation| operation.is_ready()) {
            // Before the run an error ends it.
            self.handle_events(&mut events)?.into_iter().try_for_each(Err)?;
        }
        // If the other side no longer waits, it also stops the thread.
        _ = ready.send(());
        let start = clock::now();
        // Each kind begins at another time, so that two of the same rate do not always meet.
        let schedules = self.operations.iter().zip(0..).map(|(operation, number)| {
            Schedule::new(start + number * 1_000_000_000 / 7 / operation.rate(), operation.rate())
        });
        let mut schedules: Vec<Schedule> = schedules.collect();
        while !self.stop.load(Ordering::Relaxed) {
            self.stats.measured_from = self.clients.measured_from.get();
            self.begin_due(&mut schedules);
            self.set_timer(&schedules)?;
            self.handle_events(&mut events)?.into_iter().for_each(|BenchError(reason)| self.stats.fail(reason));
        }
        let end = clock::now() + FINAL_WAIT.as_nanos() as u64;
        while self.stats.has_outstanding() && clock::now() < end {
            self.handle_events(&mut events)?.into_iter().for_each(|BenchError(reason)| self.stats.fail(reason));
        }
        self.stats.give_up(clock::now());
        Ok(self.stats)
    }

    /// Begins the operations that are due.
    fn begin_due(&mut self, schedules: &mut [Schedule]) {
        for (operation, schedule) in self.operations.iter_mut().zip(schedules) {
            while let Some(due) = schedule.take_due(clock::now()) {
                self.stats.record(ProbeTime::Timer, due, clock::now());
                if let Err(BenchError(reason)) = operation.begin(due, &mut self.stats) {
                    self.stats.fail(reason);
                }
            }
        }
    }

    /// Sets the timer to the next operation.
    fn set_timer(&self, schedules: &[Schedule]) -> Result<()> {
        let due = schedules.iter().map(Schedule::due).min().unwrap_or(u64::MAX);
        // 0 would disarm the timer.
        let nanos = due.saturating_sub(clock::now()).max(1);
        let it_value = Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as _ };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).context("timerfd").map(drop)
    }

    /// Waits for events and handles them. Returns the errors of operations.
    fn handle_events(&mut self, events: &mut Events) -> Result<Vec<BenchError>> {
        wait_for_events(&mut self.poll, events, POLL_TIMEOUT)?;
        let mut failures = Vec::new();
        for event in events.iter().filter(|event| event.token() != TIMER) {
            let operation = &mut self.operations[event.token().0 / TOKENS_EACH];
            failures.extend(operation.on_event(event, &mut self.buffer, &mut self.stats).err());
        }
        Ok(failures)
    }
}
