//! A TCP proxy that fails in ways a process does not: it delays, it passes nothing and closes nothing, in both directions or in
//! one, it drops the messages that Redis pushes and passes the rest, it resets its connections, it refuses new ones. It can
//! also lead new connections to another server, as a name or a load balancer does after a failover.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Pieces that wait in one direction while they are delayed.
const DELAYED_PIECES: usize = 1024;

/// What the proxy does with the bytes that it receives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Passes everything.
    Pass,
    /// Passes everything this much later, in each direction.
    Delay(Duration),
    /// Drops the messages of PUB/SUB; confirmations and replies pass.
    Deaf,
    /// Drops everything in both directions; connections are accepted and stay open.
    BlackHole,
    /// Drops what the server sends, the end of its connections included. What clients send passes.
    HalfOpen,
    /// Resets the open connections, and the new ones as soon as they are accepted.
    Cut,
}

pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<ProxyMode>,
    target: watch::Sender<u16>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Starts a proxy to the server on this port of loopback.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, target) = (watch::Sender::new(ProxyMode::Pass), watch::Sender::new(port));
        let accepting = tokio::spawn(accept(listener, target.subscribe(), mode.subscribe()));
        Self { address, mode, target, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Leads new connections to the server on this port. Open ones stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.target.send_replace(port);
    }

    /// Changes the mode, also of the open connections.
    pub fn set(&self, mode: ProxyMode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: watch::Receiver<u16>, mode: watch::Receiver<ProxyMode>) {
    while let Ok((client, _)) = listener.accept().await {
        let target = *target.borrow();
        tokio::spawn(carry(client, target, mode.clone()));
    }
}

/// Carries one connection until both ends have closed it, or until the proxy cuts it.
async fn carry(mut client: TcpStream, target: u16, mode: watch::Receiver<ProxyMode>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let mut cut = mode.clone();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        biased;
        _ = cut.wait_for(|mode| *mode == ProxyMode::Cut) => (),
        _ = async {
            tokio::join!(
                pass(from_client, to_server, mode.clone(), Direction::ToServer),
                pass(from_server, to_client, mode.clone(), Direction::ToClient),
            )
        } => return,
    }
    // Dropping them is now a reset, as of a machine that has restarted.
    for stream in [client, server] {
        _ = stream.set_zero_linger();
    }
}

/// Passes one direction to its end, each piece at its time.
async fn pass(from: ReadHalf<'_>, mut to: WriteHalf<'_>, mode: watch::Receiver<ProxyMode>, direction: Direction) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(DELAYED_PIECES);
    let write = async {
        while let Some((due, bytes)) = pieces.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // What is still read after an error is for nobody.
        pieces.close();
        _ = to.shutdown().await;
    };
    tokio::join!(read(from, sender, mode, direction), write);
}

async fn read(
    mut from: ReadHalf<'_>,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
    mode: watch::Receiver<ProxyMode>,
    direction: Direction,
) {
    let mut bytes = Vec::new();
    // A connection that has dropped bytes never passes any again: a gap within a reply would be another fault than a silent
    // network.
    let mut is_silent = false;
    loop {
        let read = from.read_buf(&mut bytes).await;
        let mode = *mode.borrow();
        is_silent |= mode == ProxyMode::BlackHole || mode == ProxyMode::HalfOpen && direction == Direction::ToClient;
        if !matches!(read, Ok(1..)) {
            break;
        }
        let passing = if mode == ProxyMode::Deaf { without_messages(&mut bytes) } else { std::mem::take(&mut bytes) };
        let delay = if let ProxyMode::Delay(delay) = mode { delay } else { Duration::ZERO };
        if !is_silent && pieces.send((Instant::now() + delay, passing)).await.is_err() {
            return;
        }
    }
    if is_silent {
        // The other end does not learn of the end either.
        std::future::pending::<()>().await;
    }
}

/// How the RESP3 pushes of messages begin.
const PUSHES: [&[u8]; 2] = [b">3\r\n$7\r\nmessage\r\n", b">3\r\n$8\r\nsmessage\r\n"];

/// Removes the pushes of messages, and returns the rest. What may be the beginning of a push stays in `bytes`.
fn without_messages(bytes: &mut Vec<u8>) -> Vec<u8> {
    let mut passing = Vec::new();
    let find = |bytes: &[u8]| {
        let is_push =
            |at: usize| PUSHES.iter().find(|push| push.starts_with(&bytes[at..]) || bytes[at..].starts_with(push));
        (0..bytes.len()).find_map(|at| Some((at, is_push(at)?)))
    };
    while let Some((at, push)) = find(bytes) {
        passing.extend(bytes.drain(..at));
        let Some(rest) = bytes.get(push.len()..).and_then(after_bulk).and_then(after_bulk) else { return passing };
        *bytes = rest.to_vec();
    }
    passing.append(bytes);
    passing
}

/// Returns what follows the `$length\r\n…\r\n` at the beginning, if it is complete.
fn after_bulk(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    let length: usize = std::str::from_utf8(&bytes[1..end]).unwrap().parse().unwrap();
    bytes.get(end + 2 + length + 2..)
}
