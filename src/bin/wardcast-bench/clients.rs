//! The crowd of simulated clients: spread over receiving threads, opened, counted while a run lasts, and sent home.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Waker;

use crate::delivery_stats::{DeliveryStats, latencies};
use crate::error::{BenchError, IoContext, Result};
use crate::process::file_limit_reached;
use crate::receiver_thread::ReceiverThread;
use crate::report::thousands;
use crate::run_clock::{NO_PROGRESS_TIMEOUT, RunClock};
use crate::socket::SocketOptions;
use crate::target_url::TargetUrl;
use crate::terminal::Terminal;

/// How long nothing may move before it is asked why.
const STALL_CHECK_DELAY: Duration = Duration::from_secs(2);

/// What the crowd is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientBehavior {
    /// Every connection must stand, then reads until the end.
    Receive,
    /// Every connection must stand, then never reads again.
    Stall,
    /// Connections may fail, which is counted; those that stand stay open.
    Connect,
    /// The same, but each is closed as soon as it stands.
    ConnectAndClose,
    /// As to receive, but all are cut at a word, and come back at another; then they may fail, which is counted.
    Reconnect,
}

/// Everything the threads need to know to open their connections.
#[derive(Debug)]
pub(crate) struct ClientOptions {
    /// What the crowd is for.
    pub(crate) behavior: ClientBehavior,
    /// How many connections.
    pub(crate) connections: usize,
    /// Where they go, in turns.
    pub(crate) targets: Vec<TargetUrl>,
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
    pub(crate) reconnect_concurrency: usize,
    /// How many loopback addresses they come from.
    pub(crate) source_addresses: usize,
    /// Options of all their sockets.
    pub(crate) socket: SocketOptions,
    /// Lanes of the publishers.
    pub(crate) publishers: usize,
    /// Receiving threads.
    pub(crate) threads: usize,
}

/// What threads and the conductor of a run see of each other.
#[derive(Debug, Default)]
pub(crate) struct SharedState {
    /// Threads end when this is set.
    pub(crate) stop: AtomicBool,
    /// All connections are cut when this is set.
    pub(crate) disconnect_requested: AtomicBool,
    /// The clock when those that were cut were called back; 0 until then.
    pub(crate) reconnect_started_at: AtomicU64,
    /// Clients that are back, or cannot come.
    pub(crate) reconnected: AtomicU64,
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
pub(crate) enum ThreadEvent {
    /// All connections of one thread have been opened, or have failed where that is allowed.
    Opened,
    /// All connections of one thread have been cut.
    Disconnected,
    /// One failed where none may.
    Failed(String),
    /// Publications that reached every connection of this thread: (lane, sequence).
    Completed(usize, Vec<(u16, u32)>),
}

/// What a thread has to show at the end.
#[derive(Debug)]
pub(crate) struct ClientStats {
    /// Its books of deliveries.
    pub(crate) deliveries: DeliveryStats,
    /// Connect to 101.
    pub(crate) time_to_101: Histogram<u64>,
    /// Connect to the last step of opening: first push, or subscribe reply.
    pub(crate) time_to_ready: Histogram<u64>,
    /// From the call to come back until the client had all that it had missed.
    pub(crate) time_to_recovery: Histogram<u64>,
    /// Ends of connections that stood, by reason.
    pub(crate) closed: BTreeMap<String, u64>,
    /// Connections that never stood, by reason.
    pub(crate) failed: BTreeMap<String, u64>,
    /// The clock when each connection that stood came to its end.
    pub(crate) closed_at: Vec<u64>,
}

impl ClientStats {
    /// Nothing to show yet.
    pub(crate) fn new(deliveries: DeliveryStats) -> Self {
        Self {
            deliveries,
            time_to_101: latencies(),
            time_to_ready: latencies(),
            time_to_recovery: latencies(),
            closed: BTreeMap::new(),
            failed: BTreeMap::new(),
            closed_at: Vec::new(),
        }
    }

    /// Adds another thread's.
    fn add(&mut self, other: Self) {
        self.deliveries.delivered += other.deliveries.delivered;
        self.deliveries.received_bytes += other.deliveries.received_bytes;
        self.deliveries.gaps += other.deliveries.gaps;
        self.deliveries.missed += other.deliveries.missed;
        self.deliveries.out_of_order += other.deliveries.out_of_order;
        // Adding fails only for values out of range, and all have the same range.
        let _ = self.deliveries.latency.add(&other.deliveries.latency);
        let _ = self.time_to_101.add(&other.time_to_101);
        let _ = self.time_to_ready.add(&other.time_to_ready);
        let _ = self.time_to_recovery.add(&other.time_to_recovery);
        self.deliveries.recoveries.add(other.deliveries.recoveries);
        other.closed.into_iter().for_each(|(reason, count)| *self.closed.entry(reason).or_default() += count);
        other.failed.into_iter().for_each(|(reason, count)| *self.failed.entry(reason).or_default() += count);
        self.closed_at.extend(other.closed_at);
    }
}

/// A crowd at work.
#[derive(Debug)]
pub(crate) struct Clients {
    /// How many connections it was told to open.
    pub(crate) connections: usize,
    /// What its threads and the conductor see of each other.
    pub(crate) shared: Arc<SharedState>,
    /// What its threads have to say.
    pub(crate) events: mpsc::Receiver<ThreadEvent>,
    /// How many threads it has.
    pub(crate) threads: usize,
    /// Lanes in which it keeps order; none when it only counts.
    pub(crate) publishers: usize,
    handles: Vec<JoinHandle<Result<ClientStats>>>,
}

impl Clients {
    /// Starts the threads and waits until all connections stand, or Ctrl-C. `waker` is woken with every later note.
    pub(crate) fn open(
        client_options: ClientOptions,
        clock: RunClock,
        waker: &Arc<Waker>,
        terminal: &Terminal,
    ) -> Result<Self> {
        let shared = Arc::new(SharedState { measured_from: AtomicU64::new(u64::MAX), ..SharedState::default() });
        let (sender, events) = mpsc::channel();
        let client_options = Arc::new(client_options);
        let mut handles = Vec::new();
        for thread in 0..client_options.threads {
            let mut receiver = ReceiverThread::new(
                thread,
                client_options.clone(),
                clock,
                shared.clone(),
                sender.clone(),
                waker.clone(),
            )?;
            let name = format!("receiver-{thread}");
            let handle = std::thread::Builder::new().name(name).spawn(move || receiver.run().map(|()| receiver.stats));
            handles.push(handle.context(|| "starting a receiving thread")?);
        }
        let ClientOptions { connections, threads, publishers, .. } = *client_options;
        let clients = Self { connections, shared, events, threads, publishers, handles };
        match clients.wait_until_open(terminal, &client_options.pids) {
            Ok(()) => Ok(clients),
            Err(error) => clients.close().and(Err(error)),
        }
    }

    fn wait_until_open(&self, terminal: &Terminal, pids: &[u32]) -> Result<()> {
        let count = || self.shared.opened.load(Ordering::Relaxed) + self.shared.failed.load(Ordering::Relaxed);
        let mut opened_threads = 0;
        let mut counted = 0;
        let mut last_progress_at = Instant::now();
        while opened_threads < self.threads && !terminal.is_interrupted() {
            match self.events.recv_timeout(Duration::from_millis(200)) {
                Ok(ThreadEvent::Opened) => opened_threads += 1,
                Ok(ThreadEvent::Failed(reason)) => return Err(BenchError::Failed(reason)),
                Ok(ThreadEvent::Disconnected | ThreadEvent::Completed(..)) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if count() > counted {
                counted = count();
                last_progress_at = Instant::now();
            }
            let [so_far, wanted] = [counted, self.connections as u64].map(|count| thousands(&count.to_string()));
            terminal.show_progress(|| format!("connecting {so_far} of {wanted}"));
            if last_progress_at.elapsed() > STALL_CHECK_DELAY
                && let Some(fault) = file_limit_reached(pids)
            {
                return Err(BenchError::Failed(format!("{so_far} of {wanted} connections were answered; {fault}")));
            }
            if last_progress_at.elapsed() > NO_PROGRESS_TIMEOUT {
                return Err(BenchError::NoProgress(format!(
                    "opening connections ({so_far} of {wanted} were answered)"
                )));
            }
        }
        Ok(())
    }

    /// Cuts all connections of a crowd that is to return, and waits until that is done.
    pub(crate) fn disconnect_all(&self) -> Result<()> {
        self.shared.disconnect_requested.store(true, Ordering::Relaxed);
        let mut disconnected = 0;
        while disconnected < self.threads {
            match self.events.recv_timeout(NO_PROGRESS_TIMEOUT) {
                Ok(ThreadEvent::Disconnected) => disconnected += 1,
                Ok(_) => {}
                Err(_) => return Err(BenchError::NoProgress("cutting the connections".to_owned())),
            }
        }
        Ok(())
    }

    /// Makes the threads look away: what happens to connections from here on is not the server's doing.
    pub(crate) fn stop_reading(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the threads, closes all connections, and adds up what there is to show.
    pub(crate) fn close(self) -> Result<ClientStats> {
        self.stop_reading();
        let mut sum = ClientStats::new(DeliveryStats::new(0));
        for handle in self.handles {
            sum.add(handle.join().map_err(|_| BenchError::ThreadPanicked)??);
        }
        Ok(sum)
    }
}
