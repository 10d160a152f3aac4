//! The client's half of RFC 6455 framing: reads unmasked frames in place and writes short masked ones.

/// Opcode of a text frame.
pub(crate) const TEXT: u8 = 0x1;
/// Opcode of a close frame.
pub(crate) const CLOSE: u8 = 0x8;
/// Opcode of a ping frame.
pub(crate) const PING: u8 = 0x9;
/// Opcode of a pong frame.
pub(crate) const PONG: u8 = 0xA;

/// Masking hides nothing from anyone on loopback, so one key serves for all frames (the RFC's own example).
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One whole frame, borrowed from the read buffer.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct ServerFrame<'a> {
    /// The opcode: `TEXT`, `CLOSE`, `PING`, `PONG` or one that is not expected.
    pub(crate) opcode: u8,
    /// The payload as it stands on the wire.
    pub(crate) payload: &'a [u8],
}

/// A frame that a Wardcast client can do nothing with.
#[derive(Debug, PartialEq, Eq, Clone, Copy, thiserror::Error)]
pub(crate) enum FrameError {
    /// RFC 6455 §5.1: a client must fail the connection.
    #[error("the server sent a masked frame")]
    Masked,
    /// Deliveries are single frames; a fragment would make the measurement lie.
    #[error("the server sent a fragmented message")]
    Fragmented,
    /// Reserved bits without an extension.
    #[error("the server set reserved bits")]
    Reserved,
}

/// Splits the first frame off `bytes`: the frame and its length on the wire, or `None` when more bytes are needed.
pub(crate) fn split_frame(bytes: &[u8]) -> Result<Option<(ServerFrame<'_>, usize)>, FrameError> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(FrameError::Reserved);
    }
    if first & 0x80 == 0 || first & 0x0f == 0 {
        return Err(FrameError::Fragmented);
    }
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let (header, length) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            (10, usize::try_from(length).unwrap_or(usize::MAX))
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, usize::from(short)),
    };
    let end = length.saturating_add(header);
    Ok(bytes.get(header..end).map(|payload| {
        let opcode = first & 0x0f;
        (ServerFrame { opcode, payload }, end)
    }))
}

/// Appends a masked frame to `out`.
pub(crate) fn write_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    write_length(out, payload.len(), 0x80);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends an unmasked text frame to `out`, laid out as a server sends it.
pub(crate) fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    out.push(0x80 | TEXT);
    write_length(out, payload.len(), 0);
    out.extend_from_slice(payload);
}

fn write_length(out: &mut Vec<u8>, length: usize, mask_bit: u8) {
    if let Ok(short @ 0..126) = u8::try_from(length) {
        out.push(mask_bit | short);
    } else if let Ok(length) = u16::try_from(length) {
        out.push(mask_bit | 126);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(mask_bit | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// Code and reason of a close frame, in the words that it is counted under.
pub(crate) fn describe_close(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            format!("close {code} {}", String::from_utf8_lossy(reason)).trim_end().to_owned()
        }
        _ => "close without a code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `wire` in pieces cut at `cuts`, keeping what is incomplete, as a connection does.
    fn read_in_pieces(wire: &[u8], cuts: &[usize]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut partial: Vec<u8> = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([wire.len()]) {
            partial.extend_from_slice(&wire[start..end]);
            start = end;
            let mut used = 0;
            while let Some((frame, length)) = split_frame(&partial[used..]).unwrap() {
                frames.push((frame.opcode, frame.payload.to_vec()));
                used += length;
            }
            partial.drain(..used);
        }
        assert!(partial.is_empty(), "bytes left over");
        frames
    }

    fn three_lengths() -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
        let mut wire = Vec::new();
        let mut frames = Vec::new();
        for length in [0, 5, 125, 126, 300] {
            let payload = vec![b'x'; length];
            write_text(&mut wire, &payload);
            frames.push((TEXT, payload));
        }
        wire.extend_from_slice(&[0x89, 0x02, b'h', b'i']);
        frames.push((PING, b"hi".to_vec()));
        (wire, frames)
    }

    #[test]
    fn frames_survive_any_split_in_two() {
        let (wire, frames) = three_lengths();
        for cut in 0..=wire.len() {
            assert_eq!(read_in_pieces(&wire, &[cut]), frames, "cut at {cut}");
        }
    }

    #[test]
    fn frames_survive_any_split_in_three() {
        let mut wire = Vec::new();
        write_text(&mut wire, b"hello");
        write_text(&mut wire, &[b'y'; 130]);
        let frames = read_in_pieces(&wire, &[]);
        assert_eq!(frames.len(), 2);
        for first in 0..=wire.len() {
            for second in first..=wire.len() {
                assert_eq!(read_in_pieces(&wire, &[first, second]), frames);
            }
        }
    }

    #[test]
    fn frame_with_64_bit_length_survives_splits() {
        let mut wire = Vec::new();
        write_text(&mut wire, &vec![b'z'; 70_000]);
        let every: Vec<usize> = (0..16).chain([69_999, 70_005]).collect();
        let frames = read_in_pieces(&wire, &every);
        assert_eq!(frames, vec![(TEXT, vec![b'z'; 70_000])]);
    }

    #[test]
    fn masked_frame_unmasks_to_its_payload() {
        for length in [0, 5, 125, 126, 4000] {
            let payload: Vec<u8> = (0..length).map(|i: u32| (i % 251) as u8).collect();
            let mut wire = Vec::new();
            write_masked(&mut wire, TEXT, &payload);
            assert_eq!(split_frame(&wire), Err(FrameError::Masked));
            let body = wire.split_off(wire.len() - payload.len());
            let key = &wire[wire.len() - 4..];
            let clear: Vec<u8> = body.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k).collect();
            assert_eq!(clear, payload);
        }
    }

    #[test]
    fn frames_that_no_server_may_send_are_rejected() {
        assert_eq!(split_frame(&[0x01, 0x00]), Err(FrameError::Fragmented));
        assert_eq!(split_frame(&[0x80, 0x00]), Err(FrameError::Fragmented));
        assert_eq!(split_frame(&[0xc1, 0x00]), Err(FrameError::Reserved));
        assert_eq!(split_frame(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]), Ok(None));
    }
}
