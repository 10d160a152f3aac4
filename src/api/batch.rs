//! `batch`: many commands in one call, one after the other or several at a time, and an answer for each in its place.

use std::fmt;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;

use super::{ApiContext, ApiError, methods::ApiMethod, request::parse_object};
use crate::protocol::{ErrorCode, WireError};

/// Commands of a parallel batch at a time: each may ask all instances.
const PARALLEL_COMMANDS: usize = 16;
/// Bytes of all results together; what was read and would go over is error 106. All channels a thousand times are more
/// than anybody has memory for.
const MAX_REPLIES_BYTES: usize = 16 << 20;

#[derive(Deserialize)]
struct BatchRequest<'a> {
    #[serde(borrow)]
    commands: Option<Vec<&'a RawValue>>,
    parallel: Option<bool>,
}

/// Answers in the order of the commands.
#[derive(Serialize)]
pub(super) struct BatchResponse {
    replies: Vec<BatchReply>,
}

/// `{"publish":{…}}` or `{"error":{…}}`.
enum BatchReply {
    Result(ApiMethod, Box<RawValue>),
    Error(WireError),
}

impl Serialize for BatchReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut reply = serializer.serialize_map(Some(1))?;
        match self {
            Self::Result(method, result) => reply.serialize_entry(method.name(), result)?,
            Self::Error(error) => reply.serialize_entry("error", error)?,
        }
        reply.end()
    }
}

/// Does the commands.
pub(super) async fn batch(body: &Bytes, api: &ApiContext) -> Result<BatchResponse, ApiError> {
    let BatchRequest { commands, parallel } = parse_object(body)?;
    let commands = commands.ok_or(ErrorCode::BadRequest)?;
    if commands.len() > api.config.limits.broadcast_channels {
        return Err(ErrorCode::LimitExceeded.into());
    }
    let concurrency = if parallel.unwrap_or_default() { PARALLEL_COMMANDS } else { 1 };
    let mut results = stream::iter(commands).map(|command| run_command(command, api)).buffered(concurrency);
    let (mut replies, mut bytes) = (Vec::new(), 0);
    while let Some(result) = results.next().await {
        let result = result.and_then(|(method, result)| {
            let after = bytes + result.get().len();
            // What was done is told: who reads an error of it does it again.
            if after > MAX_REPLIES_BYTES && method.is_read_only() {
                return Err(ErrorCode::LimitExceeded);
            }
            bytes = after;
            Ok(BatchReply::Result(method, result))
        });
        replies.push(result.unwrap_or_else(|error| {
            api.metrics.count_error(error.code());
            BatchReply::Error(error.body())
        }));
    }
    Ok(BatchResponse { replies })
}

async fn run_command(command: &RawValue, api: &ApiContext) -> Result<(ApiMethod, Box<RawValue>), ErrorCode> {
    let BatchCommand(name, request) = serde_json::from_str(command.get()).map_err(|_| ErrorCode::MethodNotFound)?;
    let method = ApiMethod::from_name(&name).ok_or(ErrorCode::MethodNotFound)?;
    // Of its own: a little data that waits in a queue must not keep the whole batch.
    let request = Bytes::copy_from_slice(request.get().as_bytes());
    match method.call(&request, api).await {
        Ok(result) => Ok((method, result)),
        Err(ApiError::Code(error)) => Err(error),
        Err(ApiError::Http(_)) => Err(ErrorCode::BadRequest),
    }
}

/// An object of one member: a method and its request.
struct BatchCommand<'a>(String, &'a RawValue);

impl<'de: 'a, 'a> Deserialize<'de> for BatchCommand<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchCommandVisitor;

        impl<'de> Visitor<'de> for BatchCommandVisitor {
            type Value = BatchCommand<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of one member")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let missing = || serde::de::Error::invalid_length(0, &self);
                let (name, request) = map.next_entry()?.ok_or_else(missing)?;
                // A second member is left unread, which is an error of the parser's.
                Ok(BatchCommand(name, request))
            }
        }

        deserializer.deserialize_map(BatchCommandVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_command_is_an_object_with_one_member() {
        let read = |text: &'static str| serde_json::from_str::<BatchCommand<'_>>(text).ok();
        let Some(BatchCommand(name, request)) = read(r#" {"publish": {"data":[1]} } "#) else { panic!("not read") };
        assert_eq!((name.as_str(), request.get()), ("publish", r#"{"data":[1]}"#));
        for text in ["{}", "[]", "7", "null", r#"["publish",{}]"#, r#"{"info":{},"info":{}}"#, r#"{"a":1,"b":2}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
