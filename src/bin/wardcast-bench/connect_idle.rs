//! `connect` and `idle`: clients without publications, measured while they connect, and while they do nothing.

use std::time::{Duration, Instant};

use crate::args::{ConnectArgs, IdleArgs};
use crate::clients::{ClientBehavior, ClientOptions, Clients};
use crate::process::{CpuTime, raise_file_limit, resident_bytes};
use crate::run::{Run, SETTLE_TIME};
use crate::{error::Result, hub_under_test::HubUnderTest, measurement::ResourceMeter, recover::KEEP_HISTORY};

/// Runs `connect`.
pub(crate) fn connect(args: &ConnectArgs, run: &mut Run) -> Result<()> {
    let count = args.count as usize;
    let (behavior, at_once) = match args.close {
        true => (ClientBehavior::ConnectAndClose, args.clients.concurrency.into()),
        false => (ClientBehavior::Connect, count),
    };
    raise_file_limit(at_once)?;
    let hub = HubUnderTest::select(run, &args.hub, None, &[])?;
    let options = hub.client_options(behavior, count, &args.clients)?;
    let options = ClientOptions { channels: args.channel.iter().cloned().collect(), ..options };
    run.report.set("connections", count);
    run.report.set("concurrency", args.clients.concurrency);

    let resident_before = resident_bytes(&run.pids)?;
    let meter = ResourceMeter::start(run)?;
    let start = Instant::now();
    let clients = Clients::open(options, run)?;
    let seconds = start.elapsed().as_secs_f64();
    let (server, _) = meter.finish(run)?;
    run.terminal.wait(SETTLE_TIME);
    if !args.close && !run.terminal.is_interrupted() {
        run.report_memory(resident_before, args.count.into())?;
    }
    let shared = clients.close()?;
    let results = shared.results.lock();
    let (connected, tried) = (shared.opened.get(), shared.opened.get() + shared.failed.get());
    run.report.set_number("opening_seconds", seconds);
    run.report.set("connected", connected);
    run.report.set_number("connects_per_second", connected as f64 / seconds);
    if let Some(server) = server {
        run.report.set_number("server_cpu_us_per_connect", server.total as f64 / 1000.0 / tried.max(1) as f64);
    }
    run.report.set_percentiles("to_101", &results.to_101);
    let to_live = if args.channel.is_some() { "to_subscribed" } else { "to_first_push" };
    run.report.set_percentiles(to_live, &results.to_live);
    run.report_ends(&results);
    Ok(())
}

/// Runs `idle`.
pub(crate) fn idle(args: &IdleArgs, run: &mut Run) -> Result<()> {
    let count = args.connections as usize;
    raise_file_limit(count)?;
    let hub = HubUnderTest::select(run, &args.hub, None, if args.positioned { KEEP_HISTORY } else { &[] })?;
    let channels = match args.channels {
        1 => vec!["bench".to_owned()],
        many => (0..many).map(|number| format!("bench-{number}")).collect(),
    };
    let options = hub.client_options(ClientBehavior::Receive, count, &args.clients)?;
    let options = ClientOptions { channels, is_positioned: args.positioned, ..options };
    run.report.set("connections", count);
    run.report.set("channels", args.channels);

    let resident_before = resident_bytes(&run.pids)?;
    let start = Instant::now();
    let clients = Clients::open(options, run)?;
    run.report.set_number("opening_seconds", start.elapsed().as_secs_f64());
    let connected = clients.shared.opened.get();
    run.report.set("connected", connected);
    // What the connects left behind, such as a collection of garbage, is not idle.
    run.terminal.wait(SETTLE_TIME);
    let (cpu, idle_since) = (CpuTime::read(&run.pids)?, Instant::now());
    run.terminal.wait(Duration::from_secs_f64(args.settle));
    let seconds = idle_since.elapsed().as_secs_f64();
    run.report.set_number("settled_seconds", seconds);
    run.report_memory(resident_before, connected)?;
    if !run.pids.is_empty() {
        let used = CpuTime::read(&run.pids)?.since(&cpu).total;
        run.report.set_number("server_cores_busy_idle", used as f64 / 1e9 / seconds);
        run.report.set_number("server_cpu_idle_ms_per_second", used as f64 / 1e6 / seconds);
    }
    let shared = clients.close()?;
    let results = shared.results.lock();
    run.report.set_percentiles("to_subscribed", &results.to_live);
    run.report_ends(&results);
    Ok(())
}
