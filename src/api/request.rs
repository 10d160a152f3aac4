//! Request bodies and results. Bodies are JSON objects, parsed strictly; the error says what is wrong with one.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    ApiContext,
    description::{ApiResult, Field, JsonType, request_fields},
};
use crate::protocol::{ErrorCode, WireError};
use crate::{
    channel::Channel,
    config::ChannelOptions,
    http::HttpError,
    json::{self, JsonObject},
    protocol,
    publication::is_valid_user,
};

/// Maximum characters of the parser's message that are sent to the caller. The message quotes the unexpected part of the body,
/// which may be all of it.
const MAX_PARSER_MESSAGE_CHARS: usize = 200;

request_fields! {
    /// A request that names a channel and nothing else.
    pub(super) struct ChannelRequest {
        /// Name of the channel.
        channel: Option<String> = (JsonType::String, None),
    }
}

request_fields! {
    /// A position in the history of a channel.
    pub(super) struct ApiPosition {
        /// Offset of a publication.
        #[serde(default)]
        offset: u64 = (JsonType::Integer, Some("`0`")),
        /// Epoch of the history, at most 64 bytes. Empty: any epoch.
        #[serde(default)]
        epoch: String = (JsonType::String, Some("empty")),
    }
}

/// Parses a body that must be a JSON object.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, HttpError> {
    if json::is_object(body) {
        parse_json(body)
    } else {
        Err(HttpError::bad_request("the request body must be a JSON object"))
    }
}

/// Parses a body whose fields are all optional. The whole body may be missing, too.
pub(super) fn parse_optional_object<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, HttpError> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse_object(body) }
}

/// Parses JSON. A wrong type is an HTTP error 400.
pub(super) fn parse_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, HttpError> {
    // serde_json skips strings without checking that they are UTF-8.
    serde_json::from_str(as_text(body)?).map_err(|error| invalid_body(&error))
}

/// Parses JSON values that follow one another, each usually on a line of its own.
pub(super) fn parse_values(body: &[u8]) -> Result<Vec<&RawValue>, HttpError> {
    let values = serde_json::Deserializer::from_str(as_text(body)?).into_iter();
    values.collect::<Result<_, _>>().map_err(|error| invalid_body(&error))
}

fn as_text(body: &[u8]) -> Result<&str, HttpError> {
    std::str::from_utf8(body).map_err(|_| HttpError::bad_request("the request body is not UTF-8"))
}

fn invalid_body(error: &serde_json::Error) -> HttpError {
    let message: String = error.to_string().chars().take(MAX_PARSER_MESSAGE_CHARS).collect();
    HttpError::bad_request(format!("invalid request body: {message}"))
}

/// Deserializes a field in which `null` is a value. Only a field that is left out is `None`.
pub(super) fn deserialize_present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Deserializes an optional field that must be an object or `null`.
pub(super) fn deserialize_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(|JsonObject(object)| object))
}

/// Returns JSON that a request has in place or in Base64, without line breaks. Base64 takes precedence; some clients of the API
/// write an unset field as `""`.
pub(super) fn json_or_base64(
    body: &Bytes,
    json: Option<&RawValue>,
    base64: Option<&str>,
) -> Result<Option<Bytes>, WireError> {
    let Some(encoded) = base64.filter(|encoded| !encoded.is_empty()) else {
        return Ok(json.map(|json| protocol::to_single_line(body, json)));
    };
    json_line(&decode_base64(encoded)?.into()).map(Some).ok_or_else(not_json_in_base64)
}

/// Decodes a field in Base64.
pub(super) fn decode_base64(encoded: &str) -> Result<Vec<u8>, WireError> {
    BASE64_STANDARD.decode(encoded).map_err(|_| not_json_in_base64())
}

/// Returns JSON without line breaks; `None` if the bytes are not JSON.
pub(super) fn json_line(bytes: &Bytes) -> Option<Bytes> {
    let json = serde_json::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
    Some(protocol::to_single_line(bytes, json))
}

/// Returns the error of a field in Base64 that is not what it should be.
pub(super) fn not_json_in_base64() -> WireError {
    ErrorCode::BadRequest.with_detail("b64data and b64info must be JSON in Base64")
}

/// Returns the JSON as a string.
pub(super) fn json_string(json: &Bytes) -> String {
    String::from_utf8_lossy(json).into_owned()
}

/// Checks the name of a user.
pub(super) fn check_user(user: &str) -> Result<(), WireError> {
    let is_valid = !user.is_empty() && is_valid_user(user);
    let detail = "user must have 1 to 255 bytes and no control characters";
    if is_valid { Ok(()) } else { Err(ErrorCode::BadRequest.with_detail(detail)) }
}

/// Returns the channel with this name and its options.
pub(super) fn find_channel(
    name: Option<String>,
    api: &ApiContext,
) -> Result<(Channel, Arc<ChannelOptions>), WireError> {
    let channel = Channel::new(&name.unwrap_or_default())?;
    let options = api.permissions.channel_options(&channel)?;
    Ok((channel, options))
}

/// Returns a result as JSON.
pub(super) fn to_result(value: impl serde::Serialize) -> ApiResult {
    Ok(to_raw_value(&value).map_err(|_| ErrorCode::Internal)?)
}

/// Returns the result of a method that has nothing to say but that it succeeded.
pub(super) fn empty_result() -> ApiResult {
    to_result(serde_json::Map::new())
}

/// Returns a result that is JSON already.
pub(super) fn to_raw_result(json: Vec<u8>) -> ApiResult {
    let json = String::from_utf8(json).map_err(|_| ErrorCode::Internal)?;
    Ok(RawValue::from_string(json).map_err(|_| ErrorCode::Internal)?)
}
