//! One simulated client: connects, subscribes, checks and records what it receives, and with a position recovers what it
//! missed while it was disconnected.

use actix_http::ws::OpCode;
use bytes::BytesMut;
use mio::{Registry, Token};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::delivery_stats::{DeliveryStats, SharedState};
use crate::error::{BenchError, Context, Result, fail};
use crate::websocket::{Credentials, WebSocket, write_frame};
use crate::{clients::ClientOptions, clock, connection::ReadBuffer, http::quote, publication_stamp::PublicationStamp};

/// The bytes before a publication's offset, which follows its data.
const OFFSET_MARKER: &[u8] = b"\"offset\":";
/// More than what follows the data of a publication of this program.
const MAX_TAIL_BYTES: usize = 64;

/// How far a client has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientState {
    /// It waits for the connect push or the connect reply, which proves that the hub accepts the token.
    Connecting,
    /// It has sent its subscribe command.
    Subscribing,
    /// It is as far as the run needs it: connected, and subscribed if it has a channel.
    Live,
}

/// The position of a client in a channel's history: the newest publication that it has received.
struct StreamPosition {
    epoch: String,
    offset: u64,
}

impl StreamPosition {
    /// Moves on to a publication that was received, and counts gaps and repetitions.
    fn advance(&mut self, offset: u64, shared: &SharedState) {
        if offset <= self.offset {
            shared.offset_out_of_order.add(1);
            return;
        }
        shared.offset_gaps.add((offset > self.offset + 1).into());
        self.offset = offset;
    }
}

/// The client.
pub(crate) struct SimulatedClient {
    /// Its number among those of all threads.
    pub(crate) number: usize,
    /// Its connection; `None` before it connects and after it has ended.
    pub(crate) websocket: Option<Box<WebSocket>>,
    /// The clock when it began to connect.
    pub(crate) connecting_at: u64,
    /// The newest sequence numbers that it has received, by publisher.
    pub(crate) newest: Box<[u32]>,
    /// How often it was refused since it was disconnected.
    pub(crate) refusals: u32,
    state: ClientState,
    position: Option<StreamPosition>,
}

impl SimulatedClient {
    /// A client that is not connected.
    pub(crate) fn new(number: usize, publishers: usize) -> Self {
        let (newest, state) = (vec![0; publishers].into(), ClientState::Connecting);
        Self { number, websocket: None, connecting_at: 0, newest, refusals: 0, state, position: None }
    }

    /// Begins to connect, and registers the socket.
    pub(crate) fn connect(&mut self, options: &ClientOptions, event_source: (&Registry, Token)) -> Result<()> {
        let target = options.target(self.number);
        let subscribe =
            options.channel(self.number).map(|channel| self.subscribe_command(channel, options.is_positioned));
        let credentials = match (options.is_sse, options.credentials(self.number)) {
            (true, Credentials::Query(token) | Credentials::ConnectCommand(token)) => {
                Credentials::EventStream(token, subscribe.as_deref().unwrap_or_default())
            }
            (_, credentials) => credentials,
        };
        let websocket = WebSocket::open(target, credentials, &options.socket_options(self.number), event_source)?;
        self.websocket = Some(Box::new(websocket));
        self.state = ClientState::Connecting;
        self.connecting_at = clock::now();
        Ok(())
    }

    /// Ends the client for good.
    pub(crate) fn end(&mut self) {
        (self.websocket, self.position) = (None, None);
    }

    /// Returns whether the client is as far as the run needs it.
    pub(crate) fn is_live(&self) -> bool {
        self.state == ClientState::Live
    }

    /// Returns whether the client has a position from which it can recover.
    pub(crate) fn has_position(&self) -> bool {
        self.position.is_some()
    }

    /// Writes and reads as much as the socket allows.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub(crate) fn on_ready(
        &mut self,
        (buffer, is_closing): (&mut ReadBuffer, bool),
        options: &ClientOptions,
        stats: &mut DeliveryStats,
    ) -> Result<()> {
        let Some(mut websocket) = self.websocket.take() else { return Ok(()) };
        websocket.on_ready(buffer, is_closing, |message, out, now| {
            if self.state != ClientState::Live || !stats.record_push(&mut self.newest, message, now) {
                return self.on_reply(message, out, options, (stats, now));
            }
            if let Some(position) = &mut self.position {
                let offset = find_offset(message).ok_or_else(|| BenchError("a push without an offset".to_owned()))?;
                position.advance(offset, &stats.shared);
            }
            Ok(())
        })?;
        // The server of `limit` speaks no HTTP and expects no subscription.
        if options.tokens.is_empty() && websocket.connection.is_established()? {
            self.state = ClientState::Live;
        }
        self.websocket = Some(websocket);
        Ok(())
    }

    /// Handles everything but deliveries: the connect push or reply, the subscribe reply and errors.
    fn on_reply(
        &mut self,
        message: &[u8],
        out: &mut BytesMut,
        options: &ClientOptions,
        (stats, now): (&mut DeliveryStats, u64),
    ) -> Result<()> {
        let reply: Reply<'_> =
            serde_json::from_slice(message).context(format_args!("a text that is not a reply: {}", quote(message)))?;
        match (self.state, reply) {
            (_, Reply { error: Some(_), .. }) => return fail(format!("answered {}", quote(message))),
            (
                ClientState::Connecting,
                Reply { push: Some(Push { connect: Some(_) }), .. } | Reply { connect: Some(_), .. },
            ) => {
                self.state = ClientState::Live;
                if let Some(channel) = options.channel(self.number) {
                    if !options.is_sse {
                        let command = self.subscribe_command(channel, options.is_positioned);
                        write_frame(out, OpCode::Text, command.as_bytes());
                    }
                    self.state = ClientState::Subscribing;
                }
            }
            (ClientState::Subscribing, Reply { subscribe: Some(result), .. }) => {
                self.state = ClientState::Live;
                if options.is_positioned {
                    self.on_position(result, stats, now)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The subscribe command, with the id after that of the connect command. If the client has a position it asks for recovery.
    fn subscribe_command(&self, channel: &str, is_positioned: bool) -> String {
        let mut request = serde_json::json!({ "channel": channel });
        if is_positioned {
            request["positioned"] = true.into();
            request["recoverable"] = true.into();
        }
        if let Some(StreamPosition { epoch, offset }) = &self.position {
            request["recover"] = true.into();
            request["epoch"] = epoch.as_str().into();
            request["offset"] = (*offset).into();
        }
        serde_json::json!({"id": 2, "subscribe": request}).to_string()
    }

    /// Takes over the position of a subscribe reply, and records the publications that were recovered.
    fn on_position(&mut self, result: SubscribeResult<'_>, stats: &mut DeliveryStats, now: u64) -> Result<()> {
        let Some(epoch) = result.epoch.map(str::to_owned) else { return fail("the channel has no history") };
        let mut position = StreamPosition { epoch, offset: result.offset };
        match &self.position {
            Some(previous) if result.recovered => {
                stats.shared.recovered.add(1);
                // Checked from the position of the client, not from the one that the hub names.
                position.offset = previous.offset;
            }
            Some(_) => stats.shared.unrecovered.add(1),
            None => {}
        }
        for publication in result.publications {
            stats.shared.recovered_publications.add(1);
            position.advance(publication.offset, &stats.shared);
            if let Some(stamp) = PublicationStamp::read(publication.data.get().as_bytes()) {
                stats.record(&mut self.newest, stamp, now);
            }
        }
        self.position = Some(position);
        Ok(())
    }
}

/// A message of the hub, as far as a client needs it.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    push: Option<Push<'a>>,
    #[serde(borrow)]
    connect: Option<&'a RawValue>,
    subscribe: Option<SubscribeResult<'a>>,
}

/// A push.
#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow)]
    connect: Option<&'a RawValue>,
}

/// The result of a subscribe command.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SubscribeResult<'a> {
    /// `None` if the channel has no history.
    epoch: Option<&'a str>,
    offset: u64,
    recovered: bool,
    publications: Vec<RecoveredPublication<'a>>,
}

/// A publication that came with a subscribe reply.
#[derive(Deserialize)]
struct RecoveredPublication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    offset: u64,
}

/// The offset in a publication's push, or `None` if it has none.
fn find_offset(push: &[u8]) -> Option<u64> {
    let tail = &push[push.len().saturating_sub(MAX_TAIL_BYTES)..];
    let start = tail.windows(OFFSET_MARKER.len()).rposition(|at| at == OFFSET_MARKER)? + OFFSET_MARKER.len();
    let digits = tail[start..].split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_read_after_the_data_and_not_inside_it() {
        let push = |rest: &str| format!(r#"{{"push":{{"channel":"a","pub":{{"data":{{"offset":7}}{rest}}}}}}}"#);
        assert_eq!(find_offset(push(r#","offset":1234"#).as_bytes()), Some(1234));
        assert_eq!(find_offset(push(r#","offset":18446744073709551615,"delta":true"#).as_bytes()), Some(u64::MAX));
        assert_eq!(find_offset(b"{}"), None);
    }

    #[test]
    fn gaps_and_repetitions_are_counted_separately() {
        let (mut position, shared) = (StreamPosition { epoch: "e".to_owned(), offset: 4 }, SharedState::default());
        [5, 6, 9, 9, 2, 10].into_iter().for_each(|offset| position.advance(offset, &shared));
        assert_eq!((position.offset, shared.offset_gaps.get(), shared.offset_out_of_order.get()), (10, 1, 2));
    }

    #[test]
    fn recovering_client_sends_its_position() {
        let mut client = SimulatedClient::new(0, 0);
        client.position = Some(StreamPosition { epoch: "AAAA".to_owned(), offset: 9 });
        let command: serde_json::Value = client.subscribe_command("news", true).parse().unwrap();
        let request = serde_json::json!({"channel": "news", "positioned": true, "recoverable": true, "recover": true,
            "epoch": "AAAA", "offset": 9});
        assert_eq!(command["subscribe"], request);
    }
}
