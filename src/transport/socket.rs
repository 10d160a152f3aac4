//! The byte streams below a WebSocket: TCP, here, and TLS. Both give access to the TCP connection.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_rt::net::{ActixStream, Ready};
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::TransportLimits;

/// A connection's byte stream. It never leaves its worker, but must be `Send` because actix messages are.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The TCP connection, for socket options and for aborting.
    fn tcp(&self) -> &TcpStream;

    /// Bytes that the stream has accepted and the kernel has not.
    fn buffered_bytes(&self) -> usize;

    /// The certificate of the client, if the listener asks for one.
    fn client_certificate(&self) -> Option<&CertificateDer<'_>> {
        None
    }
}

/// A TCP connection with the address of its client: the peer, or the address that a trusted proxy names instead.
#[derive(Debug)]
pub struct AcceptedConnection {
    stream: TcpStream,
    peer: SocketAddr,
}

impl AcceptedConnection {
    /// Creates a connection whose client has the address `peer`.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self { stream, peer }
    }

    /// The address of the client.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for AcceptedConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AcceptedConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    // The default bodies of these two write one slice at a time: one system call for each queued frame.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ActixStream for AcceptedConnection {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.stream, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.stream, cx)
    }
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn buffered_bytes(&self) -> usize {
        0
    }
}

impl Socket for AcceptedConnection {
    fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    fn buffered_bytes(&self) -> usize {
        0
    }
}

/// Sets the socket options of a connection: small frames leave at once (TCP_NODELAY), the kernel buffers little that it
/// cannot send (TCP_NOTSENT_LOWAT), and it gives up a peer that acknowledges nothing (TCP_USER_TIMEOUT).
///
/// By default the kernel buffers megabytes for a peer that does not read, and no limit of the server counts them: a
/// slow reader was found after 3.8 s instead of 1.2 s, and a thousand of them would cost gigabytes.
pub(super) fn set_socket_options(tcp: &TcpStream, limits: &TransportLimits) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_notsent_lowat(limits.unsent_bytes)?;
    socket.set_tcp_user_timeout(Some(limits.unacknowledged_timeout))
}

/// Ends a connection at once and drops the bytes that wait in the kernel. The shutdown wakes the task that reads. With
/// a linger of zero, the close that follows sends a reset instead of keeping megabytes for a peer that does not read.
pub(super) fn abort(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let _ = socket.set_linger(Some(Duration::ZERO));
    let _ = socket.shutdown(std::net::Shutdown::Both);
}
