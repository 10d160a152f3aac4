//! `fanout`: many subscribers of one channel, publications over HTTP, every delivery checked and timed.

use std::sync::Arc;

use mio::{Poll, Waker};

use crate::args::{ApiArgs, FanoutArgs};
use crate::clients::{ClientBehavior, ClientOptions, ClientStats, Clients};
use crate::error::{IoContext, Result};
use crate::http_transport::{ApiEndpoint, HttpTransport, PublishMethod};
use crate::hub_under_test::HubUnderTest;
use crate::load_driver::{CLIENTS_TOKEN, LoadDriver};
use crate::measurement::{
    SETTLE_TIME, client_options, close_clients, measure, report_memory, report_outcome, workload,
};
use crate::process::{raise_file_limit, resident_bytes};
use crate::report::Report;
use crate::run_clock::RunClock;
use crate::server_monitor::{MonitorResult, ServerMonitor};
use crate::target_url::TargetUrl;
use crate::terminal::Terminal;

/// A stalled subscriber's receive buffer: small, so that the server has to hold what it does not read.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// Runs `fanout`.
pub(crate) fn run(args: &FanoutArgs, hub: &HubUnderTest, terminal: &Terminal) -> Result<Report> {
    let (workload, publishers) = workload(&args.load, args.publishers)?;
    let (connections, stalled) = (args.load.connections as usize, usize::from(args.stalled));
    raise_file_limit(connections + stalled + publishers)?;
    let channels = vec![args.channel.clone()];
    let readers = ClientOptions {
        publishers,
        channels,
        ..hub.complete_client_options(client_options(ClientBehavior::Receive, connections, &args.clients))?
    };
    let endpoint = api_endpoint(&args.api, hub, PublishMethod::Publish, readers.channels.clone())?;
    let clock = RunClock::start();
    let poll = Poll::new().context(|| "epoll")?;
    let waker = Arc::new(Waker::new(poll.registry(), CLIENTS_TOKEN).context(|| "epoll")?);
    let transport = HttpTransport::new(endpoint, publishers, &poll)?;
    let mut report = Report::new("fanout");
    report.set("connections", connections);
    report.set("channels", 1);
    report.set("size_bytes", args.load.size);
    report.set("pace", workload.to_string());
    report.set("publishing_connections", publishers);

    let before = resident_bytes(&hub.pids)?;
    let clients = Clients::open(readers, clock, &waker, terminal)?;
    terminal.wait(SETTLE_TIME);
    if terminal.is_interrupted() {
        report_outcome(&mut report, &clients.close()?);
        return Ok(report);
    }
    report_memory(&mut report, &hub.pids, before, connections)?;
    let stalled = StalledClients::open(args, hub, clock, (&waker, terminal))?;
    let mut driver =
        LoadDriver::new(poll, transport, (&clients, terminal), clock, (workload, publishers, args.load.size));
    let result = measure(&mut driver, (&clients, terminal), clock, (&args.load, &hub.pids), &mut report);
    clients.stop_reading();
    drop(driver);
    // Looked at before this side closes anything.
    let stalled = stalled.map(StalledClients::close).transpose();
    let ((), stats) = close_clients(result, clients)?;
    report_outcome(&mut report, &stats);
    if let Some((opened_at, seen, stats)) = stalled? {
        report_stalled(&mut report, opened_at, (&seen, &stats));
    }
    Ok(report)
}

/// Where publications go over HTTP.
pub(crate) fn api_endpoint(
    args: &ApiArgs,
    hub: &HubUnderTest,
    method: PublishMethod,
    channels: Vec<String>,
) -> Result<ApiEndpoint> {
    let target = match &args.publish_url {
        None => hub.targets[0].with_path(method.path()),
        Some(url) => match TargetUrl::parse(url)? {
            target if target.path == "/" => target.with_path(method.path()),
            target => target,
        },
    };
    let socket = hub.socket_options(std::slice::from_ref(&target))?;
    Ok(ApiEndpoint { target, key: hub.api_key()?, method, channels, socket })
}

/// The subscribers that do not read, and those who watch them.
struct StalledClients {
    opened_at: u64,
    clients: Clients,
    monitor: ServerMonitor,
}

impl StalledClients {
    /// Opens them, if there are to be any.
    fn open(
        args: &FanoutArgs,
        hub: &HubUnderTest,
        clock: RunClock,
        (waker, terminal): (&Arc<Waker>, &Terminal),
    ) -> Result<Option<Self>> {
        if args.stalled == 0 {
            return Ok(None);
        }
        let mut stalled = hub.complete_client_options(client_options(
            ClientBehavior::Stall,
            usize::from(args.stalled),
            &args.clients,
        ))?;
        stalled.threads = 1;
        stalled.channels = vec![args.channel.clone()];
        stalled.socket.receive_buffer = Some(STALLED_RECEIVE_BYTES);
        let clients = Clients::open(stalled, clock, waker, terminal)?;
        let ports = clients.shared.ports.lock().map(|ports| ports.clone()).unwrap_or_default();
        Ok(Some(Self {
            opened_at: clock.now(),
            clients,
            monitor: ServerMonitor::start(hub.pids.clone(), ports, clock)?,
        }))
    }

    fn close(self) -> Result<(u64, MonitorResult, ClientStats)> {
        let seen = self.monitor.finish()?;
        Ok((self.opened_at, seen, self.clients.close()?))
    }
}

/// Two views: what these sockets were told (a reset), and what the socket table shows (the server closed its side).
fn report_stalled(report: &mut Report, opened_at: u64, (seen, stats): (&MonitorResult, &ClientStats)) {
    let mut seconds = |name: &str, at: Option<&u64>| {
        if let Some(at) = at {
            report.set_number(name, at.saturating_sub(opened_at) as f64 / 1e9);
        }
    };
    seconds("stalled_reset_last_seconds", stats.closed_at.iter().max());
    seconds("stalled_let_go_first_seconds", seen.closed_at.iter().min());
    seconds("stalled_let_go_last_seconds", seen.closed_at.iter().max());
    report.set("stalled_reset", stats.closed_at.len());
    report.set("stalled_watched", seen.watched_sockets);
    report.set("stalled_let_go", seen.closed_at.len());
    report.set_number("stalled_server_rss_max_kib", seen.resident_max as f64 / 1024.0);
}
