//! Publishes through a hub's HTTP API: one keep-alive connection per lane, one request at a time on each.

use std::io;

use mio::{Interest, Poll, Registry, Token};
use serde_json::value::RawValue;

use crate::error::{BenchError, Result, While};
use crate::handshake::{body_line, header};
use crate::outlet::{Answer, Outlet};
use crate::socket::{Socket, SocketOptions};
use crate::target::Target;

/// Where requests go and what they carry besides the publication.
#[derive(Debug, Clone)]
pub(crate) struct ApiDoor {
    /// The server and the path of its publish method.
    pub(crate) target: Target,
    /// Sent as `X-API-Key`.
    pub(crate) key: String,
    /// The channel published to.
    pub(crate) channel: String,
    /// Whom to trust, for https.
    pub(crate) socket: SocketOptions,
}

#[derive(Debug, Default)]
struct Lane {
    socket: Option<Socket>,
    out: Vec<u8>,
    input: Vec<u8>,
    /// The request that is not answered, kept to be sent again when the server had just closed an idle connection.
    request: Option<Vec<u8>>,
    retried: bool,
}

/// The API of a hub as an outlet.
#[derive(Debug)]
pub(crate) struct HttpOutlet {
    door: ApiDoor,
    registry: Registry,
    lanes: Vec<Lane>,
}

impl HttpOutlet {
    /// An outlet whose lanes are tokens 0.. of `poll`. Connections are made when they are needed.
    pub(crate) fn new(door: ApiDoor, lanes: usize, poll: &Poll) -> Result<Self> {
        let registry = poll.registry().try_clone().during(|| "epoll")?;
        Ok(Self { door, registry, lanes: (0..lanes).map(|_| Lane::default()).collect() })
    }

    fn fault(&self, what: &dyn std::fmt::Display) -> BenchError {
        BenchError::Refused(format!("publishing to {}{}: {what}", self.door.target.authority, self.door.target.path))
    }

    fn request(&self, data: &[u8]) -> Vec<u8> {
        let ApiDoor { target: Target { path, authority, .. }, key, channel, .. } = &self.door;
        let channel = serde_json::Value::from(channel.as_str());
        let data = String::from_utf8_lossy(data);
        let body = format!("{{\"channel\":{channel},\"data\":{data}}}");
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn begin(&mut self, number: usize) -> Result<Option<Answer>> {
        let lane = &mut self.lanes[number];
        lane.out = lane.request.clone().unwrap_or_default();
        lane.input.clear();
        if lane.socket.is_none() {
            let opened = Socket::open(&self.door.target, &self.door.socket).and_then(|mut socket| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.registry.register(&mut socket.tcp, Token(number), interest).map(|()| socket)
            });
            // The first writable event sends the request.
            match opened {
                Ok(socket) => lane.socket = Some(socket),
                Err(error) => return Err(self.fault(&error)),
            }
            return Ok(None);
        }
        self.pump(number)
    }

    /// Moves bytes; an answer when one is whole.
    fn pump(&mut self, number: usize) -> Result<Option<Answer>> {
        let lane = &mut self.lanes[number];
        let exchanged = lane.exchange();
        match (read_answer(&lane.input), exchanged) {
            (Some(Ok(answer)), exchanged) => {
                if !matches!(exchanged, Ok(true)) || is_last(&lane.input) {
                    // The server answers so many requests on a connection, and this was the last.
                    lane.socket = None;
                }
                lane.input.clear();
                lane.request = None;
                lane.retried = false;
                Ok(Some(answer))
            }
            (Some(Err(text)), _) => Err(self.fault(&text)),
            (None, Ok(true)) => Ok(None),
            (None, Ok(false)) => self.on_closed(number, None),
            (None, Err(error)) => self.on_closed(number, Some(error)),
        }
    }

    fn on_closed(&mut self, number: usize, error: Option<io::Error>) -> Result<Option<Answer>> {
        let lane = &mut self.lanes[number];
        lane.socket = None;
        if lane.request.is_none() {
            return Ok(None);
        }
        // Servers close idle connections; a request that crossed with that was not looked at and may go out once more.
        if lane.retried || !lane.input.is_empty() {
            return Err(match error {
                Some(error) => self.fault(&error),
                None => self.fault(&"the server closed the connection instead of answering"),
            });
        }
        lane.retried = true;
        self.begin(number)
    }
}

impl Lane {
    /// Writes and reads what can be; false when the server has closed the connection.
    fn exchange(&mut self) -> io::Result<bool> {
        let Some(socket) = &mut self.socket else {
            return Ok(true);
        };
        if !socket.finish()? {
            return Ok(true);
        }
        socket.write_out(&mut self.out)?;
        let mut buffer = [0; 4096];
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        socket.write_out(&mut self.out)?;
        Ok(true)
    }
}

impl Outlet for HttpOutlet {
    fn send(&mut self, lane: usize, data: &[u8]) -> Result<Option<Answer>> {
        self.lanes[lane].request = Some(self.request(data));
        self.begin(lane)
    }

    fn ready(&mut self, token: usize, answers: &mut Vec<(usize, Answer)>) -> Result<()> {
        if token < self.lanes.len() {
            answers.extend(self.pump(token)?.map(|answer| (token, answer)));
        }
        Ok(())
    }
}

/// Whether an answer says that its connection ends with it.
fn is_last(input: &[u8]) -> bool {
    let head = String::from_utf8_lossy(input);
    header(&head, "connection").is_some_and(|value| value.trim().eq_ignore_ascii_case("close"))
}

/// Reads a whole HTTP answer, or `None` when more is to come. What is no 200 ends a run: it is the key or the URL.
fn read_answer(input: &[u8]) -> Option<std::result::Result<Answer, String>> {
    let end = input.windows(4).position(|at| at == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&input[..end]);
    let body = &input[end + 4..];
    let status = head.lines().next().unwrap_or_default();
    let Some(length) = header(&head, "content-length").and_then(|value| value.parse::<usize>().ok()) else {
        return Some(Err(format!("an answer without Content-Length: {status}")));
    };
    if body.len() < length {
        return None;
    }
    if status.split(' ').nth(1) != Some("200") {
        return Some(Err(format!("answered {status}{}", body_line(body))));
    }
    let reply = serde_json::from_slice::<std::collections::HashMap<String, &RawValue>>(body);
    Some(match reply {
        Ok(reply) => match reply.get("error") {
            None => Ok(Answer::Taken),
            Some(error) => Ok(Answer::Refused(error.get().to_owned())),
        },
        Err(_) => Err(format!("answered something that is no JSON object{}", body_line(body))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_and_halves_waited_for() {
        let wire = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let taken = wire("200 OK", r#"{"result":{}}"#);
        assert!(matches!(read_answer(&taken), Some(Ok(Answer::Taken))));
        assert!((0..taken.len()).all(|cut| read_answer(&taken[..cut]).is_none()));
        let refused = wire("200 OK", r#"{"error":{"code":111}}"#);
        assert!(matches!(read_answer(&refused), Some(Ok(Answer::Refused(text))) if text.contains("111")));
        assert!(matches!(read_answer(&wire("401 Unauthorized", "no")), Some(Err(text)) if text.contains("401")));
    }
}
