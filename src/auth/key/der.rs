//! Reads elements of DER (X.690 §8.1), the encoding of keys and certificates.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// Takes one DER element (X.690 §8.1) with this tag and returns its content.
pub(super) fn take_element<'a>(tag: u8, der: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (inside, behind) = rest.split_at_checked(length)?;
    *der = behind;
    (found == tag).then_some(inside)
}

/// Returns the content of the only DER element in `der`, if it has this tag.
pub(super) fn single_element(tag: u8, mut der: &[u8]) -> Option<&[u8]> {
    take_element(tag, &mut der).filter(|_| der.is_empty())
}
