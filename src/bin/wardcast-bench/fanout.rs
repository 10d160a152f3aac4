//! `fanout`: many subscribers of one channel, publications through the server API, every delivery checked and timed.

use crate::clients::{ClientBehavior, ClientOptions, Clients};
use crate::error::{Result, fail};
use crate::everything::{Backend, Everything};
use crate::load_driver::{Load, LoadDriver};
use crate::probe::{PROBE_SOCKETS, Probe};
use crate::{
    args::FanoutArgs, clock, http_transport::PublishMethod, hub_under_test::HubUnderTest, measurement::ServerMonitor,
    process::raise_file_limit, run::Run,
};

/// The receive buffer of a stalled subscriber: small, so that the server has to hold what the subscriber does not read.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// Runs `fanout`.
pub(crate) fn run(args: &FanoutArgs, run: &mut Run) -> Result<()> {
    let (workload, publishers) = args.load.workload(args.publishers)?;
    let (connections, stalled) = (args.load.connections as usize, usize::from(args.stalled));
    raise_file_limit(connections + stalled + publishers + if args.load.probe { PROBE_SOCKETS } else { 0 })?;
    let backend = args.everything.then(Backend::start).transpose()?;
    let settings = backend.as_ref().map(Backend::hub_settings).unwrap_or_default();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let hub = HubUnderTest::select(run, &args.hub, Some(&args.api), &settings)?;
    if backend.is_some() && !hub.is_started() {
        return fail("--everything is for a hub that is started for the run: give no --url and no secret with it");
    }
    let everything = backend.map(|backend| Everything::start(backend, &hub)).transpose()?;
    let channels = vec![args.channel.clone()];
    let transport =
        hub.http_transport((run.poll.registry(), &args.api), (PublishMethod::Publish, 1), &channels, publishers)?;
    let options = hub.client_options(ClientBehavior::Receive, connections, &args.clients)?;
    let options = ClientOptions { publishers, channels, ..options };
    run.report.set("connections", connections);
    run.report.set("channels", 1);
    run.report.set("publishing_connections", publishers);
    let clients = run.open_clients(options)?;
    let load = Load { transport, workload, publishers, size: args.load.size };
    let phases = |driver: &mut LoadDriver<'_>| {
        let stalled = (args.stalled > 0).then(|| StalledClients::open(args, &hub, driver.run)).transpose()?;
        let shared = driver.clients.shared.clone();
        let probe = args.load.probe.then(|| Probe::start(&hub, (&args.api, &args.channel), shared)).transpose()?;
        driver.measure_fanout(&args.load)?;
        probe.map_or(Ok(()), |probe| probe.finish(driver.run))?;
        // The result is read before this program closes anything.
        stalled.map_or(Ok(()), |stalled| stalled.report(driver.run))
    };
    run.drive(clients, load, phases)?;
    everything.map_or(Ok(()), |everything| everything.report(run))
}

/// Subscribers that do not read, and the thread that watches them from outside.
struct StalledClients {
    opened_at: u64,
    clients: Clients,
    monitor: ServerMonitor,
}

impl StalledClients {
    fn open(args: &FanoutArgs, hub: &HubUnderTest<'_>, run: &mut Run) -> Result<Self> {
        let mut options = hub.client_options(ClientBehavior::Stall, args.stalled.into(), &args.clients)?;
        options.threads = 1;
        options.channels = vec![args.channel.clone()];
        options.socket.receive_buffer = Some(STALLED_RECEIVE_BYTES);
        let clients = Clients::open(options, run)?;
        let ports = clients.shared.results.lock().ports.clone();
        Ok(Self { opened_at: clock::now(), clients, monitor: ServerMonitor::start(run.pids.clone(), ports)? })
    }

    /// Reports two views: the resets that these sockets received, and the sockets that the server closed on its side.
    fn report(self, run: &mut Run) -> Result<()> {
        let seen = self.monitor.finish()?;
        let reset_at = std::mem::take(&mut self.clients.close()?.results.lock().closed_at);
        let report = &mut run.report;
        for (name, at) in [
            ("stalled_reset_last_seconds", reset_at.iter().max()),
            ("stalled_let_go_first_seconds", seen.closed_at.iter().min()),
            ("stalled_let_go_last_seconds", seen.closed_at.iter().max()),
        ] {
            at.into_iter().for_each(|at| report.set_number(name, at.saturating_sub(self.opened_at) as f64 / 1e9));
        }
        report.set("stalled_reset", reset_at.len());
        report.set("stalled_watched", seen.watched_sockets);
        report.set("stalled_let_go", seen.closed_at.len());
        report.set_number("stalled_server_rss_max_kib", seen.resident_max as f64 / 1024.0);
        Ok(())
    }
}
