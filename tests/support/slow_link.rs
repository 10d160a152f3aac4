//! Clients behind slow links: their kernel buffers little, and they read at a limited rate, or only when the test asks for
//! something.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::{Interval, MissedTickBehavior, interval},
};

/// How often a slow link lets bytes through.
const REFILL_INTERVAL: Duration = Duration::from_millis(5);
const RECEIVE_BUFFER_BYTES: u32 = 32 * 1024;

/// A TCP connection whose kernel buffers little of what the peer sends.
pub async fn connect_with_small_buffer(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
    socket.connect(address).await.unwrap()
}

/// A TCP connection that reads at a limited rate (a token bucket).
pub struct SlowLink {
    stream: TcpStream,
    bytes_per_refill: usize,
    left_bytes: usize,
    refill: Interval,
}

impl SlowLink {
    pub async fn connect(address: SocketAddr, bytes_per_second: usize) -> Self {
        let mut refill = interval(REFILL_INTERVAL);
        refill.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let bytes_per_refill = bytes_per_second / (1000 / REFILL_INTERVAL.as_millis() as usize);
        Self { stream: connect_with_small_buffer(address).await, bytes_per_refill, left_bytes: 0, refill }
    }
}

impl AsyncRead for SlowLink {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left_bytes == 0 {
            ready!(self.refill.poll_tick(cx));
            self.left_bytes = self.bytes_per_refill;
        }
        let bytes = self.left_bytes.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(bytes));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        self.left_bytes -= read;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SlowLink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
