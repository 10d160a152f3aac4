//! `recover`: all subscribers of a channel are cut at once and come back at once, each with the position that it had reached;
//! each checks that it gets everything, once and in order, by the hub's offsets and by the publishers' own numbers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};

use crate::args::RecoverArgs;
use crate::clock::Clock;
use crate::console::Console;
use crate::crowd::{Crowd, Outcome, Plan, Purpose};
use crate::driver::{CROWD, Driver, Pace};
use crate::error::{BenchError, Result, While};
use crate::fanout::api_door;
use crate::http::{HttpOutlet, Method};
use crate::hub::Hub;
use crate::process::{make_room, resident_bytes};
use crate::report::Report;
use crate::run::{Meter, SETTLE, close_after, plan, report_memory, report_outcome, report_publications};
use crate::stamp::MIN_DATA_BYTES;

/// Settings of a hub of our own: a history that holds more than anybody misses.
pub(crate) const HISTORY: &[&str] = &["channels.history_size=1000", "channels.history_ttl=5m"];

/// Runs `recover`.
pub(crate) fn run(args: &RecoverArgs, hub: &Hub, console: &Console) -> Result<Report> {
    let (count, lanes) = (args.connections as usize, usize::from(args.publishers));
    if args.size < MIN_DATA_BYTES {
        return Err(BenchError::Usage(format!("--size {}: a publication needs {MIN_DATA_BYTES} bytes", args.size)));
    }
    make_room(count + lanes)?;
    let channels = vec![args.channel.clone()];
    let mut readers = Plan { lanes, channels, ..hub.crowd(plan(Purpose::Return, count, &args.crowd))? };
    readers.is_positioned = true;
    readers.returning = args.returning.map_or(count, |returning| returning as usize);
    let mut report = Report::new("recover");
    report.row("connections", count);
    report.row("channels", 1);
    report.row("concurrency", readers.returning);
    report.row("size_bytes", args.size);
    report.row("pace", Pace::Rate(args.rate).to_string());
    report.row("publishing_connections", lanes);
    let door = api_door(&args.api, hub, Method::Publish, readers.channels.clone())?;
    let (clock, before) = (Clock::start(), resident_bytes(&hub.pids)?);
    let poll = Poll::new().during(|| "epoll")?;
    let waker = Arc::new(Waker::new(poll.registry(), CROWD).during(|| "epoll")?);
    let outlet = HttpOutlet::new(door, lanes, &poll)?;

    let crowd = Crowd::open(readers, clock, &waker, console)?;
    console.settle(SETTLE);
    let opened = crowd.shared.opened.load(Ordering::Relaxed);
    report_memory(&mut report, &hub.pids, before, count)?;
    let pace = (Pace::Rate(args.rate), lanes, args.size);
    let mut driver = Driver::new(poll, outlet, (&crowd, console), clock, pace);
    let result = cut_and_call_back(&mut driver, (&crowd, console), clock, (args, hub), &mut report);
    crowd.dismiss();
    drop(driver);
    let (published, outcome) = close_after(result, crowd)?;
    report.row("deliveries", outcome.tally.delivered);
    report.row("deliveries_lost", (published * opened).saturating_sub(outcome.tally.delivered));
    report_recovery(&mut report, &outcome);
    report_outcome(&mut report, &outcome);
    Ok(report)
}

/// Returns how many publications were taken in all.
fn cut_and_call_back(
    driver: &mut Driver<'_, HttpOutlet>,
    (crowd, console): (&Crowd, &Console),
    clock: Clock,
    (args, hub): (&RecoverArgs, &Hub),
    report: &mut Report,
) -> Result<u64> {
    let around = Duration::from_secs_f64(args.seconds);
    driver.run_for("before", around)?;
    let mut published = driver.published;
    if console.is_interrupted() {
        return Ok(published);
    }
    crowd.cut()?;
    let cut_at = Instant::now();
    driver.publish_count("away", args.missed.into())?;
    published += driver.published;
    report.row("missed_publications", driver.published);
    console.settle(Duration::from_secs_f64(args.away).saturating_sub(cut_at.elapsed()));

    let mut meter = Some(Meter::start(&hub.pids, clock)?);
    let all = crowd.connections as u64;
    crowd.shared.measured_from.store(clock.now(), Ordering::Relaxed);
    crowd.shared.called_back.store(clock.now(), Ordering::Relaxed);
    let mut all_back: Option<Instant> = None;
    let seconds = driver.run_until("coming back", around, || {
        if let Some(since) = all_back {
            return Ok(since.elapsed() >= around);
        }
        if crowd.shared.returned.load(Ordering::Relaxed) >= all {
            all_back = Some(Instant::now());
            if let Some(meter) = meter.take()
                && let (Some(spent), _) = meter.finish(report)?
            {
                report.number("server_cpu_us_per_return", spent.total as f64 / 1000.0 / all as f64);
            }
        }
        Ok(false)
    })?;
    report.number("seconds", seconds.as_secs_f64());
    report_publications(report, driver, seconds.as_secs_f64());
    Ok(published + driver.published)
}

fn report_recovery(report: &mut Report, outcome: &Outcome) {
    let found = outcome.tally.recoveries;
    report.row("returned", outcome.back.len());
    if !outcome.back.is_empty() {
        report.number("returning_seconds", outcome.back.max() as f64 / 1e9);
    }
    report.row("recovered", found.recovered);
    report.row("unrecovered", found.unrecovered);
    report.row("recovered_publications", found.publications);
    report.row("offset_gaps", found.gaps);
    report.row("offset_out_of_order", found.disorder);
    report.percentiles("back", &outcome.back);
    report.percentiles("to_101", &outcome.upgrade);
    report.percentiles("to_subscribed", &outcome.stand);
    if found.unrecovered > 0 {
        report.note(
            "who missed more than limits.recovered_publications, or than the channel keeps (channels.history_size, \
             channels.history_ttl), is not recovered: raise them, or lower --missed and --rate",
        );
    }
}
