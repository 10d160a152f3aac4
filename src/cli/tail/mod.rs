//! `sub`: prints what is published to channels, one JSON object per line. After a lost connection it reconnects and prints what it
//! has missed.

mod channel_tail;
mod messages;
mod tail_token;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use self::{
    channel_tail::ChannelTail,
    messages::{Publication, Push, Reply},
    tail_token::TokenSource,
};
use super::{
    CliError, CommandResult,
    arguments::SubArguments,
    client::{Hub, Received, WebSocketClient, block_on},
    configuration::ConfigInputs,
    escape_control, print_error_line,
};

/// How long to wait before the first attempt to reconnect, and at most.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(20);
/// A reply to `connect` takes at most this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much later than announced a ping of the hub may arrive.
const MAX_PING_DELAY: Duration = Duration::from_secs(10);
/// The id of the first command. The others count on from it.
const CONNECT_ID: u32 = 1;

/// Runs `sub`.
pub(super) fn subscribe(inputs: &ConfigInputs, arguments: &SubArguments) -> CommandResult {
    let hub = Hub::find(&arguments.hub, inputs)?;
    let token = TokenSource::new(&hub.config, arguments)?;
    let path = hub.config.server.websocket_paths.first().map_or("/connection/websocket", String::as_str).to_owned();
    let channels = arguments.channels.iter().map(|name| (name.clone(), ChannelTail::default())).collect();
    let printed = Printer { data_only: arguments.data_only, remaining: arguments.count };
    let tail = Tail { hub, path, token, channels, history: arguments.history, printer: printed, next_id: CONNECT_ID };
    block_on(tail.run()).map_err(CliError::from)?;
    Ok(String::new())
}

/// How a connection has ended.
enum End {
    /// As many publications as wanted have been printed, or the reader of the output is gone.
    Done,
    /// The reason. Reconnecting helps.
    Lost(String),
    /// The reason. Reconnecting does not help.
    Failed(String),
}

impl End {
    fn silent_since(at: Instant) -> Self {
        Self::Lost(format!("nothing received for {} s", at.elapsed().as_secs()))
    }
}

/// The state that outlives a connection.
struct Tail {
    hub: Hub,
    path: String,
    token: TokenSource,
    channels: BTreeMap<String, ChannelTail>,
    /// How many publications to print from each history, before the first live one.
    history: u32,
    printer: Printer,
    next_id: u32,
}

impl Tail {
    async fn run(mut self) -> Result<(), String> {
        let mut backoff = MIN_BACKOFF;
        let mut socket = WebSocketClient::connect(&self.hub.public, &self.path).await?;
        loop {
            let reason = match self.follow(&mut socket, &mut backoff).await {
                End::Done => return Ok(()),
                End::Failed(reason) => return Err(reason),
                End::Lost(reason) => reason,
            };
            print_error_line(&escape_control(&format!("wardcast: connection lost ({reason}), reconnecting")));
            socket = loop {
                // Hubs that lose all clients at once get them back one after the other.
                sleep(backoff.mul_f64(0.5 + random_fraction() / 2.0)).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
                if let Ok(socket) = WebSocketClient::connect(&self.hub.public, &self.path).await {
                    break socket;
                }
            };
        }
    }

    /// Prints what a connection receives, until it ends.
    async fn follow(&mut self, socket: &mut WebSocketClient, backoff: &mut Duration) -> End {
        let token = match self.token.read() {
            Ok(token) => token,
            Err(problem) => return End::Failed(problem),
        };
        self.next_id = CONNECT_ID;
        let connect = messages::connect(CONNECT_ID, &token, &self.channels);
        if let Err(error) = socket.send(connect).await {
            return End::Lost(error);
        }
        let (mut refresh_at, mut is_connected) = (Instant::now() + CONNECT_TIMEOUT, false);
        // From the hub's pings on, a connection on which nothing arrives has been lost without a word.
        let (mut heard_at, mut max_silence) = (Instant::now(), None);
        loop {
            let silent_at = max_silence.map_or_else(far_away, |silence| heard_at + silence);
            let text = tokio::select! {
                received = socket.receive() => match received {
                    Received::Text(text) => text,
                    Received::Closed(code, reason) => return self.closed(code, &reason),
                },
                () = sleep_until(silent_at) => return End::silent_since(heard_at),
                () = sleep_until(refresh_at) => {
                    if !is_connected {
                        return End::Lost(format!("no reply to connect within {} s", CONNECT_TIMEOUT.as_secs()));
                    }
                    match self.token.read() {
                        Ok(token) => {
                            self.next_id += 1;
                            // A lost connection is noticed when it is read.
                            _ = socket.send(messages::refresh(self.next_id, &token)).await;
                        }
                        Err(problem) => return End::Failed(problem),
                    }
                    refresh_at = far_away();
                    continue;
                }
            };
            heard_at = Instant::now();
            for line in text.split(|byte| *byte == b'\n') {
                let answers = match self.on_reply(line) {
                    Ok(Handled::Nothing) => continue,
                    Ok(Handled::Connected { ttl, ping_interval, answers }) => {
                        (refresh_at, is_connected, *backoff) = (refresh_time(ttl), true, MIN_BACKOFF);
                        max_silence = (!ping_interval.is_zero()).then_some(ping_interval + MAX_PING_DELAY);
                        answers
                    }
                    Ok(Handled::Refreshed { ttl }) => {
                        refresh_at = refresh_time(ttl);
                        continue;
                    }
                    Ok(Handled::Answer(answer)) => vec![answer],
                    Err(end) => return end,
                };
                for answer in answers {
                    if let Err(error) = socket.send(answer).await {
                        return End::Lost(error);
                    }
                }
            }
        }
    }

    fn closed(&self, code: Option<u16>, reason: &str) -> End {
        let Some(code) = code else { return End::Lost(reason.to_owned()) };
        let text = format!("{code} {reason}");
        match code {
            3500..=3999 | 4500..=4999 => {
                End::Failed(format!("the hub closed the connection: {text}{}", self.token.advice(code)))
            }
            _ => End::Lost(text),
        }
    }

    fn on_reply(&mut self, line: &[u8]) -> Result<Handled, End> {
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(line) else {
            return Err(End::Failed("the hub sent a message that is not a reply of the client protocol".to_owned()));
        };
        match reply {
            Reply { error: Some(error), id: Some(id), .. } => {
                self.on_error(id, error.code, &error.message, error.temporary)
            }
            Reply { connect: Some(connect), .. } => {
                let missing: Vec<&str> =
                    self.channels.keys().map(String::as_str).filter(|name| !connect.subs.contains_key(*name)).collect();
                if !missing.is_empty() {
                    return Err(End::Failed(format!(
                        "cannot subscribe to {}: the channel's options or the claims of the token must allow it, and the data of the channel must \
                         be JSON (`data_format = \"binary\"` is for Protobuf clients)",
                        missing.join(", ")
                    )));
                }
                let mut answers = Vec::new();
                for (name, subscribed) in connect.subs {
                    let Some(tail) = self.channels.get_mut(&name) else { continue };
                    if tail.start(&subscribed) {
                        print_error_line(&escape_control(&format!(
                            "wardcast: publications of {name} are missing here"
                        )));
                    }
                    if self.history > 0 && tail.wants_history() {
                        self.next_id += 1;
                        tail.hold_for_history(self.next_id);
                        answers.push(messages::history(self.next_id, &name, self.history));
                    }
                    self.print_all(&name, subscribed.publications)?;
                }
                let ping_interval = Duration::from_secs(connect.ping);
                Ok(Handled::Connected { ttl: connect.ttl, ping_interval, answers })
            }
            Reply { history: Some(page), id: Some(id), .. } => {
                self.on_history(id, page.publications.into_iter().rev().collect())
            }
            Reply { refresh: Some(refresh), .. } => Ok(Handled::Refreshed { ttl: refresh.ttl }),
            Reply { push: Some(push), .. } => self.on_push(push),
            // An empty reply is a ping.
            Reply { id: None, .. } => Ok(Handled::Answer("{}".to_owned())),
            _ => Ok(Handled::Nothing),
        }
    }

    fn on_error(&mut self, id: u32, code: u32, message: &str, is_temporary: bool) -> Result<Handled, End> {
        let asked = self.channels.iter().find(|(_, tail)| tail.awaits_history(id)).map(|(name, _)| name.clone());
        match asked {
            Some(name) => {
                print_error_line(&escape_control(&format!("wardcast: no history of {name}: error {code}: {message}")));
                self.on_history(id, Vec::new())
            }
            None if is_temporary => Err(End::Lost(format!("error {code}: {message}"))),
            None => Err(End::Failed(format!("error {code}: {message}"))),
        }
    }

    /// Prints a history, and what has arrived while it was read.
    fn on_history(&mut self, id: u32, page: Vec<Publication>) -> Result<Handled, End> {
        let asked = self.channels.iter_mut().find(|(_, tail)| tail.awaits_history(id));
        let Some((name, tail)) = asked else { return Ok(Handled::Nothing) };
        let (name, publications) = (name.clone(), tail.end_history(page));
        publications.iter().try_for_each(|publication| self.printer.print(&name, publication))?;
        Ok(Handled::Nothing)
    }

    fn on_push(&mut self, push: Push<'_>) -> Result<Handled, End> {
        if let Some(unsubscribe) = push.unsubscribe {
            let text =
                format!("the subscription of {} has ended: {} {}", push.channel, unsubscribe.code, unsubscribe.reason);
            return Err(if unsubscribe.code >= 2500 { End::Lost(text) } else { End::Failed(text) });
        }
        if let Some(publication) = push.publication {
            self.print_all(&push.channel, [publication])?;
        }
        Ok(Handled::Nothing)
    }

    fn print_all(&mut self, channel: &str, publications: impl IntoIterator<Item = Publication>) -> Result<(), End> {
        let Some(tail) = self.channels.get_mut(channel) else { return Ok(()) };
        for publication in publications {
            if let Some(publication) = tail.accept(publication) {
                self.printer.print(channel, &publication)?;
            }
        }
        Ok(())
    }
}

/// What a reply was, for the loop of the connection.
enum Handled {
    Nothing,
    /// The session is open. `ttl` in seconds, 0 if it does not expire. A `ping_interval` of zero: the hub sends no pings.
    Connected {
        ttl: u64,
        ping_interval: Duration,
        answers: Vec<String>,
    },
    Refreshed {
        ttl: u64,
    },
    Answer(String),
}

fn refresh_time(ttl: u64) -> Instant {
    if ttl == 0 { far_away() } else { Instant::now() + Duration::from_secs(ttl) }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

/// Returns a number from 0 to 1.
fn random_fraction() -> f64 {
    let mut byte = [0];
    // Without randomness the wait is the longest.
    getrandom::fill(&mut byte).map_or(1.0, |()| f64::from(byte[0]) / 255.0)
}

/// Writes publications to stdout.
struct Printer {
    /// Whether to print the data only.
    data_only: bool,
    /// How many to print yet; `None` for all.
    remaining: Option<u64>,
}

impl Printer {
    /// Prints a line.
    ///
    /// # Errors
    /// The end, if no more are wanted or the reader of the output is gone.
    fn print(&mut self, channel: &str, publication: &Publication) -> Result<(), End> {
        if self.remaining == Some(0) {
            return Err(End::Done);
        }
        let line = messages::line(channel, publication, self.data_only);
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(End::Done),
            Err(error) => return Err(End::Failed(format!("stdout: {error}"))),
        }
        self.remaining = self.remaining.map(|remaining| remaining - 1);
        if self.remaining == Some(0) { Err(End::Done) } else { Ok(()) }
    }
}
