//! One non-blocking connection, plain or TLS, whatever is spoken over it: its socket, what waits to be written, and the bytes
//! of an incomplete message.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::{sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Stream};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::error::{Context, Result};
use crate::{clock, target_url::TargetUrl};

/// Linux' error number of a connection in progress, for which `io::ErrorKind` has no stable name.
const EINPROGRESS: i32 = 115;
/// Enough for a publication of 64 KiB with room to spare. The buffer grows if a message is longer.
const BUFFER_BYTES: usize = 256 * 1024;

/// How a connection is opened.
#[derive(Clone, Default)]
pub(crate) struct SocketOptions {
    /// The address to connect from. Each has its own ports, of which Linux gives out about 28,000.
    pub(crate) source: Option<Ipv4Addr>,
    /// `SO_RCVBUF`, set before connecting so that the window is small from the start.
    pub(crate) receive_buffer: Option<usize>,
    /// For URLs with TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Whether the handshake of a WebSocket offers permessage-deflate.
    pub(crate) offers_deflate: bool,
}

/// The buffer that all connections of a thread read into, one after the other.
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    /// How many bytes all connections together have read.
    pub(crate) received_bytes: u64,
}

impl ReadBuffer {
    /// An empty buffer.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES], received_bytes: 0 }
    }
}

/// The connection.
pub(crate) struct Connection {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    is_connected: bool,
    /// Written as soon as the socket has room.
    pub(crate) out: BytesMut,
    /// The bytes of a message that is not complete.
    pub(crate) partial: Vec<u8>,
}

impl Connection {
    /// Begins to connect, and registers the socket with a token. `out` is written as soon as it is connected.
    pub(crate) fn open(
        target: &TargetUrl,
        options: &SocketOptions,
        out: &[u8],
        (registry, token): (&Registry, Token),
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(target.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = options.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = options.source {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&target.address.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            _ => {}
        }
        let tls = match &options.tls {
            Some(config) if target.is_tls => {
                let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
                Some(Box::new(ClientConnection::new(config.clone(), name).map_err(io::Error::other)?))
            }
            _ => None,
        };
        let mut tcp = TcpStream::from_std(socket.into());
        registry.register(&mut tcp, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { tcp, tls, is_connected: false, out: out.into(), partial: Vec::new() })
    }

    /// Returns whether TCP is connected.
    ///
    /// # Errors
    /// Why connecting failed.
    pub(crate) fn is_connected(&mut self) -> Result<bool> {
        if !self.is_connected {
            if let Some(error) = self.tcp.take_error().context("connecting")? {
                return Err(error).context("connecting");
            }
            self.is_connected = match self.tcp.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => false,
                result => result.context("connecting").map(|_| true)?,
            };
        }
        Ok(self.is_connected)
    }

    /// Returns whether TCP is connected and the TLS handshake, if there is one, is done.
    ///
    /// # Errors
    /// Why connecting failed.
    pub(crate) fn is_established(&mut self) -> Result<bool> {
        let is_handshaking = self.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        Ok(self.is_connected()? && !is_handshaking)
    }

    /// The local port.
    pub(crate) fn local_port(&self) -> Option<u16> {
        Some(self.tcp.local_addr().ok()?.port())
    }

    /// Closes the connection with a reset, as if the network between the two sides had failed. The port is free at once.
    pub(crate) fn reset(self) {
        // If this fails, the connection ends without a reset, and the port is free a minute later.
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let written = match &mut self.tls {
            None => write_out(&mut self.tcp, &mut self.out),
            Some(tls) => write_out(&mut Stream::new(&mut **tls, &mut self.tcp), &mut self.out),
        };
        written.context("writing")
    }

    /// Writes and reads as much as the socket allows. `parse` is given all bytes that are not parsed yet, what to append
    /// answers to, and the clock after the read. It returns how many bytes it has parsed. With `is_closing` an end of the
    /// stream may be behind the data, for which no further event would come.
    ///
    /// Returns whether the connection is still open.
    pub(crate) fn on_ready(
        &mut self,
        buffer: &mut ReadBuffer,
        is_closing: bool,
        mut parse: impl FnMut(&[u8], &mut BytesMut, u64) -> Result<usize>,
    ) -> Result<bool> {
        if !self.is_connected()? {
            return Ok(true);
        }
        self.flush()?;
        loop {
            let held = self.partial.len();
            if held == buffer.bytes.len() {
                buffer.bytes.resize(2 * held, 0);
            }
            buffer.bytes[..held].copy_from_slice(&self.partial);
            let room = &mut buffer.bytes[held..];
            let read = match &mut self.tls {
                None => self.tcp.read(room),
                Some(tls) => Stream::new(&mut **tls, &mut self.tcp).read(room),
            };
            let count = match read {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // TLS without a close_notify.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading"),
            };
            // A short read has emptied the socket, so that the next event announces more. TLS may hold decrypted bytes.
            let is_drained = self.tls.is_none() && count < room.len();
            buffer.received_bytes += count as u64;
            let unparsed = &buffer.bytes[..held + count];
            let parsed = parse(unparsed, &mut self.out, clock::now())?;
            self.partial.clear();
            self.partial.extend_from_slice(&unparsed[parsed..]);
            if is_drained && !is_closing {
                break;
            }
        }
        self.flush()?;
        Ok(true)
    }
}

/// Waits for events of `poll`. A signal ends the wait early.
pub(crate) fn wait_for_events(poll: &mut Poll, events: &mut Events, timeout: Duration) -> Result<()> {
    match poll.poll(events, Some(timeout)) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error).context("epoll"),
        _ => Ok(()),
    }
}

/// Writes as much of `out` as a non-blocking stream takes and removes it from there.
pub(crate) fn write_out(stream: &mut impl Write, out: &mut BytesMut) -> io::Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(written) => out.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
