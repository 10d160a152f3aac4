//! Deltas: applying one gives its target, a delta between texts is text, and garbage cannot produce more than the limit.

use wardcast::delta::{DeltaError, decode, encode};

/// Maximum length of a target made from garbage.
const MAX_BYTES: usize = 10_000;

/// A base, a NUL byte, and bytes that are used both as a target and as a delta.
pub fn delta(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (base, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    check_round_trip(base, target);
    check_round_trip(target, base);
    check_round_trip(target, target);
    check_round_trip(data, target);
    match decode(base, target, MAX_BYTES) {
        Ok(made) => {
            assert!(made.len() <= MAX_BYTES);
            assert_eq!(decode(base, target, made.len()).as_ref(), Ok(&made));
            assert!(made.is_empty() || decode(base, target, made.len() - 1) == Err(DeltaError::TargetTooLong));
        }
        Err(reason) => assert_eq!(decode(base, target, MAX_BYTES), Err(reason)),
    }
}

fn check_round_trip(base: &[u8], target: &[u8]) {
    let Some(delta) = encode(base, target) else { return };
    assert!(delta.len() < target.len());
    assert_eq!(decode(base, &delta, target.len()).as_deref(), Ok(target));
    assert!(std::str::from_utf8(&delta).is_ok() || std::str::from_utf8(target).is_err(), "text became something else");
}
