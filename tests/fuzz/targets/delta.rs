//! Deltas: what comes out is what went in, text stays text, and noise makes no more than it may.

use wardcast::delta::{DeltaError, decode, encode};

/// What noise may make.
const MAX_BYTES: usize = 10_000;

/// An origin, a NUL, and what is both a target and, to the decoder, a delta.
pub fn delta(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (origin, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    comes_out_as_it_went_in(origin, target);
    comes_out_as_it_went_in(target, origin);
    comes_out_as_it_went_in(target, target);
    comes_out_as_it_went_in(data, target);
    match decode(origin, target, MAX_BYTES) {
        Ok(made) => {
            assert!(made.len() <= MAX_BYTES);
            assert_eq!(decode(origin, target, made.len()).as_ref(), Ok(&made));
            assert!(made.is_empty() || decode(origin, target, made.len() - 1) == Err(DeltaError::TargetTooLong));
        }
        Err(reason) => assert_eq!(decode(origin, target, MAX_BYTES), Err(reason)),
    }
}

fn comes_out_as_it_went_in(origin: &[u8], target: &[u8]) {
    let Some(delta) = encode(origin, target) else { return };
    assert!(delta.len() < target.len());
    assert_eq!(decode(origin, &delta, target.len()).as_deref(), Ok(target));
    assert!(std::str::from_utf8(&delta).is_ok() || std::str::from_utf8(target).is_err(), "text became something else");
}
