//! The servers of one measurement: started for it on free ports, awaited until they answer, and killed afterwards.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::child_process::{ChildProcess, ProgramOutput, free_port};
use crate::error::{Result, fail};
use crate::hub_under_test::random_secret;
use crate::{clock, http::Response, http::quote, terminal::Terminal};

use super::contender::{Contender, NodeOptions};
use super::workloads::Setup;
use crate::program::Program;

/// How long servers may take until they answer.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question may take meanwhile.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two questions.
const QUESTION_INTERVAL: Duration = Duration::from_millis(20);
/// How often a server is started if it ends at once: another program may have taken its port.
const START_ATTEMPTS: u32 = 3;
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// The servers. They end with this value.
pub(super) struct Servers {
    nodes: Vec<Node>,
    secret: String,
    api_key: String,
    /// Ends after the nodes.
    _redis: Option<Node>,
}

/// A process that listens at a loopback port.
struct Node {
    process: ChildProcess,
    output: ProgramOutput,
    port: u16,
}

impl Servers {
    /// Starts the nodes of a setup, and Redis if they need it, and waits until they answer.
    pub(super) fn start(
        (contender, program): (Contender, &Program),
        setup: Setup,
        redis: Option<&Program>,
        terminal: &Terminal,
    ) -> Result<Self> {
        let (secret, api_key) = (random_secret(), random_secret());
        let redis = match (setup, redis) {
            (Setup::TwoNodes, Some(redis)) => Some(start_redis(redis, terminal)?),
            (Setup::TwoNodes, None) => return fail("two nodes need redis-server"),
            _ => None,
        };
        let redis_url = redis.as_ref().map(|redis| format!("redis://127.0.0.1:{}", redis.port));
        let start_node = || {
            let is_ready = |port| ask(port, &publish_request(&api_key)).map(|answer| check_publish_answer(&answer));
            Node::start(contender.name(), terminal, is_ready, |port| {
                let (secret, api_key, redis_url) = (secret.as_str(), api_key.as_str(), redis_url.as_deref());
                contender.start_node(program, &NodeOptions { setup, port, secret, api_key, redis_url })
            })
        };
        let count = if setup == Setup::TwoNodes { 2 } else { 1 };
        let nodes = (0..count).map(|_| start_node()).collect::<Result<_>>()?;
        Ok(Self { nodes, secret, api_key, _redis: redis })
    }

    /// The options by which a command of this program measures these servers.
    pub(super) fn arguments(&self, is_publishing: bool) -> Vec<String> {
        let Self { nodes, secret, api_key, .. } = self;
        let pairs = |pairs: &[(&str, &str)]| -> Vec<String> {
            pairs.iter().flat_map(|(option, value)| [(*option).to_owned(), (*value).to_owned()]).collect()
        };
        // Both servers speak the connect command, so that both do the same work for a connection.
        let mut arguments = pairs(&[("--send-token", "connect"), ("--secret", secret)]);
        arguments.extend(nodes.iter().flat_map(|node| ["--pid".to_owned(), node.process.id().to_string()]));
        if let Some(last) = nodes.last() {
            arguments.extend(pairs(&[("--url", &format!("ws://127.0.0.1:{}/connection/websocket", last.port))]));
        }
        if is_publishing {
            arguments.extend(pairs(&[("--api-key", api_key)]));
            arguments.extend(pairs(&[("--publish-url", &format!("http://127.0.0.1:{}", nodes[0].port))]));
        }
        arguments
    }
}

/// Starts a Redis that keeps nothing on disk.
fn start_redis(program: &Program, terminal: &Terminal) -> Result<Node> {
    let is_ready = |port| ask(port, b"PING\r\nQUIT\r\n").map(|answer| check_pong(&answer));
    Node::start("redis-server", terminal, is_ready, |port| {
        ChildProcess::start_program(&program.path, |command| {
            command.current_dir("/").args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--save", "", "--appendonly", "no", "--loglevel", "warning"]);
        })
    })
}

impl Node {
    /// Starts a process and waits until it is ready. `is_ready` returns `None` while the process does not answer, and then
    /// whether the answer is the right one.
    fn start(
        name: &str,
        terminal: &Terminal,
        is_ready: impl Fn(u16) -> Option<Result<()>>,
        start: impl Fn(u16) -> Result<(ChildProcess, ProgramOutput)>,
    ) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let port = free_port()?;
            let (process, output) = start(port)?;
            let mut node = Self { process, output, port };
            match node.wait_until_ready(name, terminal, &is_ready) {
                Err(_) if node.process.has_ended() && attempt < START_ATTEMPTS => attempt += 1,
                result => return result.map(|()| node),
            }
        }
    }

    fn wait_until_ready(
        &mut self,
        name: &str,
        terminal: &Terminal,
        is_ready: impl Fn(u16) -> Option<Result<()>>,
    ) -> Result<()> {
        let (start, mut last_answer) = (Instant::now(), None);
        while start.elapsed() < START_TIMEOUT && !self.process.has_ended() && !terminal.is_interrupted() {
            match is_ready(self.port) {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => last_answer = Some(error),
                None => {}
            }
            terminal.show_progress(|| "starting".to_owned());
            clock::sleep(QUESTION_INTERVAL);
        }
        let problem = match (self.process.has_ended(), last_answer) {
            (true, _) => "ended instead of answering".to_owned(),
            (false, Some(error)) => format!("was not ready after {} s: {error}", START_TIMEOUT.as_secs()),
            (false, None) => format!("did not answer within {} s", START_TIMEOUT.as_secs()),
        };
        // What a process printed last may not be read yet when it has ended.
        let end = Instant::now() + QUESTION_TIMEOUT;
        while self.process.has_ended() && !self.output.has_ended() && Instant::now() < end {
            clock::sleep(QUESTION_INTERVAL);
        }
        let output = self.output.text();
        let output =
            output.lines().last().map_or(String::new(), |line| format!("; it printed: {}", quote(line.as_bytes())));
        fail(format!("{name} {problem}{output}"))
    }
}

/// Sends a request to a loopback port and returns all that is answered until the server closes the connection, or `None`
/// if it does not answer.
fn ask(port: u16, request: &[u8]) -> Option<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, QUESTION_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(QUESTION_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(QUESTION_TIMEOUT)).ok()?;
    stream.write_all(request).ok()?;
    let (start, mut answer, mut buffer) = (Instant::now(), Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut buffer).ok()? {
            0 => return (!answer.is_empty()).then_some(answer),
            _ if answer.len() > MAX_ANSWER_BYTES || start.elapsed() > QUESTION_TIMEOUT => return None,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
}

/// A publication to a channel that nothing subscribes to.
fn publish_request(api_key: &str) -> Vec<u8> {
    const BODY: &str = r#"{"channel":"ready","data":{}}"#;
    let length = BODY.len();
    format!(
        "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {api_key}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{BODY}"
    )
    .into_bytes()
}

/// Checks that a publication was accepted.
fn check_publish_answer(answer: &[u8]) -> Result<()> {
    match Response::parse(answer, true)? {
        Some(response) if response.code() == "200" && response.body.starts_with(b"{\"result\"") => Ok(()),
        Some(response) => fail(response.quote()),
        None => fail(format!("answered {}", quote(answer))),
    }
}

/// Checks the answer of Redis to PING.
fn check_pong(answer: &[u8]) -> Result<()> {
    if answer.starts_with(b"+PONG") { Ok(()) } else { fail(format!("answered {}", quote(answer))) }
}
