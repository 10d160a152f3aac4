//! `connect` and `idle`: crowds without publications, one measured while it comes in and one while it does nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};

use crate::args::{ConnectArgs, IdleArgs};
use crate::clock::{Clock, settle};
use crate::crowd::{Crowd, Plan, Purpose};
use crate::driver::CROWD;
use crate::error::{Result, While};
use crate::fanout::to_hub;
use crate::process::{CpuTime, check_open_files, resident_bytes};
use crate::report::Report;
use crate::run::{SETTLE, plan, report_memory};

/// A waker that nobody sleeps on: these commands only wait for the crowd to stand.
fn unheard() -> Result<(Poll, Arc<Waker>)> {
    let poll = Poll::new().during(|| "epoll")?;
    let waker = Waker::new(poll.registry(), CROWD).during(|| "epoll")?;
    Ok((poll, Arc::new(waker)))
}

/// Runs `connect`.
pub(crate) fn connect(args: &ConnectArgs) -> Result<Report> {
    let count = args.count as usize;
    let at_once = if args.close { usize::from(args.crowd.concurrency) } else { count };
    check_open_files(at_once)?;
    let purpose = if args.close { Purpose::StormAndLeave } else { Purpose::Storm };
    let storm = to_hub(plan(purpose, count, &args.crowd), &args.hub)?;
    let (_poll, waker) = unheard()?;
    let mut report = Report::new("connect");
    report.row("connections", count);
    report.row("concurrency", args.crowd.concurrency);

    let pids = &args.hub.pid;
    let (resident, cpu) = (resident_bytes(pids)?, CpuTime::read(pids)?);
    let start = Instant::now();
    let crowd = Crowd::open(storm, Clock::start(), &waker)?;
    let seconds = start.elapsed().as_secs_f64();
    let spent = CpuTime::read(pids)?.since(&cpu);
    settle(SETTLE);
    if !args.close {
        report_memory(&mut report, pids, resident, count)?;
    }
    let outcome = crowd.close()?;

    let stood = outcome.stand.len();
    report.number("seconds", seconds);
    report.row("connected", stood);
    report.number("connects_per_second", stood as f64 / seconds);
    if !pids.is_empty() {
        report.number("server_cpu_us_per_connect", spent.total as f64 / 1000.0 / count as f64);
        report.number("server_cores_busy", spent.total as f64 / 1e9 / seconds);
    }
    report.percentiles("to_101", &outcome.upgrade);
    report.percentiles("to_first_push", &outcome.stand);
    report.reasons("failures", &outcome.failed);
    report.reasons("connections_closed", &outcome.ended);
    Ok(report)
}

/// Runs `idle`.
pub(crate) fn idle(args: &IdleArgs) -> Result<Report> {
    let count = args.connections as usize;
    check_open_files(count)?;
    let channels = match args.channels {
        1 => vec!["bench".to_owned()],
        many => (0..many).map(|number| format!("bench-{number}")).collect(),
    };
    let crowd = Plan { channels, ..to_hub(plan(Purpose::Receive, count, &args.crowd), &args.hub)? };
    let (_poll, waker) = unheard()?;
    let mut report = Report::new("idle");
    report.row("connections", count);
    report.row("channels", args.channels);

    let pids = &args.hub.pid;
    let before = resident_bytes(pids)?;
    let start = Instant::now();
    let crowd = Crowd::open(crowd, Clock::start(), &waker)?;
    report.number("opening_seconds", start.elapsed().as_secs_f64());
    let cpu = CpuTime::read(pids)?;
    settle(Duration::from_secs_f64(args.settle));
    report.number("settled_seconds", args.settle);
    report_memory(&mut report, pids, before, count)?;
    if !pids.is_empty() {
        report.number("server_cores_busy_idle", CpuTime::read(pids)?.since(&cpu).total as f64 / 1e9 / args.settle);
    }
    let outcome = crowd.close()?;
    report.percentiles("to_subscribed", &outcome.stand);
    report.reasons("connections_closed", &outcome.ended);
    Ok(report)
}
