//! Reading a delta, as strictly as it is written: for tests, and for clients that are ours.

use super::{DIGITS, checksum};

/// Why a delta makes nothing of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDelta {
    /// A number is missing, is over 32 bits, or is not followed by what belongs there.
    #[error("no delta: it has another form")]
    Form,
    /// The target would be longer than the caller takes.
    #[error("the target is too long")]
    TooLong,
    /// A copy reaches over the end of the origin.
    #[error("a copy reaches over the end of the origin")]
    Copy,
    /// The target has another length than the delta says.
    #[error("the target has another length than the delta says")]
    Length,
    /// The target has another checksum: the delta is for another origin.
    #[error("the target has another checksum than the delta says")]
    Checksum,
}

/// The target that `delta` makes from `origin`.
///
/// # Errors
/// [`BadDelta`], and never more than `most_bytes` are taken, whatever the delta says.
pub fn decode(origin: &[u8], delta: &[u8], most_bytes: usize) -> Result<Vec<u8>, BadDelta> {
    let mut rest = delta;
    let (length, b'\n') = step(&mut rest)? else { return Err(BadDelta::Form) };
    if length > most_bytes {
        return Err(BadDelta::TooLong);
    }
    let mut target = Vec::new();
    loop {
        let (number, mark) = step(&mut rest)?;
        let piece = match mark {
            b'@' => {
                let (offset, b',') = step(&mut rest)? else { return Err(BadDelta::Form) };
                origin.get(offset..).and_then(|from| from.get(..number)).ok_or(BadDelta::Copy)?
            }
            b':' => {
                let (piece, after) = rest.split_at_checked(number).ok_or(BadDelta::Form)?;
                rest = after;
                piece
            }
            b';' if !rest.is_empty() => return Err(BadDelta::Form),
            b';' if target.len() != length => return Err(BadDelta::Length),
            b';' if checksum(&target) as usize != number => return Err(BadDelta::Checksum),
            b';' => return Ok(target),
            _ => return Err(BadDelta::Form),
        };
        if piece.len() > length - target.len() {
            return Err(BadDelta::Length);
        }
        target.extend_from_slice(piece);
    }
}

/// Takes a number and the mark behind it.
fn step(rest: &mut &[u8]) -> Result<(usize, u8), BadDelta> {
    let digits = rest.iter().map_while(|byte| DIGITS.binary_search(byte).ok());
    let (count, number) =
        digits.take(7).fold((0, 0_u64), |(count, number), digit| (count + 1, number << 6 | digit as u64));
    let number = u32::try_from(number).map_err(|_| BadDelta::Form)?;
    let (mark, after) = rest[count..].split_first().filter(|_| count > 0).ok_or(BadDelta::Form)?;
    *rest = after;
    Ok((number as usize, *mark))
}
