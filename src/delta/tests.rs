//! Tests of deltas: decoding returns the target, and deltas have the promised length and form.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{DeltaError, MAX_BYTES, decode, encode, encode::encode_always};

/// Generates a base, and a target that is a changed copy of it.
fn similar(piece: impl Strategy<Value = Vec<u8>> + 'static) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let piece = piece.boxed();
    let changes = vec((any::<Index>(), any::<Index>(), piece.clone()), 0..5);
    (vec(piece, 0..60), changes).prop_map(|(pieces, changes)| {
        let (base, mut target) = (pieces.concat(), pieces);
        for (from, to, piece) in changes {
            let (from, to) = (from.index(target.len() + 1), to.index(target.len() + 1));
            let moved: Vec<Vec<u8>> = target.drain(from.min(to)..from.max(to)).collect();
            // The pieces are dropped, replaced or moved to the end.
            match piece.len() % 3 {
                0 => target.extend(moved),
                1 => target.insert(from.min(to), piece),
                _ => {}
            }
        }
        (base, target.concat())
    })
}

fn bytes() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let any_two = (vec(any::<u8>(), 0..200), vec(any::<u8>(), 0..200));
    let repeating = (vec(0..2_u8, 0..400), vec(0..2_u8, 0..400));
    prop_oneof![any_two, repeating, similar(vec(any::<u8>(), 0..40))]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applying_a_delta_to_its_base_yields_the_target((base, target) in bytes()) {
        let delta = encode_always(&base, &target);
        prop_assert_eq!(decode(&base, &delta, target.len()), Ok(target.clone()));
        prop_assert_eq!(encode(&base, &target), Some(delta).filter(|delta| delta.len() < target.len()));
    }

    #[test]
    fn a_delta_of_utf8_is_utf8((base, target) in similar("[a-cäöλ語𝄞]{0,9}".prop_map(String::into_bytes))) {
        let delta = encode_always(&base, &target);
        prop_assert!(std::str::from_utf8(&delta).is_ok(), "{}", String::from_utf8_lossy(&delta));
        prop_assert_eq!(decode(&base, &delta, target.len()), Ok(target));
    }

    #[test]
    fn a_delta_of_utf8_is_utf8_for_any_base(base in vec(any::<u8>(), 0..99), text in "[äöλ語𝄞]{0,40}", cut in any::<Index>()) {
        // The base ends or begins inside a code point.
        let target = text.as_bytes();
        let cut = cut.index(target.len() + 1);
        for base in [[&base, &target[..cut]].concat(), [&target[cut..], &base].concat()] {
            let delta = encode_always(&base, target);
            prop_assert!(std::str::from_utf8(&delta).is_ok(), "{}", String::from_utf8_lossy(&delta));
            prop_assert_eq!(decode(&base, &delta, target.len()), Ok(target.to_vec()));
        }
    }

    #[test]
    fn a_small_change_yields_a_small_delta(pieces in vec("[a-z]{20}", 3..60), at in any::<Index>()) {
        let base = pieces.concat();
        let at = at.index(pieces.len());
        let target = [&pieces[..at].concat(), "!", &pieces[at..].concat()].concat();
        prop_assert!(encode_always(base.as_bytes(), target.as_bytes()).len() <= 30);
    }

    #[test]
    fn decoding_noise_never_exceeds_the_given_maximum(base in vec(any::<u8>(), 0..40), noise in "[0-9A-Z_a-z~]{0,2}\n([0-3]{1,2}[@:;,]){0,6}") {
        if let Ok(target) = decode(&base, noise.as_bytes(), 50) {
            prop_assert!(target.len() <= 50);
        }
    }
}

#[test]
fn encoded_deltas_match_golden_examples() {
    // Each of these was decoded by the browser SDK (centrifuge 5.8.0) and by fossil-delta 2.0.0.
    for (base, target, delta) in [
        (
            r#"{"ticker":"AAPL","name":"Apple Inc.","price":"227.52","currency":"USD"}"#,
            r#"{"ticker":"AAPL","name":"Apple Inc.","price":"227.61","currency":"USD"}"#,
            "17\nn@0,2:61J@p,1ZmgNd;",
        ),
        (
            r#"{"first":"the quick brown fox","last":"jumps over the lazy dog"}"#,
            r#"{"last":"jumps over the lazy dog","first":"the quick brown fox"}"#,
            "10\n1:{W@V,V:,\"first\":\"the quick brown fox\"}2ByySJ;",
        ),
        // The first differing characters share two of three bytes, the last ones the second of two.
        (
            r#"{"text":"こんにちはあ é cómo estás"}"#,
            r#"{"text":"こんにちはい ĩ cómo estás"}"#,
            "i\nO@0,6:い ĩF@U,3fSGcD;",
        ),
        (
            r#"{"items":[1,2,3,4,5,6,7,8,9,10,11,12]}"#,
            r#"{"items":[1,2,3,4,5,6,7,8,9,10,11,12,13,14]}"#,
            "h\n_@0,8:,13,14]}2kNTHz;",
        ),
        (r#"{"text":"twenty-four letters here"}"#, r#"{"text":"twenty-four letters here"}"#, "Z\nZ@0,5IwRx;"),
    ] {
        let made = encode(base.as_bytes(), target.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(&made), delta);
        assert_eq!(decode(base.as_bytes(), delta.as_bytes(), 99), Ok(target.as_bytes().to_vec()));
    }
}

#[test]
fn a_delta_that_is_not_shorter_than_the_target_is_not_used() {
    assert_eq!(encode(b"", b""), None);
    assert_eq!(encode(b"{}", b"{}"), None);
    assert_eq!(encode(b"", b"all of it is new, and nothing stands anywhere"), None);
    assert_eq!(encode(b"0123456789abcdefghijklmnopqrstuvwxyz", b"nothing of this occurs in the base"), None);
}

#[test]
fn data_over_16_mib_gets_no_delta() {
    let long = vec![b'x'; MAX_BYTES + 1];
    assert_eq!(encode(&long, &long), None);
    assert_eq!(encode(b"x", &long), None);
    assert_eq!(encode(&long, b"x"), None);
    assert!(encode(&long[1..], &long[1..]).is_some_and(|delta| delta.len() <= 20));
}

#[test]
fn malformed_deltas_are_refused_with_the_reason() {
    use DeltaError::{ChecksumMismatch, CopyOutOfRange, LengthMismatch, Malformed, TargetTooLong};
    let base = b"0123456789";
    assert_eq!(decode(base, b"3\n1@2,2:xy0;", 3), Err(ChecksumMismatch));
    for (delta, reason) in [
        ("", Malformed),
        ("3", Malformed),
        ("\n", Malformed),
        ("3;", Malformed),
        ("0\n", Malformed),
        ("0\n0", Malformed),
        ("0\n;", Malformed),
        ("0\n0;0;", Malformed),
        ("0\n0;\n", Malformed),
        ("0\n0,", Malformed),
        ("0\n0?0;", Malformed),
        ("3\n3@0;", Malformed),
        ("3\n3@,", Malformed),
        ("3\n3:xy", Malformed),
        ("3\n~~~~~:xyz", Malformed),
        // 2^32, and 2^42, which has eight digits.
        ("400000\n0;", Malformed),
        ("10000000\n0;", Malformed),
        ("3\n400000@0,0;", Malformed),
        ("B\n0;", TargetTooLong),
        ("3~~~~~\n0;", TargetTooLong),
        ("3\n3@8,0;", CopyOutOfRange),
        ("3\n1@A,0;", CopyOutOfRange),
        ("3\n3@3~~~~~,0;", CopyOutOfRange),
        ("3\n3~~~~~@3~~~~~,0;", CopyOutOfRange),
        ("3\n4@0,0;", LengthMismatch),
        ("3\n2@0,0;", LengthMismatch),
        ("3\n2@0,2:xy0;", LengthMismatch),
        ("3\n3@0,0;", ChecksumMismatch),
    ] {
        assert_eq!(decode(base, delta.as_bytes(), 10), Err(reason), "{delta:?}");
    }
    assert_eq!(decode(base, b"0\n0;", 0), Ok(Vec::new()));
}

#[test]
fn repetitive_data_is_encoded_in_linear_time() {
    // Almost every window of one occurs everywhere in the other: comparing all of them would take 2^40 steps.
    let zeros = vec![0; 1 << 20];
    let near: Vec<u8> = (0..1 << 20).map(|at| u8::from(at % 16 == 15 && at % 7 == 0)).collect();
    for (base, target) in [(&zeros, &near), (&near, &zeros), (&near, &near[1..].to_vec())] {
        assert_eq!(decode(base, &encode_always(base, target), MAX_BYTES).as_ref(), Ok(target));
    }
}
