//! The child of `limit`: one thread, one epoll, one `writev` a socket for all publications that wait. What it costs is the
//! system's share of a delivery; a hub cannot cost less.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::error::{BenchError, IoContext, Result};
use crate::frame::write_text;
use crate::run_clock::NO_PROGRESS_TIMEOUT;

const SUBSCRIBERS: Token = Token(0);
const CONTROL_LISTENER: Token = Token(1);
const CONTROL: Token = Token(2);
/// Tokens from here on are subscribers.
const FIRST: usize = 3;
/// What Linux takes in one `writev`.
const MAX_SLICES: usize = 1024;

type FrameQueue = VecDeque<Rc<[u8]>>;

/// A subscriber and what its socket did not take at once.
struct SubscriberSocket {
    stream: TcpStream,
    queue: FrameQueue,
    /// Bytes of the first waiting frame that are written.
    written: usize,
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    control_listener: TcpListener,
    control: Option<TcpStream>,
    input: Vec<u8>,
    subscribers: Vec<Option<SubscriberSocket>>,
}

/// Runs the child until its parent closes the control connection.
pub(crate) fn run() -> Result<()> {
    let mut server = Server::listen()?;
    let ports = [&server.listener, &server.control_listener].map(|listener| listener.local_addr());
    let [subscribers, control] = ports;
    let subscribers = subscribers.context(|| "listening")?.port();
    println!("{subscribers} {}", control.context(|| "listening")?.port());
    let mut events = Events::with_capacity(1024);
    let started = Instant::now();
    loop {
        match server.poll.poll(&mut events, Some(NO_PROGRESS_TIMEOUT)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error).context(|| "epoll"),
            _ => {}
        }
        if server.control.is_none() && started.elapsed() > NO_PROGRESS_TIMEOUT {
            return Err(BenchError::NoProgress("waiting for the control connection".to_owned()));
        }
        for event in &events {
            match event.token() {
                SUBSCRIBERS => server.accept()?,
                CONTROL_LISTENER => server.accept_control()?,
                CONTROL => {
                    if !server.publish_waiting()? {
                        return Ok(());
                    }
                }
                Token(number) if event.is_writable() => server.drain_subscriber(number - FIRST),
                Token(_) => {}
            }
        }
    }
}

impl Server {
    fn listen() -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let poll = Poll::new().context(|| "epoll")?;
        let mut listener = TcpListener::bind(any).context(|| "listening")?;
        let mut control_listener = TcpListener::bind(any).context(|| "listening")?;
        let registry = poll.registry();
        registry.register(&mut listener, SUBSCRIBERS, Interest::READABLE).context(|| "epoll")?;
        registry.register(&mut control_listener, CONTROL_LISTENER, Interest::READABLE).context(|| "epoll")?;
        Ok(Self { poll, listener, control_listener, control: None, input: Vec::new(), subscribers: Vec::new() })
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context(|| "accepting"),
            };
            stream.set_nodelay(true).context(|| "TCP_NODELAY")?;
            let token = Token(FIRST + self.subscribers.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, token, interest).context(|| "epoll")?;
            self.subscribers.push(Some(SubscriberSocket { stream, queue: FrameQueue::new(), written: 0 }));
        }
    }

    fn accept_control(&mut self) -> Result<()> {
        match self.control_listener.accept() {
            Ok((mut stream, _)) => {
                self.poll.registry().register(&mut stream, CONTROL, Interest::READABLE).context(|| "epoll")?;
                self.control = Some(stream);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error).context(|| "accepting"),
        }
    }

    /// Publishes everything that waits on the control connection; false when that is closed.
    fn publish_waiting(&mut self) -> Result<bool> {
        let Some(control) = &mut self.control else {
            return Ok(true);
        };
        let mut buffer = [0; 65536];
        loop {
            match control.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context(|| "reading the control connection"),
            }
        }
        let frames = take_frames(&mut self.input);
        for part in frames.chunks(MAX_SLICES) {
            let slices: Vec<IoSlice<'_>> = part.iter().map(|frame| IoSlice::new(frame)).collect();
            for slot in &mut self.subscribers {
                if slot.as_mut().is_some_and(|subscriber| subscriber.send(part, &slices).is_err()) {
                    *slot = None;
                }
            }
        }
        Ok(true)
    }

    fn drain_subscriber(&mut self, number: usize) {
        if let Some(slot) = self.subscribers.get_mut(number)
            && slot.as_mut().is_some_and(|subscriber| subscriber.drain().is_err())
        {
            *slot = None;
        }
    }
}

impl SubscriberSocket {
    /// One `writev` for all of `frames`; what does not go waits.
    fn send(&mut self, frames: &[Rc<[u8]>], slices: &[IoSlice<'_>]) -> io::Result<()> {
        if !self.queue.is_empty() {
            self.queue.extend(frames.iter().cloned());
            return Ok(());
        }
        let written = match self.stream.write_vectored(slices) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let total: usize = frames.iter().map(|frame| frame.len()).sum();
        if written < total {
            self.queue.extend(frames.iter().cloned());
            self.skip(written);
            return self.drain();
        }
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let first = self.queue.front().map_or(&[][..], |frame| &frame[self.written..]);
            let rest = self.queue.iter().skip(1).take(MAX_SLICES - 1).map(|frame| IoSlice::new(frame));
            let slices: Vec<IoSlice<'_>> = std::iter::once(IoSlice::new(first)).chain(rest).collect();
            match self.stream.write_vectored(&slices) {
                Ok(written) => self.skip(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn skip(&mut self, bytes: usize) {
        self.written += bytes;
        while let Some(frame) = self.queue.front()
            && self.written >= frame.len()
        {
            self.written -= frame.len();
            self.queue.pop_front();
        }
    }
}

/// Takes all whole messages off `input`, as frames of the layout a hub sends.
fn take_frames(input: &mut Vec<u8>) -> Vec<Rc<[u8]>> {
    let mut frames = Vec::new();
    let mut used = 0;
    while let Some(([a, b, c, d], rest)) = input[used..].split_first_chunk().map(|(head, rest)| (*head, rest)) {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(data) = rest.get(..length) else {
            break;
        };
        let mut reply = br#"{"push":{"channel":"bench","pub":{"data":"#.to_vec();
        reply.extend_from_slice(data);
        reply.extend_from_slice(b"}}}");
        let mut frame = Vec::with_capacity(reply.len() + 10);
        write_text(&mut frame, &reply);
        frames.push(frame.into());
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
