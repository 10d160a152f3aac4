//! How requests are read: JSON objects, strictly, with a word about what is wrong.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{http::HttpError, protocol};

/// Longest word of the parser's that is passed on: it quotes what it did not expect, which may be the whole body.
const MAX_REMARK_CHARS: usize = 200;

/// A position in a channel's history, as a request names it.
#[derive(Deserialize)]
pub(super) struct ApiPosition {
    #[serde(default)]
    pub(super) offset: u64,
    #[serde(default)]
    pub(super) epoch: String,
}

/// Reads a request. serde would also take an array for an object, member by member.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, HttpError> {
    if body.trim_ascii_start().first() == Some(&b'{') {
        parse_json(body)
    } else {
        Err(HttpError::bad_request("the body must be a JSON object"))
    }
}

/// Reads a request of which every member may be left out, and so the body, too.
pub(super) fn parse_optional_object<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, HttpError> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse_object(body) }
}

/// Reads JSON. What is not of its shape is 400.
pub(super) fn parse_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, HttpError> {
    // serde_json skips over strings without looking whether they are UTF-8.
    let text = std::str::from_utf8(body).map_err(|_| HttpError::bad_request("the body is not UTF-8"))?;
    serde_json::from_str(text).map_err(|error| {
        let remark: String = error.to_string().chars().take(MAX_REMARK_CHARS).collect();
        HttpError::bad_request(format!("the body is not what it should be: {remark}"))
    })
}

/// `null` is data; only what is not there is none.
pub(super) fn deserialize_present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Raw JSON on one line, as text.
pub(super) fn single_line_string(body: &Bytes, raw: &RawValue) -> String {
    String::from_utf8_lossy(&protocol::to_single_line(body, raw)).into_owned()
}
