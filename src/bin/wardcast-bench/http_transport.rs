//! Publishes through a hub's HTTP API: one keep-alive connection per lane, one request at a time on each.

use std::io;

use mio::{Interest, Poll, Registry, Token};
use serde_json::Value;

use crate::error::{BenchError, IoContext, Result};
use crate::publish_transport::{PublishAnswer, PublishTransport};
use crate::socket::{ClientSocket, SocketOptions};
use crate::target_url::TargetUrl;
use crate::upgrade::{first_body_line, header_value};

/// Where requests go and what they carry besides the publication.
#[derive(Debug, Clone)]
pub(crate) struct ApiEndpoint {
    /// The server and the path of its publish method.
    pub(crate) target: TargetUrl,
    /// Sent as `X-API-Key`.
    pub(crate) key: String,
    /// The method called.
    pub(crate) method: PublishMethod,
    /// The channels published to, in turns.
    pub(crate) channels: Vec<String>,
    /// Whom to trust, for https.
    pub(crate) socket: SocketOptions,
}

/// A method of the server API that publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishMethod {
    /// One publication.
    Publish,
    /// So many.
    Batch(u32),
    /// One to every channel.
    Broadcast,
}

impl PublishMethod {
    /// Its path.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Publish => "/api/publish",
            Self::Batch(_) => "/api/batch",
            Self::Broadcast => "/api/broadcast",
        }
    }
}

impl ApiEndpoint {
    /// How many publications a call has.
    pub(crate) fn publications(&self) -> u32 {
        match self.method {
            PublishMethod::Publish => 1,
            PublishMethod::Batch(count) => count,
            PublishMethod::Broadcast => u32::try_from(self.channels.len()).unwrap_or(u32::MAX),
        }
    }

    /// The body of a call; `turn` is the number of the next channel.
    fn body(&self, data: &[u8], next_channel: &mut usize) -> String {
        let data = String::from_utf8_lossy(data);
        let mut publication = || {
            let channel = serde_json::Value::from(self.channels[*next_channel % self.channels.len()].as_str());
            *next_channel += 1;
            format!("{{\"channel\":{channel},\"data\":{data}}}")
        };
        match self.method {
            PublishMethod::Publish => publication(),
            PublishMethod::Batch(count) => {
                let commands: Vec<String> = (0..count).map(|_| format!("{{\"publish\":{}}}", publication())).collect();
                format!("{{\"commands\":[{}]}}", commands.join(","))
            }
            PublishMethod::Broadcast => {
                let channels = serde_json::Value::from(self.channels.as_slice());
                format!("{{\"channels\":{channels},\"data\":{data}}}")
            }
        }
    }
}

#[derive(Debug, Default)]
struct HttpConnection {
    socket: Option<ClientSocket>,
    out: Vec<u8>,
    input: Vec<u8>,
    /// The request that is not answered, kept to be sent again when the server had just closed an idle connection.
    request: Option<Vec<u8>>,
    retried: bool,
}

/// The API of a hub as an outlet.
#[derive(Debug)]
pub(crate) struct HttpTransport {
    endpoint: ApiEndpoint,
    registry: Registry,
    connections: Vec<HttpConnection>,
    /// The number of the next channel.
    next_channel: usize,
}

impl HttpTransport {
    /// An outlet whose lanes are tokens 0.. of `poll`. Connections are made when they are needed.
    pub(crate) fn new(endpoint: ApiEndpoint, connections: usize, poll: &Poll) -> Result<Self> {
        let registry = poll.registry().try_clone().context(|| "epoll")?;
        Ok(Self {
            endpoint,
            registry,
            connections: (0..connections).map(|_| HttpConnection::default()).collect(),
            next_channel: 0,
        })
    }

    fn error_at(&self, what: &dyn std::fmt::Display) -> BenchError {
        BenchError::Failed(format!(
            "publishing to {}{}: {what}",
            self.endpoint.target.authority, self.endpoint.target.path
        ))
    }

    fn request(&mut self, data: &[u8]) -> Vec<u8> {
        let body = self.endpoint.body(data, &mut self.next_channel);
        let ApiEndpoint { target: TargetUrl { path, authority, .. }, key, .. } = &self.endpoint;
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn send_request(&mut self, index: usize) -> Result<Option<PublishAnswer>> {
        let connection = &mut self.connections[index];
        connection.out = connection.request.clone().unwrap_or_default();
        connection.input.clear();
        if connection.socket.is_none() {
            let opened = ClientSocket::open(&self.endpoint.target, &self.endpoint.socket).and_then(|mut socket| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.registry.register(&mut socket.tcp, Token(index), interest).map(|()| socket)
            });
            // The first writable event sends the request.
            match opened {
                Ok(socket) => connection.socket = Some(socket),
                Err(error) => return Err(self.error_at(&error)),
            }
            return Ok(None);
        }
        self.on_ready(index)
    }

    /// Moves bytes; an answer when one is whole.
    fn on_ready(&mut self, index: usize) -> Result<Option<PublishAnswer>> {
        let publications = self.endpoint.publications();
        let connection = &mut self.connections[index];
        let exchanged = connection.exchange();
        match (read_answer(&connection.input, publications), exchanged) {
            (Some(Ok(answer)), exchanged) => {
                if !matches!(exchanged, Ok(true)) || is_connection_close(&connection.input) {
                    // The server answers so many requests on a connection, and this was the last.
                    connection.socket = None;
                }
                connection.input.clear();
                connection.request = None;
                connection.retried = false;
                Ok(Some(answer))
            }
            (Some(Err(text)), _) => Err(self.error_at(&text)),
            (None, Ok(true)) => Ok(None),
            (None, Ok(false)) => self.on_closed(index, None),
            (None, Err(error)) => self.on_closed(index, Some(error)),
        }
    }

    fn on_closed(&mut self, index: usize, error: Option<io::Error>) -> Result<Option<PublishAnswer>> {
        let connection = &mut self.connections[index];
        connection.socket = None;
        if connection.request.is_none() {
            return Ok(None);
        }
        // Servers close idle connections; a request that crossed with that was not looked at and may go out once more.
        if connection.retried || !connection.input.is_empty() {
            return Err(match error {
                Some(error) => self.error_at(&error),
                None => self.error_at(&"the server closed the connection instead of answering"),
            });
        }
        connection.retried = true;
        self.send_request(index)
    }
}

impl HttpConnection {
    /// Writes and reads what can be; false when the server has closed the connection.
    fn exchange(&mut self) -> io::Result<bool> {
        let Some(socket) = &mut self.socket else {
            return Ok(true);
        };
        if !socket.is_connected()? {
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

impl PublishTransport for HttpTransport {
    fn send(&mut self, index: usize, data: &[u8]) -> Result<Option<PublishAnswer>> {
        self.connections[index].request = Some(self.request(data));
        self.send_request(index)
    }

    fn ready(&mut self, token: usize, answers: &mut Vec<(usize, PublishAnswer)>) -> Result<()> {
        if token < self.connections.len() {
            answers.extend(self.on_ready(token)?.map(|answer| (token, answer)));
        }
        Ok(())
    }
}

/// Whether an answer says that its connection ends with it.
fn is_connection_close(input: &[u8]) -> bool {
    let head = String::from_utf8_lossy(input);
    header_value(&head, "connection").is_some_and(|value| value.trim().eq_ignore_ascii_case("close"))
}

/// Reads a whole HTTP answer to a call of so many publications, or `None` when more is to come. What is neither 200 nor a
/// passing refusal ends a run: it is the key or the URL.
fn read_answer(input: &[u8], publications: u32) -> Option<std::result::Result<PublishAnswer, String>> {
    let end = input.windows(4).position(|at| at == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&input[..end]);
    let body = &input[end + 4..];
    let status = head.lines().next().unwrap_or_default();
    let Some(length) = header_value(&head, "content-length").and_then(|value| value.parse::<usize>().ok()) else {
        return Some(Err(format!("an answer without Content-Length: {status}")));
    };
    if body.len() < length {
        return None;
    }
    Some(match status.split(' ').nth(1) {
        Some("200") => read_replies(body, publications),
        Some("429" | "503") => Ok(PublishAnswer::refused(format!("answered {status}{}", first_body_line(body)))),
        _ => Err(format!("answered {status}{}", first_body_line(body))),
    })
}

/// Errors are looked for only where there are any: most answers have none, and this program's time is the hub's.
fn read_replies(body: &[u8], publications: u32) -> std::result::Result<PublishAnswer, String> {
    const ERROR: &[u8] = b"\"error\"";
    let none = || format!("answered something that is no JSON object{}", first_body_line(body));
    if !body.starts_with(b"{") {
        return Err(none());
    }
    if !body.windows(ERROR.len()).any(|at| at == ERROR) {
        return Ok(PublishAnswer::accepted(publications));
    }
    let reply: Value = serde_json::from_slice(body).map_err(|_| none())?;
    let error = |reply: &Value| reply.get("error").map(Value::to_string);
    let replies = reply.get("replies").or_else(|| reply.pointer("/result/responses"));
    let refused = match (error(&reply), replies.and_then(Value::as_array)) {
        (Some(error), _) => vec![error; publications as usize],
        (None, replies) => replies.into_iter().flatten().filter_map(error).collect(),
    };
    Ok(PublishAnswer {
        accepted: publications.saturating_sub(u32::try_from(refused.len()).unwrap_or(u32::MAX)),
        refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn responses_are_classified_and_incomplete_ones_awaited() {
        let accepted = wire("200 OK", r#"{"result":{}}"#);
        assert_eq!(read_answer(&accepted, 1), Some(Ok(PublishAnswer::accepted(1))));
        assert!((0..accepted.len()).all(|cut| read_answer(&accepted[..cut], 1).is_none()));
        let refused = wire("200 OK", r#"{"error":{"code":111}}"#);
        assert_eq!(read_answer(&refused, 1), Some(Ok(PublishAnswer::refused(r#"{"code":111}"#))));
        assert!(matches!(read_answer(&wire("401 Unauthorized", "no"), 1), Some(Err(text)) if text.contains("401")));
        assert!(matches!(read_answer(&wire("503 Full", ""), 1), Some(Ok(PublishAnswer { accepted: 0, .. }))));
        assert!(matches!(read_answer(&wire("200 OK", "<html>"), 1), Some(Err(_))));
    }

    #[test]
    fn each_publication_of_a_batch_or_broadcast_is_counted() {
        let batch = wire("200 OK", r#"{"replies":[{"publish":{}},{"error":{"code":106}},{"publish":{}}]}"#);
        let some = PublishAnswer { accepted: 2, refused: vec![r#"{"code":106}"#.to_owned()] };
        assert_eq!(read_answer(&batch, 3), Some(Ok(some)));
        let broadcast = wire("200 OK", r#"{"result":{"responses":[{"result":{}},{"error":{"code":111}}]}}"#);
        let some = PublishAnswer { accepted: 1, refused: vec![r#"{"code":111}"#.to_owned()] };
        assert_eq!(read_answer(&broadcast, 2), Some(Ok(some)));
    }
}
