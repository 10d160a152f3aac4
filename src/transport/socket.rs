//! `ws` and `wss` differ in one type: a byte stream that can show the TCP connection under it.

use std::{io, time::Duration};

use actix_tls::accept::rustls_0_23::TlsStream;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::Bounds;

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

/// Small frames leave at once, little waits in the kernel, and a peer that acknowledges nothing is given up by it.
///
/// Left alone, the kernel takes megabytes for a peer that does not read, and no limit of ours counts them: a slow reader
/// was found after 3.8 s instead of 1.2, and a thousand of them would cost gigabytes.
pub(super) fn tune(tcp: &TcpStream, bounds: &Bounds) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_notsent_lowat(bounds.unsent_bytes)?;
    socket.set_tcp_user_timeout(Some(bounds.unacknowledged))
}

/// Ends a connection at once, what waits in the kernel included. Shutting it down wakes whoever reads; with a linger of
/// zero the close that follows sends a reset instead of keeping megabytes for a peer that does not read.
pub(super) fn cut(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let _ = socket.set_linger(Some(Duration::ZERO));
    let _ = socket.shutdown(std::net::Shutdown::Both);
}
