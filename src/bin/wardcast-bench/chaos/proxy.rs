//! A TCP proxy that stands for a network: it passes everything, or nothing without closing anything, or cuts what is open.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::{Context, Result};

/// Redis servers and Sentinels connect to each other from this address of loopback. The network between hubs and Redis, which is
/// broken, does not lie between them: their connections pass always.
pub(super) const REDIS_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 16 * 1024;

/// The state of the network.
#[derive(Clone, Copy, Default)]
struct Network {
    /// Whether all bytes disappear, while connections stay open and new ones are accepted.
    is_silent: bool,
    /// How often the open connections were cut.
    cuts: u64,
}

/// The proxy. It ends with this value.
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) address: SocketAddr,
    network: watch::Sender<Network>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Starts a proxy to an address of this machine.
    pub(super) async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a proxy")?;
        let address = listener.local_addr().context("a proxy")?;
        let (network, state) = watch::channel(Network::default());
        let accepting = tokio::spawn(accept(listener, target, state)).abort_handle();
        Ok(Self { address, network, accepting })
    }

    /// Loses all bytes, or passes those of new connections again.
    pub(super) fn set_silent(&self, is_silent: bool) {
        self.network.send_modify(|network| network.is_silent = is_silent);
    }

    /// Cuts the open connections.
    pub(super) fn cut(&self) {
        self.network.send_modify(|network| network.cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, network: watch::Receiver<Network>) {
    // It never changes. As long as its sender exists, connections stay.
    let (_intact, intact_network) = watch::channel(Network::default());
    while let Ok((client, peer)) = listener.accept().await {
        let network = if peer.ip() == REDIS_SOURCE { &intact_network } else { &network };
        tokio::spawn(connect(client, target, network.clone()));
    }
}

/// Passes one connection until one of its sides ends, or it is cut.
async fn connect(client: TcpStream, target: SocketAddr, mut network: watch::Receiver<Network>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    // A proxy must not delay small messages.
    _ = (client.set_nodelay(true), server.set_nodelay(true));
    let cuts = network.borrow().cuts;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (network.clone(), network.clone());
    tokio::select! {
        _ = network.wait_for(|network| network.cuts > cuts) => {}
        () = pass(from_client, to_server, up) => {}
        () = pass(from_server, to_client, down) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, network: watch::Receiver<Network>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    // A connection that has lost bytes never passes any again: the receiver could not read what follows a gap.
    let mut is_broken = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        is_broken |= network.borrow().is_silent;
        if !is_broken && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // Neither side learns that the other has closed it.
    if is_broken {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpSocket;
    use tokio::time::timeout;

    use super::*;

    /// Connects to the proxy from a source address, and returns the connection when the server behind it has echoed a byte.
    async fn connect_from(source: IpAddr, proxy: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let mut stream = socket.connect(proxy).await.unwrap();
        assert!(is_echoed(&mut stream).await);
        stream
    }

    /// Sends a byte, and returns whether the server behind the proxy echoes it.
    async fn is_echoed(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        let exchange = async { stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok() };
        timeout(Duration::from_millis(200), exchange).await.unwrap_or(false)
    }

    #[tokio::test]
    async fn connections_of_redis_servers_pass_while_those_of_hubs_are_silent_or_cut() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(echo.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let (hub, other_hub) = ("127.0.0.1".parse().unwrap(), "127.0.0.3".parse().unwrap());
        let mut redis = connect_from(REDIS_SOURCE, proxy.address).await;
        let (mut silenced, mut cut) =
            (connect_from(hub, proxy.address).await, connect_from(other_hub, proxy.address).await);
        proxy.set_silent(true);
        assert!(is_echoed(&mut redis).await && !is_echoed(&mut silenced).await);
        proxy.set_silent(false);
        assert!(!is_echoed(&mut silenced).await, "bytes were lost: nothing may follow");
        assert!(is_echoed(&mut cut).await, "it has lost nothing");
        proxy.cut();
        assert_eq!(cut.read(&mut [0]).await.unwrap_or(0), 0, "closed");
        assert!(is_echoed(&mut redis).await);
        assert!(is_echoed(&mut connect_from(hub, proxy.address).await).await);
    }
}
