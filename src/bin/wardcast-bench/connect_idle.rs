//! `connect` and `idle`: crowds without publications, one measured while it comes in and one while it does nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};

use crate::args::{ConnectArgs, IdleArgs};
use crate::clients::{ClientBehavior, ClientOptions, Clients};
use crate::error::{IoContext, Result};
use crate::hub_under_test::HubUnderTest;
use crate::load_driver::CLIENTS_TOKEN;
use crate::measurement::{ResourceMeter, SETTLE_TIME, client_options, report_ends, report_memory};
use crate::process::{CpuTime, raise_file_limit, resident_bytes};
use crate::report::Report;
use crate::run_clock::RunClock;
use crate::terminal::Terminal;

/// A waker that nobody sleeps on: these commands only wait for the crowd to stand.
fn unheard() -> Result<(Poll, Arc<Waker>)> {
    let poll = Poll::new().context(|| "epoll")?;
    let waker = Waker::new(poll.registry(), CLIENTS_TOKEN).context(|| "epoll")?;
    Ok((poll, Arc::new(waker)))
}

/// Runs `connect`.
pub(crate) fn connect(args: &ConnectArgs, hub: &HubUnderTest, terminal: &Terminal) -> Result<Report> {
    let count = args.count as usize;
    let at_once = if args.close { usize::from(args.clients.concurrency) } else { count };
    raise_file_limit(at_once)?;
    let behavior = if args.close { ClientBehavior::ConnectAndClose } else { ClientBehavior::Connect };
    let storm = hub.complete_client_options(client_options(behavior, count, &args.clients))?;
    let (_poll, waker) = unheard()?;
    let mut report = Report::new("connect");
    report.set("connections", count);
    report.set("concurrency", args.clients.concurrency);

    let (resident, clock) = (resident_bytes(&hub.pids)?, RunClock::start());
    let meter = ResourceMeter::start(&hub.pids, clock)?;
    let start = Instant::now();
    let clients = Clients::open(storm, clock, &waker, terminal)?;
    let seconds = start.elapsed().as_secs_f64();
    let (spent, _) = meter.finish(&mut report)?;
    terminal.wait(SETTLE_TIME);
    if !args.close && !terminal.is_interrupted() {
        report_memory(&mut report, &hub.pids, resident, count)?;
    }
    let stats = clients.close()?;

    let stood = stats.time_to_ready.len();
    let tried = stood + stats.failed.values().sum::<u64>();
    report.set_number("opening_seconds", seconds);
    report.set("connected", stood);
    report.set_number("connects_per_second", stood as f64 / seconds);
    if let Some(spent) = spent {
        report.set_number("server_cpu_us_per_connect", spent.total as f64 / 1000.0 / tried.max(1) as f64);
    }
    report.set_percentiles("to_101", &stats.time_to_101);
    report.set_percentiles("to_first_push", &stats.time_to_ready);
    report_ends(&mut report, &stats);
    Ok(report)
}

/// Runs `idle`.
pub(crate) fn idle(args: &IdleArgs, hub: &HubUnderTest, terminal: &Terminal) -> Result<Report> {
    let count = args.connections as usize;
    raise_file_limit(count)?;
    let channels = match args.channels {
        1 => vec!["bench".to_owned()],
        many => (0..many).map(|number| format!("bench-{number}")).collect(),
    };
    let clients = ClientOptions {
        channels,
        is_positioned: args.positioned,
        ..hub.complete_client_options(client_options(ClientBehavior::Receive, count, &args.clients))?
    };
    let (_poll, waker) = unheard()?;
    let mut report = Report::new("idle");
    report.set("connections", count);
    report.set("channels", args.channels);

    let pids = &hub.pids;
    let before = resident_bytes(pids)?;
    let start = Instant::now();
    let clients = Clients::open(clients, RunClock::start(), &waker, terminal)?;
    report.set_number("opening_seconds", start.elapsed().as_secs_f64());
    let time_to_ready = usize::try_from(clients.shared.opened.load(Ordering::Relaxed)).unwrap_or(count);
    report.set("connected", time_to_ready);
    let (cpu, rest) = (CpuTime::read(pids)?, Instant::now());
    terminal.wait(Duration::from_secs_f64(args.settle));
    let rested = rest.elapsed().as_secs_f64();
    report.set_number("settled_seconds", rested);
    report_memory(&mut report, pids, before, time_to_ready)?;
    if !pids.is_empty() {
        report.set_number("server_cores_busy_idle", CpuTime::read(pids)?.since(&cpu).total as f64 / 1e9 / rested);
    }
    let stats = clients.close()?;
    report.set_percentiles("to_subscribed", &stats.time_to_ready);
    report_ends(&mut report, &stats);
    Ok(report)
}
