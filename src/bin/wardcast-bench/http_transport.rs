//! Publishes through the server API of a hub: one keep-alive connection per publisher, with one request at a time.

use mio::event::Event;
use mio::{Registry, Token};
use serde_json::Value;

use crate::connection::{Connection, ReadBuffer};
use crate::error::{Context, Result, fail};
use crate::http::{Response, quote};
use crate::load_driver::{PublishAnswer, PublishTransport};
use crate::{connection::SocketOptions, target_url::TargetUrl};

/// A method of the server API that publishes.
#[derive(Clone, Copy)]
pub(crate) enum PublishMethod {
    /// One publication.
    Publish,
    /// Several publications.
    Batch,
    /// One publication to every channel.
    Broadcast,
}

impl PublishMethod {
    /// The path of the method.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Publish => "/api/publish",
            Self::Batch => "/api/batch",
            Self::Broadcast => "/api/broadcast",
        }
    }
}

/// The connection of one publisher.
#[derive(Default)]
pub(crate) struct HttpConnection {
    connection: Option<Connection>,
    /// The unanswered request, kept to be sent again if the server had just closed an idle connection.
    request: Option<Vec<u8>>,
    was_retried: bool,
}

/// The server API as a transport. Publishers connect when they first publish.
pub(crate) struct HttpTransport {
    /// The server and the path of the method.
    pub(crate) target: TargetUrl,
    /// With a TLS configuration, for https.
    pub(crate) socket_options: SocketOptions,
    /// Sent as `X-API-Key`.
    pub(crate) key: String,
    /// The method.
    pub(crate) method: PublishMethod,
    /// How many publications a call has.
    pub(crate) publications: u32,
    /// The channels to publish to, in turns.
    pub(crate) channels: Vec<String>,
    /// Where connections are registered.
    pub(crate) registry: Registry,
    /// The publishers.
    pub(crate) publishers: Vec<HttpConnection>,
    /// Counts the turns of the channels.
    pub(crate) next_channel: usize,
}

impl HttpTransport {
    /// A request that publishes `data`.
    fn request(&mut self, data: &[u8]) -> Vec<u8> {
        let Self { target: TargetUrl { path, authority, .. }, key, channels, next_channel, .. } = self;
        let data = String::from_utf8_lossy(data);
        let mut publication = || {
            let channel = Value::from(channels[*next_channel % channels.len()].as_str());
            *next_channel += 1;
            format!("{{\"channel\":{channel},\"data\":{data}}}")
        };
        let body = match self.method {
            PublishMethod::Publish => publication(),
            PublishMethod::Batch => {
                let commands = (0..self.publications).map(|_| format!("{{\"publish\":{}}}", publication()));
                format!("{{\"commands\":[{}]}}", commands.collect::<Vec<String>>().join(","))
            }
            PublishMethod::Broadcast => {
                format!("{{\"channels\":{},\"data\":{data}}}", Value::from(channels.as_slice()))
            }
        };
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Sends the unanswered request of a publisher.
    fn send_request(&mut self, number: usize) -> Result<()> {
        let HttpConnection { connection, request, .. } = &mut self.publishers[number];
        let request = request.as_deref().unwrap_or_default();
        if let Some(connection) = connection {
            connection.out.extend_from_slice(request);
            // If the server has closed the connection, its event follows, and the request is sent again.
            let _ = connection.flush();
        } else {
            let event_source = (&self.registry, Token(number));
            let opened = Connection::open(&self.target, &self.socket_options, request, event_source);
            *connection = Some(opened.context("connecting")?);
        }
        Ok(())
    }

    /// Writes and reads as much as the socket of a publisher allows. Returns the answer, if one came.
    fn exchange(&mut self, number: usize, event: &Event, buffer: &mut ReadBuffer) -> Result<Option<PublishAnswer>> {
        let publisher = &mut self.publishers[number];
        let Some(connection) = &mut publisher.connection else { return Ok(None) };
        let (mut answer, mut is_last) = (None, false);
        let outcome = connection.on_ready(buffer, event.is_read_closed(), |bytes, _, _| {
            let Some(response) = Response::parse(bytes, false)? else { return Ok(0) };
            answer = Some(read_answer(&response, self.publications));
            // The server answers a limited number of requests on a connection.
            is_last = response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            Ok(response.length)
        });
        let is_open = matches!(outcome, Ok(true));
        let has_partial = !connection.partial.is_empty();
        if !is_open || is_last {
            publisher.connection = None;
        }
        if let Some(answer) = answer {
            (publisher.request, publisher.was_retried) = (None, false);
            return answer.map(Some);
        }
        if is_open || publisher.request.is_none() {
            return Ok(None);
        }
        // A server closes idle connections. It has not read a request that was sent at the same moment, so send it again.
        if publisher.was_retried || has_partial {
            outcome?;
            return fail("the server closed the connection instead of answering");
        }
        publisher.was_retried = true;
        self.send_request(number).map(|()| None)
    }
}

impl PublishTransport for HttpTransport {
    fn send(&mut self, publisher: usize, data: &[u8]) -> Result<Option<PublishAnswer>> {
        self.publishers[publisher].request = Some(self.request(data));
        self.send_request(publisher).context(format_args!("publishing to {}", self.target.authority)).map(|()| None)
    }

    fn on_event(&mut self, event: &Event, buffer: &mut ReadBuffer) -> Result<Option<PublishAnswer>> {
        let answer = self.exchange(event.token().0, event, buffer);
        answer.context(format_args!("publishing to {}{}", self.target.authority, self.target.path))
    }
}

/// Reads the response to a call of this many publications. A refusal that may pass is an answer.
///
/// # Errors
/// A response that ends a run, since it would come again: the key or the URL is wrong.
fn read_answer(response: &Response<'_>, publications: u32) -> Result<PublishAnswer> {
    const ERROR: &[u8] = b"\"error\"";
    match response.code() {
        _ if response.header("content-length").is_none() => {
            return fail(format!("{} without Content-Length", response.quote()));
        }
        "200" => {}
        "429" | "503" => return Ok(PublishAnswer { accepted: 0, refused: vec![response.quote()] }),
        _ => return fail(response.quote()),
    }
    // Most responses have no error, so they are not parsed: the time of this program is not the hub's.
    if response.body.starts_with(b"{") && !response.body.windows(ERROR.len()).any(|at| at == ERROR) {
        return Ok(PublishAnswer { accepted: publications, refused: Vec::new() });
    }
    let reply: Value = serde_json::from_slice(response.body)
        .context(format_args!("answered something that is not JSON: {}", quote(response.body)))?;
    let error = |reply: &Value| reply.get("error").map(Value::to_string);
    let replies = reply.get("replies").or_else(|| reply.pointer("/result/responses")).and_then(Value::as_array);
    let refused = match error(&reply) {
        Some(error) => vec![error; publications as usize],
        None => replies.into_iter().flatten().filter_map(error).collect(),
    };
    Ok(PublishAnswer { accepted: publications.saturating_sub(refused.len() as u32), refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, body: &str, publications: u32) -> Result<PublishAnswer> {
        let wire = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert!((0..wire.len()).all(|cut| Response::parse(&wire.as_bytes()[..cut], false).unwrap().is_none()));
        read_answer(&Response::parse(wire.as_bytes(), false).unwrap().unwrap(), publications)
    }

    fn mixed(accepted: u32, codes: &[u32]) -> Result<PublishAnswer> {
        Ok(PublishAnswer { accepted, refused: codes.iter().map(|code| format!("{{\"code\":{code}}}")).collect() })
    }

    #[test]
    fn responses_are_classified_and_incomplete_ones_awaited() {
        assert_eq!(answer("200 OK", r#"{"result":{}}"#, 1), mixed(1, &[]));
        assert_eq!(answer("200 OK", r#"{"error":{"code":111}}"#, 1), mixed(0, &[111]));
        assert!(answer("401 Unauthorized", "no", 1).is_err_and(|error| error.0.contains("401")));
        assert!(answer("503 Full", "", 1).is_ok_and(|answer| answer.accepted == 0));
        assert!(answer("200 OK", "<html>", 1).is_err());
    }

    #[test]
    fn each_publication_of_a_batch_or_broadcast_is_counted() {
        let batch = r#"{"replies":[{"publish":{}},{"error":{"code":106}},{"publish":{}}]}"#;
        assert_eq!(answer("200 OK", batch, 3), mixed(2, &[106]));
        let broadcast = r#"{"result":{"responses":[{"result":{}},{"error":{"code":111}}]}}"#;
        assert_eq!(answer("200 OK", broadcast, 2), mixed(1, &[111]));
    }
}
