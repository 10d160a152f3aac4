//! Publishes with the publish command of sessions: one WebSocket per lane, with a token of its own, one command at a time.

use std::io;

use mio::{Interest, Poll, Token};
use serde_json::Value;

use crate::error::{BenchError, Result, While};
use crate::frame::{self, CLOSE, PING, PONG, TEXT};
use crate::handshake;
use crate::outlet::{Answer, Outlet};
use crate::socket::{Socket, SocketOptions};
use crate::target::Target;

/// One session.
#[derive(Debug)]
struct Lane {
    socket: Socket,
    target: Target,
    /// What goes out when TCP stands; then what goes out next.
    out: Vec<u8>,
    input: Vec<u8>,
    is_upgraded: bool,
    /// A command that waits for the greeting.
    waiting: Option<Vec<u8>>,
    is_greeted: bool,
    command: u64,
}

/// The sessions as an outlet.
#[derive(Debug)]
pub(crate) struct SocketOutlet {
    lanes: Vec<Lane>,
    channels: Vec<String>,
    turn: usize,
}

impl SocketOutlet {
    /// Begins to connect a session for each token; their lanes are tokens 0.. of `poll`.
    pub(crate) fn connect(
        (targets, tokens, lanes): (&[Target], &[String], usize),
        channels: Vec<String>,
        options: &SocketOptions,
        poll: &Poll,
    ) -> Result<Self> {
        let open = |number: usize| -> Result<Lane> {
            let target = &targets[number % targets.len()];
            let mut socket = Socket::open(target, options).during(|| format!("connecting to {}", target.authority))?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut socket.tcp, Token(number), interest).during(|| "epoll")?;
            Ok(Lane {
                socket,
                target: target.clone(),
                out: handshake::request(target, &tokens[number % tokens.len()]),
                input: Vec::new(),
                is_upgraded: false,
                waiting: None,
                is_greeted: false,
                command: 0,
            })
        };
        Ok(Self { lanes: (0..lanes).map(open).collect::<Result<_>>()?, channels, turn: 0 })
    }
}

impl Outlet for SocketOutlet {
    fn send(&mut self, lane: usize, data: &[u8]) -> Result<Option<Answer>> {
        let channel = Value::from(self.channels[self.turn % self.channels.len()].as_str());
        self.turn += 1;
        let lane = &mut self.lanes[lane];
        lane.command += 1;
        let data = String::from_utf8_lossy(data);
        let command = format!("{{\"id\":{},\"publish\":{{\"channel\":{channel},\"data\":{data}}}}}", lane.command);
        if !lane.is_greeted {
            lane.waiting = Some(command.into_bytes());
            return Ok(None);
        }
        frame::write_masked(&mut lane.out, TEXT, command.as_bytes());
        lane.flush().map(|()| None)
    }

    fn ready(&mut self, token: usize, answers: &mut Vec<(usize, Answer)>) -> Result<()> {
        match self.lanes.get_mut(token) {
            Some(lane) => {
                answers.extend(lane.pump()?.map(|answer| (token, answer)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Lane {
    fn fault(&self, what: &dyn std::fmt::Display) -> BenchError {
        BenchError::Refused(format!("publishing over a socket to {}: {what}", self.target.authority))
    }

    fn flush(&mut self) -> Result<()> {
        self.socket.write_out(&mut self.out).map_err(|error| self.fault(&error))
    }

    /// Moves bytes; an answer when one came.
    fn pump(&mut self) -> Result<Option<Answer>> {
        if !self.socket.finish().map_err(|error| self.fault(&format!("connecting: {error}")))? {
            return Ok(None);
        }
        self.flush()?;
        let mut buffer = [0; 16 * 1024];
        let mut is_over = false;
        while !is_over {
            match self.socket.read(&mut buffer) {
                Ok(0) => is_over = true,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault(&error)),
            }
        }
        let answer = self.consume(is_over)?;
        self.flush()?;
        match is_over && answer.is_none() {
            true => Err(self.fault(&"the server closed the connection")),
            false => Ok(answer),
        }
    }

    fn consume(&mut self, is_over: bool) -> Result<Option<Answer>> {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        if !self.is_upgraded {
            let Some(head) = handshake::answer(rest, is_over).map_err(|text| self.fault(&text))? else {
                self.input = input;
                return Ok(None);
            };
            rest = &rest[head..];
            self.is_upgraded = true;
        }
        let mut answer = None;
        while let Some((frame, length)) = frame::next(rest).map_err(|error| self.fault(&error))? {
            match frame.opcode {
                TEXT => answer = self.on_reply(frame.payload)?.or(answer),
                PING => frame::write_masked(&mut self.out, PONG, frame.payload),
                CLOSE => return Err(self.fault(&frame::closed(frame.payload))),
                _ => {}
            }
            rest = &rest[length..];
        }
        self.input = rest.to_vec();
        Ok(answer)
    }

    fn on_reply(&mut self, replies: &[u8]) -> Result<Option<Answer>> {
        let mut answer = None;
        for reply in replies.split(|byte| *byte == b'\n').filter(|reply| !reply.is_empty()) {
            let value: Value = serde_json::from_slice(reply).map_err(|error| self.fault(&error))?;
            if value.pointer("/push/connect").is_some() {
                self.is_greeted = true;
                if let Some(command) = self.waiting.take() {
                    frame::write_masked(&mut self.out, TEXT, &command);
                }
            } else if value.get("id").and_then(Value::as_u64) == Some(self.command) {
                answer = Some(match value.get("error") {
                    Some(error) => Answer::refused(format!("socket: {error}")),
                    None => Answer::taken(1),
                });
            }
        }
        Ok(answer)
    }
}
