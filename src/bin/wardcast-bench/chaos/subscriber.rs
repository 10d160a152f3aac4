//! A subscriber that behaves as the official SDKs do: it answers pings, notices their absence, reconnects to another hub after a
//! backoff, subscribes again after an unsubscribe push, and, if it recovers, asks for the publications that it missed.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use actix_http::ws::OpCode;
use bytes::{Buf, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::error::{BenchError, Context, Result, fail};
use crate::http::{check_upgrade, quote, upgrade_request};
use crate::target_url::TargetUrl;
use crate::websocket::{CONNECT_ID, describe_close, split_frame, write_frame};

use super::findings::{SubscriberLog, Unrecovered};

/// How long a connection attempt, including its handshake and the connect command, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much later than announced a ping may come, as in the SDKs.
const PING_DELAY: Duration = Duration::from_secs(10);
/// The time until the first attempt to reconnect. It doubles with each attempt.
pub(super) const MIN_BACKOFF: Duration = Duration::from_millis(200);
/// The longest time between two attempts.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// The time until a subscription that was answered with a temporary error is tried again, as in the SDKs.
const RESUBSCRIBE_DELAY: Duration = Duration::from_millis(500);
/// Unsubscribe codes from here on tell a client to subscribe again.
const RESUBSCRIBE_CODES: u64 = 2500;

/// The position of the newest publication that a subscriber has received.
struct Position {
    epoch: String,
    offset: u64,
}

/// The subscriber.
pub(super) struct Subscriber {
    /// What it has seen.
    pub(super) log: Rc<RefCell<SubscriberLog>>,
    /// The name of its channel.
    pub(super) channel: String,
    /// Its token.
    pub(super) token: String,
    /// The addresses of the hubs, which it tries in turns.
    pub(super) addresses: Rc<[SocketAddr]>,
    /// The address that is next.
    pub(super) turn: usize,
    is_connected: bool,
    position: Option<Position>,
    /// Id of the latest command.
    last_id: u32,
    /// When the subscription is tried again.
    subscribe_at: Option<Instant>,
}

impl Subscriber {
    /// A subscriber that is not connected.
    pub(super) fn new(
        log: Rc<RefCell<SubscriberLog>>,
        channel: String,
        token: String,
        (addresses, turn): (Rc<[SocketAddr]>, usize),
    ) -> Self {
        let (last_id, is_connected) = (CONNECT_ID, false);
        Self { log, channel, token, addresses, turn, is_connected, position: None, last_id, subscribe_at: None }
    }

    /// Stays subscribed until it is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let Err(BenchError(reason)) = self.stay_connected(&mut backoff).await;
            // An attempt that fails while no hub listens is no new event for a user.
            if self.is_connected {
                self.log.borrow_mut().record_end(reason);
            }
            sleep(backoff).await;
            backoff = MAX_BACKOFF.min(2 * backoff);
            self.turn += 1;
        }
    }

    /// Connects, subscribes, and receives until the connection ends. Returns why it has ended.
    async fn stay_connected(&mut self, backoff: &mut Duration) -> Result<std::convert::Infallible> {
        self.is_connected = false;
        let address = self.addresses[self.turn % self.addresses.len()];
        let connecting = timeout(CONNECT_TIMEOUT, open(address)).await;
        let (mut stream, mut bytes) = connecting.map_err(|_| BenchError("connecting timed out".to_owned()))??;
        let mut out = BytesMut::new();
        let connect = json!({"id": CONNECT_ID, "connect": {"token": self.token}});
        write_frame(&mut out, OpCode::Text, connect.to_string().as_bytes());
        (self.last_id, self.subscribe_at) = (CONNECT_ID, None);
        let (mut patience, mut heard_at) = (CONNECT_TIMEOUT, Instant::now());
        loop {
            while let Some((opcode, payload, length)) = split_frame(&bytes, false)? {
                match opcode {
                    OpCode::Text => {
                        for message in payload.split(|byte| *byte == b'\n').filter(|message| !message.is_empty()) {
                            if let Some(ping) = self.on_message(message, &mut out)? {
                                (patience, *backoff) = (ping + PING_DELAY, MIN_BACKOFF);
                            }
                        }
                    }
                    OpCode::Ping => write_frame(&mut out, OpCode::Pong, payload),
                    OpCode::Close => return fail(describe_close(payload)),
                    _ => {}
                }
                heard_at = Instant::now();
                bytes.advance(length);
            }
            if self.subscribe_at.is_some_and(|at| at <= Instant::now()) {
                self.subscribe(&mut out);
            }
            stream.write_all_buf(&mut out).await.map_err(|_| BenchError("connection lost".to_owned()))?;
            let dead_at = heard_at + patience;
            let wake_at = self.subscribe_at.map_or(dead_at, |at| at.min(dead_at));
            match timeout_at(wake_at, stream.read_buf(&mut bytes)).await {
                Err(_) if Instant::now() >= dead_at => return fail("no ping"),
                Err(_) => {}
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return fail("connection lost"),
            }
        }
    }

    /// Handles a message, and appends answers to `out`. Returns the ping interval if it is the reply to the connect command.
    fn on_message(&mut self, message: &[u8], out: &mut BytesMut) -> Result<Option<Duration>> {
        if message == b"{}" {
            write_frame(out, OpCode::Text, b"{}");
            return Ok(None);
        }
        let message: Value =
            serde_json::from_slice(message).context(format_args!("a text that is not a reply: {}", quote(message)))?;
        if let Some(connect) = message.get("connect") {
            self.is_connected = true;
            self.subscribe(out);
            return Ok(Some(Duration::from_secs(connect["ping"].as_u64().unwrap_or_default())));
        }
        if let Some(publication) = message.pointer("/push/pub") {
            self.on_publication(publication);
        } else if let Some(unsubscribe) = message.pointer("/push/unsubscribe") {
            let code = unsubscribe["code"].as_u64().unwrap_or_default();
            self.log.borrow_mut().record_unsubscribed(code);
            if code < RESUBSCRIBE_CODES {
                return fail(format!("unsubscribed for good with {code}"));
            }
            self.subscribe(out);
        } else if let Some(error) = message.get("error") {
            let code = error["code"].as_u64().unwrap_or_default();
            self.log.borrow_mut().record_error(code);
            if error["temporary"] != true {
                return fail(format!("error {code}"));
            }
            self.subscribe_at = Some(Instant::now() + RESUBSCRIBE_DELAY);
        } else if let Some(result) = message.get("subscribe") {
            self.on_subscribed(result)?;
        }
        Ok(None)
    }

    /// Sends a subscribe command, with the position if there is one.
    fn subscribe(&mut self, out: &mut BytesMut) {
        self.subscribe_at = None;
        self.last_id += 1;
        let mut request = json!({"channel": self.channel});
        if self.log.borrow().is_recovering {
            request["positioned"] = true.into();
            request["recoverable"] = true.into();
        }
        if let Some(Position { epoch, offset }) = &self.position {
            request["recover"] = true.into();
            request["epoch"] = epoch.as_str().into();
            request["offset"] = (*offset).into();
        }
        let command = json!({"id": self.last_id, "subscribe": request});
        write_frame(out, OpCode::Text, command.to_string().as_bytes());
    }

    fn on_subscribed(&mut self, result: &Value) -> Result<()> {
        let log = self.log.clone();
        if !log.borrow().is_recovering {
            log.borrow_mut().is_live = true;
            return Ok(());
        }
        let Some(epoch) = result["epoch"].as_str() else { return fail("the channel has no history") };
        let offset = result["offset"].as_u64().unwrap_or_default();
        let current = Position { epoch: epoch.to_owned(), offset };
        match (&self.position, result["recovered"] == true) {
            // The publications are checked against the position of the subscriber, not against the one that the hub names.
            (Some(_), true) => log.borrow_mut().recovered += 1,
            (Some(previous), false) => {
                let is_new_epoch = previous.epoch != current.epoch;
                log.borrow_mut().unrecovered.push(if is_new_epoch {
                    Unrecovered::NewEpoch
                } else {
                    Unrecovered::TooOld
                });
                self.position = Some(current);
            }
            (None, _) => self.position = Some(current),
        }
        for publication in result["publications"].as_array().into_iter().flatten() {
            self.on_publication(publication);
        }
        log.borrow_mut().is_live = true;
        Ok(())
    }

    fn on_publication(&mut self, publication: &Value) {
        let mut log = self.log.borrow_mut();
        if let Some(position) = &mut self.position {
            let offset = publication["offset"].as_u64().unwrap_or_default();
            if offset != position.offset + 1 {
                log.offset_faults += 1;
            }
            position.offset = offset;
        }
        if let Some(number) = publication["data"]["n"].as_u64() {
            log.record_publication(number);
        }
    }
}

/// Opens a WebSocket. Returns it with what the server has sent after its response.
pub(super) async fn open(address: SocketAddr) -> Result<(TcpStream, BytesMut)> {
    let target = TargetUrl::parse(&format!("ws://{address}/connection/websocket"))?;
    let connecting = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&upgrade_request(&target, None, false)).await?;
        Ok::<_, std::io::Error>(stream)
    };
    let mut stream = connecting.await.map_err(|_| BenchError("connection refused".to_owned()))?;
    let mut bytes = BytesMut::new();
    loop {
        let count = stream.read_buf(&mut bytes).await;
        let is_ended = !matches!(count, Ok(1..));
        if let Some(length) = check_upgrade(&bytes, is_ended)? {
            bytes.advance(length);
            return Ok((stream, bytes));
        }
        if is_ended {
            return fail("connection refused");
        }
    }
}
