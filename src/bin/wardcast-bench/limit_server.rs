//! The child process of `limit`: one thread, one epoll, one `writev` per socket for all publications that wait. Its cost is the
//! system's share of a delivery, which no hub can undercut.

use std::io::{self, IoSlice, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustls::{ServerConfig, ServerConnection};
use wardcast::protocol::frame::encode_text;

use crate::error::{Context, Result};
use crate::{clock::NO_PROGRESS_TIMEOUT, connection::wait_for_events, connection::write_out, tls};

const LISTENER: Token = Token(0);
/// The first connection, over which the parent process publishes.
const CONTROL: Token = Token(1);
/// The token of the first subscriber.
const FIRST: usize = 2;
/// The longest `writev` of Linux.
const MAX_SLICES: usize = 1024;

/// A subscriber.
struct SubscriberSocket {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    /// Bytes that the socket had no room for.
    out: BytesMut,
}

struct LimitServer {
    poll: Poll,
    listener: TcpListener,
    control: Option<TcpStream>,
    input: Vec<u8>,
    /// `None` where a connection has ended.
    subscribers: Vec<Option<SubscriberSocket>>,
    /// For the connections of subscribers.
    tls: Option<Arc<ServerConfig>>,
}

/// Runs the server until its parent process closes the control connection or ends.
pub(crate) fn run(has_tls: bool) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl")?;
    let mut server = LimitServer::listen(has_tls)?;
    println!("{}", server.listener.local_addr().context("listening")?.port());
    let mut events = Events::with_capacity(1024);
    loop {
        wait_for_events(&mut server.poll, &mut events, NO_PROGRESS_TIMEOUT)?;
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                CONTROL if !server.publish_waiting()? => return Ok(()),
                Token(number) if number >= FIRST => server.drain_subscriber(number - FIRST),
                Token(_) => {}
            }
        }
    }
}

impl LimitServer {
    fn listen(has_tls: bool) -> Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("listening")?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).context("epoll")?;
        let tls = has_tls.then(tls::server_config).transpose()?;
        Ok(Self { poll, listener, control: None, input: Vec::new(), subscribers: Vec::new(), tls })
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            };
            stream.set_nodelay(true).context("TCP_NODELAY")?;
            let is_first = self.control.is_none();
            let token = if is_first { CONTROL } else { Token(FIRST + self.subscribers.len()) };
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, token, interest).context("epoll")?;
            if is_first {
                self.control = Some(stream);
            } else {
                let mut tls = self.tls.clone().map(|config| ServerConnection::new(config).map(Box::new));
                if let Some(Ok(tls)) = &mut tls {
                    // As `out` has none.
                    tls.set_buffer_limit(None);
                }
                let tls = tls.transpose().context("TLS")?;
                self.subscribers.push(Some(SubscriberSocket { stream, tls, out: BytesMut::new() }));
            }
        }
    }

    /// Publishes everything that waits on the control connection. Returns whether that is still open.
    fn publish_waiting(&mut self) -> Result<bool> {
        // A client is live once the kernel has connected it. If it still waits to be accepted, it would miss a publication.
        self.accept()?;
        let Some(control) = &mut self.control else {
            return Ok(true);
        };
        let mut buffer = [0; 65536];
        loop {
            match control.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("reading the control connection"),
            }
        }
        let frames = take_frames(&mut self.input);
        let frames: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
        for part in frames.chunks(MAX_SLICES) {
            for slot in &mut self.subscribers {
                slot.take_if(|subscriber| subscriber.send(part).is_err());
            }
        }
        Ok(true)
    }

    fn drain_subscriber(&mut self, number: usize) {
        self.subscribers[number].take_if(|subscriber| subscriber.drain().is_err());
    }
}

impl SubscriberSocket {
    /// Goes on with the TLS handshake, if there is one, and writes what waits.
    fn drain(&mut self) -> io::Result<()> {
        let Self { stream, tls, out } = self;
        let Some(tls) = tls else { return write_out(stream, out) };
        loop {
            match tls.read_tls(stream) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => tls.process_new_packets().map_err(io::Error::other).map(drop)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        write_records(tls, stream)
    }

    /// Writes all `frames` with one `writev`. The rest waits until the socket has room.
    fn send(&mut self, frames: &[IoSlice<'_>]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            // Without a limit it takes everything, and puts frames that fit into one record together.
            let taken = tls.writer().write_vectored(frames)?;
            debug_assert_eq!(taken, frames.iter().map(|frame| frame.len()).sum::<usize>());
            return write_records(tls, &mut self.stream);
        }
        let mut written = 0;
        if self.out.is_empty() {
            match self.stream.write_vectored(frames) {
                Ok(count) => written = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        for frame in frames {
            let skipped = written.min(frame.len());
            written -= skipped;
            self.out.extend_from_slice(&frame[skipped..]);
        }
        Ok(())
    }
}

/// Writes as much of what `tls` has encrypted as the socket takes.
fn write_records(tls: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            result => result.map(drop)?,
        }
    }
    Ok(())
}

/// Takes all complete messages from `input`, as frames like those of a hub.
fn take_frames(input: &mut Vec<u8>) -> Vec<Bytes> {
    let (mut frames, mut used) = (Vec::new(), 0);
    while let Some((length, rest)) = input[used..].split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some(data) = rest.get(..length) else {
            break;
        };
        let push = [br#"{"push":{"channel":"bench","pub":{"data":"#, data, b"}}}"].concat();
        frames.push(encode_text(&push));
        used += 4 + length;
    }
    input.drain(..used);
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_messages_become_frames() {
        let mut input = vec![0, 0, 0, 2, b'{', b'}', 0, 0, 0, 2, b'['];
        let frames = take_frames(&mut input);
        assert_eq!(frames.len(), 1);
        assert_eq!(&frames[0][2..], br#"{"push":{"channel":"bench","pub":{"data":{}}}}"#);
        input.push(b']');
        assert_eq!(take_frames(&mut input).len(), 1);
        assert!(input.is_empty());
    }
}
