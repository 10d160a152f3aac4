//! One simulated client: from the TCP connection through token, greeting and subscription to the deliveries it checks.

use std::io;

use crate::delivery_stats::DeliveryStats;
use crate::frame::{self, CLOSE, PING, PONG, ServerFrame, TEXT};
use crate::publication_stamp::{PublicationStamp, StampFinder};
use crate::run_clock::RunClock;
use crate::socket::ClientSocket;
use crate::stream_position::{self, StreamPosition, SubscribeMode, SubscribeReply};
use crate::upgrade;

/// Said of a channel that cannot do what is measured.
const NO_HISTORY: &str = "the channel has no history";

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    /// TCP is being connected.
    Connecting,
    /// The upgrade request is out.
    Upgrading,
    /// 101 came, the first push did not.
    AwaitingConnectPush,
    /// The subscribe command is out.
    Subscribing,
    /// Everything a run needs of it stands.
    Live,
}

/// Why a connection ended, in words that are also the key it is counted under.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndReason(pub(crate) String);

/// What a connection says when TCP stands, and afterwards.
#[derive(Debug, Clone)]
pub(crate) enum ClientProtocol {
    /// The comparison server: it speaks at once, and only deliveries.
    BareDeliveries,
    /// A WebSocket with this upgrade request, then a subscription to the channel if there is one.
    WebSocket {
        /// The bytes of the request.
        request: Vec<u8>,
        /// What to subscribe to.
        channel: Option<String>,
        /// And how.
        mode: SubscribeMode,
    },
}

/// What all connections of a thread share while one of them reads.
#[derive(Debug)]
pub(crate) struct ReadContext {
    /// The run's clock.
    pub(crate) clock: RunClock,
    /// The thread's books.
    pub(crate) deliveries: DeliveryStats,
    /// Finds stamps.
    pub(crate) finder: StampFinder,
    /// Only publications sent at or after this reading of the clock are timed.
    pub(crate) measured_from: u64,
}

/// One simulated client.
#[derive(Debug)]
pub(crate) struct SimulatedClient {
    /// The socket.
    pub(crate) socket: ClientSocket,
    /// How far it has come.
    pub(crate) state: ConnectionState,
    /// The clock when connecting began.
    pub(crate) connecting_at: u64,
    /// The clock when 101 was read.
    pub(crate) upgraded_at: u64,
    /// The newest sequence number by lane.
    pub(crate) newest_sequences: Box<[u32]>,
    /// Where it stands in the channel's history, if it wants to know.
    pub(crate) position: Option<StreamPosition>,
    protocol: ClientProtocol,
    /// Bytes of a frame that is not whole yet.
    partial_frame: Vec<u8>,
    out: Vec<u8>,
}

impl SimulatedClient {
    /// A client on a socket that is being connected. `last` are the newest sequence numbers that it has, by lane.
    pub(crate) fn new(
        socket: ClientSocket,
        protocol: ClientProtocol,
        newest_sequences: Box<[u32]>,
        connecting_at: u64,
    ) -> Self {
        Self {
            socket,
            state: ConnectionState::Connecting,
            connecting_at,
            upgraded_at: 0,
            newest_sequences,
            position: None,
            protocol,
            partial_frame: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Does whatever the socket is ready for. `closing` says that the other side's end may wait behind the data.
    pub(crate) fn on_ready(
        &mut self,
        buffer: &mut [u8],
        context: &mut ReadContext,
        closing: bool,
    ) -> Result<(), EndReason> {
        if self.state == ConnectionState::Connecting {
            if !self.socket.is_connected().map_err(|error| EndReason(format!("connecting: {error}")))? {
                return Ok(());
            }
            match &mut self.protocol {
                ClientProtocol::BareDeliveries => self.state = ConnectionState::Live,
                ClientProtocol::WebSocket { request, .. } => {
                    self.state = ConnectionState::Upgrading;
                    self.out = std::mem::take(request);
                }
            }
        }
        self.flush()?;
        self.read(buffer, context, closing)?;
        self.flush()
    }

    /// Begins the closing handshake.
    pub(crate) fn send_close(&mut self) {
        frame::write_masked(&mut self.out, CLOSE, &1000u16.to_be_bytes());
        // Nobody waits for the answer: the socket is dropped next.
        let _ = self.flush();
    }

    fn flush(&mut self) -> Result<(), EndReason> {
        self.socket.write_out(&mut self.out).map_err(|error| EndReason(format!("writing: {error}")))
    }

    fn read(&mut self, buffer: &mut [u8], context: &mut ReadContext, closing: bool) -> Result<(), EndReason> {
        loop {
            let partial_frame = self.partial_frame.len();
            if partial_frame == buffer.len() {
                return Err(EndReason("a frame larger than the read buffer".to_owned()));
            }
            buffer[..partial_frame].copy_from_slice(&self.partial_frame);
            let count = match self.socket.read(&mut buffer[partial_frame..]) {
                Ok(0) => return Err(self.on_end_of_stream()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(EndReason(format!("reading: {error}"))),
            };
            context.deliveries.received_bytes += count as u64;
            self.partial_frame.clear();
            let now = context.clock.now();
            let rest = self.parse(&buffer[..partial_frame + count], now, context)?;
            self.partial_frame.extend_from_slice(rest);
            if self.socket.is_drained(count, buffer.len() - partial_frame) && !closing {
                return Ok(());
            }
        }
    }

    fn on_end_of_stream(&self) -> EndReason {
        if self.state == ConnectionState::Upgrading && !self.partial_frame.is_empty() {
            return EndReason(
                upgrade::parse_response(&self.partial_frame, true)
                    .err()
                    .unwrap_or_else(|| "answered half a head".to_owned()),
            );
        }
        EndReason("end of stream without a close frame".to_owned())
    }

    /// Reads all that is whole and returns the rest.
    fn parse<'a>(&mut self, mut rest: &'a [u8], now: u64, context: &mut ReadContext) -> Result<&'a [u8], EndReason> {
        if self.state == ConnectionState::Upgrading {
            let Some(head) = upgrade::parse_response(rest, false).map_err(EndReason)? else {
                return Ok(rest);
            };
            rest = &rest[head..];
            self.state = ConnectionState::AwaitingConnectPush;
            self.upgraded_at = now;
        }
        while let Some((frame, length)) = frame::split_frame(rest).map_err(|error| EndReason(error.to_string()))? {
            self.on_frame(frame, now, context)?;
            rest = &rest[length..];
        }
        Ok(rest)
    }

    fn on_frame(&mut self, frame: ServerFrame<'_>, now: u64, context: &mut ReadContext) -> Result<(), EndReason> {
        match frame.opcode {
            // `contains` on bytes is memchr, far quicker than splitting; several replies in a frame are the exception.
            TEXT if !frame.payload.contains(&b'\n') => self.on_message(frame.payload, now, context),
            TEXT => frame
                .payload
                .split(|byte| *byte == b'\n')
                .try_for_each(|message| self.on_message(message, now, context)),
            PING => {
                frame::write_masked(&mut self.out, PONG, frame.payload);
                Ok(())
            }
            PONG => Ok(()),
            CLOSE => Err(EndReason(frame::describe_close(frame.payload))),
            other => Err(EndReason(format!("a frame with opcode {other}"))),
        }
    }

    fn on_message(&mut self, message: &[u8], now: u64, context: &mut ReadContext) -> Result<(), EndReason> {
        if self.state == ConnectionState::Live
            && let Some(stamp) = context.finder.find(message)
        {
            context.deliveries.record_delivery(&mut self.newest_sequences, stamp, now, context.measured_from);
            if let Some(position) = &mut self.position {
                let offset = stream_position::find_offset(message)
                    .ok_or_else(|| EndReason("a push without an offset".to_owned()))?;
                position.advance(offset, &mut context.deliveries.recoveries);
            }
            return Ok(());
        }
        match message {
            b"" => Ok(()),
            b"{}" => {
                frame::write_masked(&mut self.out, TEXT, b"{}");
                Ok(())
            }
            _ if self.state == ConnectionState::Subscribing
                && self.on_positioned_subscribe_reply(message, now, context)? =>
            {
                Ok(())
            }
            _ => self.on_other_reply(message),
        }
    }

    /// Reads the reply to a positioned subscription, typed: with what was missed it is long. False when it is none.
    fn on_positioned_subscribe_reply(
        &mut self,
        message: &[u8],
        now: u64,
        context: &mut ReadContext,
    ) -> Result<bool, EndReason> {
        let ClientProtocol::WebSocket { mode: mode @ (SubscribeMode::Positioned | SubscribeMode::Recover(_)), .. } =
            &self.protocol
        else {
            return Ok(false);
        };
        let Ok(SubscribeReply { subscribe }) = serde_json::from_slice(message) else {
            return Ok(false);
        };
        let epoch = subscribe.epoch.ok_or_else(|| EndReason(NO_HISTORY.to_owned()))?.to_owned();
        let recovery = &mut context.deliveries.recoveries;
        let mut position = StreamPosition { epoch, offset: subscribe.offset };
        if let SubscribeMode::Recover(previous) = mode {
            recovery.recovered += u64::from(subscribe.recovered);
            recovery.unrecovered += u64::from(!subscribe.recovered);
            if subscribe.recovered {
                // Judged from where this client stood itself, not from where the hub says that it did.
                position.offset = previous.offset;
            }
        }
        for publication in subscribe.publications {
            context.deliveries.recoveries.publications += 1;
            position.advance(publication.offset, &mut context.deliveries.recoveries);
            if let Some(stamp) = PublicationStamp::read(publication.data.get().as_bytes()) {
                context.deliveries.record_delivery(&mut self.newest_sequences, stamp, now, context.measured_from);
            }
        }
        self.position = Some(position);
        self.state = ConnectionState::Live;
        Ok(true)
    }

    /// Greeting, subscribe reply, errors: a few per connection, so they are parsed properly.
    fn on_other_reply(&mut self, message: &[u8]) -> Result<(), EndReason> {
        let text = || String::from_utf8_lossy(message).chars().take(300).collect::<String>();
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(message) else {
            return Err(EndReason(format!("a text that is no JSON: {}", text())));
        };
        if value.get("error").is_some() {
            return Err(EndReason(format!("answered {}", text())));
        }
        if self.state == ConnectionState::AwaitingConnectPush && value.pointer("/push/connect").is_some() {
            self.on_connect_push();
        } else if self.state == ConnectionState::Subscribing
            && value.get("id").is_some()
            && value.get("subscribe").is_some()
        {
            self.state = ConnectionState::Live;
        }
        Ok(())
    }

    fn on_connect_push(&mut self) {
        match &self.protocol {
            ClientProtocol::WebSocket { channel: Some(channel), mode, .. } => {
                frame::write_masked(&mut self.out, TEXT, stream_position::subscribe_command(channel, mode).as_bytes());
                self.state = ConnectionState::Subscribing;
            }
            _ => self.state = ConnectionState::Live,
        }
    }
}
