//! `publish`: how many publications a second a hub takes, through its API or from sessions, and how soon it answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Poll, Waker};

use crate::args::{PublishArgs, Way};
use crate::clock::Clock;
use crate::console::Console;
use crate::crowd::{Crowd, Plan, Purpose};
use crate::driver::{CROWD, Driver, Pace};
use crate::error::{BenchError, Result, While};
use crate::fanout::api_door;
use crate::http::{HttpOutlet, Method};
use crate::hub::Hub;
use crate::outlet::Outlet;
use crate::process::make_room;
use crate::report::Report;
use crate::run::{Meter, close_after, plan, report_deliveries, report_outcome, report_publications};
use crate::sockets::SocketOutlet;
use crate::stamp::MIN_DATA_BYTES;

/// Settings of a hub of our own that is published to over sockets: its pace for sessions is not what is measured.
pub(crate) const NO_PACE: &[&str] = &["limits.publications_per_second=0", "limits.commands_per_second=0"];

/// Runs `publish`.
pub(crate) fn run(args: &PublishArgs, hub: &Hub, console: &Console) -> Result<Report> {
    check(args)?;
    let (lanes, channels) = (usize::from(args.connections), channels(args));
    let subscribers = usize::from(args.subscribers) * channels.len();
    make_room(lanes + subscribers)?;
    let (clock, poll) = (Clock::start(), Poll::new().during(|| "epoll")?);
    let waker = Arc::new(Waker::new(poll.registry(), CROWD).during(|| "epoll")?);
    let method = method(args);
    let mut report = Report::new("publish");
    report.row("channels", channels.len());
    report.row("size_bytes", args.size);
    report.row("publishing_connections", lanes);
    report.row("subscribers", subscribers);
    let readers = match subscribers {
        0 => Plan { threads: 0, ..plan(Purpose::Receive, 0, &args.crowd) },
        some => Plan { channels: channels.clone(), ..hub.crowd(plan(Purpose::Receive, some, &args.crowd))? },
    };
    if args.over == Way::Socket {
        report.row("publications_per_call", 1);
        let (tokens, options) = (hub.tokens(lanes)?, hub.socket_options(&hub.targets)?);
        let outlet = SocketOutlet::connect((&hub.targets, &tokens, lanes), channels, &options, &poll)?;
        return with(outlet, args, (hub, console), (poll, clock), (readers, &waker), report);
    }
    let door = api_door(&args.api, hub, method, channels)?;
    report.row("publications_per_call", door.publications());
    let outlet = HttpOutlet::new(door, lanes, &poll)?;
    with(outlet, args, (hub, console), (poll, clock), (readers, &waker), report)
}

/// What the command line cannot tell to be wrong.
fn check(args: &PublishArgs) -> Result<()> {
    let wrong = |text: String| Err(BenchError::Usage(text));
    if args.size < MIN_DATA_BYTES {
        return wrong(format!("--size {}: a publication needs {MIN_DATA_BYTES} bytes", args.size));
    }
    if args.over == Way::Socket && (args.batch > 1 || args.broadcast) {
        return wrong(
            "--batch and --broadcast are the server API's: a session's command is one publication".to_owned(),
        );
    }
    Ok(())
}

fn channels(args: &PublishArgs) -> Vec<String> {
    (0..args.channels).map(|number| format!("bench-{number}")).collect()
}

fn method(args: &PublishArgs) -> Method {
    match (args.broadcast, args.batch) {
        (true, _) => Method::Broadcast,
        (false, 1) => Method::Publish,
        (false, count) => Method::Batch(u32::from(count)),
    }
}

fn with<O: Outlet>(
    outlet: O,
    args: &PublishArgs,
    (hub, console): (&Hub, &Console),
    (poll, clock): (Poll, Clock),
    (readers, waker): (Plan, &Arc<Waker>),
    mut report: Report,
) -> Result<Report> {
    let pace = args.rate.map_or(Pace::Answered(args.connections), Pace::Rate);
    report.row("pace", pace.to_string());
    let crowd = Crowd::open(readers, clock, waker, console)?;
    let lanes = usize::from(args.connections);
    let mut driver = Driver::new(poll, outlet, (&crowd, console), clock, (pace, lanes, args.size));
    let result = measure(&mut driver, (&crowd, console), clock, (args, hub), &mut report);
    crowd.dismiss();
    drop(driver);
    let ((), outcome) = close_after(result, crowd)?;
    if args.subscribers > 0 {
        report_outcome(&mut report, &outcome);
    }
    Ok(report)
}

fn measure<O: Outlet>(
    driver: &mut Driver<'_, O>,
    (crowd, console): (&Crowd, &Console),
    clock: Clock,
    (args, hub): (&PublishArgs, &Hub),
    report: &mut Report,
) -> Result<()> {
    let each = u64::from(args.subscribers);
    driver.run_for("warming up", Duration::from_secs_f64(args.warmup))?;
    driver.await_deliveries(driver.published * each)?;
    if console.is_interrupted() {
        return Ok(());
    }
    let before = crowd.shared.delivered.load(Ordering::Acquire);
    crowd.shared.measured_from.store(clock.now(), Ordering::Relaxed);
    let meter = Meter::start(&hub.pids, clock)?;
    let seconds = driver.run_for("measured", Duration::from_secs_f64(args.seconds))?.as_secs_f64();
    let expected = driver.published * each;
    driver.await_deliveries(before + expected)?;
    let (spent, _) = meter.finish(report)?;
    report.number("seconds", seconds);
    report_publications(report, driver, seconds);
    if each > 0 {
        report_deliveries(report, (crowd.shared.delivered.load(Ordering::Acquire) - before, expected), seconds);
    }
    if let Some(spent) = spent {
        let publications = driver.published.max(1) as f64;
        report.number("server_cpu_us_per_publication", spent.total as f64 / 1000.0 / publications);
    }
    Ok(())
}
