//! The backend: an HTTP server that accepts all events, and that can be down. While it is down, its port refuses connections.

use std::{cell::RefCell, net::Ipv4Addr, rc::Rc};

use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::Instant;

use crate::child_process::free_port;
use crate::error::{BenchError, Context, Result, fail};

/// Maximum bytes of the head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
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

/// Takes the first request out of what was received, and returns its body. `None`: it is incomplete.
fn take_request(bytes: &mut BytesMut) -> Result<Option<Vec<u8>>> {
    let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        return if bytes.len() > MAX_HEAD_BYTES { fail("a request without the end of its head") } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..head]).context("a request that is not text")?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| BenchError("a request without a length".to_owned()))?;
    let body = head + 4;
    if bytes.len() < body + length {
        return Ok(None);
    }
    bytes.advance(body);
    Ok(Some(bytes.split_to(length).to_vec()))
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
    fn requests_are_taken_one_by_one_once_they_are_complete() {
        let mut bytes = BytesMut::from("POST / HTTP/1.1\r\nCONTENT-LENGTH: 3\r\n\r\nab");
        assert_eq!(take_request(&mut bytes).unwrap(), None);
        bytes.extend_from_slice(b"cPOST /");
        assert_eq!(take_request(&mut bytes).unwrap().as_deref(), Some(b"abc".as_slice()));
        assert_eq!(bytes, "POST /");
        assert!(take_request(&mut BytesMut::from("POST / HTTP/1.1\r\n\r\n")).is_err());
    }

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
