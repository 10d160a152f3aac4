//! Publishes with the publish command: one session per publisher, each with a token of its own and one command at a time.

use mio::event::Event;
use mio::{Poll, Token};
use serde_json::Value;

use crate::error::{Context, Result};
use crate::load_driver::{PublishAnswer, PublishTransport};
use crate::{
    connection::ReadBuffer, hub_under_test::HubUnderTest, websocket::WebSocket, websocket::is_connect_message,
};

/// The id of the connect command. Publish commands count on from it.
const FIRST_ID: u64 = 1;

/// The session of one publisher.
struct PublishSession {
    websocket: WebSocket,
    /// Whether the connect push or reply was received.
    is_connected: bool,
    /// A command that waits until the session is connected.
    unsent_command: Option<String>,
    last_command_id: u64,
}

/// Sessions as a transport.
pub(crate) struct SocketTransport {
    sessions: Vec<PublishSession>,
    channels: Vec<String>,
    /// Counts the turns of the channels.
    next_channel: usize,
}

impl SocketTransport {
    /// Begins to connect this many sessions to the hub.
    pub(crate) fn connect(
        hub: &HubUnderTest<'_>,
        publishers: usize,
        channels: Vec<String>,
        poll: &Poll,
    ) -> Result<Self> {
        let (tokens, options) = (hub.tokens(publishers)?, hub.socket_options(&hub.targets)?);
        let open = |number: usize| {
            let (target, token) = (&hub.targets[number % hub.targets.len()], &tokens[number % tokens.len()]);
            let websocket = WebSocket::open(
                target,
                hub.send_token().credentials(token),
                &options,
                (poll.registry(), Token(number)),
            )?;
            Ok(PublishSession { websocket, is_connected: false, unsent_command: None, last_command_id: FIRST_ID })
        };
        Ok(Self { sessions: (0..publishers).map(open).collect::<Result<_>>()?, channels, next_channel: 0 })
    }
}

impl PublishTransport for SocketTransport {
    fn send(&mut self, publisher: usize, data: &[u8]) -> Result<Option<PublishAnswer>> {
        let channel = Value::from(self.channels[self.next_channel % self.channels.len()].as_str());
        self.next_channel += 1;
        let session = &mut self.sessions[publisher];
        session.last_command_id += 1;
        let (id, data) = (session.last_command_id, String::from_utf8_lossy(data));
        let command = format!("{{\"id\":{id},\"publish\":{{\"channel\":{channel},\"data\":{data}}}}}");
        if session.is_connected {
            session.websocket.send(command.as_bytes())?;
        } else {
            session.unsent_command = Some(command);
        }
        Ok(None)
    }

    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer) -> Result<Option<PublishAnswer>> {
        let PublishSession { websocket, is_connected, unsent_command, last_command_id } =
            &mut self.sessions[event.token().0];
        let mut answer = None;
        let is_closing = event.is_read_closed() || event.is_error();
        let outcome = websocket.on_ready(buffer, is_closing, |message, _, _| {
            let value: Value = serde_json::from_slice(message).context("a message that is not JSON")?;
            if is_connect_message(&value) {
                *is_connected = true;
            } else if value.get("id").and_then(Value::as_u64) == Some(*last_command_id) {
                answer = Some(match value.get("error") {
                    Some(error) => PublishAnswer { accepted: 0, refused: vec![format!("socket: {error}")] },
                    None => PublishAnswer { accepted: 1, refused: Vec::new() },
                });
            }
            Ok(())
        });
        if answer.is_none() {
            outcome.context("publishing over a socket")?;
        }
        if let Some(command) = unsent_command.take_if(|_| *is_connected) {
            websocket.send(command.as_bytes())?;
        }
        Ok(answer)
    }
}
