//! Publishes with the publish command of sessions: one WebSocket per lane, with a token of its own, one command at a time.

use std::io;

use mio::{Interest, Poll, Token};
use serde_json::Value;

use crate::error::{BenchError, IoContext, Result};
use crate::frame::{self, CLOSE, PING, PONG, TEXT};
use crate::publish_transport::{PublishAnswer, PublishTransport};
use crate::socket::{ClientSocket, SocketOptions};
use crate::target_url::TargetUrl;
use crate::upgrade;

/// One session.
#[derive(Debug)]
struct PublishSession {
    socket: ClientSocket,
    target: TargetUrl,
    /// What goes out when TCP stands; then what goes out next.
    out: Vec<u8>,
    input: Vec<u8>,
    is_upgraded: bool,
    /// A command that waits for the greeting.
    unsent_command: Option<Vec<u8>>,
    has_connected: bool,
    last_command_id: u64,
}

/// The sessions as an outlet.
#[derive(Debug)]
pub(crate) struct SocketTransport {
    sessions: Vec<PublishSession>,
    channels: Vec<String>,
    next_channel: usize,
}

impl SocketTransport {
    /// Begins to connect a session for each token; their lanes are tokens 0.. of `poll`.
    pub(crate) fn connect(
        (targets, tokens, sessions): (&[TargetUrl], &[String], usize),
        channels: Vec<String>,
        options: &SocketOptions,
        poll: &Poll,
    ) -> Result<Self> {
        let open = |number: usize| -> Result<PublishSession> {
            let target = &targets[number % targets.len()];
            let mut socket =
                ClientSocket::open(target, options).context(|| format!("connecting to {}", target.authority))?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut socket.tcp, Token(number), interest).context(|| "epoll")?;
            Ok(PublishSession {
                socket,
                target: target.clone(),
                out: upgrade::request(target, &tokens[number % tokens.len()]),
                input: Vec::new(),
                is_upgraded: false,
                unsent_command: None,
                has_connected: false,
                last_command_id: 0,
            })
        };
        Ok(Self { sessions: (0..sessions).map(open).collect::<Result<_>>()?, channels, next_channel: 0 })
    }
}

impl PublishTransport for SocketTransport {
    fn send(&mut self, session: usize, data: &[u8]) -> Result<Option<PublishAnswer>> {
        let channel = Value::from(self.channels[self.next_channel % self.channels.len()].as_str());
        self.next_channel += 1;
        let session = &mut self.sessions[session];
        session.last_command_id += 1;
        let data = String::from_utf8_lossy(data);
        let command =
            format!("{{\"id\":{},\"publish\":{{\"channel\":{channel},\"data\":{data}}}}}", session.last_command_id);
        if !session.has_connected {
            session.unsent_command = Some(command.into_bytes());
            return Ok(None);
        }
        frame::write_masked(&mut session.out, TEXT, command.as_bytes());
        session.flush().map(|()| None)
    }

    fn ready(&mut self, token: usize, answers: &mut Vec<(usize, PublishAnswer)>) -> Result<()> {
        match self.sessions.get_mut(token) {
            Some(session) => {
                answers.extend(session.on_ready()?.map(|answer| (token, answer)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl PublishSession {
    fn error_at(&self, what: &dyn std::fmt::Display) -> BenchError {
        BenchError::Failed(format!("publishing over a socket to {}: {what}", self.target.authority))
    }

    fn flush(&mut self) -> Result<()> {
        self.socket.write_out(&mut self.out).map_err(|error| self.error_at(&error))
    }

    /// Moves bytes; an answer when one came.
    fn on_ready(&mut self) -> Result<Option<PublishAnswer>> {
        if !self.socket.is_connected().map_err(|error| self.error_at(&format!("connecting: {error}")))? {
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
                Err(error) => return Err(self.error_at(&error)),
            }
        }
        let answer = self.consume(is_over)?;
        self.flush()?;
        match is_over && answer.is_none() {
            true => Err(self.error_at(&"the server closed the connection")),
            false => Ok(answer),
        }
    }

    fn consume(&mut self, is_over: bool) -> Result<Option<PublishAnswer>> {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        if !self.is_upgraded {
            let Some(head) = upgrade::parse_response(rest, is_over).map_err(|text| self.error_at(&text))? else {
                self.input = input;
                return Ok(None);
            };
            rest = &rest[head..];
            self.is_upgraded = true;
        }
        let mut answer = None;
        while let Some((frame, length)) = frame::split_frame(rest).map_err(|error| self.error_at(&error))? {
            match frame.opcode {
                TEXT => answer = self.on_reply(frame.payload)?.or(answer),
                PING => frame::write_masked(&mut self.out, PONG, frame.payload),
                CLOSE => return Err(self.error_at(&frame::describe_close(frame.payload))),
                _ => {}
            }
            rest = &rest[length..];
        }
        self.input = rest.to_vec();
        Ok(answer)
    }

    fn on_reply(&mut self, replies: &[u8]) -> Result<Option<PublishAnswer>> {
        let mut answer = None;
        for reply in replies.split(|byte| *byte == b'\n').filter(|reply| !reply.is_empty()) {
            let value: Value = serde_json::from_slice(reply).map_err(|error| self.error_at(&error))?;
            if value.pointer("/push/connect").is_some() {
                self.has_connected = true;
                if let Some(command) = self.unsent_command.take() {
                    frame::write_masked(&mut self.out, TEXT, &command);
                }
            } else if value.get("id").and_then(Value::as_u64) == Some(self.last_command_id) {
                answer = Some(match value.get("error") {
                    Some(error) => PublishAnswer::refused(format!("socket: {error}")),
                    None => PublishAnswer::accepted(1),
                });
            }
        }
        Ok(answer)
    }
}
