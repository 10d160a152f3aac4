//! Parses and checks frame headers as they arrive (RFC 6455 §5.2). `actix_http::ws::Codec` alone would buffer a whole
//! frame before it looks at its size. Pure.

use super::reader::Violation;
use crate::protocol::{
    FrameRule,
    frame::{BINARY, CLOSE, COMPRESSED, CONTINUATION, FINAL, MAX_CONTROL_BYTES, PONG, TEXT},
};

/// A complete frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes before the payload, including the mask.
    pub(super) header_bytes: usize,
    pub(super) payload_bytes: usize,
    pub(super) is_close: bool,
    /// Whether it begins a compressed message.
    pub(super) is_compressed: bool,
}

impl FrameHeader {
    /// Bytes of header and payload.
    pub(super) fn frame_bytes(self) -> usize {
        self.header_bytes + self.payload_bytes
    }
}

/// The state of the message that a frame arrives in.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameContext {
    /// Whether a fragmented message is open: its first fragment has arrived, its last has not.
    pub(super) is_continuing: bool,
    /// Bytes by which the open message may still grow.
    pub(super) remaining_bytes: usize,
    /// Whether the connection has negotiated compression.
    pub(super) accepts_compression: bool,
}

/// Parses the header at the start of `bytes`; `None` while it is incomplete. Each rule is checked as soon as its bytes
/// have arrived, so that nothing is buffered for a frame that will be refused.
///
/// # Errors
/// The broken rule, with its close code.
pub(super) fn parse(bytes: &[u8], context: FrameContext) -> Result<Option<FrameHeader>, Violation> {
    let [first, rest @ ..] = bytes else { return Ok(None) };
    check_first_byte(*first, context)?;
    let (opcode, is_final) = (first & 0x0f, first & FINAL != 0);
    let [second, rest @ ..] = rest else { return Ok(None) };
    if second & 0x80 == 0 {
        return Err(FrameRule::Masked.into());
    }
    let is_control = opcode >= CLOSE;
    let (length_bytes, length) = match second & 0x7f {
        _ if is_control && (usize::from(second & 0x7f) > MAX_CONTROL_BYTES || !is_final) => {
            return Err(FrameRule::SmallControlFrame.into());
        }
        126 => match rest.first_chunk::<2>() {
            Some(length) => (2, u64::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (8, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        short => (0, u64::from(short)),
    };
    if (length_bytes == 2 && length < 126) || (length_bytes == 8 && (length < 65_536 || length >> 63 != 0)) {
        return Err(FrameRule::ShortestLength.into());
    }
    let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if !is_control && payload_bytes > context.remaining_bytes {
        return Err(Violation::TooBig);
    }
    let header_bytes = 2 + length_bytes + 4;
    let (is_close, is_compressed) = (opcode == CLOSE, first & COMPRESSED != 0);
    let header = FrameHeader { header_bytes, payload_bytes, is_close, is_compressed };
    Ok((bytes.len() >= header_bytes).then_some(header))
}

/// Checks the first byte: the reserved bits, the opcode, and whether the frame may come at this point of a message (RFC
/// 6455 §5.4). RSV1 belongs to the first frame of a message (RFC 7692 §6.1).
fn check_first_byte(first: u8, context: FrameContext) -> Result<(), Violation> {
    let opcode = first & 0x0f;
    let may_be_compressed = context.accepts_compression && matches!(opcode, TEXT | BINARY);
    let reserved = if may_be_compressed { 0x70 & !COMPRESSED } else { 0x70 };
    if first & reserved != 0 {
        return Err(FrameRule::ReservedBits.into());
    }
    match (opcode, context.is_continuing) {
        (CONTINUATION, false) => Err(FrameRule::OpenMessage.into()),
        (TEXT | BINARY, true) => Err(FrameRule::OneMessageAtATime.into()),
        (CONTINUATION | TEXT | BINARY | CLOSE..=PONG, _) => Ok(()),
        _ => Err(FrameRule::KnownOpcode.into()),
    }
}

/// Checks the payload of a close frame, which is still masked: it must be empty, or a code that is allowed on the wire
/// and a reason in UTF-8 (RFC 6455 §5.5.1, §7.4).
pub(super) fn check_close_payload(mask: [u8; 4], masked: &[u8]) -> Result<(), Violation> {
    let payload: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    match payload.as_slice() {
        [] => Ok(()),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                Err(FrameRule::AllowedCloseCode.into())
            } else if std::str::from_utf8(reason).is_err() {
                Err(Violation::NotUtf8)
            } else {
                Ok(())
            }
        }
        [_] => Err(FrameRule::WholeCloseCode.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: FrameContext =
        FrameContext { is_continuing: false, remaining_bytes: 70_000, accepts_compression: false };
    const OPEN: FrameContext = FrameContext { is_continuing: true, ..FRESH };

    fn violation(bytes: &[u8], context: FrameContext) -> Option<Violation> {
        parse(bytes, context).err()
    }

    fn broken(rule: FrameRule) -> Option<Violation> {
        Some(rule.into())
    }

    #[test]
    fn every_length_form_is_parsed_once_the_header_is_complete() {
        for (length, field) in [
            (5_usize, vec![0x85]),
            (126, vec![0xfe, 0, 126]),
            (65_535, vec![0xfe, 0xff, 0xff]),
            (65_536, vec![0xff, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let header = [vec![0x82], field, vec![1, 2, 3, 4]].concat();
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut], FRESH), Ok(None), "length {length}, cut at {cut}");
            }
            let read = parse(&header, FRESH).unwrap().unwrap();
            assert_eq!((read.payload_bytes, read.header_bytes), (length, header.len()));
        }
    }

    #[test]
    fn oversized_frame_is_refused_at_its_header() {
        assert_eq!(violation(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0], FRESH), Some(Violation::TooBig));
        assert_eq!(violation(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], FRESH), broken(FrameRule::ShortestLength));
        assert_eq!(
            violation(&[0x80, 0xfe, 0xff, 0xff], FrameContext { remaining_bytes: 65_534, ..OPEN }),
            Some(Violation::TooBig)
        );
    }

    #[test]
    fn frames_forbidden_by_rfc_6455_close_with_1002() {
        for (rule, what, bytes) in [
            (FrameRule::Masked, "unmasked", vec![0x81, 0x05]),
            (FrameRule::ReservedBits, "rsv1", vec![0xc1]),
            (FrameRule::ReservedBits, "rsv2", vec![0xa1]),
            (FrameRule::ReservedBits, "rsv3", vec![0x91]),
            (FrameRule::KnownOpcode, "opcode 3", vec![0x83]),
            (FrameRule::KnownOpcode, "opcode 11", vec![0x8b]),
            (FrameRule::SmallControlFrame, "long ping", vec![0x89, 0xfe]),
            (FrameRule::SmallControlFrame, "fragmented ping", vec![0x09, 0x81]),
            (FrameRule::OpenMessage, "continuation of nothing", vec![0x80]),
            (FrameRule::ShortestLength, "125 in two bytes", vec![0x81, 0xfe, 0, 125]),
            (FrameRule::ShortestLength, "65,535 in eight bytes", vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ] {
            assert_eq!(violation(&bytes, FRESH), broken(rule), "{what}");
        }
        assert_eq!(violation(&[0x81], OPEN), broken(FrameRule::OneMessageAtATime));
    }

    #[test]
    fn rsv1_is_allowed_in_the_first_frame_of_a_message_after_negotiation() {
        let negotiated = FrameContext { accepts_compression: true, ..FRESH };
        for first in [0xc1, 0xc2, 0x41, 0x42] {
            let header = parse(&[first, 0x80, 1, 2, 3, 4], negotiated).unwrap().unwrap();
            assert!(header.is_compressed, "{first:#x}");
            assert_eq!(violation(&[first], FRESH), broken(FrameRule::ReservedBits), "{first:#x} without negotiation");
        }
        assert!(!parse(&[0x81, 0x80, 1, 2, 3, 4], negotiated).unwrap().unwrap().is_compressed);
        for (what, first) in [("rsv2", 0xe1), ("rsv3", 0xd1), ("close", 0xc8), ("ping", 0xc9), ("pong", 0xca)] {
            assert_eq!(violation(&[first], negotiated), broken(FrameRule::ReservedBits), "{what}");
        }
        for first in [0x40, 0xc0] {
            let context = FrameContext { is_continuing: true, ..negotiated };
            assert_eq!(violation(&[first], context), broken(FrameRule::ReservedBits), "{first:#x} continues a message");
        }
    }

    #[test]
    fn close_payloads_are_validated() {
        let violation = |payload: &[u8]| check_close_payload([0; 4], payload).err();
        assert_eq!(violation(b""), None);
        assert_eq!(violation(&[0x03, 0xe8]), None);
        assert_eq!(violation(&[0x03]), broken(FrameRule::WholeCloseCode));
        for illegal in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
            assert_eq!(violation(&illegal.to_be_bytes()), broken(FrameRule::AllowedCloseCode), "{illegal}");
        }
        assert_eq!(violation(&[0x03, 0xe8, 0xff, 0xfe]), Some(Violation::NotUtf8));
    }
}
