//! `limit`: the fan-out of a bare server, which runs as a child process and is measured exactly like a hub.

use mio::event::Event;
use mio::{Events, Token};

use crate::clients::{ClientBehavior, ClientOptions};
use crate::connection::{Connection, ReadBuffer, wait_for_events};
use crate::error::{BenchError, Context, Result};
use crate::load_driver::{Load, LoadDriver, PublishAnswer, PublishTransport};
use crate::probe::{PROBE_SOCKETS, Probe};
use crate::{
    args::LimitArgs, child_process::ChildProcess, clock::NO_PROGRESS_TIMEOUT, connection::SocketOptions,
    process::raise_file_limit, run::Run, target_url::TargetUrl, tls, tls::Trust,
};

/// Publishers at a fixed rate. They share one connection and are answered at once, so more would change nothing.
const PUBLISHERS: u16 = 1;

/// The control connection, which carries the data of each publication after its length.
struct ControlConnection(Connection);

impl ControlConnection {
    /// Connects. The server takes its first connection for the control connection.
    fn open(target: &TargetUrl, run: &mut Run) -> Result<Self> {
        let event_source = (run.poll.registry(), Token(0));
        let mut connection =
            Connection::open(target, &SocketOptions::default(), &[], event_source).context("connecting")?;
        while !connection.is_connected()? {
            wait_for_events(&mut run.poll, &mut Events::with_capacity(1), NO_PROGRESS_TIMEOUT)?;
        }
        Ok(Self(connection))
    }
}

impl PublishTransport for ControlConnection {
    fn send(&mut self, _: usize, data: &[u8]) -> Result<Option<PublishAnswer>> {
        let length = u32::try_from(data.len()).context("--size")?;
        self.0.out.extend_from_slice(&length.to_be_bytes());
        self.0.out.extend_from_slice(data);
        self.0.flush().context("publishing to the comparison server")?;
        // The server does not answer: a publication that is written is accepted.
        Ok(Some(PublishAnswer { accepted: 1, refused: Vec::new() }))
    }

    fn on_event(&mut self, _: &Event, buffer: &mut ReadBuffer) -> Result<Option<PublishAnswer>> {
        self.0.on_ready(buffer, false, |bytes, _, _| Ok(bytes.len())).map(|_| None)
    }
}

/// Runs `limit`.
pub(crate) fn run(args: &LimitArgs, run: &mut Run) -> Result<()> {
    let (workload, publishers) = args.load.workload(PUBLISHERS)?;
    let connections = args.load.connections as usize;
    raise_file_limit(connections + if args.load.probe { PROBE_SOCKETS } else { 0 })?;
    let (server, mut lines) = ChildProcess::start("limit-server", |command| {
        command.args(args.tls.then_some("--tls"));
    })?;
    let port = lines.next().and_then(std::io::Result::ok).and_then(|line| line.parse::<u16>().ok());
    let port = port.ok_or_else(|| BenchError("the comparison server did not print its port".to_owned()))?;
    let control = TargetUrl::parse(&format!("ws://127.0.0.1:{port}"))?;
    run.pids = vec![server.id()];
    run.report.set("connections", connections);
    let transport = Box::new(ControlConnection::open(&control, run)?);
    let options = ClientOptions::new(ClientBehavior::Receive, connections, &args.clients);
    // The server is this program's own, and so is its certificate.
    let tls = args.tls.then(|| tls::client_config(Trust::Any, false)).transpose()?;
    let (target, socket) =
        (TargetUrl { is_tls: args.tls, ..control }, SocketOptions { tls, ..SocketOptions::default() });
    run.report.set("url", target.origin());
    let clients = run.open_clients(ClientOptions { publishers, targets: vec![target], socket, ..options })?;
    let load = Load { transport, workload, publishers, size: args.load.size };
    let phases = |driver: &mut LoadDriver<'_>| {
        let shared = driver.clients.shared.clone();
        let probe = args.load.probe.then(|| Probe::start_without_hub(shared)).transpose()?;
        driver.measure_fanout(&args.load)?;
        probe.map_or(Ok(()), |probe| probe.finish(driver.run))
    };
    run.drive(clients, load, phases).map(drop)
}
