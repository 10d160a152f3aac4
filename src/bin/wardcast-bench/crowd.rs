//! The crowd of simulated clients: spread over receiving threads, opened, counted while a run lasts, and sent home.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Waker;

use crate::clock::{Clock, PATIENCE};
use crate::console::Console;
use crate::error::{BenchError, Result, While};
use crate::process::full;
use crate::receiver::Receiver;
use crate::report::thousands;
use crate::socket::SocketOptions;
use crate::tally::{Tally, latencies};
use crate::target::Target;

/// How long nothing may move before it is asked why.
const HICCUP: Duration = Duration::from_secs(2);

/// What the crowd is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Every connection must stand, then reads until the end.
    Receive,
    /// Every connection must stand, then never reads again.
    Stall,
    /// Connections may fail, which is counted; those that stand stay open.
    Storm,
    /// The same, but each is closed as soon as it stands.
    StormAndLeave,
    /// As to receive, but all are cut at a word, and come back at another; then they may fail, which is counted.
    Return,
}

/// Everything the threads need to know to open their connections.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What the crowd is for.
    pub(crate) purpose: Purpose,
    /// How many connections.
    pub(crate) connections: usize,
    /// Where they go, in turns.
    pub(crate) targets: Vec<Target>,
    /// The server's processes, as far as they are known: they tell why nothing moves.
    pub(crate) pids: Vec<u32>,
    /// Their tokens, in turns; none for the comparison server, which asks for nothing.
    pub(crate) tokens: Vec<String>,
    /// What they subscribe to, in turns; none to stay unsubscribed.
    pub(crate) channels: Vec<String>,
    /// Whether they want to know where they stand in those.
    pub(crate) is_positioned: bool,
    /// How many are being opened at a time, over all threads.
    pub(crate) concurrency: usize,
    /// The same when they come back.
    pub(crate) returning: usize,
    /// How many loopback addresses they come from.
    pub(crate) source_addresses: usize,
    /// Options of all their sockets.
    pub(crate) socket: SocketOptions,
    /// Lanes of the publishers.
    pub(crate) lanes: usize,
    /// Receiving threads.
    pub(crate) threads: usize,
}

/// What threads and the conductor of a run see of each other.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Threads end when this is set.
    pub(crate) stop: AtomicBool,
    /// All connections are cut when this is set.
    pub(crate) away: AtomicBool,
    /// The clock when those that were cut were called back; 0 until then.
    pub(crate) called_back: AtomicU64,
    /// Clients that are back, or cannot come.
    pub(crate) returned: AtomicU64,
    /// Publications sent from this reading of the clock on are timed.
    pub(crate) measured_from: AtomicU64,
    /// Connections that came to stand.
    pub(crate) opened: AtomicU64,
    /// Connections that did not.
    pub(crate) failed: AtomicU64,
    /// Clients that came back and did not get what they had missed.
    pub(crate) unrecovered: AtomicU64,
    /// Connections that stand now, or will come back.
    pub(crate) live: AtomicU64,
    /// Deliveries so far.
    pub(crate) delivered: AtomicU64,
    /// Local ports of the connections that stand, noted only for a crowd that stalls.
    pub(crate) ports: Mutex<Vec<u16>>,
}

/// What a thread tells the conductor.
#[derive(Debug)]
pub(crate) enum Note {
    /// All connections of one thread have been opened, or have failed where that is allowed.
    Opened,
    /// All connections of one thread have been cut.
    Cut,
    /// One failed where none may.
    Failed(String),
    /// Publications that reached every connection of this thread: (lane, sequence).
    Completed(usize, Vec<(u16, u32)>),
}

/// What a thread has to show at the end.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its books of deliveries.
    pub(crate) tally: Tally,
    /// Connect to 101.
    pub(crate) upgrade: Histogram<u64>,
    /// Connect to the last step of opening: first push, or subscribe reply.
    pub(crate) stand: Histogram<u64>,
    /// From the call to come back until the client had all that it had missed.
    pub(crate) back: Histogram<u64>,
    /// Ends of connections that stood, by reason.
    pub(crate) ended: BTreeMap<String, u64>,
    /// Connections that never stood, by reason.
    pub(crate) failed: BTreeMap<String, u64>,
    /// The clock when each connection that stood came to its end.
    pub(crate) ended_at: Vec<u64>,
}

impl Outcome {
    /// Nothing to show yet.
    pub(crate) fn new(tally: Tally) -> Self {
        Self {
            tally,
            upgrade: latencies(),
            stand: latencies(),
            back: latencies(),
            ended: BTreeMap::new(),
            failed: BTreeMap::new(),
            ended_at: Vec::new(),
        }
    }

    /// Adds another thread's.
    fn absorb(&mut self, other: Self) {
        self.tally.delivered += other.tally.delivered;
        self.tally.bytes += other.tally.bytes;
        self.tally.gaps += other.tally.gaps;
        self.tally.missed += other.tally.missed;
        self.tally.disorder += other.tally.disorder;
        // Adding fails only for values out of range, and all have the same range.
        let _ = self.tally.latency.add(&other.tally.latency);
        let _ = self.upgrade.add(&other.upgrade);
        let _ = self.stand.add(&other.stand);
        let _ = self.back.add(&other.back);
        self.tally.recoveries.absorb(other.tally.recoveries);
        other.ended.into_iter().for_each(|(reason, count)| *self.ended.entry(reason).or_default() += count);
        other.failed.into_iter().for_each(|(reason, count)| *self.failed.entry(reason).or_default() += count);
        self.ended_at.extend(other.ended_at);
    }
}

/// A crowd at work.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// How many connections it was told to open.
    pub(crate) connections: usize,
    /// What its threads and the conductor see of each other.
    pub(crate) shared: Arc<Shared>,
    /// What its threads have to say.
    pub(crate) notes: mpsc::Receiver<Note>,
    /// How many threads it has.
    pub(crate) threads: usize,
    /// Lanes in which it keeps order; none when it only counts.
    pub(crate) lanes: usize,
    handles: Vec<JoinHandle<Result<Outcome>>>,
}

impl Crowd {
    /// Starts the threads and waits until all connections stand, or Ctrl-C. `waker` is woken with every later note.
    pub(crate) fn open(plan: Plan, clock: Clock, waker: &Arc<Waker>, console: &Console) -> Result<Self> {
        let shared = Arc::new(Shared { measured_from: AtomicU64::new(u64::MAX), ..Shared::default() });
        let (sender, notes) = mpsc::channel();
        let plan = Arc::new(plan);
        let mut handles = Vec::new();
        for thread in 0..plan.threads {
            let mut receiver =
                Receiver::new(thread, plan.clone(), clock, shared.clone(), sender.clone(), waker.clone())?;
            let name = format!("receiver-{thread}");
            let handle =
                std::thread::Builder::new().name(name).spawn(move || receiver.run().map(|()| receiver.outcome));
            handles.push(handle.during(|| "starting a receiving thread")?);
        }
        let Plan { connections, threads, lanes, .. } = *plan;
        let crowd = Self { connections, shared, notes, threads, lanes, handles };
        match crowd.wait_until_open(console, &plan.pids) {
            Ok(()) => Ok(crowd),
            Err(error) => crowd.close().and(Err(error)),
        }
    }

    fn wait_until_open(&self, console: &Console, pids: &[u32]) -> Result<()> {
        let count = || self.shared.opened.load(Ordering::Relaxed) + self.shared.failed.load(Ordering::Relaxed);
        let mut open = 0;
        let mut seen = 0;
        let mut moved = Instant::now();
        while open < self.threads && !console.is_interrupted() {
            match self.notes.recv_timeout(Duration::from_millis(200)) {
                Ok(Note::Opened) => open += 1,
                Ok(Note::Failed(reason)) => return Err(BenchError::Refused(reason)),
                Ok(Note::Cut | Note::Completed(..)) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if count() > seen {
                seen = count();
                moved = Instant::now();
            }
            let [so_far, wanted] = [seen, self.connections as u64].map(|count| thousands(&count.to_string()));
            console.show(|| format!("connecting {so_far} of {wanted}"));
            if moved.elapsed() > HICCUP
                && let Some(fault) = full(pids)
            {
                return Err(BenchError::Refused(format!("{so_far} of {wanted} connections were answered; {fault}")));
            }
            if moved.elapsed() > PATIENCE {
                return Err(BenchError::Stuck(format!("opening connections ({so_far} of {wanted} were answered)")));
            }
        }
        Ok(())
    }

    /// Cuts all connections of a crowd that is to return, and waits until that is done.
    pub(crate) fn cut(&self) -> Result<()> {
        self.shared.away.store(true, Ordering::Relaxed);
        let mut cut = 0;
        while cut < self.threads {
            match self.notes.recv_timeout(PATIENCE) {
                Ok(Note::Cut) => cut += 1,
                Ok(_) => {}
                Err(_) => return Err(BenchError::Stuck("cutting the connections".to_owned())),
            }
        }
        Ok(())
    }

    /// Makes the threads look away: what happens to connections from here on is not the server's doing.
    pub(crate) fn dismiss(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the threads, closes all connections, and adds up what there is to show.
    pub(crate) fn close(self) -> Result<Outcome> {
        self.dismiss();
        let mut sum = Outcome::new(Tally::new(0));
        for handle in self.handles {
            sum.absorb(handle.join().map_err(|_| BenchError::Thread)??);
        }
        Ok(sum)
    }
}
