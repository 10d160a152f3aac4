//! The measured part that `fanout` and `limit` have in common, so that their tables can be laid side by side.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::args::{CrowdArgs, LoadArgs};
use crate::clock::Clock;
use crate::crowd::{Crowd, Outcome, Plan, Purpose};
use crate::driver::{Driver, Pace};
use crate::error::{BenchError, Result};
use crate::outlet::Outlet;
use crate::process::{CpuTime, resident_bytes};
use crate::report::Report;
use crate::socket::SocketOptions;
use crate::stamp::MIN_DATA_BYTES;
use crate::watch::Watch;

/// How many connections share a source address when nobody says otherwise: an address has about 28,000 ports.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;
/// Memory is read after this, when allocators and kernel have settled.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

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
        tokens: Vec::new(),
        channels: Vec::new(),
        concurrency: usize::from(args.concurrency),
        source_addresses: args.source_addresses.map_or(by_count, usize::from),
        socket: SocketOptions::default(),
        lanes: 0,
        threads: usize::from(args.threads),
    }
}

/// Reports the servers' memory before and with `connections` idle connections, in KiB.
pub(crate) fn report_memory(report: &mut Report, pids: &[u32], before: u64, connections: usize) -> Result<()> {
    if pids.is_empty() {
        return Ok(());
    }
    let now = resident_bytes(pids)?;
    let kib = |bytes: f64| bytes / 1024.0;
    report.number("server_rss_before_kib", kib(before as f64));
    report.number("server_rss_idle_kib", kib(now as f64));
    report.number("server_rss_per_connection_kib", kib((now as f64 - before as f64) / connections as f64));
    Ok(())
}

/// Warms up, publishes for the measured time, and reports what it cost. Both parts end when everything is delivered, so
/// nothing of one is counted in the other.
pub(crate) fn measure<O: Outlet>(
    driver: &mut Driver<'_, O>,
    crowd: &Crowd,
    clock: Clock,
    (load, pids): (&LoadArgs, &[u32]),
    report: &mut Report,
) -> Result<()> {
    driver.run_for(Duration::from_secs_f64(load.warmup))?;
    let me = [std::process::id()];
    let delivered = || crowd.shared.delivered.load(Ordering::Acquire);
    // Read by the threads whenever they wake; at rest, as they are now, that is before the next delivery.
    crowd.shared.measured_from.store(clock.now(), Ordering::Relaxed);

    let watch = Watch::start(pids.to_vec(), Vec::new(), clock)?;
    let (before, own_before, delivered_before) = (CpuTime::read(pids)?, CpuTime::read(&me)?, delivered());
    let start = Instant::now();
    driver.run_for(Duration::from_secs_f64(load.seconds))?;
    let seconds = start.elapsed().as_secs_f64();
    let spent = CpuTime::read(pids)?.since(&before);
    let own = CpuTime::read(&me)?.since(&own_before);
    let seen = watch.finish()?;

    let deliveries = delivered() - delivered_before;
    let expected = driver.published * crowd.connections as u64;
    report.number("seconds", seconds);
    report.row("publications", driver.published);
    report.number("publications_per_second", driver.published as f64 / seconds);
    report.row("publications_refused", driver.refused);
    report.row("deliveries", deliveries);
    report.number("deliveries_per_second", deliveries as f64 / seconds);
    report.row("deliveries_lost", expected.saturating_sub(deliveries));
    let each = |nanos: u64| nanos as f64 / 1000.0 / deliveries.max(1) as f64;
    if !pids.is_empty() {
        report.number("server_cpu_us_per_delivery", each(spent.total));
        report.number("server_cpu_user_us_per_delivery", each(spent.user));
        report.number("server_cpu_system_us_per_delivery", each(spent.system));
        report.number("server_cores_busy", spent.total as f64 / 1e9 / seconds);
        report.number("server_rss_max_kib", seen.resident_max as f64 / 1024.0);
    }
    report.number("client_cpu_us_per_delivery", each(own.total));
    report.percentiles("publish_answer", &driver.answer_time);
    Ok(())
}

/// Reports what the crowd saw over the whole run.
pub(crate) fn report_outcome(report: &mut Report, outcome: &Outcome) {
    report.percentiles("delivery", &outcome.tally.latency);
    report.row("sequence_gaps", outcome.tally.gaps);
    report.row("sequence_missed", outcome.tally.missed);
    report.row("sequence_out_of_order", outcome.tally.disorder);
    report.row("received_bytes", outcome.tally.bytes);
    report.reasons("connections_closed", &outcome.ended);
}

/// Ends a crowd after a run that may have failed: why its connections were closed belongs to why the run failed.
pub(crate) fn close_after<T>(result: Result<T>, crowd: Crowd) -> Result<(T, Outcome)> {
    let outcome = crowd.close()?;
    match result {
        Ok(value) => Ok((value, outcome)),
        Err(error) if outcome.ended.is_empty() => Err(error),
        Err(error) => Err(BenchError::Refused(format!("{error}; connections ended: {:?}", outcome.ended))),
    }
}
