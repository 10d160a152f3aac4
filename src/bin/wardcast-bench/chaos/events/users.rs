//! The users: each has one session after the other, on each hub in turn, and notes when it began and ended.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use actix_http::ws::OpCode;
use bytes::{Buf, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{BenchError, Context, Result, fail};
use crate::websocket::{CONNECT_ID, split_frame, write_frame};

use super::super::subscriber::open;

/// How long a session lasts.
const SESSION_TIME: Duration = Duration::from_secs(1);
/// How long a user waits before its next session: longer than events take from the nodes to the outbox, even on a busy machine, where
/// events of different nodes meet.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a connection may take to open or to close.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The close frame of a client that leaves: status 1000.
const NORMAL_CLOSE: [u8; 2] = 1000_u16.to_be_bytes();

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Its id.
    pub(super) client: String,
    /// The index of its hub.
    pub(super) hub: usize,
    /// When it began.
    pub(super) begun_at: Instant,
}

/// All users. They end with this value.
pub(super) struct Users {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Users {
    /// Lets users with these tokens begin their sessions, and appends these to `sessions`.
    pub(super) fn start(hubs: &[SocketAddr], tokens: Vec<String>, sessions: Rc<RefCell<Vec<Session>>>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let hubs: Rc<[SocketAddr]> = hubs.into();
        let count = tokens.len().max(1) as u32;
        for (user, token) in tokens.into_iter().enumerate() {
            let user_state =
                User { user, token, hubs: hubs.clone(), sessions: sessions.clone(), stop: stopped.clone() };
            // Not all at once.
            let delay = (SESSION_TIME + PAUSE) * user as u32 / count;
            tasks.spawn_local(async move {
                sleep(delay).await;
                user_state.run().await;
            });
        }
        Self { stop, tasks }
    }

    /// Lets all users end their sessions, and waits until they have.
    pub(super) async fn stop(mut self) {
        _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct User {
    user: usize,
    token: String,
    hubs: Rc<[SocketAddr]>,
    sessions: Rc<RefCell<Vec<Session>>>,
    stop: watch::Receiver<bool>,
}

impl User {
    async fn run(mut self) {
        let mut turn = self.user;
        while !*self.stop.borrow() {
            // A hub that is down, or goes down, is an event of the run; the user goes to the next one.
            _ = self.have_session(turn % self.hubs.len()).await;
            turn += 1;
            sleep(PAUSE).await;
        }
    }

    /// Begins a session on a hub, waits, and ends it.
    ///
    /// # Errors
    /// The hub does not listen, or the connection has ended.
    async fn have_session(&mut self, hub: usize) -> Result<()> {
        let timed_out = |_| BenchError("timed out".to_owned());
        let (mut stream, mut bytes) = timeout(TIMEOUT, open(self.hubs[hub])).await.map_err(timed_out)??;
        let mut out = BytesMut::new();
        let connect = json!({"id": CONNECT_ID, "connect": {"token": self.token}});
        write_frame(&mut out, OpCode::Text, connect.to_string().as_bytes());
        stream.write_all_buf(&mut out).await.context("connecting")?;
        let client = timeout(TIMEOUT, async {
            loop {
                if let Some(client) = take_client(&mut bytes)? {
                    return Ok(client);
                }
                if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                    return fail("connection lost");
                }
            }
        });
        let client = client.await.map_err(timed_out)??;
        self.sessions.borrow_mut().push(Session { client, hub, begun_at: Instant::now() });
        // Shorter than the ping interval, so nothing has to be answered.
        tokio::select! {
            () = sleep(SESSION_TIME) => {}
            _ = self.stop.wait_for(|is_stopped| *is_stopped) => {}
        }
        write_frame(&mut out, OpCode::Close, &NORMAL_CLOSE);
        stream.write_all_buf(&mut out).await.context("closing")?;
        let closed = timeout(TIMEOUT, async { while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {} });
        closed.await.map_err(timed_out)
    }
}

/// Returns the client id in the reply to the connect command, once it is there.
fn take_client(bytes: &mut BytesMut) -> Result<Option<String>> {
    while let Some((opcode, payload, length)) = split_frame(bytes, false)? {
        let reply: Value = match opcode {
            OpCode::Text => serde_json::from_slice(payload).unwrap_or_default(),
            OpCode::Close => return fail("closed"),
            _ => Value::Null,
        };
        bytes.advance(length);
        if let Some(client) = reply.pointer("/connect/client").and_then(Value::as_str) {
            return Ok(Some(client.to_owned()));
        }
    }
    Ok(None)
}
