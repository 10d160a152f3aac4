//! The simulated clients of a run, spread over receiving threads: opened, watched while the run lasts, and closed.

use std::time::{Duration, Instant};
use std::{net::Ipv4Addr, sync::Arc, sync::atomic::Ordering, thread::JoinHandle};

use crate::error::{BenchError, Context, Result, fail, no_progress};
use crate::{
    args::ConnectionArgs, args::SendToken, clock::NO_PROGRESS_TIMEOUT, connection::SocketOptions,
    delivery_stats::SharedState, process::file_limit_reached, receiver_thread::ReceiverThread, report::thousands,
    run::Run, target_url::TargetUrl, websocket::Credentials,
};

/// How many connections share a source address by default: an address has about 28,000 ports.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;
/// After this time without progress the hub's file limit is checked.
const STALL_CHECK_DELAY: Duration = Duration::from_secs(2);

/// How clients behave.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ClientBehavior {
    /// All must become live. Then they read until the end.
    #[default]
    Receive,
    /// All must become live. Then they never read again.
    Stall,
    /// They may fail, which is counted. Those that are live stay open.
    Connect,
    /// The same, but each closes its connection as soon as it is live.
    ConnectAndClose,
    /// As `Receive`, but all are disconnected and reconnect when the run says so. Then they may fail, which is counted.
    Reconnect,
}

/// How clients connect and what they do.
#[derive(Default)]
pub(crate) struct ClientOptions {
    /// How they behave.
    pub(crate) behavior: ClientBehavior,
    /// How many there are.
    pub(crate) connections: usize,
    /// Where they connect to, in turns.
    pub(crate) targets: Vec<TargetUrl>,
    /// Their tokens, in turns; none for the server of `limit`, which asks for none.
    pub(crate) tokens: Vec<String>,
    /// How they send their tokens.
    pub(crate) send_token: SendToken,
    /// Whether their connections are event streams.
    pub(crate) is_sse: bool,
    /// Whether they offer permessage-deflate.
    pub(crate) offers_deflate: bool,
    /// The channels that they subscribe to, in turns; none to stay unsubscribed.
    pub(crate) channels: Vec<String>,
    /// Whether they subscribe with a position.
    pub(crate) is_positioned: bool,
    /// How many connect at the same time, over all threads.
    pub(crate) concurrency: usize,
    /// How many reconnect at the same time.
    pub(crate) reconnect_concurrency: usize,
    /// How many loopback addresses they connect from.
    pub(crate) source_addresses: usize,
    /// Options of all their sockets.
    pub(crate) socket: SocketOptions,
    /// How many publishers' sequence numbers they check. 0: deliveries are only counted.
    pub(crate) publishers: usize,
    /// How many receiving threads they are spread over.
    pub(crate) threads: usize,
    /// Whether the threads have a lower priority than the server.
    pub(crate) has_lower_priority: bool,
}

impl ClientOptions {
    /// Options with those of the command line. The caller adds targets, tokens and channels.
    pub(crate) fn new(behavior: ClientBehavior, connections: usize, args: &ConnectionArgs) -> Self {
        let by_count = connections.div_ceil(CONNECTIONS_PER_ADDRESS);
        Self {
            behavior,
            connections,
            is_sse: args.sse,
            offers_deflate: args.deflate,
            concurrency: args.concurrency.into(),
            reconnect_concurrency: connections,
            source_addresses: args.source_addresses.map_or(by_count, usize::from),
            threads: if connections == 0 { 0 } else { args.threads.into() },
            ..Self::default()
        }
    }

    /// Where a client connects to.
    pub(crate) fn target(&self, client_number: usize) -> &TargetUrl {
        &self.targets[client_number % self.targets.len()]
    }

    /// The token of a client, and how it sends it.
    pub(crate) fn credentials(&self, client_number: usize) -> Credentials<'_> {
        let token = self.tokens.get(client_number % self.tokens.len().max(1));
        token.map_or(Credentials::None, |token| self.send_token.credentials(token))
    }

    /// The channel of a client.
    pub(crate) fn channel(&self, client_number: usize) -> Option<&str> {
        Some(self.channels.get(client_number % self.channels.len().max(1))?)
    }

    /// The socket options of a client: those of all, with its source address.
    pub(crate) fn socket_options(&self, client_number: usize) -> SocketOptions {
        let offset = (client_number % self.source_addresses.max(1)) as u32;
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + offset);
        let source = (self.source_addresses > 1).then_some(source);
        SocketOptions { source, offers_deflate: self.offers_deflate, ..self.socket.clone() }
    }
}

/// The clients of a run.
pub(crate) struct Clients {
    /// How they connect and what they do.
    pub(crate) options: Arc<ClientOptions>,
    /// What they share with the main thread.
    pub(crate) shared: Arc<SharedState>,
    handles: Vec<JoinHandle<Result<()>>>,
}

impl Clients {
    /// Starts the threads and waits until all clients are live, or Ctrl-C. Later changes wake the run's `waker`.
    pub(crate) fn open(options: ClientOptions, run: &Run) -> Result<Self> {
        let shared = Arc::new(SharedState::new(options.threads, options.publishers));
        shared.measured_from.set(u64::MAX);
        let mut clients = Self { options: Arc::new(options), shared, handles: Vec::new() };
        for thread in 0..clients.options.threads {
            let (options, shared) = (clients.options.clone(), clients.shared.clone());
            let receiver = ReceiverThread::new(thread, options, shared, run.waker.clone())?;
            let builder = std::thread::Builder::new().name(format!("receiver-{thread}"));
            clients.handles.push(builder.spawn(move || receiver.run()).context("starting a receiving thread")?);
        }
        match clients.wait_until_open(run) {
            Ok(()) => Ok(clients),
            Err(error) => clients.close().and(Err(error)),
        }
    }

    fn wait_until_open(&self, run: &Run) -> Result<()> {
        let (mut counted, mut last_progress_at) = (0, Instant::now());
        let mut results = self.shared.results.lock();
        loop {
            // A thread may fail and then report that it has opened the rest, so check this first.
            if let Some(error) = results.error.take() {
                return Err(error);
            }
            if results.opened_threads == self.options.threads || run.terminal.is_interrupted() {
                return Ok(());
            }
            self.shared.changed.wait_for(&mut results, Duration::from_millis(200));
            let count = self.shared.opened.get() + self.shared.failed.get();
            if count > counted {
                (counted, last_progress_at) = (count, Instant::now());
            }
            let [so_far, wanted] = [counted, self.options.connections as u64].map(thousands);
            run.terminal.show_progress(|| format!("connecting {so_far} of {wanted}"));
            if last_progress_at.elapsed() > STALL_CHECK_DELAY
                && let Some(reason) = file_limit_reached(&run.pids)
            {
                return fail(format!("{so_far} of {wanted} connections were answered; {reason}"));
            }
            if last_progress_at.elapsed() > NO_PROGRESS_TIMEOUT {
                return no_progress(format_args!("opening connections ({so_far} of {wanted} were answered)"));
            }
        }
    }

    /// Disconnects all clients, which behave as `Reconnect`, and waits until that is done.
    pub(crate) fn disconnect_all(&self) -> Result<()> {
        self.shared.disconnect_requested.store(true, Ordering::Relaxed);
        let mut results = self.shared.results.lock();
        while results.disconnected_threads < self.options.threads {
            if self.shared.changed.wait_for(&mut results, NO_PROGRESS_TIMEOUT).timed_out() {
                return no_progress("disconnecting the clients");
            }
        }
        Ok(())
    }

    /// Ends the threads, closes all connections, and returns the final state. Connections that end from here on do not end
    /// because of the server.
    pub(crate) fn close(self) -> Result<Arc<SharedState>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for handle in self.handles {
            handle.join().map_err(|_| BenchError("a thread of the load generator panicked".to_owned()))??;
        }
        Ok(self.shared)
    }
}
