//! Strict reading of JSON that others have written: only objects where objects are expected, a limit on nesting, and no line breaks,
//! which would separate messages.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
    forward_to_deserialize_any,
};
use serde_json::value::RawValue;

/// Maximum nesting of arrays and objects. Parsers recurse: the hub's, and those of the clients that receive `info`.
pub(crate) const MAX_DEPTH: usize = 32;

/// An object. A derived `Deserialize` alone would also accept an array that lists the members in order.
pub(crate) struct JsonObject<T>(pub(crate) T);

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

/// The members of an object in their order. Unlike a map it keeps duplicate names, so that they can be refused.
pub(crate) struct JsonMembers<T>(pub(crate) Vec<(String, T)>);

impl<T> Default for JsonMembers<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonMembers<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersVisitor<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
                std::iter::from_fn(|| object.next_entry().transpose()).collect()
            }
        }

        deserializer.deserialize_map(MembersVisitor(PhantomData)).map(Self)
    }
}

/// Returns the names of the members that a struct with a derived `Deserialize` reads.
pub(crate) fn member_names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    /// Does not deserialize anything: it only learns what it is asked for.
    struct NameCollector<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for NameCollector<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(Self::Error::custom("only the names are wanted"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
            Err(Self::Error::custom("not a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(NameCollector(&mut names));
    names
}

/// Deserializes a member that may be absent, but not `null`.
pub(crate) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Returns whether JSON is an object, if it is JSON. serde would accept an array for a struct, too.
pub(crate) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

/// Parses an object; `None` if it is another value, or not valid. For texts with secrets, which the error of the parser would quote.
pub(crate) fn parse_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    if is_object(json) { serde_json::from_slice(json).ok() } else { None }
}

/// Returns whether a byte ends a line. In JSON it is white space only, but on the wire it separates messages.
pub(crate) fn is_line_break(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Returns raw JSON with spaces in place of line breaks.
pub(crate) fn single_line(raw: &RawValue) -> Cow<'_, [u8]> {
    let text = raw.get().as_bytes();
    if text.iter().any(is_line_break) {
        text.iter().map(|byte| if is_line_break(byte) { b' ' } else { *byte }).collect()
    } else {
        text.into()
    }
}

/// Returns whether arrays and objects are nested deeper than [`MAX_DEPTH`]. Whether the text is JSON at all is left to the
/// parser.
pub(crate) fn is_too_deep(json: &[u8]) -> bool {
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
        assert!(!is_too_deep(format!(r#""\"{}""#, "[".repeat(100)).as_bytes()), "inside a string");
        assert!(is_too_deep(format!(r#"["\\",{}"#, nested(MAX_DEPTH)).as_bytes()), "after an escaped backslash");
    }
}
