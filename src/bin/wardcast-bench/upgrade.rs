//! The opening handshake: the upgrade request with its token, and the reading of whatever is answered.

use crate::target_url::TargetUrl;

/// A key need not be secret or new: it only proves that the server speaks WebSocket (the RFC's own example, §1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What follows from that key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A head longer than this is no answer to a handshake.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The upgrade request for `target`, with the token in the query.
pub(crate) fn request(target: &TargetUrl, token: &str) -> Vec<u8> {
    let TargetUrl { path, authority, .. } = target;
    let separator = if path.contains('?') { '&' } else { '?' };
    format!(
        "GET {path}{separator}token={token} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Reads the answer: the bytes its head took when it is a good 101, `None` when more is needed, else what was answered.
/// A refusal is waited for until its body is there too, or the server has `ended`.
pub(crate) fn parse_response(bytes: &[u8], ended: bool) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|at| at == b"\r\n\r\n") else {
        if bytes.len() > MAX_HEAD_BYTES {
            return Err("answered a head without end".to_owned());
        }
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        let body = &bytes[end + 4..];
        let announced = header_value(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if body.len() < announced.min(MAX_HEAD_BYTES) && !ended {
            return Ok(None);
        }
        return Err(format!("answered {status}{}", first_body_line(body)));
    }
    let accept = header_value(&head, "sec-websocket-accept").unwrap_or_default();
    if accept != ACCEPT {
        return Err(format!("answered 101 with a wrong Sec-WebSocket-Accept ({accept:?})"));
    }
    Ok(Some(end + 4))
}

/// The value of a header; `name` in lower case.
pub(crate) fn header_value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// `: ` and the first line of a body, cut to what fits a terminal, or nothing.
pub(crate) fn first_body_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!(": {}", line.chars().take(300).collect::<String>()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrade_response_is_measured_and_an_incomplete_one_awaited() {
        let wire = format!("HTTP/1.1 101 Switching Protocols\r\nSEC-websocket-Accept: {ACCEPT}\r\n\r\nmore");
        let end = wire.len() - 4;
        for cut in 0..end {
            assert_eq!(parse_response(&wire.as_bytes()[..cut], false), Ok(None));
        }
        assert_eq!(parse_response(wire.as_bytes(), false), Ok(Some(end)));
    }

    #[test]
    fn refusal_shows_its_status_and_first_body_line() {
        let wire = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 9\r\n\r\n{\"code\":1}\nrest";
        assert_eq!(parse_response(wire, false), Err("answered HTTP/1.1 401 Unauthorized: {\"code\":1}".to_owned()));
        assert_eq!(parse_response(&wire[..50], false), Ok(None), "the body is not all there");
        assert!(parse_response(&wire[..50], true).is_err(), "and will not come");
        let wire = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert!(parse_response(wire, false).is_err());
    }
}
