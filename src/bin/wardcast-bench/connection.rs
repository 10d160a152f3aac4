//! One simulated client: from the TCP connection through token, greeting and subscription to the deliveries it checks.

use std::io;

use crate::clock::Clock;
use crate::frame::{self, CLOSE, Frame, PING, PONG, TEXT};
use crate::handshake;
use crate::socket::Socket;
use crate::stamp::{Finder, Stamp};
use crate::standing::{self, Standing, SubscribeReply, Wish};
use crate::tally::Tally;

/// Said of a channel that cannot do what is measured.
const NO_HISTORY: &str = "the channel has no history";

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// TCP is being connected.
    Dialling,
    /// The upgrade request is out.
    Upgrading,
    /// 101 came, the first push did not.
    Greeting,
    /// The subscribe command is out.
    Subscribing,
    /// Everything a run needs of it stands.
    Live,
}

/// Why a connection ended, in words that are also the key it is counted under.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) String);

/// What a connection says when TCP stands, and afterwards.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// The comparison server: it speaks at once, and only deliveries.
    Deliveries,
    /// A WebSocket with this upgrade request, then a subscription to the channel if there is one.
    WebSocket {
        /// The bytes of the request.
        request: Vec<u8>,
        /// What to subscribe to.
        channel: Option<String>,
        /// And how.
        wish: Wish,
    },
}

/// What all connections of a thread share while one of them reads.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The run's clock.
    pub(crate) clock: Clock,
    /// The thread's books.
    pub(crate) tally: Tally,
    /// Finds stamps.
    pub(crate) finder: Finder,
    /// Only publications sent at or after this reading of the clock are timed.
    pub(crate) measured_from: u64,
}

/// One simulated client.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The socket.
    pub(crate) socket: Socket,
    /// How far it has come.
    pub(crate) stage: Stage,
    /// The clock when connecting began.
    pub(crate) began: u64,
    /// The clock when 101 was read.
    pub(crate) upgraded: u64,
    /// The newest sequence number by lane.
    pub(crate) last: Box<[u32]>,
    /// Where it stands in the channel's history, if it wants to know.
    pub(crate) standing: Option<Standing>,
    script: Script,
    /// Bytes of a frame that is not whole yet.
    held: Vec<u8>,
    out: Vec<u8>,
}

impl Connection {
    /// A client on a socket that is being connected. `last` are the newest sequence numbers that it has, by lane.
    pub(crate) fn new(socket: Socket, script: Script, last: Box<[u32]>, began: u64) -> Self {
        Self {
            socket,
            stage: Stage::Dialling,
            began,
            upgraded: 0,
            last,
            standing: None,
            script,
            held: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Does whatever the socket is ready for. `closing` says that the other side's end may wait behind the data.
    pub(crate) fn ready(&mut self, buffer: &mut [u8], desk: &mut Desk, closing: bool) -> Result<(), Ended> {
        if self.stage == Stage::Dialling {
            if !self.socket.finish().map_err(|error| Ended(format!("connecting: {error}")))? {
                return Ok(());
            }
            match &mut self.script {
                Script::Deliveries => self.stage = Stage::Live,
                Script::WebSocket { request, .. } => {
                    self.stage = Stage::Upgrading;
                    self.out = std::mem::take(request);
                }
            }
        }
        self.flush()?;
        self.read(buffer, desk, closing)?;
        self.flush()
    }

    /// Begins the closing handshake.
    pub(crate) fn say_goodbye(&mut self) {
        frame::write_masked(&mut self.out, CLOSE, &1000u16.to_be_bytes());
        // Nobody waits for the answer: the socket is dropped next.
        let _ = self.flush();
    }

    fn flush(&mut self) -> Result<(), Ended> {
        self.socket.write_out(&mut self.out).map_err(|error| Ended(format!("writing: {error}")))
    }

    fn read(&mut self, buffer: &mut [u8], desk: &mut Desk, closing: bool) -> Result<(), Ended> {
        loop {
            let held = self.held.len();
            if held == buffer.len() {
                return Err(Ended("a frame larger than the read buffer".to_owned()));
            }
            buffer[..held].copy_from_slice(&self.held);
            let count = match self.socket.read(&mut buffer[held..]) {
                Ok(0) => return Err(self.end_of_stream()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Ended(format!("reading: {error}"))),
            };
            desk.tally.bytes += count as u64;
            self.held.clear();
            let now = desk.clock.now();
            let rest = self.consume(&buffer[..held + count], now, desk)?;
            self.held.extend_from_slice(rest);
            if self.socket.drained(count, buffer.len() - held) && !closing {
                return Ok(());
            }
        }
    }

    fn end_of_stream(&self) -> Ended {
        if self.stage == Stage::Upgrading && !self.held.is_empty() {
            return Ended(
                handshake::answer(&self.held, true).err().unwrap_or_else(|| "answered half a head".to_owned()),
            );
        }
        Ended("end of stream without a close frame".to_owned())
    }

    /// Reads all that is whole and returns the rest.
    fn consume<'a>(&mut self, mut rest: &'a [u8], now: u64, desk: &mut Desk) -> Result<&'a [u8], Ended> {
        if self.stage == Stage::Upgrading {
            let Some(head) = handshake::answer(rest, false).map_err(Ended)? else {
                return Ok(rest);
            };
            rest = &rest[head..];
            self.stage = Stage::Greeting;
            self.upgraded = now;
        }
        while let Some((frame, length)) = frame::next(rest).map_err(|error| Ended(error.to_string()))? {
            self.on_frame(frame, now, desk)?;
            rest = &rest[length..];
        }
        Ok(rest)
    }

    fn on_frame(&mut self, frame: Frame<'_>, now: u64, desk: &mut Desk) -> Result<(), Ended> {
        match frame.opcode {
            // `contains` on bytes is memchr, far quicker than splitting; several replies in a frame are the exception.
            TEXT if !frame.payload.contains(&b'\n') => self.on_reply(frame.payload, now, desk),
            TEXT => frame.payload.split(|byte| *byte == b'\n').try_for_each(|reply| self.on_reply(reply, now, desk)),
            PING => {
                frame::write_masked(&mut self.out, PONG, frame.payload);
                Ok(())
            }
            PONG => Ok(()),
            CLOSE => Err(Ended(frame::closed(frame.payload))),
            other => Err(Ended(format!("a frame with opcode {other}"))),
        }
    }

    fn on_reply(&mut self, reply: &[u8], now: u64, desk: &mut Desk) -> Result<(), Ended> {
        if self.stage == Stage::Live
            && let Some(stamp) = desk.finder.find(reply)
        {
            desk.tally.deliver(&mut self.last, stamp, now, desk.measured_from);
            if let Some(standing) = &mut self.standing {
                let offset = standing::offset_of(reply).ok_or_else(|| Ended("a push without an offset".to_owned()))?;
                standing.follow(offset, &mut desk.tally.recoveries);
            }
            return Ok(());
        }
        match reply {
            b"" => Ok(()),
            b"{}" => {
                frame::write_masked(&mut self.out, TEXT, b"{}");
                Ok(())
            }
            _ if self.stage == Stage::Subscribing && self.on_subscribed(reply, now, desk)? => Ok(()),
            _ => self.on_rare_reply(reply),
        }
    }

    /// Reads the reply to a positioned subscription, typed: with what was missed it is long. False when it is none.
    fn on_subscribed(&mut self, reply: &[u8], now: u64, desk: &mut Desk) -> Result<bool, Ended> {
        let Script::WebSocket { wish: wish @ (Wish::Positioned | Wish::Recover(_)), .. } = &self.script else {
            return Ok(false);
        };
        let Ok(SubscribeReply { subscribe }) = serde_json::from_slice(reply) else {
            return Ok(false);
        };
        let epoch = subscribe.epoch.ok_or_else(|| Ended(NO_HISTORY.to_owned()))?.to_owned();
        let books = &mut desk.tally.recoveries;
        let mut standing = Standing { epoch, offset: subscribe.offset };
        if let Wish::Recover(stood) = wish {
            books.recovered += u64::from(subscribe.recovered);
            books.unrecovered += u64::from(!subscribe.recovered);
            if subscribe.recovered {
                // Judged from where this client stood itself, not from where the hub says that it did.
                standing.offset = stood.offset;
            }
        }
        for missed in subscribe.publications {
            desk.tally.recoveries.publications += 1;
            standing.follow(missed.offset, &mut desk.tally.recoveries);
            if let Some(stamp) = Stamp::read(missed.data.get().as_bytes()) {
                desk.tally.deliver(&mut self.last, stamp, now, desk.measured_from);
            }
        }
        self.standing = Some(standing);
        self.stage = Stage::Live;
        Ok(true)
    }

    /// Greeting, subscribe reply, errors: a few per connection, so they are parsed properly.
    fn on_rare_reply(&mut self, reply: &[u8]) -> Result<(), Ended> {
        let text = || String::from_utf8_lossy(reply).chars().take(300).collect::<String>();
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(reply) else {
            return Err(Ended(format!("a text that is no JSON: {}", text())));
        };
        if value.get("error").is_some() {
            return Err(Ended(format!("answered {}", text())));
        }
        if self.stage == Stage::Greeting && value.pointer("/push/connect").is_some() {
            self.greeted();
        } else if self.stage == Stage::Subscribing && value.get("id").is_some() && value.get("subscribe").is_some() {
            self.stage = Stage::Live;
        }
        Ok(())
    }

    fn greeted(&mut self) {
        match &self.script {
            Script::WebSocket { channel: Some(channel), wish, .. } => {
                frame::write_masked(&mut self.out, TEXT, standing::command(channel, wish).as_bytes());
                self.stage = Stage::Subscribing;
            }
            _ => self.stage = Stage::Live,
        }
    }
}
