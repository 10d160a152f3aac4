//! `fanout`: many subscribers of one channel, publications over HTTP, every delivery checked and timed.

use std::sync::Arc;

use mio::{Poll, Waker};

use crate::args::{ApiArgs, FanoutArgs};
use crate::clock::Clock;
use crate::console::Console;
use crate::crowd::{Crowd, Outcome, Plan, Purpose};
use crate::driver::{CROWD, Driver};
use crate::error::{Result, While};
use crate::http::{ApiDoor, HttpOutlet, Method};
use crate::hub::Hub;
use crate::process::{make_room, resident_bytes};
use crate::report::Report;
use crate::run::{SETTLE, close_after, measure, pace, plan, report_memory, report_outcome};
use crate::target::Target;
use crate::watch::{Seen, Watch};

/// A stalled subscriber's receive buffer: small, so that the server has to hold what it does not read.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// Runs `fanout`.
pub(crate) fn run(args: &FanoutArgs, hub: &Hub, console: &Console) -> Result<Report> {
    let (pace, lanes) = pace(&args.load, args.publishers)?;
    let (connections, stalled) = (args.load.connections as usize, usize::from(args.stalled));
    make_room(connections + stalled + lanes)?;
    let channels = vec![args.channel.clone()];
    let readers = Plan { lanes, channels, ..hub.crowd(plan(Purpose::Receive, connections, &args.crowd))? };
    let door = api_door(&args.api, hub, Method::Publish, readers.channels.clone())?;
    let clock = Clock::start();
    let poll = Poll::new().during(|| "epoll")?;
    let waker = Arc::new(Waker::new(poll.registry(), CROWD).during(|| "epoll")?);
    let outlet = HttpOutlet::new(door, lanes, &poll)?;
    let mut report = Report::new("fanout");
    report.row("connections", connections);
    report.row("channels", 1);
    report.row("size_bytes", args.load.size);
    report.row("pace", pace.to_string());
    report.row("publishing_connections", lanes);

    let before = resident_bytes(&hub.pids)?;
    let crowd = Crowd::open(readers, clock, &waker, console)?;
    console.settle(SETTLE);
    if console.is_interrupted() {
        report_outcome(&mut report, &crowd.close()?);
        return Ok(report);
    }
    report_memory(&mut report, &hub.pids, before, connections)?;
    let stalled = Stalled::open(args, hub, clock, (&waker, console))?;
    let mut driver = Driver::new(poll, outlet, (&crowd, console), clock, (pace, lanes, args.load.size));
    let result = measure(&mut driver, (&crowd, console), clock, (&args.load, &hub.pids), &mut report);
    crowd.dismiss();
    drop(driver);
    // Looked at before this side closes anything.
    let stalled = stalled.map(Stalled::close).transpose();
    let ((), outcome) = close_after(result, crowd)?;
    report_outcome(&mut report, &outcome);
    if let Some((began, seen, outcome)) = stalled? {
        report_stalled(&mut report, began, (&seen, &outcome));
    }
    Ok(report)
}

/// Where publications go over HTTP.
pub(crate) fn api_door(args: &ApiArgs, hub: &Hub, method: Method, channels: Vec<String>) -> Result<ApiDoor> {
    let target = match &args.publish_url {
        None => hub.targets[0].with_path(method.path()),
        Some(url) => match Target::parse(url)? {
            target if target.path == "/" => target.with_path(method.path()),
            target => target,
        },
    };
    let socket = hub.socket_options(std::slice::from_ref(&target))?;
    Ok(ApiDoor { target, key: hub.api_key()?, method, channels, socket })
}

/// The subscribers that do not read, and those who watch them.
struct Stalled {
    began: u64,
    crowd: Crowd,
    watch: Watch,
}

impl Stalled {
    /// Opens them, if there are to be any.
    fn open(
        args: &FanoutArgs,
        hub: &Hub,
        clock: Clock,
        (waker, console): (&Arc<Waker>, &Console),
    ) -> Result<Option<Self>> {
        if args.stalled == 0 {
            return Ok(None);
        }
        let mut stalled = hub.crowd(plan(Purpose::Stall, usize::from(args.stalled), &args.crowd))?;
        stalled.threads = 1;
        stalled.channels = vec![args.channel.clone()];
        stalled.socket.receive_buffer = Some(STALLED_RECEIVE_BYTES);
        let crowd = Crowd::open(stalled, clock, waker, console)?;
        let ports = crowd.shared.ports.lock().map(|ports| ports.clone()).unwrap_or_default();
        Ok(Some(Self { began: clock.now(), crowd, watch: Watch::start(hub.pids.clone(), ports, clock)? }))
    }

    fn close(self) -> Result<(u64, Seen, Outcome)> {
        let seen = self.watch.finish()?;
        Ok((self.began, seen, self.crowd.close()?))
    }
}

/// Two views: what these sockets were told (a reset), and what the socket table shows (the server closed its side).
fn report_stalled(report: &mut Report, began: u64, (seen, outcome): (&Seen, &Outcome)) {
    let mut seconds = |name: &str, at: Option<&u64>| {
        if let Some(at) = at {
            report.number(name, at.saturating_sub(began) as f64 / 1e9);
        }
    };
    seconds("stalled_reset_last_seconds", outcome.ended_at.iter().max());
    seconds("stalled_let_go_first_seconds", seen.let_go_at.iter().min());
    seconds("stalled_let_go_last_seconds", seen.let_go_at.iter().max());
    report.row("stalled_reset", outcome.ended_at.len());
    report.row("stalled_watched", seen.watched);
    report.row("stalled_let_go", seen.let_go_at.len());
    report.number("stalled_server_rss_max_kib", seen.resident_max as f64 / 1024.0);
}
