//! `limit`: the parent's side of the comparison. Starts the bare server as a child and measures it exactly like a hub.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Poll, Token, Waker};

use crate::args::LimitArgs;
use crate::clients::{ClientBehavior, ClientOptions, Clients};
use crate::error::{BenchError, IoContext, Result};
use crate::load_driver::{CLIENTS_TOKEN, LoadDriver};
use crate::measurement::{
    SETTLE_TIME, client_options, close_clients, measure, report_memory, report_outcome, workload,
};
use crate::process::{raise_file_limit, resident_bytes};
use crate::publish_transport::{PublishAnswer, PublishTransport};
use crate::report::Report;
use crate::run_clock::RunClock;
use crate::socket::{ClientSocket, SocketOptions};
use crate::target_url::TargetUrl;
use crate::terminal::Terminal;

/// Lanes at a fixed rate. They share one connection and are answered at once, so one would do; more change nothing.
const PUBLISHERS: u16 = 1;

/// The child, which does not outlive its parent's interest.
struct Server {
    child: Child,
    subscribers: SocketAddr,
    control: SocketAddr,
}

impl Server {
    /// Starts it and learns its ports from its first line.
    fn spawn() -> Result<Self> {
        let program = std::env::current_exe().context(|| "finding this program")?;
        let mut command = Command::new(program);
        let child = command.arg("limit-server").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().context(|| "starting the comparison server")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context(|| "hearing from the comparison server")?;
        }
        let mut ports = line.split_whitespace().filter_map(|port| port.parse().ok());
        let mut address = || ports.next().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        match (address(), address()) {
            (Some(subscribers), Some(control)) => Ok(Self { child, subscribers, control }),
            _ => {
                let _ = child.kill();
                Err(BenchError::Failed("the comparison server did not tell its ports".to_owned()))
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The control connection: every message on it, length first, is the data of one publication.
struct Control {
    socket: ClientSocket,
    out: Vec<u8>,
}

impl Control {
    fn open(address: SocketAddr, poll: &Poll) -> Result<Self> {
        let mut socket =
            ClientSocket::open(&TargetUrl::plain(address), &SocketOptions::default()).context(|| "connecting")?;
        let tcp: &mut TcpStream = &mut socket.tcp;
        poll.registry().register(tcp, Token(0), Interest::READABLE | Interest::WRITABLE).context(|| "epoll")?;
        Ok(Self { socket, out: Vec::new() })
    }

    fn flush(&mut self) -> Result<()> {
        self.socket.write_out(&mut self.out).context(|| "writing to the comparison server")
    }
}

impl PublishTransport for Control {
    fn send(&mut self, _: usize, data: &[u8]) -> Result<Option<PublishAnswer>> {
        let length = u32::try_from(data.len()).map_err(|_| BenchError::Usage("--size is too big".to_owned()))?;
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(data);
        self.flush()?;
        // Nothing comes back: to be written is to be taken.
        Ok(Some(PublishAnswer::accepted(1)))
    }

    fn ready(&mut self, _: usize, _: &mut Vec<(usize, PublishAnswer)>) -> Result<()> {
        self.flush()
    }
}

/// Runs `limit`.
pub(crate) fn run(args: &LimitArgs, terminal: &Terminal) -> Result<Report> {
    let (workload, publishers) = workload(&args.load, PUBLISHERS)?;
    let connections = args.load.connections as usize;
    raise_file_limit(connections)?;
    let server = Server::spawn()?;
    let pids = [server.child.id()];
    let clock = RunClock::start();
    let poll = Poll::new().context(|| "epoll")?;
    let waker = Arc::new(Waker::new(poll.registry(), CLIENTS_TOKEN).context(|| "epoll")?);
    let control = Control::open(server.control, &poll)?;
    let mut report = Report::new("limit");
    report.set("connections", connections);
    report.set("size_bytes", args.load.size);
    report.set("pace", workload.to_string());

    let before = resident_bytes(&pids)?;
    let targets = vec![TargetUrl::plain(server.subscribers)];
    let clients =
        ClientOptions { publishers, targets, ..client_options(ClientBehavior::Receive, connections, &args.clients) };
    let clients = Clients::open(clients, clock, &waker, terminal)?;
    terminal.wait(SETTLE_TIME);
    if terminal.is_interrupted() {
        report_outcome(&mut report, &clients.close()?);
        return Ok(report);
    }
    report_memory(&mut report, &pids, before, connections)?;
    let mut driver =
        LoadDriver::new(poll, control, (&clients, terminal), clock, (workload, publishers, args.load.size));
    let result = measure(&mut driver, (&clients, terminal), clock, (&args.load, &pids), &mut report);
    clients.stop_reading();
    drop(driver);
    let ((), stats) = close_clients(result, clients)?;
    report_outcome(&mut report, &stats);
    Ok(report)
}
