//! A non-blocking client socket, plain or TLS, with the options a benchmark needs: source address and receive buffer.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Type};

use crate::target_url::TargetUrl;

/// Linux' number for "the connection is being made", which `io::ErrorKind` has no stable name for.
const EINPROGRESS: i32 = 115;

/// How a socket is opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct SocketOptions {
    /// Bound to before connecting: each address has its own ports, of which there are about 28,000.
    pub(crate) source: Option<Ipv4Addr>,
    /// `SO_RCVBUF`, set before connecting so that the window is small from the start.
    pub(crate) receive_buffer: Option<usize>,
    /// Who is trusted, for targets with TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// The socket.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    /// The TCP connection, to be registered with a poll.
    pub(crate) tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl ClientSocket {
    /// Begins to connect; the first writable event tells how it went (`is_connected`).
    pub(crate) fn open(target: &TargetUrl, options: &SocketOptions) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(target.address), Type::STREAM, Some(Protocol::TCP))?;
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
            Some(config) if target.tls => {
                let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
                Some(Box::new(ClientConnection::new(config.clone(), name).map_err(io::Error::other)?))
            }
            _ => None,
        };
        Ok(Self { tcp: TcpStream::from_std(socket.into()), tls })
    }

    /// Whether the TCP connection stands, or why it does not.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.tcp.take_error()? {
            return Err(error);
        }
        match self.tcp.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Goes without a word, as when something between the two sides is gone: the server gets a reset, and the port is free
    /// again at once.
    pub(crate) fn reset(self) {
        // Where that is refused the end is a quiet one, and the port is free a minute later.
        let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Reads what is there. 0 is the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.tcp.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if tls.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            push_tls(tls, &mut self.tcp)?;
        }
    }

    /// Whether a read of `read` bytes into `room` left nothing behind: then the next event tells of more. Only a plain
    /// socket can know; TLS may hold what is decrypted already.
    pub(crate) fn is_drained(&self, read: usize, room: usize) -> bool {
        self.tls.is_none() && read < room
    }

    /// Writes as much of `out` as goes and removes it from there; the next writable event is for the rest.
    pub(crate) fn write_out(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            while !out.is_empty() {
                match self.tcp.write(out) {
                    Ok(written) => drop(out.drain(..written)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        };
        push_tls(tls, &mut self.tcp)?;
        if !out.is_empty() {
            let taken = tls.writer().write(out)?;
            out.drain(..taken);
            push_tls(tls, &mut self.tcp)?;
        }
        Ok(())
    }
}

fn push_tls(tls: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(tcp) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
