//! Pieces of reading JSON that strangers wrote: bounded in depth and count, strict about types.

use std::{borrow::Cow, fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

/// How deep arrays and objects may stand in each other. Parsers recurse, ours and those of whoever gets `info`.
const MAX_DEPTH: usize = 32;

/// Text, borrowed where nothing in it is escaped.
#[derive(Deserialize)]
pub(super) struct JsonText<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A list that is refused while it is read when it gets too long.
pub(super) struct BoundedList<T, const MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedList<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut taken = Vec::new();
                while let Some(item) = list.next_element()? {
                    if taken.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    taken.push(item);
                }
                Ok(taken)
            }
        }

        deserializer.deserialize_seq(ListVisitor::<T, MAX>(PhantomData)).map(Self)
    }
}

/// An object. serde by itself would also take a list, member by member, for one.
pub(super) struct JsonObject<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// For members that may be absent, but not `null`.
pub(super) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// JSON is UTF-8 (RFC 7515 §5.2, RFC 7519 §7.2), also where it is passed over: serde_json does not look there.
pub(super) fn utf8(json: &[u8]) -> Option<&str> {
    std::str::from_utf8(json).ok()
}

/// Raw JSON of at most `bytes`, as one line: CR and LF are only ever white space in it, and on the wire end a reply.
pub(super) fn single_line(raw: &RawValue, bytes: usize) -> Option<Bytes> {
    let text = raw.get().as_bytes();
    let spaced = || text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
    (text.len() <= bytes).then(|| spaced().collect())
}

/// Whether arrays and objects stand too deep in each other; what is no JSON is judged by the parser.
pub(super) fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
    json.iter().any(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => depth += 1,
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_inside_strings_do_not_count_as_depth() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(nested(MAX_DEPTH).as_bytes()) && is_too_deep(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(!is_too_deep(format!("[{}]", "[],".repeat(100)).as_bytes()), "side by side");
        assert!(!is_too_deep(format!(r#""\"{}""#, "[".repeat(100)).as_bytes()), "text");
        assert!(is_too_deep(format!(r#"["\\",{}"#, nested(MAX_DEPTH)).as_bytes()), "behind an escape");
    }

    #[test]
    fn a_list_is_refused_as_soon_as_it_exceeds_its_maximum() {
        assert_eq!(serde_json::from_str::<BoundedList<u8, 3>>("[1,2,3]").unwrap().0, [1, 2, 3]);
        // What stands behind the fourth is not even looked at.
        let error = serde_json::from_str::<BoundedList<u8, 3>>("[1,2,3,4,nonsense").err().unwrap();
        assert!(error.to_string().contains("at most 3"), "{error}");
    }
}
