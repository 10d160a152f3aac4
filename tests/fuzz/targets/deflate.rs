//! permessage-deflate: any header is answered or refused, any bytes are inflated within the limit as another inflater inflates
//! them, and what is compressed can be inflated with the window that was negotiated.

use flate2::{Decompress, FlushDecompress, Status};
use wardcast::deflate::{InflateError, WINDOW_BITS, compress, inflate, negotiate};

/// A limit that short inputs can exceed.
const MAX_BYTES: usize = 2000;
/// The end of a message that its sender leaves out (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
const BASE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The first byte is the level. The rest is a header, a compressed message, and a message to compress.
pub fn deflate(data: &[u8]) {
    let Some((level, rest)) = data.split_first() else { return };
    check_negotiation(rest);
    check_inflater(rest);
    check_compressor(rest, 1 + level % 9);
}

fn check_negotiation(header: &[u8]) {
    let Ok(answer) = negotiate([header]) else { return };
    let text = std::str::from_utf8(header).expect("other headers are malformed");
    assert!(!text.contains(['\r', '\n', '\0']));
    // An offer that follows is not read, but has to follow the grammar.
    let before = format!("permessage-deflate, {text}");
    assert_eq!(negotiate([before.as_bytes()]).unwrap().as_deref(), Some(BASE));
    assert_eq!(negotiate([header, &b"permessage-deflate"[..]]).unwrap(), answer.clone().or(Some(BASE.to_owned())));
    let Some(answer) = answer else { return };
    assert!(text.contains("permessage-deflate"));
    let window = format!("{BASE}; server_max_window_bits={WINDOW_BITS}");
    assert!(answer == BASE || (answer == window && text.contains("server_max_window_bits")), "{answer}");
    // The answer accepts itself.
    assert_eq!(negotiate([answer.as_bytes()]).unwrap().as_deref(), Some(&*answer));
}

fn check_inflater(payload: &[u8]) {
    let found = inflate(payload, MAX_BYTES);
    let expected = inflate_slowly(payload);
    match &found {
        Ok(message) => {
            assert!(message.len() <= MAX_BYTES);
            assert_eq!(Some(&message[..]), expected.as_deref(), "{payload:?}");
        }
        Err(InflateError::TooBig) => assert!(expected.is_none_or(|message| message.len() > MAX_BYTES), "{payload:?}"),
        Err(InflateError::Malformed) => assert_eq!(expected, None, "{payload:?}"),
    }
    // A larger limit changes nothing for a message that is not longer.
    if let Ok(message) = found {
        assert_eq!(inflate(payload, message.len()).as_ref(), Ok(&message));
        assert_eq!(inflate(payload, 10 * MAX_BYTES), Ok(message));
    }
}

/// Inflates byte by byte, and at most twice the limit; `None` if the data is not whole blocks.
fn inflate_slowly(payload: &[u8]) -> Option<Vec<u8>> {
    let mut inflater = Decompress::new(false);
    let (mut message, mut is_between_streams) = (Vec::new(), false);
    for byte in payload.iter().chain(&TAIL).chain(&[1, 0, 0, 0xff, 0xff]) {
        let mut input = std::slice::from_ref(byte);
        loop {
            let mut room = [0; 600];
            let (read_before, written_before) = (inflater.total_in(), inflater.total_out());
            let status = inflater.decompress(input, &mut room, FlushDecompress::None).ok()?;
            input = &input[(inflater.total_in() - read_before) as usize..];
            let written = (inflater.total_out() - written_before) as usize;
            message.extend_from_slice(&room[..written]);
            if message.len() > 2 * MAX_BYTES {
                return Some(message);
            }
            is_between_streams = status == Status::StreamEnd;
            if is_between_streams {
                inflater.reset(false);
            }
            if input.is_empty() && (written < room.len() || is_between_streams) {
                break;
            }
        }
    }
    is_between_streams.then_some(message)
}

fn check_compressor(message: &[u8], level: u8) {
    let Some(compressed) = compress(message, level) else { return };
    assert!(compressed.len() < message.len());
    assert_eq!(inflate(&compressed, message.len()).as_deref(), Ok(message));
    let mut inflater = Decompress::new_with_window_bits(false, WINDOW_BITS);
    let mut inflated = Vec::new();
    for piece in compressed.chunks(7).chain([&TAIL[..]]) {
        let mut piece = piece;
        while !piece.is_empty() {
            let mut room = [0; 100];
            let (read_before, written_before) = (inflater.total_in(), inflater.total_out());
            inflater.decompress(piece, &mut room, FlushDecompress::None).expect("the window that was negotiated");
            piece = &piece[(inflater.total_in() - read_before) as usize..];
            inflated.extend_from_slice(&room[..(inflater.total_out() - written_before) as usize]);
        }
    }
    // What is left in the inflater when it has read everything.
    let mut room = vec![0; message.len() + 1];
    let written_before = inflater.total_out();
    let _ = inflater.decompress(&[], &mut room, FlushDecompress::Sync);
    inflated.extend_from_slice(&room[..(inflater.total_out() - written_before) as usize]);
    assert_eq!(inflated, message);
}
