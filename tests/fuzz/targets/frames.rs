//! Frames: the result of reading does not depend on how the network cuts the stream, and memory stays within the limits. With
//! compression and without.

use std::time::Duration;

use actix_http::ws::{CloseReason, Frame};
use bytes::{Bytes, BytesMut};
use wardcast::{
    deflate,
    transport::{MessageReader, TransportLimits, Violation},
};

use super::Random;

/// Small limits, which short inputs can reach.
const LIMITS: TransportLimits = TransportLimits {
    message_bytes: 300,
    message_fragments: 8,
    outbox_bytes: 1024,
    unsent_bytes: 1024,
    unacknowledged_timeout: Duration::ZERO,
};
/// The longest header of a client's frame (RFC 6455 §5.2).
const HEADER_BYTES: usize = 14;
const CONTROL_BYTES: usize = 125;

/// How reading a stream ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Open,
    Closed,
    Broken(Violation),
}

/// The first byte seeds the cuts. The rest is what the client sends, and once more the content of valid messages.
pub fn frames(data: &[u8]) {
    let Some((seed, stream)) = data.split_first() else { return };
    let mut random = Random::new(*seed);
    for accepts_compression in [false, true] {
        let whole = read(stream, accepts_compression, |_| stream.len());
        assert_eq!(read(stream, accepts_compression, |_| 1 + random.below(40)), whole, "in pieces");
        assert_eq!(read(stream, accepts_compression, |_| 1), whole, "byte by byte");
        whole.0.iter().for_each(check_frame);
        let payloads: usize = whole.0.iter().map(payload_bytes).sum();
        assert!(accepts_compression || payloads <= stream.len(), "more came out than went in");

        let (sent, bytes) = valid_messages(stream, accepts_compression, &mut random);
        let received = read(&bytes, accepts_compression, |_| 1 + random.below(400));
        assert_eq!(received, (sent, End::Open), "valid messages");
    }
}

/// Reads a stream in pieces of these lengths, as a connection does, until a close or a violation.
fn read(stream: &[u8], accepts_compression: bool, mut length: impl FnMut(usize) -> usize) -> (Vec<Frame>, End) {
    let mut reader = MessageReader::new(BytesMut::new(), LIMITS, accepts_compression);
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < stream.len() {
        let end = stream.len().min(at + length(at));
        reader.feed(&stream[at..end]);
        at = end;
        loop {
            match reader.next_message() {
                Ok(Some(frame)) => {
                    let is_close = matches!(frame, Frame::Close(_));
                    frames.push(frame);
                    if is_close {
                        return (frames, End::Closed);
                    }
                }
                Ok(None) => break,
                Err(violation) => {
                    assert!([1002, 1007, 1009].contains(&violation.code()));
                    return (frames, End::Broken(violation));
                }
            }
        }
        let kept = reader.buffered_bytes();
        assert!(kept <= LIMITS.message_bytes + HEADER_BYTES + CONTROL_BYTES, "{kept} bytes are kept");
        assert_eq!(reader.is_incomplete(), kept > 0 || reader.has_open_message());
    }
    (frames, End::Open)
}

fn payload_bytes(frame: &Frame) -> usize {
    match frame {
        Frame::Text(bytes) | Frame::Binary(bytes) | Frame::Ping(bytes) | Frame::Pong(bytes) => bytes.len(),
        Frame::Continuation(_) | Frame::Close(_) => 0,
    }
}

/// Checks a message against RFC 6455 §5.5, §5.6, §7.4 and §8.1.
fn check_frame(frame: &Frame) {
    match frame {
        Frame::Text(text) => {
            assert!(text.len() <= LIMITS.message_bytes && std::str::from_utf8(text).is_ok(), "{text:?}");
        }
        Frame::Binary(bytes) => assert!(bytes.len() <= LIMITS.message_bytes),
        Frame::Ping(bytes) | Frame::Pong(bytes) => assert!(bytes.len() <= CONTROL_BYTES),
        Frame::Close(None) => {}
        Frame::Close(Some(CloseReason { code, description })) => {
            let code = u16::from(*code);
            assert!(matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "{code}");
            assert!(description.as_ref().is_none_or(|reason| reason.len() <= CONTROL_BYTES - 2));
        }
        Frame::Continuation(item) => panic!("a fragment came out: {item:?}"),
    }
}

/// Makes messages of these bytes, some in fragments with pings between them, some compressed; returns them and the stream that encodes them.
fn valid_messages(mut material: &[u8], may_compress: bool, random: &mut Random) -> (Vec<Frame>, Vec<u8>) {
    let (mut sent, mut bytes) = (Vec::new(), Vec::new());
    while let Some((kind, rest)) = material.split_first() {
        let most = if kind & 3 < 2 { LIMITS.message_bytes } else { CONTROL_BYTES };
        let payload = &rest[..rest.len().min(1 + random.below(most))];
        // A text message must not end inside a character.
        let text = std::str::from_utf8(payload).map_or_else(|error| error.valid_up_to(), str::len);
        let payload = if kind & 3 == 0 { &payload[..text] } else { payload };
        material = &rest[payload.len()..];
        let whole = Bytes::copy_from_slice(payload);
        let compressed = if may_compress && kind & 4 != 0 { deflate::compress(payload, 1 + kind % 9) } else { None };
        let (rsv1, message) = compressed.as_deref().map_or((0, payload), |compressed| (0x40, compressed));
        match kind & 3 {
            0 => write_fragments(1 | rsv1, message, random, &mut sent, &mut bytes),
            1 => write_fragments(2 | rsv1, message, random, &mut sent, &mut bytes),
            2 => write_frame(0x89, payload, random, &mut bytes),
            _ => write_frame(0x8a, payload, random, &mut bytes),
        }
        sent.push([Frame::Text, Frame::Binary, Frame::Ping, Frame::Pong][usize::from(kind & 3)](whole));
    }
    (sent, bytes)
}

fn write_fragments(opcode: u8, mut payload: &[u8], random: &mut Random, sent: &mut Vec<Frame>, bytes: &mut Vec<u8>) {
    let mut first = opcode;
    for _ in 0..random.below(LIMITS.message_fragments) {
        let (fragment, rest) = payload.split_at(random.below(payload.len() + 1));
        write_frame(first, fragment, random, bytes);
        (first, payload) = (0, rest);
        if random.below(3) == 0 {
            write_frame(0x89, b"amid", random, bytes);
            sent.push(Frame::Ping(Bytes::from_static(b"amid")));
        }
    }
    write_frame(first | 0x80, payload, random, bytes);
}

/// Writes one masked frame.
fn write_frame(first: u8, payload: &[u8], random: &mut Random, bytes: &mut Vec<u8>) {
    bytes.push(first);
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    let mask = [0; 4].map(|_: u8| random.below(256) as u8);
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
