//! The operations of the probe, each with connections of its own: a publication to a quiet channel, a command, a ping, a
//! handshake, and an echo that no hub takes part in.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use actix_http::ws::OpCode;
use mio::event::Event;
use mio::{Registry, Token};
use serde_json::Value;

use crate::connection::{Connection, ReadBuffer, SocketOptions};
use crate::error::{BenchError, Context, Result};
use crate::load_driver::{PublishAnswer, PublishTransport};
use crate::probe_stats::{ProbeStats, ProbeTime};
use crate::publication_stamp::{PublicationStamp, StampFinder};
use crate::websocket::{WebSocket, is_connect_message, write_frame};
use crate::{args::SendToken, http_transport::HttpTransport, target_url::TargetUrl};

/// Connections that publish to the quiet channel. A publication waits only if all of them wait for answers.
pub(crate) const PROBE_PUBLISHERS: usize = 4;
/// Bytes of a publication's data.
const SIZE: usize = 128;

/// Operations of one kind, with the connections that they use.
pub(crate) trait ProbeOperation {
    /// How many of them are due per second.
    fn rate(&self) -> u64 {
        50
    }

    /// Returns whether the first operation may begin.
    fn is_ready(&self) -> bool;

    /// Begins an operation that was due at this reading of the clock. Returns an error if it failed at once.
    fn begin(&mut self, due: u64, stats: &mut ProbeStats) -> Result<()>;

    /// Handles an event of one of its connections.
    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer, stats: &mut ProbeStats) -> Result<()>;
}

/// Where and how the probe connects to a hub.
pub(crate) struct ProbeTarget {
    /// The hub.
    pub(crate) url: TargetUrl,
    /// The tokens of its sessions and handshakes, in turns.
    pub(crate) tokens: Vec<String>,
    /// How they send their tokens.
    pub(crate) send_token: SendToken,
    /// With a TLS configuration, if the URL needs one.
    pub(crate) socket: SocketOptions,
    /// Where sockets are registered.
    pub(crate) registry: Registry,
}

impl ProbeTarget {
    /// Begins to connect, with the token number `user`.
    fn open(&self, user: usize, token: Token) -> Result<WebSocket> {
        let user_token = self.tokens[user % self.tokens.len()].as_str();
        WebSocket::open(&self.url, self.send_token.credentials(user_token), &self.socket, (&self.registry, token))
    }
}

/// A session of the probe. If its connection ends, the next operation connects again.
struct ProbeSession {
    target: ProbeTarget,
    token: Token,
    /// Sent after the connect push or reply: what the session needs before it is live. Its reply makes the session live.
    setup: Option<String>,
    websocket: Option<WebSocket>,
    is_live: bool,
    /// Frames that wait until the session is live.
    unsent: Vec<(OpCode, String)>,
}

impl ProbeSession {
    /// Begins to connect. With a `channel` the session subscribes to it.
    fn open(target: ProbeTarget, token: Token, channel: Option<&str>) -> Result<Self> {
        let setup = channel.map(|channel| serde_json::json!({"id": 2, "subscribe": {"channel": channel}}).to_string());
        let websocket = Some(target.open(token.0, token)?);
        Ok(Self { target, token, setup, websocket, is_live: false, unsent: Vec::new() })
    }

    /// Sends a frame, if need be after connecting again.
    fn send(&mut self, opcode: OpCode, payload: String) -> Result<()> {
        self.unsent.push((opcode, payload));
        self.reopen_if_ended()?;
        self.flush()
    }

    fn reopen_if_ended(&mut self) -> Result<()> {
        if self.websocket.is_none() {
            self.websocket = Some(self.target.open(self.token.0, self.token)?);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(websocket) = self.websocket.as_mut().filter(|_| self.is_live) {
            for (opcode, payload) in self.unsent.drain(..) {
                write_frame(&mut websocket.connection.out, opcode, payload.as_bytes());
            }
            websocket.connection.flush()?;
        }
        Ok(())
    }

    /// Reads what came. `on_message` is given every message of a live session and the clock.
    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer, on_message: impl FnMut(&[u8], u64)) -> Result<()> {
        let Some(mut websocket) = self.websocket.take() else { return Ok(()) };
        let outcome = self.read(&mut websocket, event, buffer, on_message);
        match outcome {
            Ok(()) => {
                self.websocket = Some(websocket);
                self.flush()
            }
            Err(error) => {
                self.is_live = false;
                Err(error)
            }
        }
    }

    fn read(
        &mut self,
        websocket: &mut WebSocket,
        event: &Event,
        buffer: &mut ReadBuffer,
        mut on_message: impl FnMut(&[u8], u64),
    ) -> Result<()> {
        let Self { is_live, setup, .. } = self;
        websocket.on_ready(buffer, event.is_read_closed() || event.is_error(), |message, out, now| {
            if *is_live {
                on_message(message, now);
                return Ok(());
            }
            let reply: Value = serde_json::from_slice(message).context("a message that is not JSON")?;
            if let Some(error) = reply.get("error") {
                return Err(BenchError(format!("subscribing to the quiet channel: answered {error}")));
            }
            match setup {
                Some(command) if is_connect_message(&reply) => {
                    write_frame(out, OpCode::Text, command.as_bytes());
                }
                _ => *is_live = true,
            }
            Ok(())
        })
    }
}

/// Publishes to a quiet channel through the server API, and receives what one subscriber of it receives.
pub(crate) struct QuietChannel {
    transport: Box<HttpTransport>,
    subscriber: ProbeSession,
    finder: StampFinder,
    /// The publication that each publisher waits for: its numbers among deliveries and among answers.
    unanswered: [Option<(u64, u64)>; PROBE_PUBLISHERS],
    /// Publications that wait for a publisher: both numbers, and when they were due.
    waiting: VecDeque<((u64, u64), u64)>,
}

impl QuietChannel {
    /// Begins to subscribe. `transport` publishes to the channel, has [`PROBE_PUBLISHERS`] and uses their numbers as tokens.
    pub(crate) fn open(transport: Box<HttpTransport>, target: ProbeTarget, token: Token) -> Result<Self> {
        let subscriber = ProbeSession::open(target, token, Some(&transport.channels[0]))?;
        let (finder, unanswered, waiting) = (StampFinder::default(), [None; PROBE_PUBLISHERS], VecDeque::new());
        Ok(Self { transport, subscriber, finder, unanswered, waiting })
    }

    fn publish_waiting(&mut self, stats: &mut ProbeStats) -> Result<()> {
        while let Some(publisher) = self.unanswered.iter().position(Option::is_none)
            && let Some((numbers, due)) = self.waiting.pop_front()
        {
            let stamp = PublicationStamp { publisher: 0, sequence: numbers.0 as u32, sent_at: due };
            self.unanswered[publisher] = Some(numbers);
            if let Err(error) = self.transport.send(publisher, &stamp.data(SIZE)) {
                self.on_refused(publisher, stats);
                return Err(error);
            }
        }
        Ok(())
    }

    fn on_refused(&mut self, publisher: usize, stats: &mut ProbeStats) {
        if let Some((delivery, answer)) = self.unanswered[publisher].take() {
            stats.forget(ProbeTime::Delivery, delivery);
            stats.forget(ProbeTime::Publish, answer);
        }
    }
}

impl ProbeOperation for QuietChannel {
    fn rate(&self) -> u64 {
        30
    }

    fn is_ready(&self) -> bool {
        self.subscriber.is_live
    }

    fn begin(&mut self, due: u64, stats: &mut ProbeStats) -> Result<()> {
        let numbers = (stats.begin(ProbeTime::Delivery, due), stats.begin(ProbeTime::Publish, due));
        self.waiting.push_back((numbers, due));
        self.subscriber.reopen_if_ended()?;
        self.publish_waiting(stats)
    }

    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer, stats: &mut ProbeStats) -> Result<()> {
        if event.token() == self.subscriber.token {
            let finder = &mut self.finder;
            return self.subscriber.on_event(event, buffer, |message, now| {
                if let Some(stamp) = finder.find(message) {
                    stats.end(ProbeTime::Delivery, stamp.sequence.into(), now);
                }
            });
        }
        let publisher = event.token().0;
        match self.transport.on_event(event, buffer) {
            Ok(None) => return Ok(()),
            Ok(Some(PublishAnswer { refused, .. })) if refused.is_empty() => {
                if let Some((_, answer)) = self.unanswered[publisher].take() {
                    stats.end(ProbeTime::Publish, answer, crate::clock::now());
                }
            }
            Ok(Some(PublishAnswer { refused, .. })) => {
                refused.into_iter().for_each(|reason| stats.fail(reason));
                self.on_refused(publisher, stats);
            }
            Err(error) => {
                self.on_refused(publisher, stats);
                self.publish_waiting(stats)?;
                return Err(error);
            }
        }
        self.publish_waiting(stats)
    }
}

/// Sends ping commands on a session of its own.
pub(crate) struct Commands(ProbeSession);

impl Commands {
    /// Begins to connect.
    pub(crate) fn open(target: ProbeTarget, token: Token) -> Result<Self> {
        ProbeSession::open(target, token, None).map(Self)
    }
}

impl ProbeOperation for Commands {
    fn is_ready(&self) -> bool {
        self.0.is_live
    }

    fn begin(&mut self, due: u64, stats: &mut ProbeStats) -> Result<()> {
        let number = stats.begin(ProbeTime::Command, due);
        self.0.send(OpCode::Text, format!("{{\"id\":{number},\"ping\":{{}}}}"))
    }

    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer, stats: &mut ProbeStats) -> Result<()> {
        let mut errors = Vec::new();
        let outcome = self.0.on_event(event, buffer, |message, now| {
            let reply: Value = serde_json::from_slice(message).unwrap_or_default();
            let Some(number) = reply.get("id").and_then(Value::as_u64) else { return };
            match reply.get("error") {
                None => stats.end(ProbeTime::Command, number, now),
                Some(error) => {
                    stats.forget(ProbeTime::Command, number);
                    errors.push(format!("socket: {error}"));
                }
            }
        });
        errors.into_iter().for_each(|error| stats.fail(error));
        outcome
    }
}

/// Sends WebSocket pings on a session of its own. A pong answers all pings before it (RFC 6455 §5.5.3).
pub(crate) struct Pings(ProbeSession);

impl Pings {
    /// Begins to connect.
    pub(crate) fn open(target: ProbeTarget, token: Token) -> Result<Self> {
        ProbeSession::open(target, token, None).map(Self)
    }
}

impl ProbeOperation for Pings {
    fn is_ready(&self) -> bool {
        self.0.is_live
    }

    fn begin(&mut self, due: u64, stats: &mut ProbeStats) -> Result<()> {
        let number = stats.begin(ProbeTime::Ping, due);
        self.0.send(OpCode::Ping, number.to_string())
    }

    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer, stats: &mut ProbeStats) -> Result<()> {
        let outcome = self.0.on_event(event, buffer, |_, _| ());
        if let Some((number, now)) = self.0.websocket.as_mut().and_then(|websocket| websocket.last_pong.take()) {
            stats.end_up_to(ProbeTime::Ping, number, now);
        }
        outcome
    }
}

/// Opens connections, and closes each when its first push has come.
pub(crate) struct Handshakes {
    target: ProbeTarget,
    /// The token of the first one. The others follow.
    first_token: Token,
    /// The connections that are being opened, by number.
    opening: BTreeMap<u64, WebSocket>,
}

impl Handshakes {
    /// Without a connection.
    pub(crate) fn new(target: ProbeTarget, first_token: Token) -> Self {
        Self { target, first_token, opening: BTreeMap::new() }
    }
}

impl ProbeOperation for Handshakes {
    fn rate(&self) -> u64 {
        20
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn begin(&mut self, due: u64, stats: &mut ProbeStats) -> Result<()> {
        let number = stats.begin(ProbeTime::Handshake, due);
        let token = Token(self.first_token.0 + number as usize);
        match self.target.open(number as usize, token) {
            Ok(websocket) => {
                self.opening.insert(number, websocket);
                Ok(())
            }
            Err(error) => {
                stats.forget(ProbeTime::Handshake, number);
                Err(error)
            }
        }
    }

    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer, stats: &mut ProbeStats) -> Result<()> {
        let number = (event.token().0 - self.first_token.0) as u64;
        let Some(websocket) = self.opening.get_mut(&number) else { return Ok(()) };
        let mut first_push_at = None;
        let outcome = websocket.on_ready(buffer, event.is_read_closed() || event.is_error(), |_, _, now| {
            first_push_at.get_or_insert(now);
            Ok(())
        });
        match (first_push_at, outcome) {
            (Some(now), _) => {
                stats.end(ProbeTime::Handshake, number, now);
                self.opening.remove(&number).into_iter().for_each(WebSocket::close);
                Ok(())
            }
            (None, Err(error)) => {
                stats.forget(ProbeTime::Handshake, number);
                self.opening.remove(&number);
                Err(error)
            }
            (None, Ok(())) => Ok(()),
        }
    }
}

/// Sends numbers to a thread of this program that only echoes them: the time that the machine's scheduler and network take,
/// which is part of all the others.
pub(crate) struct Echo(Connection);

impl Echo {
    /// Starts the thread, which ends with the connection, and begins to connect.
    pub(crate) fn open(registry: &Registry, token: Token) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("the probe's echo")?;
        let address = listener.local_addr().context("the probe's echo")?;
        let target = TargetUrl::parse(&format!("ws://{address}"))?;
        let echo = move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut buffer = [0; 1024];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok::<(), std::io::Error>(()),
                    count => stream.write_all(&buffer[..count])?,
                }
            }
        };
        std::thread::Builder::new().name("echo".to_owned()).spawn(echo).context("starting the echo thread")?;
        Connection::open(&target, &SocketOptions::default(), &[], (registry, token)).context("connecting").map(Self)
    }
}

impl ProbeOperation for Echo {
    fn is_ready(&self) -> bool {
        true
    }

    fn begin(&mut self, due: u64, stats: &mut ProbeStats) -> Result<()> {
        let number = stats.begin(ProbeTime::Echo, due);
        self.0.out.extend_from_slice(&number.to_be_bytes());
        if self.0.is_connected()? { self.0.flush() } else { Ok(()) }
    }

    fn on_event(&mut self, _: &Event, buffer: &mut ReadBuffer, stats: &mut ProbeStats) -> Result<()> {
        let outcome = self.0.on_ready(buffer, false, |bytes, _, now| {
            let (numbers, _) = bytes.as_chunks();
            numbers.iter().for_each(|number| stats.end(ProbeTime::Echo, u64::from_be_bytes(*number), now));
            Ok(size_of_val(numbers))
        });
        outcome.map(|_| ())
    }
}
