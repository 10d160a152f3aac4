//! Minimal HTTP/1.1: reads whole responses, for the WebSocket upgrade and for the server API, and whole requests, for backends.

use bytes::{Buf, BytesMut};

use crate::error::{BenchError, Context, Result, fail};
use crate::target_url::TargetUrl;

/// A key need be neither secret nor new: it only proves that the server speaks WebSocket (the example of RFC 6455 §1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The `Sec-WebSocket-Accept` that follows from that key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The longest head of a response or a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How much of a response's body an error message quotes.
const QUOTED_CHARS: usize = 300;

/// The request that upgrades a connection to `target`, with a token in the query, if there is one.
pub(crate) fn upgrade_request(target: &TargetUrl, token: Option<&str>, offers_deflate: bool) -> Vec<u8> {
    let TargetUrl { path, authority, .. } = target;
    let separator = if path.contains('?') { '&' } else { '?' };
    let query = token.map(|token| format!("{separator}token={token}")).unwrap_or_default();
    let extensions = if offers_deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    format!(
        "GET {path}{query} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n"
    )
    .into_bytes()
}

/// The request for an event stream of `target`'s hub, with the commands that a client sends first.
pub(crate) fn event_stream_request(target: &TargetUrl, token: &str, commands: &str) -> Vec<u8> {
    let authority = &target.authority;
    let commands = percent_encoding::utf8_percent_encode(commands, percent_encoding::NON_ALPHANUMERIC);
    format!("GET /connection/sse?token={token}&cf_connect={commands} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
        .into_bytes()
}

/// Checks the head of an event stream and returns its length, or `None` if it is incomplete.
///
/// # Errors
/// The response, if it is not a 200.
pub(crate) fn check_event_stream(bytes: &[u8], is_ended: bool) -> Result<Option<usize>> {
    match Response::parse(bytes, is_ended)? {
        None => Ok(None),
        Some(response) if response.code() != "200" => fail(response.quote()),
        Some(response) => Ok(Some(response.length - response.body.len())),
    }
}

/// Checks the response to an upgrade request and returns its length, or `None` if it is incomplete.
///
/// # Errors
/// The response, if it is not a 101 with the right `Sec-WebSocket-Accept`.
pub(crate) fn check_upgrade(bytes: &[u8], is_ended: bool) -> Result<Option<usize>> {
    match Response::parse(bytes, is_ended)? {
        None => Ok(None),
        Some(response) if response.code() != "101" => fail(response.quote()),
        Some(response) => match response.header("sec-websocket-accept") {
            Some(ACCEPT) => Ok(Some(response.length)),
            accept => {
                fail(format!("answered 101 with a wrong Sec-WebSocket-Accept ({:?})", accept.unwrap_or_default()))
            }
        },
    }
}

/// A response.
pub(crate) struct Response<'a> {
    head: &'a str,
    /// The body.
    pub(crate) body: &'a [u8],
    /// The bytes of head and body together.
    pub(crate) length: usize,
}

impl<'a> Response<'a> {
    /// Parses the response that `bytes` begin with, or returns `None` if it is incomplete and the stream has not ended.
    pub(crate) fn parse(bytes: &'a [u8], is_ended: bool) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|at| at == b"\r\n\r\n") else {
            return if bytes.len() > MAX_HEAD_BYTES { fail("answered a head without end") } else { Ok(None) };
        };
        let head = std::str::from_utf8(&bytes[..end]).context("answered a head that is not UTF-8")?;
        let mut response = Self { head, body: &bytes[end + 4..], length: 0 };
        // Without a length the body is all that follows, but a 101 has none.
        let length = match response.code() {
            "101" => 0,
            _ => {
                response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(response.body.len())
            }
        };
        if length > response.body.len() && !is_ended {
            return Ok(None);
        }
        response.body = &response.body[..length.min(response.body.len())];
        response.length = end + 4 + response.body.len();
        Ok(Some(response))
    }

    /// The status code.
    pub(crate) fn code(&self) -> &'a str {
        self.head.split([' ', '\r']).nth(1).unwrap_or_default()
    }

    /// The value of a header; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Status and first line of the body, for an error message. Without the id of the request, so that equal errors are equal.
    pub(crate) fn quote(&self) -> String {
        let status = self.head.lines().next().unwrap_or_default();
        let line = self.body.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
        let id = line.windows(REQUEST_ID.len()).position(|window| window == REQUEST_ID);
        let body = id.map_or_else(|| quote(line), |start| format!("{}}}", quote(&line[..start])));
        format!("answered {status}{}{body}", if body.is_empty() { "" } else { ": " })
    }
}

/// Takes the first request out of what was received, and returns its body. `None`: it is incomplete.
pub(crate) fn take_request(bytes: &mut BytesMut) -> Result<Option<Vec<u8>>> {
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

/// What begins the id of the request, the last member of an error body.
const REQUEST_ID: &[u8] = b",\"request\":";

/// The beginning of a text from the server, for an error message.
pub(crate) fn quote(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().chars().take(QUOTED_CHARS).collect()
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
    fn upgrade_response_is_measured_and_an_incomplete_one_awaited() {
        let wire = format!("HTTP/1.1 101 Switching Protocols\r\nSEC-websocket-Accept: {ACCEPT}\r\n\r\nmore");
        let end = wire.len() - 4;
        assert!((0..end).all(|cut| check_upgrade(&wire.as_bytes()[..cut], false) == Ok(None)));
        assert_eq!(check_upgrade(wire.as_bytes(), false), Ok(Some(end)));
        assert!(check_upgrade(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n", false).is_err());
    }

    #[test]
    fn refusal_shows_its_status_and_first_body_line() {
        let wire = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 10\r\n\r\n{\"code\":1}\nrest";
        let text = check_upgrade(wire, false).unwrap_err().to_string();
        assert_eq!(text, "answered HTTP/1.1 401 Unauthorized: {\"code\":1}");
        assert_eq!(check_upgrade(&wire[..50], false), Ok(None), "the body is incomplete");
        assert!(check_upgrade(&wire[..50], true).is_err(), "and stays incomplete");
        let wire = b"HTTP/1.1 503 Busy\r\ncontent-length: 36\r\n\r\n{\"error\":{\"code\":111},\"request\":\"7-1\"}";
        assert_eq!(
            check_upgrade(wire, false).unwrap_err().to_string(),
            "answered HTTP/1.1 503 Busy: {\"error\":{\"code\":111}}"
        );
    }
}
