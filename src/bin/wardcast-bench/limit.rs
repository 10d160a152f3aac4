//! `limit`: the parent's side of the comparison. Starts the bare server as a child and measures it exactly like a hub.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Poll, Token, Waker};

use crate::args::LimitArgs;
use crate::clock::Clock;
use crate::console::Console;
use crate::crowd::{Crowd, Plan, Purpose};
use crate::driver::{CROWD, Driver};
use crate::error::{BenchError, Result, While};
use crate::outlet::{Answer, Outlet};
use crate::process::{make_room, resident_bytes};
use crate::report::Report;
use crate::run::{SETTLE, close_after, measure, pace, plan, report_memory, report_outcome};
use crate::socket::{Socket, SocketOptions};
use crate::target::Target;

/// Lanes at a fixed rate. They share one connection and are answered at once, so one would do; more change nothing.
const LANES: u16 = 1;

/// The child, which does not outlive its parent's interest.
struct Server {
    child: Child,
    subscribers: SocketAddr,
    control: SocketAddr,
}

impl Server {
    /// Starts it and learns its ports from its first line.
    fn spawn() -> Result<Self> {
        let program = std::env::current_exe().during(|| "finding this program")?;
        let mut command = Command::new(program);
        let child = command.arg("limit-server").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().during(|| "starting the comparison server")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).during(|| "hearing from the comparison server")?;
        }
        let mut ports = line.split_whitespace().filter_map(|port| port.parse().ok());
        let mut address = || ports.next().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        match (address(), address()) {
            (Some(subscribers), Some(control)) => Ok(Self { child, subscribers, control }),
            _ => {
                let _ = child.kill();
                Err(BenchError::Refused("the comparison server did not tell its ports".to_owned()))
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
    socket: Socket,
    out: Vec<u8>,
}

impl Control {
    fn open(address: SocketAddr, poll: &Poll) -> Result<Self> {
        let mut socket = Socket::open(&Target::plain(address), &SocketOptions::default()).during(|| "connecting")?;
        let tcp: &mut TcpStream = &mut socket.tcp;
        poll.registry().register(tcp, Token(0), Interest::READABLE | Interest::WRITABLE).during(|| "epoll")?;
        Ok(Self { socket, out: Vec::new() })
    }

    fn flush(&mut self) -> Result<()> {
        self.socket.write_out(&mut self.out).during(|| "writing to the comparison server")
    }
}

impl Outlet for Control {
    fn send(&mut self, _: usize, data: &[u8]) -> Result<Option<Answer>> {
        let length = u32::try_from(data.len()).map_err(|_| BenchError::Usage("--size is too big".to_owned()))?;
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(data);
        self.flush()?;
        // Nothing comes back: to be written is to be taken.
        Ok(Some(Answer::taken(1)))
    }

    fn ready(&mut self, _: usize, _: &mut Vec<(usize, Answer)>) -> Result<()> {
        self.flush()
    }
}

/// Runs `limit`.
pub(crate) fn run(args: &LimitArgs, console: &Console) -> Result<Report> {
    let (pace, lanes) = pace(&args.load, LANES)?;
    let connections = args.load.connections as usize;
    make_room(connections)?;
    let server = Server::spawn()?;
    let pids = [server.child.id()];
    let clock = Clock::start();
    let poll = Poll::new().during(|| "epoll")?;
    let waker = Arc::new(Waker::new(poll.registry(), CROWD).during(|| "epoll")?);
    let control = Control::open(server.control, &poll)?;
    let mut report = Report::new("limit");
    report.row("connections", connections);
    report.row("size_bytes", args.load.size);
    report.row("pace", pace.to_string());

    let before = resident_bytes(&pids)?;
    let targets = vec![Target::plain(server.subscribers)];
    let crowd = Plan { lanes, targets, ..plan(Purpose::Receive, connections, &args.crowd) };
    let crowd = Crowd::open(crowd, clock, &waker, console)?;
    console.settle(SETTLE);
    if console.is_interrupted() {
        report_outcome(&mut report, &crowd.close()?);
        return Ok(report);
    }
    report_memory(&mut report, &pids, before, connections)?;
    let mut driver = Driver::new(poll, control, (&crowd, console), clock, (pace, lanes, args.load.size));
    let result = measure(&mut driver, (&crowd, console), clock, (&args.load, &pids), &mut report);
    crowd.dismiss();
    drop(driver);
    let ((), outcome) = close_after(result, crowd)?;
    report_outcome(&mut report, &outcome);
    Ok(report)
}
