//! A proxy before Redis that fails in ways a process does not: it drops the messages that Redis pushes and passes the rest, or
//! it passes nothing and closes nothing. It can also lead new connections to another Redis, as a name or a load balancer does
//! after a failover.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// What the proxy does with the bytes that it receives.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum ProxyMode {
    /// Passes everything.
    Pass,
    /// Drops the messages of PUB/SUB; confirmations and replies pass.
    Deaf,
    /// Drops everything in both directions; connections are accepted and stay open.
    BlackHole,
}

pub struct Proxy {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    target: Arc<AtomicU16>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy to the Redis on this port of loopback.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(ProxyMode::Pass as u8));
        let target = Arc::new(AtomicU16::new(port));
        let accepting = tokio::spawn(accept(listener, target.clone(), mode.clone()));
        Self { address, mode, target, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Leads new connections to the Redis on this port. Open ones stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
    }

    /// Changes the mode, also of the open connections.
    pub fn set(&self, mode: ProxyMode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: Arc<AtomicU16>, mode: Arc<AtomicU8>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(redis) = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_redis, to_redis) = redis.into_split();
        tokio::spawn(pass(from_client, to_redis, mode.clone()));
        tokio::spawn(pass(from_redis, to_client, mode.clone()));
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: Arc<AtomicU8>) {
    let mut bytes = Vec::new();
    // A connection that has dropped bytes never passes any again: a gap within a reply would be another fault than a black hole.
    let mut is_cut = false;
    while let Ok(1..) = from.read_buf(&mut bytes).await {
        let mode = mode.load(Ordering::SeqCst);
        is_cut |= mode == ProxyMode::BlackHole as u8;
        let passing =
            if mode == ProxyMode::Deaf as u8 { without_messages(&mut bytes) } else { std::mem::take(&mut bytes) };
        if !is_cut && to.write_all(&passing).await.is_err() {
            return;
        }
    }
}

const PUSH: &[u8] = b">3\r\n$7\r\nmessage\r\n";

/// Removes the RESP3 pushes of messages, and returns the rest. What may be the beginning of a push stays in `bytes`.
fn without_messages(bytes: &mut Vec<u8>) -> Vec<u8> {
    let mut passing = Vec::new();
    while let Some(at) = (0..bytes.len()).find(|at| PUSH.starts_with(&bytes[*at..]) || bytes[*at..].starts_with(PUSH)) {
        passing.extend(bytes.drain(..at));
        let Some(rest) = bytes.get(PUSH.len()..).and_then(after_bulk).and_then(after_bulk) else { return passing };
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
