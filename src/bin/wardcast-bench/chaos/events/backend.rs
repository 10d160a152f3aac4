//! The backend: an HTTP server that accepts all events, and that can be down. While it is down, its port refuses connections.

use std::{cell::RefCell, net::Ipv4Addr, rc::Rc};

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::Instant;

use crate::child_process::free_port;
use crate::error::{BenchError, Context, Result};
use crate::http::take_request;

/// The answer to every call.
const ACCEPTED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// An event, as it was received.
#[derive(Clone, Debug)]
pub(super) struct ReceivedEvent {
    /// Its id.
    pub(super) id: String,
    /// Whether it tells the begin of a session, not the end.
    pub(super) is_begin: bool,
    /// The session.
    pub(super) client: String,
    /// Its user.
    pub(super) user: String,
    /// When it happened, in milliseconds since 1970. All nodes of a run have the same clock.
    pub(super) time: u64,
    /// Whether another node sent it, because the node of the session was lost.
    pub(super) is_of_lost_node: bool,
}

/// What the backend has received.
#[derive(Default)]
pub(super) struct EventLog {
    /// In the order in which it was accepted.
    pub(super) events: Vec<ReceivedEvent>,
    /// When the newest one was accepted.
    pub(super) last_at: Option<Instant>,
    /// Calls that could not be understood.
    pub(super) malformed: Vec<String>,
}

/// The backend. It ends with this value.
pub(super) struct Backend {
    /// Its port on loopback.
    pub(super) port: u16,
    /// What it has received.
    pub(super) log: Rc<RefCell<EventLog>>,
    /// The listener and all connections; empty while the backend is down.
    tasks: JoinSet<()>,
}

impl Backend {
    /// A backend that is down.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { port: free_port()?, log: Rc::default(), tasks: JoinSet::new() })
    }

    /// Starts to listen.
    pub(super) async fn start(&mut self) -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await;
        let listener = listener.context(format_args!("listening at port {} again", self.port))?;
        let log = self.log.clone();
        self.tasks.spawn_local(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn_local(serve(stream, log.clone()));
            }
        });
        Ok(())
    }

    /// Closes the port and all connections, also those on which a call is being answered.
    pub(super) async fn stop(&mut self) {
        self.tasks.shutdown().await;
        // The connections of the listener end when they are polled once more.
        _ = spawn_local(async {}).await;
    }
}

/// Answers the calls of a connection.
async fn serve(mut stream: TcpStream, log: Rc<RefCell<EventLog>>) {
    let mut bytes = BytesMut::new();
    loop {
        match take_request(&mut bytes) {
            Ok(Some(body)) => {
                record(&log, &body);
                if stream.write_all(ACCEPTED).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                    return;
                }
            }
            Err(BenchError(error)) => return log.borrow_mut().malformed.push(error),
        }
    }
}

/// Records the events of a call.
fn record(log: &RefCell<EventLog>, body: &[u8]) {
    let call: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut log = log.borrow_mut();
    let events: Option<Vec<ReceivedEvent>> =
        call["events"].as_array().and_then(|events| events.iter().map(parse).collect());
    match events {
        Some(events) => log.events.extend(events),
        None => log.malformed.push(format!("a call without events: {}", String::from_utf8_lossy(body))),
    }
    log.last_at = Some(Instant::now());
}

fn parse(event: &Value) -> Option<ReceivedEvent> {
    let text = |name: &str| event[name].as_str().map(str::to_owned);
    let is_begin = match event["type"].as_str()? {
        "connect" => true,
        "disconnect" => false,
        _ => return None,
    };
    let is_of_lost_node = event["reason"] == "the node was lost";
    let time = event["time"].as_u64()?;
    Some(ReceivedEvent {
        id: text("id")?,
        is_begin,
        client: text("client")?,
        user: text("user")?,
        time,
        is_of_lost_node,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_is_recorded_whole_or_reported() {
        let log = RefCell::new(EventLog::default());
        let event = r#"{"id":"1","type":"disconnect","client":"c","user":"ann","time":1,"reason":"the node was lost"}"#;
        record(&log, format!("{{\"events\":[{event}]}}").as_bytes());
        record(&log, br#"{"events":[{"id":"2","type":"vacated"}]}"#);
        let log = log.borrow();
        assert_eq!((log.events.len(), log.malformed.len()), (1, 1));
        assert!(!log.events[0].is_begin && log.events[0].is_of_lost_node);
    }
}
