//! The byte streams below a WebSocket: the plain one (in this file) and TLS. Both give access to the kernel's socket.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use actix_rt::net::{ActixStream, Ready};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{ClientStream, KernelSocket};

/// A connection's byte stream. It never leaves its worker, but must be `Send` because actix messages are.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The kernel's socket, for socket options and for aborting.
    fn kernel_socket(&self) -> KernelSocket<'_>;

    /// Bytes that the stream has accepted and the kernel has not.
    fn buffered_bytes(&self) -> usize;

    /// The certificate of the client and those of its issuers, if the listener asks for one.
    fn client_certificates(&self) -> &[CertificateDer<'static>] {
        &[]
    }
}

/// A connection with the address of its client: the peer, or the address that a trusted proxy names instead. `None`: the peer of
/// a Unix socket.
#[derive(Debug)]
pub struct AcceptedConnection {
    stream: ClientStream,
    peer: Option<SocketAddr>,
}

impl AcceptedConnection {
    /// Creates a connection whose client has the address `peer`.
    pub fn new(stream: impl Into<ClientStream>, peer: Option<SocketAddr>) -> Self {
        Self { stream: stream.into(), peer }
    }

    /// The address of the client.
    pub fn peer(&self) -> Option<SocketAddr> {
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
    fn kernel_socket(&self) -> KernelSocket<'_> {
        KernelSocket::Tcp(self)
    }

    fn buffered_bytes(&self) -> usize {
        0
    }
}

impl Socket for AcceptedConnection {
    fn kernel_socket(&self) -> KernelSocket<'_> {
        self.stream.kernel_socket()
    }

    fn buffered_bytes(&self) -> usize {
        0
    }
}
