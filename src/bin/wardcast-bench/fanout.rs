//! `fanout`: many subscribers of one channel, publications over HTTP, every delivery checked and timed.

use std::sync::Arc;

use mio::{Poll, Waker};

use crate::args::{FanoutArgs, HubArgs, or_variable};
use crate::clock::{Clock, settle};
use crate::crowd::{Crowd, Outcome, Plan, Purpose};
use crate::driver::{CROWD, Driver};
use crate::error::{BenchError, Result, While};
use crate::http::{ApiDoor, HttpOutlet};
use crate::process::{check_open_files, resident_bytes};
use crate::report::Report;
use crate::run::{SETTLE, close_after, measure, pace, plan, report_memory, report_outcome};
use crate::socket::SocketOptions;
use crate::target::Target;
use crate::tls;
use crate::token::tokens;
use crate::watch::{Seen, Watch};

/// Where the API key is looked for when it is not an option.
const API_KEY_VARIABLE: &str = "WARDCAST_BENCH_API_KEY";
/// A stalled subscriber's receive buffer: small, so that the server has to hold what it does not read.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// Completes a plan with what the options say about the hub. TLS is set up only where a URL asks for it.
pub(crate) fn to_hub(mut plan: Plan, hub: &HubArgs) -> Result<Plan> {
    plan.targets = hub.url.iter().map(|url| Target::parse(url)).collect::<Result<_>>()?;
    plan.tokens = tokens(plan.connections, hub.token.as_deref(), hub.secret.as_deref())?;
    plan.socket = socket_options(hub, &plan.targets)?;
    let loopback = |target: &Target| target.address.is_ipv4() && target.address.ip().is_loopback();
    if plan.source_addresses > 1 && !plan.targets.iter().all(loopback) {
        return Err(BenchError::Usage("several source addresses need a --url on 127.0.0.0/8".to_owned()));
    }
    Ok(plan)
}

fn socket_options(hub: &HubArgs, targets: &[Target]) -> Result<SocketOptions> {
    let tls = match targets.iter().any(|target| target.tls) {
        true => Some(tls::client_config(hub.ca.as_deref(), hub.insecure)?),
        false => None,
    };
    Ok(SocketOptions { tls, ..SocketOptions::default() })
}

/// Runs `fanout`.
pub(crate) fn run(args: &FanoutArgs) -> Result<Report> {
    let (pace, lanes) = pace(&args.load, args.publishers)?;
    let (connections, stalled) = (args.load.connections as usize, usize::from(args.stalled));
    check_open_files(connections + stalled + lanes)?;
    let channels = vec![args.channel.clone()];
    let readers = Plan { lanes, channels, ..to_hub(plan(Purpose::Receive, connections, &args.crowd), &args.hub)? };
    let door = api_door(args, &readers.targets)?;
    let clock = Clock::start();
    let poll = Poll::new().during(|| "epoll")?;
    let waker = Arc::new(Waker::new(poll.registry(), CROWD).during(|| "epoll")?);
    let outlet = HttpOutlet::new(door, lanes, &poll)?;
    let mut report = Report::new("fanout");
    report.row("connections", connections);
    report.row("size_bytes", args.load.size);
    report.row("pace", pace.to_string());
    report.row("publishing_connections", lanes);

    let before = resident_bytes(&args.hub.pid)?;
    let crowd = Crowd::open(readers, clock, &waker)?;
    settle(SETTLE);
    report_memory(&mut report, &args.hub.pid, before, connections)?;
    let stalled = Stalled::open(args, clock, &waker)?;
    let mut driver = Driver::new(poll, outlet, &crowd, clock, (pace, lanes, args.load.size));
    let result = measure(&mut driver, &crowd, clock, (&args.load, &args.hub.pid), &mut report);
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

fn api_door(args: &FanoutArgs, targets: &[Target]) -> Result<ApiDoor> {
    const PATH: &str = "/api/publish";
    let target = match &args.publish_url {
        None => targets[0].with_path(PATH),
        Some(url) => match Target::parse(url)? {
            target if target.path == "/" => target.with_path(PATH),
            target => target,
        },
    };
    let key = or_variable(args.api_key.as_deref(), API_KEY_VARIABLE);
    let key = key.ok_or_else(|| BenchError::Usage(format!("publishing needs --api-key or {API_KEY_VARIABLE}")))?;
    let socket = socket_options(&args.hub, std::slice::from_ref(&target))?;
    Ok(ApiDoor { target, key, channel: args.channel.clone(), socket })
}

/// The subscribers that do not read, and those who watch them.
struct Stalled {
    began: u64,
    crowd: Crowd,
    watch: Watch,
}

impl Stalled {
    /// Opens them, if there are to be any.
    fn open(args: &FanoutArgs, clock: Clock, waker: &Arc<Waker>) -> Result<Option<Self>> {
        if args.stalled == 0 {
            return Ok(None);
        }
        let mut stalled = to_hub(plan(Purpose::Stall, usize::from(args.stalled), &args.crowd), &args.hub)?;
        stalled.threads = 1;
        stalled.channels = vec![args.channel.clone()];
        stalled.socket.receive_buffer = Some(STALLED_RECEIVE_BYTES);
        let crowd = Crowd::open(stalled, clock, waker)?;
        let ports = crowd.shared.ports.lock().map(|ports| ports.clone()).unwrap_or_default();
        Ok(Some(Self { began: clock.now(), crowd, watch: Watch::start(args.hub.pid.clone(), ports, clock)? }))
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
