//! `ws` and `wss` differ in one type: a byte stream that can show the TCP connection under it.

use std::{io, time::Duration};

use actix_tls::accept::rustls_0_23::TlsStream;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A connection's byte stream. `Send`, since actix messages must be, though it never leaves its worker.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The connection itself, for what only the kernel can do.
    fn tcp(&self) -> &TcpStream;

    /// Bytes that it may have taken from us and not yet given to the kernel.
    fn holds_at_most(&self) -> usize;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn holds_at_most(&self) -> usize {
        0
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }

    /// The default limit of rustls' send buffer.
    fn holds_at_most(&self) -> usize {
        64 * 1024
    }
}

/// Small frames leave at once, and a peer that acknowledges nothing is given up by the kernel after `unacknowledged`.
pub(super) fn tune(tcp: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_user_timeout(Some(unacknowledged))
}

/// Ends a connection at once, what waits in the kernel included. Shutting it down wakes whoever reads; with a linger of
/// zero the close that follows sends a reset instead of keeping megabytes for a peer that does not read.
pub(super) fn cut(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let _ = socket.set_linger(Some(Duration::ZERO));
    let _ = socket.shutdown(std::net::Shutdown::Both);
}
