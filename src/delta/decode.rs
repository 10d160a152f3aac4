//! Strict decoding of deltas, for tests and for the load generator.

use super::{DIGITS, checksum};

/// Why a delta cannot be applied to a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// A number is missing, is longer than 32 bits, or is followed by the wrong character.
    #[error("malformed delta")]
    Malformed,
    /// The target would be longer than the caller accepts.
    #[error("the target is too long")]
    TargetTooLong,
    /// A copy ends beyond the end of the base.
    #[error("a copy ends beyond the end of the base")]
    CopyOutOfRange,
    /// The target does not have the length in the delta.
    #[error("the target does not have the length in the delta")]
    LengthMismatch,
    /// The target does not have the checksum in the delta: the delta is for another base.
    #[error("the target does not have the checksum in the delta")]
    ChecksumMismatch,
}

/// Applies `delta` to `base` and returns the target.
///
/// # Errors
/// [`DeltaError`]. Never allocates more than `max_bytes`, whatever the delta contains.
pub fn decode(base: &[u8], delta: &[u8], max_bytes: usize) -> Result<Vec<u8>, DeltaError> {
    let mut rest = delta;
    let (length, b'\n') = take_number(&mut rest)? else { return Err(DeltaError::Malformed) };
    if length > max_bytes {
        return Err(DeltaError::TargetTooLong);
    }
    let mut target = Vec::new();
    loop {
        let (number, mark) = take_number(&mut rest)?;
        let piece = match mark {
            b'@' => {
                let (offset, b',') = take_number(&mut rest)? else { return Err(DeltaError::Malformed) };
                base.get(offset..).and_then(|from| from.get(..number)).ok_or(DeltaError::CopyOutOfRange)?
            }
            b':' => {
                let (piece, after) = rest.split_at_checked(number).ok_or(DeltaError::Malformed)?;
                rest = after;
                piece
            }
            b';' if !rest.is_empty() => return Err(DeltaError::Malformed),
            b';' if target.len() != length => return Err(DeltaError::LengthMismatch),
            b';' if checksum(&target) as usize != number => return Err(DeltaError::ChecksumMismatch),
            b';' => return Ok(target),
            _ => return Err(DeltaError::Malformed),
        };
        if piece.len() > length - target.len() {
            return Err(DeltaError::LengthMismatch);
        }
        target.extend_from_slice(piece);
    }
}

/// Takes a number and the character after it.
fn take_number(rest: &mut &[u8]) -> Result<(usize, u8), DeltaError> {
    let digits = rest.iter().map_while(|byte| DIGITS.binary_search(byte).ok());
    let (count, number) =
        digits.take(7).fold((0, 0_u64), |(count, number), digit| (count + 1, number << 6 | digit as u64));
    let number = u32::try_from(number).map_err(|_| DeltaError::Malformed)?;
    let (mark, after) = rest[count..].split_first().filter(|_| count > 0).ok_or(DeltaError::Malformed)?;
    *rest = after;
    Ok((number as usize, *mark))
}
