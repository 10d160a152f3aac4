//! `connect` and `idle`: crowds without publications, one measured while it comes in and one while it does nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};

use crate::args::{ConnectArgs, IdleArgs};
use crate::clock::Clock;
use crate::console::Console;
use crate::crowd::{Crowd, Plan, Purpose};
use crate::driver::CROWD;
use crate::error::{Result, While};
use crate::hub::Hub;
use crate::process::{CpuTime, make_room, resident_bytes};
use crate::report::Report;
use crate::run::{Meter, SETTLE, plan, report_ends, report_memory};

/// A waker that nobody sleeps on: these commands only wait for the crowd to stand.
fn unheard() -> Result<(Poll, Arc<Waker>)> {
    let poll = Poll::new().during(|| "epoll")?;
    let waker = Waker::new(poll.registry(), CROWD).during(|| "epoll")?;
    Ok((poll, Arc::new(waker)))
}

/// Runs `connect`.
pub(crate) fn connect(args: &ConnectArgs, hub: &Hub, console: &Console) -> Result<Report> {
    let count = args.count as usize;
    let at_once = if args.close { usize::from(args.crowd.concurrency) } else { count };
    make_room(at_once)?;
    let purpose = if args.close { Purpose::StormAndLeave } else { Purpose::Storm };
    let storm = hub.crowd(plan(purpose, count, &args.crowd))?;
    let (_poll, waker) = unheard()?;
    let mut report = Report::new("connect");
    report.row("connections", count);
    report.row("concurrency", args.crowd.concurrency);

    let (resident, clock) = (resident_bytes(&hub.pids)?, Clock::start());
    let meter = Meter::start(&hub.pids, clock)?;
    let start = Instant::now();
    let crowd = Crowd::open(storm, clock, &waker, console)?;
    let seconds = start.elapsed().as_secs_f64();
    let (spent, _) = meter.finish(&mut report)?;
    console.settle(SETTLE);
    if !args.close && !console.is_interrupted() {
        report_memory(&mut report, &hub.pids, resident, count)?;
    }
    let outcome = crowd.close()?;

    let stood = outcome.stand.len();
    let tried = stood + outcome.failed.values().sum::<u64>();
    report.number("opening_seconds", seconds);
    report.row("connected", stood);
    report.number("connects_per_second", stood as f64 / seconds);
    if let Some(spent) = spent {
        report.number("server_cpu_us_per_connect", spent.total as f64 / 1000.0 / tried.max(1) as f64);
    }
    report.percentiles("to_101", &outcome.upgrade);
    report.percentiles("to_first_push", &outcome.stand);
    report_ends(&mut report, &outcome);
    Ok(report)
}

/// Runs `idle`.
pub(crate) fn idle(args: &IdleArgs, hub: &Hub, console: &Console) -> Result<Report> {
    let count = args.connections as usize;
    make_room(count)?;
    let channels = match args.channels {
        1 => vec!["bench".to_owned()],
        many => (0..many).map(|number| format!("bench-{number}")).collect(),
    };
    let crowd =
        Plan { channels, is_positioned: args.positioned, ..hub.crowd(plan(Purpose::Receive, count, &args.crowd))? };
    let (_poll, waker) = unheard()?;
    let mut report = Report::new("idle");
    report.row("connections", count);
    report.row("channels", args.channels);

    let pids = &hub.pids;
    let before = resident_bytes(pids)?;
    let start = Instant::now();
    let crowd = Crowd::open(crowd, Clock::start(), &waker, console)?;
    report.number("opening_seconds", start.elapsed().as_secs_f64());
    let stand = usize::try_from(crowd.shared.opened.load(Ordering::Relaxed)).unwrap_or(count);
    report.row("connected", stand);
    let (cpu, rest) = (CpuTime::read(pids)?, Instant::now());
    console.settle(Duration::from_secs_f64(args.settle));
    let rested = rest.elapsed().as_secs_f64();
    report.number("settled_seconds", rested);
    report_memory(&mut report, pids, before, stand)?;
    if !pids.is_empty() {
        report.number("server_cores_busy_idle", CpuTime::read(pids)?.since(&cpu).total as f64 / 1e9 / rested);
    }
    let outcome = crowd.close()?;
    report.percentiles("to_subscribed", &outcome.stand);
    report_ends(&mut report, &outcome);
    Ok(report)
}
