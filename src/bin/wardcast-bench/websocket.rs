//! A WebSocket client: upgrades a connection, reads frames in place, answers pings, and hands out text messages. Or the same
//! over an event stream, whose client only reads.

use actix_http::ws::{OpCode, Parser};
use bytes::BytesMut;
use mio::{Registry, Token};
use serde_json::Value;
use wardcast::{deflate, protocol::frame::COMPRESSED};

use crate::connection::{Connection, ReadBuffer};
use crate::error::{Context, Result, fail};
use crate::{connection::SocketOptions, http, target_url::TargetUrl};

/// The id of the connect command.
pub(crate) const CONNECT_ID: u32 = 1;

/// Maximum size of an inflated message.
const MAX_INFLATED_BYTES: usize = 64 << 20;

/// How a client proves who it is.
#[derive(Clone, Copy)]
pub(crate) enum Credentials<'a> {
    /// Not at all. The server of `limit` speaks no HTTP and sends frames at once.
    None,
    /// A token in the query of the handshake.
    Query(&'a str),
    /// A token in the connect command, as SDKs send it.
    ConnectCommand(&'a str),
    /// A token in the query of the request for an event stream, with the first commands.
    EventStream(&'a str, &'a str),
}

/// The client.
pub(crate) struct WebSocket {
    /// The connection below it.
    pub(crate) connection: Connection,
    /// The connect command, until it is sent.
    connect_command: Option<Box<str>>,
    /// The clock when 101 was read; `None` before that.
    pub(crate) upgraded_at: Option<u64>,
    /// It is no WebSocket.
    is_event_stream: bool,
    /// Whether messages may be compressed.
    offers_deflate: bool,
    /// The number that the last pong carried, and the clock when it was read; `None` if it carried something else.
    pub(crate) last_pong: Option<(u64, u64)>,
}

impl WebSocket {
    /// Begins to connect, and registers the socket.
    pub(crate) fn open(
        target: &TargetUrl,
        credentials: Credentials<'_>,
        options: &SocketOptions,
        event_source: (&Registry, Token),
    ) -> Result<Self> {
        let (request, upgraded_at, connect_command) = match credentials {
            Credentials::None => (Vec::new(), Some(0), None),
            Credentials::Query(token) => {
                (http::upgrade_request(target, Some(token), options.offers_deflate), None, None)
            }
            Credentials::ConnectCommand(token) => {
                let command = serde_json::json!({"id": CONNECT_ID, "connect": {"token": token}});
                (http::upgrade_request(target, None, options.offers_deflate), None, Some(command.to_string().into()))
            }
            Credentials::EventStream(token, commands) => {
                (http::event_stream_request(target, token, commands), None, None)
            }
        };
        let connection = Connection::open(target, options, &request, event_source).context("connecting")?;
        let is_event_stream = matches!(credentials, Credentials::EventStream(..));
        let offers_deflate = options.offers_deflate;
        Ok(Self { connection, connect_command, upgraded_at, is_event_stream, offers_deflate, last_pong: None })
    }

    /// Writes and reads as much as the socket allows. `on_message` is given every message, what to append frames to, and
    /// the clock after the read.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub(crate) fn on_ready(
        &mut self,
        buffer: &mut ReadBuffer,
        is_closing: bool,
        mut on_message: impl FnMut(&[u8], &mut BytesMut, u64) -> Result<()>,
    ) -> Result<()> {
        let Self { connection, upgraded_at, last_pong, connect_command, is_event_stream, offers_deflate } = self;
        let check_head = if *is_event_stream { http::check_event_stream } else { http::check_upgrade };
        let is_open = connection.on_ready(buffer, is_closing, |bytes, out, now| {
            let mut parsed = 0;
            if upgraded_at.is_none() {
                let Some(length) = check_head(bytes, false)? else { return Ok(0) };
                (parsed, *upgraded_at) = (length, Some(now));
                let command = connect_command.take();
                command.into_iter().for_each(|command| write_frame(out, OpCode::Text, command.as_bytes()));
            }
            while *is_event_stream && let Some((event, length)) = split_event(&bytes[parsed..]) {
                if let Some(message) = event.strip_prefix(b"data: ") {
                    on_message(message, out, now)?;
                }
                parsed += length;
            }
            while !*is_event_stream
                && let Some((opcode, payload, length)) = split_frame(&bytes[parsed..], *offers_deflate)?
            {
                match opcode {
                    OpCode::Text if bytes[parsed] & COMPRESSED != 0 => {
                        let message = deflate::inflate(payload, MAX_INFLATED_BYTES).context("inflating a message")?;
                        split_lines(&message).try_for_each(|message| on_message(message, out, now))?;
                    }
                    OpCode::Text if payload == b"{}" => write_frame(out, OpCode::Text, b"{}"),
                    // `contains` on bytes is memchr, far quicker than splitting; few frames have several messages.
                    OpCode::Text if !payload.contains(&b'\n') => on_message(payload, out, now)?,
                    OpCode::Text => split_lines(payload).try_for_each(|message| on_message(message, out, now))?,
                    OpCode::Ping => write_frame(out, OpCode::Pong, payload),
                    OpCode::Pong => *last_pong = read_number(payload).map(|number| (number, now)),
                    OpCode::Close => return fail(describe_close(payload)),
                    other => return fail(format!("a frame with opcode {other}")),
                }
                parsed += length;
            }
            Ok(parsed)
        })?;
        if is_open {
            return Ok(());
        }
        if self.upgraded_at.is_none() && !self.connection.partial.is_empty() {
            check_head(&self.connection.partial, true)?;
            return fail("answered half a head");
        }
        fail("end of stream without a close frame")
    }

    /// Sends a text message as soon as the socket has room.
    pub(crate) fn send(&mut self, text: &[u8]) -> Result<()> {
        write_frame(&mut self.connection.out, OpCode::Text, text);
        self.connection.flush()
    }

    /// Begins the closing handshake. Its answer is not awaited.
    pub(crate) fn close(mut self) {
        write_frame(&mut self.connection.out, OpCode::Close, &1000u16.to_be_bytes());
        let _ = self.connection.flush();
    }
}

/// Returns whether a message says that the session is connected: the push after a token in the handshake, or the reply to
/// the connect command.
pub(crate) fn is_connect_message(message: &Value) -> bool {
    message.pointer("/push/connect").is_some() || message.get("connect").is_some()
}

/// Appends a masked frame to `out`.
pub(crate) fn write_frame(out: &mut BytesMut, opcode: OpCode, payload: &[u8]) {
    Parser::write_message(out, payload, opcode, true, true);
}

/// Splits the first frame off `bytes`, without copying it. Returns opcode, payload and its length on the wire, or `None` if it
/// is incomplete. Its message may be compressed if the client has offered that.
///
/// # Errors
/// The frame is masked (a client must then fail the connection, RFC 6455 §5.1), has reserved bits without an extension, or
/// is a fragment: deliveries are single frames, and counting fragments would falsify the measurement.
pub(crate) fn split_frame(bytes: &[u8], offers_deflate: bool) -> Result<Option<(OpCode, &[u8], usize)>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let reserved = if offers_deflate { 0x70 & !COMPRESSED } else { 0x70 };
    if first & reserved != 0 {
        return fail("the server set reserved bits");
    }
    if first & 0x80 == 0 || first & 0x0f == 0 {
        return fail("the server sent a fragmented message");
    }
    if second & 0x80 != 0 {
        return fail("the server sent a masked frame");
    }
    let (header, length) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, rest) if let Some(length) = rest.first_chunk() => (10, u64::from_be_bytes(*length) as usize),
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, usize::from(short)),
    };
    let end = length.saturating_add(header);
    Ok(bytes.get(header..end).map(|payload| (OpCode::from(first & 0x0f), payload, end)))
}

/// The messages of a frame.
fn split_lines(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split(|byte| *byte == b'\n').filter(|message| !message.is_empty())
}

/// Splits the first event off `bytes`, without copying it. Returns it, and its length on the wire; `None` if it is incomplete.
/// Events of the hub have one line.
fn split_event(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n').filter(|end| bytes.get(end + 1) == Some(&b'\n'))?;
    Some((&bytes[..end], end + 2))
}

/// The number that the payload of a pong consists of.
fn read_number(payload: &[u8]) -> Option<u64> {
    std::str::from_utf8(payload).ok()?.parse().ok()
}

/// Code and reason of a close frame, in the words that it is counted under.
pub(crate) fn describe_close(payload: &[u8]) -> String {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return "close without a code".to_owned();
    };
    format!("close {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use wardcast::protocol::frame::encode_text;

    use super::*;

    /// Reads `wire` in pieces cut at `cuts`, keeping incomplete frames as a connection does. All frames are texts.
    fn read_in_pieces(wire: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let (mut frames, mut partial, mut start) = (Vec::new(), Vec::new(), 0);
        for end in cuts.iter().copied().chain([wire.len()]) {
            partial.extend_from_slice(&wire[start..end]);
            start = end;
            while let Some((OpCode::Text, payload, length)) = split_frame(&partial, false).unwrap() {
                frames.push(payload.to_vec());
                partial.drain(..length);
            }
        }
        assert!(partial.is_empty(), "bytes left over");
        frames
    }

    fn text_frames(lengths: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let payloads: Vec<Vec<u8>> = lengths.iter().map(|length| vec![b'x'; *length]).collect();
        (payloads.iter().flat_map(|payload| encode_text(payload)).collect(), payloads)
    }

    #[test]
    fn frames_survive_any_split() {
        let (wire, frames) = text_frames(&[0, 5, 125, 126, 130]);
        for first in 0..=wire.len() {
            assert_eq!(read_in_pieces(&wire, &[first]), frames, "cut at {first}");
            let (wire, frames) = text_frames(&[5, 130]);
            let first = first.min(wire.len());
            assert!((first..=wire.len()).all(|second| read_in_pieces(&wire, &[first, second]) == frames));
        }
        let (wire, frames) = text_frames(&[70_000]);
        let cuts: Vec<usize> = (0..16).chain([69_999, 70_005]).collect();
        assert_eq!(read_in_pieces(&wire, &cuts), frames, "a length of 64 bits");
    }

    #[test]
    fn frames_that_no_server_may_send_are_rejected() {
        let wires = [[0x01, 0x00], [0x80, 0x00], [0xc1, 0x00], [0x81, 0x80]];
        for (wire, problem) in wires.into_iter().zip(["fragmented", "fragmented", "reserved", "masked"]) {
            assert!(split_frame(&wire, false).is_err_and(|error| error.0.contains(problem)), "{wire:?}");
        }
        assert_eq!(split_frame(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255], false), Ok(None));
        assert!(split_frame(&[0xc1, 0], true).is_ok() && split_frame(&[0xa1, 0], true).is_err());
    }
}
