//! The frames that the hub writes. Those of a WebSocket (RFC 6455 §5.2) are final, unmasked, with header and payload in one
//! shared buffer. Those of a stream are events of a `text/event-stream`, or lines.

use bytes::{Bytes, BytesMut};

use crate::deflate::{self, DeflateOptions};

/// Maximum payload of a control frame (RFC 6455 §5.5).
pub const MAX_CONTROL_BYTES: usize = 125;

/// Opcodes, in the low four bits of a frame's first byte (RFC 6455 §5.2).
pub const CONTINUATION: u8 = 0x0;
/// Opcode of text.
pub const TEXT: u8 = 0x1;
/// Opcode of binary data.
pub const BINARY: u8 = 0x2;
/// Opcode of a close frame, the first of those of control frames.
pub const CLOSE: u8 = 0x8;
/// Opcode of a ping.
pub const PING: u8 = 0x9;
/// Opcode of a pong.
pub const PONG: u8 = 0xa;
/// FIN, in a frame's first byte: the frame ends its message.
pub const FINAL: u8 = 0x80;
/// RSV1, in a frame's first byte: the message is compressed (RFC 7692 §6).
pub const COMPRESSED: u8 = 0x40;

/// A WebSocket ping without payload. Browsers answer it automatically.
pub const NATIVE_PING: Bytes = Bytes::from_static(&[FINAL | PING, 0]);

/// The ping of SDK sessions in JSON: the empty reply `{}` in a text frame.
pub const JSON_PING: Bytes = Bytes::from_static(&[FINAL | TEXT, 2, b'{', b'}']);

/// The ping of SDK sessions in Protobuf: an empty message in a binary frame.
pub const PROTOBUF_PING: Bytes = Bytes::from_static(&[FINAL | BINARY, 1, 0]);

/// A comment of a `text/event-stream`, which clients ignore.
pub const EVENT_COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Encodes a text message in one frame.
pub fn encode_text(payload: &[u8]) -> Bytes {
    encode(FINAL | TEXT, payload)
}

/// Encodes a binary message in one frame.
pub fn encode_binary(payload: &[u8]) -> Bytes {
    encode(FINAL | BINARY, payload)
}

/// Compresses messages that [`encode_text`] or [`encode_binary`] has encoded, a frame each, one behind the other. A frame stays as it
/// is if the length of its message is outside of the bounds, or the message would not become shorter.
pub fn compress(frames: &Bytes, options: DeflateOptions) -> Bytes {
    let mut rest = frames.clone();
    let first = compress_frame(&split_frame(&mut rest), options);
    if rest.is_empty() {
        return first;
    }
    let mut all = BytesMut::from(&*first);
    while !rest.is_empty() {
        all.extend_from_slice(&compress_frame(&split_frame(&mut rest), options));
    }
    all.freeze()
}

/// Splits the first frame off. It is all of what is left if its header is not whole.
fn split_frame(frames: &mut Bytes) -> Bytes {
    let (header_bytes, message_bytes) = lengths(frames);
    frames.split_to(header_bytes.saturating_add(message_bytes).min(frames.len()))
}

/// Returns the lengths of the header of the first frame, and of its message.
fn lengths(frames: &[u8]) -> (usize, usize) {
    let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
    match frames {
        [_, 126, high, low, ..] => (4, number(&[*high, *low])),
        [_, 127, rest @ ..] if rest.len() >= 8 => (10, number(&rest[..8])),
        [_, length, ..] if *length < 126 => (2, usize::from(*length)),
        _ => (frames.len(), 0),
    }
}

fn compress_frame(frame: &Bytes, options: DeflateOptions) -> Bytes {
    let (header, payload) = frame.split_at(lengths(frame).0);
    if payload.len() < usize::from(options.min_bytes) || payload.len() > options.max_bytes as usize {
        return frame.clone();
    }
    match deflate::compress(payload, options.level) {
        Some(compressed) => encode(header[0] | COMPRESSED, &compressed),
        None => frame.clone(),
    }
}

/// Encodes the pong to a ping with this payload. A payload over [`MAX_CONTROL_BYTES`], which the reader refuses, is cut.
pub fn encode_pong(payload: &[u8]) -> Bytes {
    encode(FINAL | PONG, &payload[..payload.len().min(MAX_CONTROL_BYTES)])
}

/// Encodes a close frame. Without a code, as in the answer to a close frame that has none, it is empty. A reason over 123
/// bytes is cut at a character boundary, since a longer one would make the frame invalid.
pub fn encode_close(code: Option<u16>, reason: &str) -> Bytes {
    let Some(code) = code else { return encode(FINAL | CLOSE, &[]) };
    let mut payload = code.to_be_bytes().to_vec();
    let fits =
        (0..=reason.len().min(MAX_CONTROL_BYTES - 2)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    payload.extend_from_slice(&reason.as_bytes()[..fits]);
    encode(FINAL | CLOSE, &payload)
}

/// Encodes a line of text as an event.
pub fn encode_event(line: &[u8]) -> Bytes {
    [b"data: ", line, b"\n\n"].concat().into()
}

/// Encodes a line of text.
pub fn encode_line(mut line: Vec<u8>) -> Bytes {
    line.push(b'\n');
    line.into()
}

fn encode(first: u8, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(first);
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_length_uses_shortest_encoding() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(encode_text(&vec![b'x'; length]).len(), header + length);
        }
    }

    #[test]
    fn message_is_compressed_within_the_bounds_and_only_if_that_makes_it_shorter() {
        let options = DeflateOptions { min_bytes: 100, max_bytes: 65_536, level: 6 };
        for length in [100, 125, 126, 65_535, 65_536] {
            let plain = encode_text(&vec![b'x'; length]);
            let frame = compress(&plain, options);
            assert!(frame.len() < 200 && frame[0] == FINAL | TEXT | COMPRESSED, "{length}: {} bytes", frame.len());
            assert_eq!(usize::from(frame[1]), frame.len() - 2);
            assert_eq!(deflate::inflate(&frame[2..], length).unwrap(), plain[plain.len() - length..]);
        }
        for length in [99, 65_537] {
            let outside = encode_binary(&vec![b'x'; length]);
            assert_eq!(compress(&outside, options), outside);
        }
        assert_eq!(compress(&encode_binary(&[b'x'; 100]), options)[0], FINAL | BINARY | COMPRESSED);
        let mut random = [0; 1000];
        getrandom::fill(&mut random).unwrap();
        let random = encode_binary(&random);
        assert_eq!(compress(&random, options), random);
    }

    #[test]
    fn frames_behind_each_other_are_compressed_one_by_one() {
        let options = DeflateOptions { min_bytes: 100, max_bytes: 65_536, level: 6 };
        let frames = [10, 125, 126, 65_535, 65_536, 99, 65_537].map(|length| encode_text(&vec![b'x'; length]));
        let expected = frames.each_ref().map(|frame| compress(frame, options));
        assert_eq!(compress(&frames.concat().into(), options), expected.concat());
        assert_eq!(expected.iter().filter(|frame| frame[0] & COMPRESSED != 0).count(), 4);
        for malformed in [&[][..], &[TEXT], &[TEXT, 126, 0], &[TEXT, 127, 0xff], &[TEXT, 200, 1], &[TEXT, 5, b'x']] {
            assert_eq!(compress(&Bytes::copy_from_slice(malformed), options), malformed);
        }
    }

    #[test]
    fn long_close_reason_is_cut_at_char_boundary() {
        let frame = encode_close(Some(3000), &"é".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
