//! The measured part that `fanout` and `limit` have in common, so that their tables can be laid side by side.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::advice;
use crate::args::{CrowdArgs, LoadArgs};
use crate::clock::Clock;
use crate::console::Console;
use crate::crowd::{Crowd, Outcome, Plan, Purpose};
use crate::driver::{Driver, Pace};
use crate::error::{BenchError, Result};
use crate::machine::{self, Machine};
use crate::outlet::Outlet;
use crate::process::{CpuSpent, CpuTime, resident_bytes};
use crate::report::{Report, decimal, thousands};
use crate::socket::SocketOptions;
use crate::stamp::MIN_DATA_BYTES;
use crate::watch::Watch;

/// How many connections share a source address when nobody says otherwise: an address has about 28,000 ports.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;
/// Memory is read after this, when allocators and kernel have settled.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);
/// A share of the machine that, used by others, shows in the figures.
const MANY_OTHERS: f64 = 0.15;
/// A share of a thread's time from which on it is as good as all.
const BUSY: f64 = 0.95;

/// The pace that the options ask for, and how many lanes it takes.
pub(crate) fn pace(load: &LoadArgs, publishers: u16) -> Result<(Pace, usize)> {
    if load.size < MIN_DATA_BYTES {
        return Err(BenchError::Usage(format!("--size {}: a publication needs {MIN_DATA_BYTES} bytes", load.size)));
    }
    Ok(match load.closed_loop {
        Some(outstanding) => (Pace::ClosedLoop(outstanding), usize::from(outstanding)),
        None => (Pace::Rate(load.rate), usize::from(publishers)),
    })
}

/// A plan with what the options of this side's connections say; targets, tokens and channels are the caller's.
pub(crate) fn plan(purpose: Purpose, connections: usize, args: &CrowdArgs) -> Plan {
    let by_count = connections.div_ceil(CONNECTIONS_PER_ADDRESS);
    Plan {
        purpose,
        connections,
        targets: Vec::new(),
        pids: Vec::new(),
        tokens: Vec::new(),
        channels: Vec::new(),
        is_positioned: false,
        concurrency: usize::from(args.concurrency),
        returning: connections,
        source_addresses: args.source_addresses.map_or(by_count, usize::from),
        socket: SocketOptions::default(),
        lanes: 0,
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
    report.number("server_rss_before_kib", kib(before as f64));
    report.number("server_rss_idle_kib", kib(now as f64));
    report.number("server_rss_per_connection_kib", kib((now as f64 - before as f64) / connections as f64));
    Ok(())
}

/// What was spent, on whom, while something is measured.
#[derive(Debug)]
pub(crate) struct Meter {
    pids: Vec<u32>,
    watch: Watch,
    start: Instant,
    machine: Machine,
    server: CpuTime,
    own: CpuTime,
}

impl Meter {
    /// Begins to count what `pids` spend.
    pub(crate) fn start(pids: &[u32], clock: Clock) -> Result<Self> {
        let watch = Watch::start(pids.to_vec(), Vec::new(), clock)?;
        let (server, own) = (CpuTime::read(pids)?, CpuTime::read(&[std::process::id()])?);
        Ok(Self { pids: pids.to_vec(), watch, start: Instant::now(), machine: Machine::read(), server, own })
    }

    /// Reports what was spent meanwhile; by the server, if it can be seen, and by this program.
    pub(crate) fn finish(self, report: &mut Report) -> Result<(Option<CpuSpent>, CpuSpent)> {
        let seconds = self.start.elapsed().as_secs_f64();
        let spent = CpuTime::read(&self.pids)?.since(&self.server);
        let own = CpuTime::read(&[std::process::id()])?.since(&self.own);
        let busy = Machine::read().busy_seconds_since(self.machine);
        let seen = self.watch.finish()?;
        let cores = |nanos: u64| nanos as f64 / 1e9 / seconds;
        report.number("client_cores_busy", cores(own.total));
        if self.pids.is_empty() {
            return Ok((None, own));
        }
        report.number("server_cores_busy", cores(spent.total));
        report.number("server_rss_max_kib", seen.resident_max as f64 / 1024.0);
        let others = (busy / seconds - cores(spent.total + own.total)).max(0.0);
        report.number("others_cores_busy", others);
        if others > MANY_OTHERS * machine::cores() as f64 {
            report.note(format!(
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
pub(crate) fn measure<O: Outlet>(
    driver: &mut Driver<'_, O>,
    (crowd, console): (&Crowd, &Console),
    clock: Clock,
    (load, pids): (&LoadArgs, &[u32]),
    report: &mut Report,
) -> Result<()> {
    driver.run_for("warming up", Duration::from_secs_f64(load.warmup))?;
    if console.is_interrupted() {
        return Ok(());
    }
    let delivered = || crowd.shared.delivered.load(Ordering::Acquire);
    // Read by the threads whenever they wake; at rest, as they are now, that is before the next delivery.
    crowd.shared.measured_from.store(clock.now(), Ordering::Relaxed);

    let delivered_before = delivered();
    let meter = Meter::start(pids, clock)?;
    let seconds = driver.run_for("measured", Duration::from_secs_f64(load.seconds))?.as_secs_f64();
    let deliveries = delivered() - delivered_before;
    let (spent, own) = meter.finish(report)?;

    let expected = driver.published * crowd.connections as u64;
    report.number("seconds", seconds);
    report_publications(report, driver, seconds);
    report_deliveries(report, (deliveries, expected), seconds);
    let each = |nanos: u64| nanos as f64 / 1000.0 / deliveries.max(1) as f64;
    if let Some(spent) = spent {
        report.number("server_cpu_us_per_delivery", each(spent.total));
        report.number("server_cpu_user_us_per_delivery", each(spent.user));
        report.number("server_cpu_system_us_per_delivery", each(spent.system));
    }
    report.number("client_cpu_us_per_delivery", each(own.total));
    let threads = crowd.threads as f64;
    if own.total as f64 / 1e9 / seconds > BUSY * threads && threads < machine::cores() as f64 {
        report.note(
            "this program's threads were busy all the time: its own speed is part of what it measured (--threads)",
        );
    }
    Ok(())
}

/// Reports how many publications were taken in these `seconds`, and how they were answered.
pub(crate) fn report_publications<O: Outlet>(report: &mut Report, driver: &Driver<'_, O>, seconds: f64) {
    report.row("publications", driver.published);
    report.number("publications_per_second", driver.published as f64 / seconds);
    report.row("publications_refused", driver.refusals.values().sum::<u64>());
    report.reasons("refusals", &driver.refusals);
    advice::note(report, &driver.refusals);
    report.row("publications_held_up", driver.held_up);
    report.percentiles("publish_answer", &driver.answer_time);
}

/// Reports deliveries beside those that were expected.
pub(crate) fn report_deliveries(report: &mut Report, (deliveries, expected): (u64, u64), seconds: f64) {
    report.row("deliveries", deliveries);
    report.number("deliveries_per_second", deliveries as f64 / seconds);
    report.row("deliveries_lost", expected.saturating_sub(deliveries));
}

/// Reports what the crowd saw over the whole run.
pub(crate) fn report_outcome(report: &mut Report, outcome: &Outcome) {
    report.percentiles("delivery", &outcome.tally.latency);
    report.row("sequence_gaps", outcome.tally.gaps);
    report.row("sequence_missed", outcome.tally.missed);
    report.row("sequence_out_of_order", outcome.tally.disorder);
    report.row("received_bytes", outcome.tally.bytes);
    report_ends(report, outcome);
}

/// Reports connections that failed or ended, and what helps.
pub(crate) fn report_ends(report: &mut Report, outcome: &Outcome) {
    report.reasons("failures", &outcome.failed);
    report.reasons("connections_closed", &outcome.ended);
    advice::note(report, &outcome.failed);
    advice::note(report, &outcome.ended);
}

/// Reports listen queues that were full since `before`: their connections waited for seconds.
pub(crate) fn report_overflows(report: &mut Report, before: Machine) {
    let overflows = Machine::read().overflows_since(before);
    report.row("listen_overflows", overflows);
    if overflows > 0 {
        report.note(format!(
            "a listener's queue was full {} times (of anybody on this machine), and who met that tried again a second later: \
             lower --concurrency, or raise net.core.somaxconn with sysctl",
            thousands(&overflows.to_string())
        ));
    }
}

/// Ends a crowd after a run that may have failed: why its connections were closed belongs to why the run failed.
pub(crate) fn close_after<T>(result: Result<T>, crowd: Crowd) -> Result<(T, Outcome)> {
    let outcome = crowd.close()?;
    match result {
        Ok(value) => Ok((value, outcome)),
        Err(error) if outcome.ended.is_empty() => Err(error),
        Err(error) => {
            let ended: Vec<String> =
                outcome.ended.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
            Err(BenchError::Refused(format!("{error}; connections ended: {}", ended.join(", "))))
        }
    }
}
