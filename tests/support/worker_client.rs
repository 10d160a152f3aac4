//! The client's end of a plain session of a [`Worker`](super::slow_broker::Worker).

use actix::prelude::*;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};
use wardcast::hub::SessionControl;

use super::{PATIENCE, SECRET, mark_secret, slow_broker::Worker};

impl Worker {
    /// A token with these claims for user ann; a number for a date counts from now.
    pub fn token(&self, mut claims: Value) -> String {
        claims["sub"] = json!("ann");
        claims["exp"] = json!(self.clock.now().unix_seconds() + claims["exp"].as_i64().unwrap_or(3600));
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        mark_secret(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap())
    }
}

pub(super) async fn connected_sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Ignores what a session would be asked to do.
pub(super) struct SessionStub;

impl Actor for SessionStub {
    type Context = Context<Self>;
}

impl Handler<SessionControl> for SessionStub {
    type Result = ();

    fn handle(&mut self, _: SessionControl, _: &mut Self::Context) {}
}

/// The client's end of a plain session.
pub struct Client(pub(super) WebSocketStream<TcpStream>);

impl Client {
    pub async fn send(&mut self, commands: &[Value]) {
        let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
        self.0.send(Message::text(lines.join("\n"))).await.unwrap();
    }

    /// Sends commands in a frame each, in one write.
    pub async fn send_in_frames(&mut self, commands: &[Value]) {
        for command in commands {
            self.0.feed(Message::text(command.to_string())).await.unwrap();
        }
        self.0.flush().await.unwrap();
    }

    /// Sends a command and, in the same write, the first frame of another message.
    pub async fn send_with_beginning(&mut self, command: Value, beginning: &str) {
        self.0.feed(Message::text(command.to_string())).await.unwrap();
        self.send_part(beginning, OpCode::Data(Data::Text), false).await;
    }

    /// Sends the last frame of that message.
    pub async fn send_rest(&mut self, rest: &str) {
        self.send_part(rest, OpCode::Data(Data::Continue), true).await;
    }

    async fn send_part(&mut self, text: &str, opcode: OpCode, is_final: bool) {
        let frame = Frame::message(text.to_owned(), opcode, is_final);
        self.0.send(Message::Frame(frame)).await.unwrap();
    }

    /// The next frame with one reply or push.
    pub async fn receive(&mut self) -> Value {
        match timeout(PATIENCE, self.0.next()).await.expect("a message in time").unwrap().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for so many pings. Each is answered when the next frame is read or written.
    pub async fn wait_for_pings(&mut self, count: usize) {
        for _ in 0..count {
            let frame = timeout(PATIENCE, self.0.next()).await.expect("a ping in time").unwrap().unwrap();
            assert!(matches!(frame, Message::Ping(_)), "{frame:?}");
        }
    }

    /// Reads, without answering pings any more, until the connection is closed with this code.
    pub async fn wait_for_close_without_pongs(self, code: u16) {
        let (mut socket, mut received) = (self.0.into_inner(), Vec::new());
        let [high, low] = code.to_be_bytes();
        let closed = async {
            while !received.windows(4).any(|bytes| bytes[0] == 0x88 && bytes[2..] == [high, low]) {
                let read = socket.read_buf(&mut received).await.unwrap();
                assert!(read > 0, "the connection ended without a close frame");
            }
        };
        timeout(PATIENCE, closed).await.expect("closed in time");
    }

    /// The code with which the connection is closed; the text that is sent before, if there is any.
    pub async fn next_close(&mut self) -> Result<u16, String> {
        match timeout(PATIENCE, self.0.next()).await.expect("a message in time").unwrap().unwrap() {
            Message::Close(Some(frame)) => Ok(frame.code.into()),
            other => Err(other.to_string()),
        }
    }

    /// The code with which the connection is closed, whatever is sent before.
    pub async fn wait_for_close(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("a message in time").unwrap().unwrap() {
                Message::Close(Some(frame)) => return frame.code.into(),
                Message::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
