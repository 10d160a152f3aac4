//! Measures the resources that the server and this program use, what the server does with the sockets of clients that do not
//! read, and the phase of a run whose publications are counted.

use std::time::{Duration, Instant};
use std::{sync::mpsc, thread::JoinHandle};

use crate::error::{BenchError, Context, Result};
use crate::machine::{MachineCounters, OTHERS_SHARE_NOTED, cores};
use crate::process::{CpuTime, CpuUsage, ports_closed_by_server, resident_bytes};
use crate::{args::LoadArgs, clock, load_driver::LoadDriver, report::decimal, run::Run};

/// Often enough to see a burst, and cheap although the table of 20,000 sockets may be read each time.
const MONITOR_INTERVAL: Duration = Duration::from_millis(500);
/// A share of a thread's time above which the thread is as good as always busy.
const BUSY_SHARE: f64 = 0.95;

/// What the monitor saw.
#[derive(Default)]
pub(crate) struct MonitorResult {
    /// The largest resident memory of all servers together, in bytes.
    pub(crate) resident_max: u64,
    /// How many of the clients' sockets have a server side in this machine's socket table, so that they can be watched.
    pub(crate) watched_sockets: usize,
    /// The clock when each of those was found closed by the server.
    pub(crate) closed_at: Vec<u64>,
}

/// A thread that watches.
pub(crate) struct ServerMonitor {
    /// Dropped to stop the thread.
    stop: mpsc::Sender<()>,
    handle: JoinHandle<MonitorResult>,
}

impl ServerMonitor {
    /// Begins to watch `pids`, and the server side of the connections from `ports`.
    pub(crate) fn start(pids: Vec<u32>, mut ports: Vec<u16>) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let mut remove_closed = move || {
            let closed = if ports.is_empty() { Vec::new() } else { ports_closed_by_server(&ports) };
            ports.retain(|port| !closed.contains(port));
            (ports.len(), closed)
        };
        // Before anything that could close one.
        let mut result = MonitorResult { watched_sockets: remove_closed().0, ..MonitorResult::default() };
        let watch = move || {
            loop {
                // Also once after the stop, for what has happened since the last look.
                let is_stopped = stopped.recv_timeout(MONITOR_INTERVAL) == Err(mpsc::RecvTimeoutError::Disconnected);
                result.resident_max = result.resident_max.max(resident_bytes(&pids).unwrap_or(0));
                result.closed_at.extend(remove_closed().1.iter().map(|_| clock::now()));
                if is_stopped {
                    return result;
                }
            }
        };
        let handle = std::thread::Builder::new().name("monitor".to_owned()).spawn(watch);
        Ok(Self { stop, handle: handle.context("starting the monitor thread")? })
    }

    /// Stops watching.
    pub(crate) fn finish(self) -> Result<MonitorResult> {
        drop(self.stop);
        self.handle.join().map_err(|_| BenchError("the monitor thread panicked".to_owned()))
    }
}

/// Counts the resources that are used while something is measured.
pub(crate) struct ResourceMeter {
    monitor: ServerMonitor,
    start: Instant,
    machine: MachineCounters,
    server: CpuTime,
    own: CpuTime,
}

impl ResourceMeter {
    /// Begins to count the resources of the run's server and of this program.
    pub(crate) fn start(run: &Run) -> Result<Self> {
        let monitor = ServerMonitor::start(run.pids.clone(), Vec::new())?;
        let (server, own) = (CpuTime::read(&run.pids)?, CpuTime::read(&[std::process::id()])?);
        Ok(Self { monitor, start: Instant::now(), machine: MachineCounters::read(), server, own })
    }

    /// Reports the resources that were used. Returns the processor time of the server, if its processes are known, and of
    /// this program.
    pub(crate) fn finish(self, run: &mut Run) -> Result<(Option<CpuUsage>, CpuUsage)> {
        let seconds = self.start.elapsed().as_secs_f64();
        let server = CpuTime::read(&run.pids)?.since(&self.server);
        let own = CpuTime::read(&[std::process::id()])?.since(&self.own);
        let busy = MachineCounters::read().busy_seconds_since(self.machine);
        let resident_max = self.monitor.finish()?.resident_max;
        let cores_of = |nanos: u64| nanos as f64 / 1e9 / seconds;
        run.report.set_number("client_cores_busy", cores_of(own.total));
        if run.pids.is_empty() {
            return Ok((None, own));
        }
        run.report.set_number("server_cores_busy", cores_of(server.total));
        run.report.set_number("server_rss_max_kib", resident_max as f64 / 1024.0);
        let others = (busy / seconds - cores_of(server.total + own.total)).max(0.0);
        run.report.set_number("others_cores_busy", others);
        if others > OTHERS_SHARE_NOTED * cores() as f64 {
            run.report.add_note(format!(
                "other programs used {} of the machine's {} cores meanwhile: times are worse than the hub's own, compare with \
                 care",
                decimal(others),
                cores()
            ));
        }
        Ok((Some(server), own))
    }
}

/// What was measured, beside what is already reported.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    /// How long it took.
    pub(crate) seconds: f64,
    /// How many deliveries there were.
    pub(crate) deliveries: u64,
    /// The processor time of the server, if its processes are known.
    pub(crate) server: Option<CpuUsage>,
    /// The processor time of this program.
    pub(crate) own: CpuUsage,
}

impl LoadDriver<'_> {
    /// Publishes for the `warmup` and then for the measured `seconds`, and reports publications and deliveries of the
    /// latter. Each publication has this many `receivers`. Both phases end when everything is delivered, so that nothing of
    /// one is counted in the other. Returns `None` after Ctrl-C in the warm-up.
    pub(crate) fn measure(&mut self, warmup: f64, seconds: f64, receivers: u64) -> Result<Option<Measured>> {
        self.run_for("warming up", Duration::from_secs_f64(warmup))?;
        self.await_deliveries(self.published * receivers)?;
        if self.run.terminal.is_interrupted() {
            return Ok(None);
        }
        let shared = &self.clients.shared;
        // Receiving threads read this whenever they wake up. They are idle now, so that is before the next delivery.
        shared.measured_from.set(clock::now());
        let before = shared.delivered.get();
        let meter = ResourceMeter::start(self.run)?;
        let seconds = self.run_for("measured", Duration::from_secs_f64(seconds))?.as_secs_f64();
        let expected = self.published * receivers;
        self.await_deliveries(before + expected)?;
        let deliveries = shared.delivered.get() - before;
        let (server, own) = meter.finish(self.run)?;
        self.report_publications(seconds);
        if receivers > 0 {
            self.run.report.set("deliveries", deliveries);
            self.run.report.set_number("deliveries_per_second", deliveries as f64 / seconds);
            self.run.report.set("deliveries_lost", expected.saturating_sub(deliveries));
        }
        Ok(Some(Measured { seconds, deliveries, server, own }))
    }

    /// The same for publications that all clients receive, and reports the processor time per delivery.
    pub(crate) fn measure_fanout(&mut self, args: &LoadArgs) -> Result<()> {
        let receivers = self.clients.options.connections as u64;
        let measured = self.measure(args.warmup, args.seconds, receivers)?;
        let Some(Measured { seconds, deliveries, server, own }) = measured else {
            return Ok(());
        };
        let report = &mut self.run.report;
        let each = |nanos: u64| nanos as f64 / 1000.0 / deliveries.max(1) as f64;
        if let Some(server) = server {
            report.set_number("server_cpu_us_per_delivery", each(server.total));
            report.set_number("server_cpu_user_us_per_delivery", each(server.user));
            report.set_number("server_cpu_system_us_per_delivery", each(server.system));
        }
        report.set_number("client_cpu_us_per_delivery", each(own.total));
        let threads = self.clients.options.threads as f64;
        if own.total as f64 / 1e9 / seconds > BUSY_SHARE * threads && threads < cores() as f64 {
            report.add_note(
                "the receiving threads of this program were always busy: its own speed is part of what it measured; raise \
                 --threads",
            );
        }
        Ok(())
    }
}
