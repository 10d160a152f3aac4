//! Assembles fragments into messages (RFC 6455 §5.4) and checks as they arrive that text is UTF-8 across them (§8.1).
//! Pure.

use actix_http::ws::Item;
use bytes::{Bytes, BytesMut};

use super::reader::Violation;
use crate::protocol::FrameRule;

/// A message of which not all fragments have arrived.
#[derive(Debug)]
pub(super) struct PartialMessage {
    is_text: bool,
    /// Whether the payload is compressed. Text is checked to be UTF-8 only after it is inflated.
    is_compressed: bool,
    payload: BytesMut,
    /// Length of the prefix of `payload` that is valid UTF-8. A code point may be split at its end.
    utf8_bytes: usize,
    fragments: usize,
}

/// A message of which all fragments have arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AssembledMessage {
    pub(super) is_text: bool,
    pub(super) is_compressed: bool,
    pub(super) payload: Bytes,
}

impl PartialMessage {
    /// Bytes of the payload so far.
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }
}

/// Adds a fragment to the open message, and returns the message if it is complete. `is_compressed` says whether the first fragment
/// begins a compressed message.
///
/// # Errors
/// The fragment continues no message, is not UTF-8 in a text message, or is one more than the limit.
pub(super) fn add_fragment(
    partial: &mut Option<Box<PartialMessage>>,
    item: Item,
    is_compressed: bool,
    max_fragments: usize,
) -> Result<Option<AssembledMessage>, Violation> {
    let (fragment, is_last) = match item {
        Item::FirstText(fragment) => (start_message(partial, true, is_compressed, fragment), false),
        Item::FirstBinary(fragment) => (start_message(partial, false, is_compressed, fragment), false),
        Item::Continue(fragment) => (fragment, false),
        Item::Last(fragment) => (fragment, true),
    };
    let Some(open) = partial else {
        return Err(FrameRule::OpenMessage.into());
    };
    open.fragments += 1;
    if open.fragments > max_fragments {
        return Err(Violation::TooBig);
    }
    open.payload.extend_from_slice(&fragment);
    if open.is_text && !open.is_compressed {
        open.utf8_bytes += utf8_prefix(&open.payload[open.utf8_bytes..], is_last)?;
    }
    if !is_last {
        return Ok(None);
    }
    Ok(partial.take().map(|whole| AssembledMessage {
        is_text: whole.is_text,
        is_compressed: whole.is_compressed,
        payload: whole.payload.freeze(),
    }))
}

fn start_message(partial: &mut Option<Box<PartialMessage>>, is_text: bool, is_compressed: bool, first: Bytes) -> Bytes {
    let payload = BytesMut::new();
    *partial = Some(Box::new(PartialMessage { is_text, is_compressed, payload, utf8_bytes: 0, fragments: 0 }));
    first
}

/// Returns the length of the prefix of `bytes` that is valid UTF-8. The rest may only be a code point that the end of
/// the fragment cuts, and nothing in the last fragment.
fn utf8_prefix(bytes: &[u8], is_last: bool) -> Result<usize, Violation> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() && !is_last => Ok(error.valid_up_to()),
        Err(_) => Err(Violation::NotUtf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(parts: &[&[u8]], is_compressed: bool) -> Result<Option<Bytes>, Violation> {
        let mut partial = None;
        let last = parts.len() - 1;
        for (index, part) in parts.iter().enumerate() {
            let part = Bytes::copy_from_slice(part);
            let item = match index {
                0 => Item::FirstText(part),
                index if index == last => Item::Last(part),
                _ => Item::Continue(part),
            };
            match add_fragment(&mut partial, item, is_compressed, 8) {
                Ok(None) => {}
                done => return done.map(|message| message.map(|message| message.payload)),
            }
        }
        Ok(None)
    }

    #[test]
    fn code_point_split_at_any_byte_is_reassembled() {
        let text = "aé€𝄞".as_bytes();
        for cut in 0..=text.len() {
            let whole = assemble(&[&text[..cut], b"", &text[cut..]], false);
            assert_eq!(whole, Ok(Some(Bytes::from_static("aé€𝄞".as_bytes()))), "split at {cut}");
        }
    }

    #[test]
    fn invalid_utf8_is_refused_in_the_fragment_that_contains_it() {
        for bad in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
            assert_eq!(assemble(&[bad, b"x", b"y"], false), Err(Violation::NotUtf8), "{bad:?}");
            assert!(assemble(&[bad, b"x", b"y"], true).is_ok(), "compressed {bad:?}");
        }
        assert_eq!(
            assemble(&[b"ok", b"\xe2\x82"], false),
            Err(Violation::NotUtf8),
            "code point cut at the end of the message"
        );
    }

    #[test]
    fn endless_empty_fragments_are_refused() {
        let parts = vec![&b""[..]; 20];
        assert_eq!(assemble(&parts, false), Err(Violation::TooBig));
    }
}
