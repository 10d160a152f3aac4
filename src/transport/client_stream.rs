//! The socket of a client's connection: a TCP socket or a Unix socket.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_rt::net::{ActixStream, Ready};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A connection over TCP or over a Unix socket.
#[derive(Debug)]
pub enum ClientStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket, from a process of this machine. Its peer has no address.
    Unix(UnixStream),
}

impl ClientStream {
    /// The kernel's socket.
    pub fn kernel_socket(&self) -> KernelSocket<'_> {
        match self {
            Self::Tcp(stream) => KernelSocket::Tcp(stream),
            Self::Unix(stream) => KernelSocket::Unix(stream),
        }
    }
}

impl From<TcpStream> for ClientStream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for ClientStream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

/// Calls a method of the stream that the connection has.
macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            ClientStream::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            ClientStream::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }

    // The default bodies of these two write one slice at a time: one system call for each queued frame.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl ActixStream for ClientStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match self {
            Self::Tcp(stream) => ActixStream::poll_read_ready(stream, cx),
            Self::Unix(stream) => ActixStream::poll_read_ready(stream, cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match self {
            Self::Tcp(stream) => ActixStream::poll_write_ready(stream, cx),
            Self::Unix(stream) => ActixStream::poll_write_ready(stream, cx),
        }
    }
}

/// The kernel's socket of a connection, for socket options and for aborting.
#[derive(Clone, Copy, Debug)]
pub enum KernelSocket<'a> {
    /// Of a connection over TCP.
    Tcp(&'a TcpStream),
    /// Of a connection over a Unix socket.
    Unix(&'a UnixStream),
}

impl KernelSocket<'_> {
    fn as_socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(stream) => SockRef::from(*stream),
            Self::Unix(stream) => SockRef::from(*stream),
        }
    }

    /// Writes what the kernel accepts, without a waker.
    pub(super) fn try_write(self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Sets the options of a connection: small frames leave at once (TCP_NODELAY), and the kernel buffers at most `unsent_bytes`
    /// that it cannot send (TCP_NOTSENT_LOWAT; on a Unix socket SO_SNDBUF).
    ///
    /// By default the kernel buffers megabytes for a peer that does not read, and no limit of the server counts them: a
    /// slow reader was found after 3.8 s instead of 1.2 s, and a thousand of them would cost gigabytes.
    pub(super) fn set_buffering(self, unsent_bytes: u32) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                self.as_socket().set_tcp_notsent_lowat(unsent_bytes)
            }
            Self::Unix(_) => self.as_socket().set_send_buffer_size(unsent_bytes as usize),
        }
    }

    /// Lets the kernel give up a peer that acknowledges nothing for this long (TCP_USER_TIMEOUT). The peer of a Unix socket is
    /// on this machine, and its end is noticed at once.
    ///
    /// # Errors
    /// The peer has disconnected.
    pub fn set_unacknowledged_timeout(self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(_) => self.as_socket().set_tcp_user_timeout(Some(timeout)),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Ends a connection at once and drops the bytes that wait in the kernel. The shutdown wakes the task that reads. With
    /// a linger of zero, the close that follows sends a reset instead of keeping megabytes for a peer that does not read.
    pub(super) fn abort(self) {
        let socket = self.as_socket();
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}
