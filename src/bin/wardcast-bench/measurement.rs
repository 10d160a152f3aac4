//! The measured part that `fanout` and `limit` have in common, so that their tables can be laid side by side.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::args::{ConnectionArgs, LoadArgs};
use crate::clients::{ClientBehavior, ClientOptions, ClientStats, Clients};
use crate::error::{BenchError, Result};
use crate::load_driver::{LoadDriver, Workload};
use crate::machine::{self, MachineCounters};
use crate::process::{CpuTime, CpuUsage, resident_bytes};
use crate::publication_stamp::MIN_DATA_BYTES;
use crate::publish_transport::PublishTransport;
use crate::remedies;
use crate::report::{Report, decimal, thousands};
use crate::run_clock::RunClock;
use crate::server_monitor::ServerMonitor;
use crate::socket::SocketOptions;
use crate::terminal::Terminal;

/// How many connections share a source address when nobody says otherwise: an address has about 28,000 ports.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;
/// Memory is read after this, when allocators and kernel have settled.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(1);
/// A share of the machine that, used by others, shows in the figures.
const OTHERS_SHARE_NOTED: f64 = 0.15;
/// A share of a thread's time from which on it is as good as all.
const BUSY_SHARE: f64 = 0.95;

/// The pace that the options ask for, and how many lanes it takes.
pub(crate) fn workload(load: &LoadArgs, publishers: u16) -> Result<(Workload, usize)> {
    if load.size < MIN_DATA_BYTES {
        return Err(BenchError::Usage(format!("--size {}: a publication needs {MIN_DATA_BYTES} bytes", load.size)));
    }
    Ok(match load.closed_loop {
        Some(outstanding) => (Workload::ClosedLoop(outstanding), usize::from(outstanding)),
        None => (Workload::Rate(load.rate), usize::from(publishers)),
    })
}

/// A plan with what the options of this side's connections say; targets, tokens and channels are the caller's.
pub(crate) fn client_options(behavior: ClientBehavior, connections: usize, args: &ConnectionArgs) -> ClientOptions {
    let by_count = connections.div_ceil(CONNECTIONS_PER_ADDRESS);
    ClientOptions {
        behavior,
        connections,
        targets: Vec::new(),
        pids: Vec::new(),
        tokens: Vec::new(),
        channels: Vec::new(),
        is_positioned: false,
        concurrency: usize::from(args.concurrency),
        reconnect_concurrency: connections,
        source_addresses: args.source_addresses.map_or(by_count, usize::from),
        socket: SocketOptions::default(),
        publishers: 0,
        threads: usize::from(args.threads),
    }
}

/// Reports the servers' memory before and with `connections` idle connections, in KiB.
pub(crate) fn report_memory(report: &mut Report, pids: &[u32], before: u64, connections: usize) -> Result<()> {
    if pids.is_empty() || connections == 0 {
        return Ok(());
    }
    let now = resident_bytes(pids)?;
    let kib = |bytes: f64| bytes / 1024.0;
    report.set_number("server_rss_before_kib", kib(before as f64));
    report.set_number("server_rss_idle_kib", kib(now as f64));
    report.set_number("server_rss_per_connection_kib", kib((now as f64 - before as f64) / connections as f64));
    Ok(())
}

/// What was spent, on whom, while something is measured.
#[derive(Debug)]
pub(crate) struct ResourceMeter {
    pids: Vec<u32>,
    monitor: ServerMonitor,
    start: Instant,
    machine: MachineCounters,
    server: CpuTime,
    own: CpuTime,
}

impl ResourceMeter {
    /// Begins to count what `pids` spend.
    pub(crate) fn start(pids: &[u32], clock: RunClock) -> Result<Self> {
        let monitor = ServerMonitor::start(pids.to_vec(), Vec::new(), clock)?;
        let (server, own) = (CpuTime::read(pids)?, CpuTime::read(&[std::process::id()])?);
        Ok(Self { pids: pids.to_vec(), monitor, start: Instant::now(), machine: MachineCounters::read(), server, own })
    }

    /// Reports what was spent meanwhile; by the server, if it can be seen, and by this program.
    pub(crate) fn finish(self, report: &mut Report) -> Result<(Option<CpuUsage>, CpuUsage)> {
        let seconds = self.start.elapsed().as_secs_f64();
        let spent = CpuTime::read(&self.pids)?.since(&self.server);
        let own = CpuTime::read(&[std::process::id()])?.since(&self.own);
        let busy_seconds = MachineCounters::read().busy_seconds_since(self.machine);
        let monitor_result = self.monitor.finish()?;
        let cores = |nanos: u64| nanos as f64 / 1e9 / seconds;
        report.set_number("client_cores_busy", cores(own.total));
        if self.pids.is_empty() {
            return Ok((None, own));
        }
        report.set_number("server_cores_busy", cores(spent.total));
        report.set_number("server_rss_max_kib", monitor_result.resident_max as f64 / 1024.0);
        let others = (busy_seconds / seconds - cores(spent.total + own.total)).max(0.0);
        report.set_number("others_cores_busy", others);
        if others > OTHERS_SHARE_NOTED * machine::cores() as f64 {
            report.add_note(format!(
                "others used {} of the machine's {} cores meanwhile: times are worse than the hub's, compare with care",
                decimal(others),
                machine::cores()
            ));
        }
        Ok((Some(spent), own))
    }
}

/// Warms up, publishes for the measured time, and reports what it cost. Both parts end when everything is delivered, so
/// nothing of one is counted in the other.
pub(crate) fn measure<O: PublishTransport>(
    driver: &mut LoadDriver<'_, O>,
    (clients, terminal): (&Clients, &Terminal),
    clock: RunClock,
    (load, pids): (&LoadArgs, &[u32]),
    report: &mut Report,
) -> Result<()> {
    driver.run_for("warming up", Duration::from_secs_f64(load.warmup))?;
    if terminal.is_interrupted() {
        return Ok(());
    }
    let delivered = || clients.shared.delivered.load(Ordering::Acquire);
    // Read by the threads whenever they wake; at rest, as they are now, that is before the next delivery.
    clients.shared.measured_from.store(clock.now(), Ordering::Relaxed);

    let delivered_before = delivered();
    let meter = ResourceMeter::start(pids, clock)?;
    let seconds = driver.run_for("measured", Duration::from_secs_f64(load.seconds))?.as_secs_f64();
    let deliveries = delivered() - delivered_before;
    let (spent, own) = meter.finish(report)?;

    let expected = driver.published * clients.connections as u64;
    report.set_number("seconds", seconds);
    report_publications(report, driver, seconds);
    report_deliveries(report, (deliveries, expected), seconds);
    let each = |nanos: u64| nanos as f64 / 1000.0 / deliveries.max(1) as f64;
    if let Some(spent) = spent {
        report.set_number("server_cpu_us_per_delivery", each(spent.total));
        report.set_number("server_cpu_user_us_per_delivery", each(spent.user));
        report.set_number("server_cpu_system_us_per_delivery", each(spent.system));
    }
    report.set_number("client_cpu_us_per_delivery", each(own.total));
    let threads = clients.threads as f64;
    if own.total as f64 / 1e9 / seconds > BUSY_SHARE * threads && threads < machine::cores() as f64 {
        report.add_note(
            "this program's threads were busy all the time: its own speed is part of what it measured (--threads)",
        );
    }
    Ok(())
}

/// Reports how many publications were taken in these `seconds`, and how they were answered.
pub(crate) fn report_publications<O: PublishTransport>(report: &mut Report, driver: &LoadDriver<'_, O>, seconds: f64) {
    report.set("publications", driver.published);
    report.set_number("publications_per_second", driver.published as f64 / seconds);
    report.set("publications_refused", driver.refusals.values().sum::<u64>());
    report.set_counts("refusals", &driver.refusals);
    remedies::note(report, &driver.refusals);
    report.set("publications_held_up", driver.held_up);
    report.set_percentiles("publish_answer", &driver.answer_time);
}

/// Reports deliveries beside those that were expected.
pub(crate) fn report_deliveries(report: &mut Report, (deliveries, expected): (u64, u64), seconds: f64) {
    report.set("deliveries", deliveries);
    report.set_number("deliveries_per_second", deliveries as f64 / seconds);
    report.set("deliveries_lost", expected.saturating_sub(deliveries));
}

/// Reports what the crowd saw over the whole run.
pub(crate) fn report_outcome(report: &mut Report, stats: &ClientStats) {
    report.set_percentiles("delivery", &stats.deliveries.latency);
    report.set("sequence_gaps", stats.deliveries.gaps);
    report.set("sequence_missed", stats.deliveries.missed);
    report.set("sequence_out_of_order", stats.deliveries.out_of_order);
    report.set("received_bytes", stats.deliveries.received_bytes);
    report_ends(report, stats);
}

/// Reports connections that failed or ended, and what helps.
pub(crate) fn report_ends(report: &mut Report, stats: &ClientStats) {
    report.set_counts("failures", &stats.failed);
    report.set_counts("connections_closed", &stats.closed);
    remedies::note(report, &stats.failed);
    remedies::note(report, &stats.closed);
}

/// Reports listen queues that were full since `before`: their connections waited for seconds.
pub(crate) fn report_overflows(report: &mut Report, before: MachineCounters) {
    let overflows = MachineCounters::read().overflows_since(before);
    report.set("listen_overflows", overflows);
    if overflows > 0 {
        report.add_note(format!(
            "a listener's queue was full {} times (of anybody on this machine), and who met that tried again a second later: \
             lower --concurrency, or raise net.core.somaxconn with sysctl",
            thousands(&overflows.to_string())
        ));
    }
}

/// Ends a crowd after a run that may have failed: why its connections were closed belongs to why the run failed.
pub(crate) fn close_clients<T>(result: Result<T>, clients: Clients) -> Result<(T, ClientStats)> {
    let stats = clients.close()?;
    match result {
        Ok(value) => Ok((value, stats)),
        Err(error) if stats.closed.is_empty() => Err(error),
        Err(error) => {
            let closed: Vec<String> =
                stats.closed.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
            Err(BenchError::Failed(format!("{error}; connections ended: {}", closed.join(", "))))
        }
    }
}
