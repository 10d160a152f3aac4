//! `batch`: runs many commands in one call, one after the other or several at a time, and returns a reply for each.

use std::fmt;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;
use tokio::task::yield_now;

use super::{
    ApiContext, ApiError,
    audit::record_call,
    description::{Access, ApiMethod, Example, Field, Handler, JsonType, request_fields},
    key::Caller,
    methods::find_method,
    publish::{BROADCAST_CHANNELS, ERROR},
    request::parse_object,
};
use crate::protocol::{ErrorCode, ExceededLimit, WireError};

/// Number of commands of a parallel batch that run at the same time. Each may ask all nodes.
const PARALLEL_COMMANDS: usize = 16;

/// `batch`.
pub(super) const BATCH: ApiMethod = ApiMethod {
    name: "batch",
    access: Access::Write,
    summary: "Calls many methods, and answers with a reply for each.",
    details: "A command is an object with one field: the name of a method with its request. `batch` itself cannot be a command. \
        The answer is not wrapped in `result`.",
    request: &[BatchRequest::FIELDS],
    result: &[Field::always(
        "replies",
        JsonType::Array(&JsonType::Object(&[
            Field::left_out(
                "{method}",
                JsonType::Any,
                "if the command failed",
                "The result of the command, under the name of its method.",
            ),
            Field::left_out(
                "error",
                JsonType::Object(ERROR),
                "if the command succeeded",
                "The error of the command: one of its method, 107 if its request is malformed, 104 if it does not name \
                    one method, or 106 if it only reads and all results together would be larger than `api.replies_bytes`.",
            ),
        ])),
        "One reply for each command, in the order of `commands`.",
    )],
    errors: &[
        (ErrorCode::LimitExceeded, "there are more than `limits.broadcast_channels` commands; none was run"),
        (ErrorCode::BadRequest, "`commands` is missing"),
    ],
    example: Example {
        request: r#"{"commands":[{"publish":{"channel":"news","data":1}},{"publish":{"data":1}}]}"#,
        answer: r#"{"replies":[
  {"publish":{"offset":3,"epoch":"xyzw"}},
  {"error":{"code":107,"message":"bad request: channel: a channel name must have 1 to 255 bytes"}}
]}"#,
    },
    handler: Handler::Batch,
};

request_fields! {
    /// A request of `batch`.
    struct BatchRequest<'a> {
        /// The commands, at most `limits.broadcast_channels`.
        #[serde(borrow)]
        commands: Option<Vec<&'a RawValue>> = (JsonType::Array(&JsonType::Map(&JsonType::Any)), None),
        /// Runs up to 16 commands at the same time. Otherwise each starts when the one before it has ended.
        parallel: Option<bool> = (JsonType::Boolean, Some("`false`")),
    }
}

/// The answer to a batch, with the replies in the order of the commands.
#[derive(Serialize)]
pub(super) struct BatchResponse {
    replies: Vec<BatchReply>,
}

/// `{"publish":{…}}` or `{"error":{…}}`.
enum BatchReply {
    Result(&'static ApiMethod, Box<RawValue>),
    Error(WireError),
}

impl Serialize for BatchReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut reply = serializer.serialize_map(Some(1))?;
        match self {
            Self::Result(method, result) => reply.serialize_entry(method.name, result)?,
            Self::Error(error) => reply.serialize_entry("error", error)?,
        }
        reply.end()
    }
}

/// Runs the commands of a batch.
pub(super) async fn run_batch(body: &Bytes, caller: &Caller, api: &ApiContext) -> Result<BatchResponse, ApiError> {
    let BatchRequest { commands, parallel } = parse_object(body)?;
    let commands = commands.ok_or(ErrorCode::BadRequest)?;
    check_command_count(commands.len(), api)?;
    let concurrency = if parallel.unwrap_or_default() { PARALLEL_COMMANDS } else { 1 };
    let mut results = stream::iter(commands).map(|command| run_command(command, caller, api)).buffered(concurrency);
    let (mut replies, mut admitted) = (Vec::new(), BatchResults::new(api));
    while let Some(result) = results.next().await {
        let result =
            result.and_then(|(method, result)| Ok(BatchReply::Result(method, admitted.admit(method, result)?)));
        replies.push(result.unwrap_or_else(|error| {
            api.metrics.count_error(error.code());
            BatchReply::Error(error)
        }));
    }
    Ok(BatchResponse { replies })
}

/// Checks how many commands one request has.
pub(super) fn check_command_count(count: usize, api: &ApiContext) -> Result<(), ExceededLimit> {
    ExceededLimit::check(BROADCAST_CHANNELS, api.config.current().limits.broadcast_channels, count)
}

/// The results of the commands of one request, which are limited together.
pub(super) struct BatchResults {
    bytes: usize,
    max_bytes: usize,
}

impl BatchResults {
    pub(super) fn new(api: &ApiContext) -> Self {
        Self { bytes: 0, max_bytes: api.config.current().api.replies_bytes }
    }

    /// Returns the result of a method if there is room for it. A write is always reported: a caller that gets an error for it
    /// would repeat it.
    pub(super) fn admit(&mut self, method: &ApiMethod, result: Box<RawValue>) -> Result<Box<RawValue>, WireError> {
        let bytes = self.bytes + result.get().len();
        if method.access == Access::ReadOnly {
            ExceededLimit::check("api.replies_bytes", self.max_bytes, bytes)?;
        }
        self.bytes = bytes;
        Ok(result)
    }
}

async fn run_command(
    command: &RawValue,
    caller: &Caller,
    api: &ApiContext,
) -> Result<(&'static ApiMethod, Box<RawValue>), WireError> {
    let BatchCommand(name, request) = serde_json::from_str(command.get()).map_err(|_| ErrorCode::MethodNotFound)?;
    call_method(&name, request.get(), caller, api).await
}

/// Calls a method that is one of several in a request.
pub(super) async fn call_method(
    name: &str,
    request: &str,
    caller: &Caller,
    api: &ApiContext,
) -> Result<(&'static ApiMethod, Box<RawValue>), WireError> {
    // A copy: a small publication in a queue must not keep the whole body in memory.
    let request = Bytes::copy_from_slice(request.as_bytes());
    let (method, result) = match find_method(name) {
        Some(method @ ApiMethod { handler: Handler::Single(call), .. }) => (method, call(&request, api).await),
        Some(method @ ApiMethod { handler: Handler::OfCaller(call), .. }) => {
            (method, call(&request, caller, api).await)
        }
        Some(ApiMethod { handler: Handler::Batch, .. }) | None => {
            api.call_counters.count_unknown();
            return Err(ErrorCode::MethodNotFound.into());
        }
    };
    api.call_counters.count(method, result.is_ok());
    record_call(method, &request, &result, caller, api);
    // A broker that answers at once would let no other task of the worker run before the last call.
    yield_now().await;
    match result {
        Ok(result) => Ok((method, result)),
        Err(ApiError::Failed(error)) => Err(error),
        Err(ApiError::Http(error)) => Err(ErrorCode::BadRequest.with_detail(error.message())),
    }
}

/// An object with one field: the name of a method and its request.
struct BatchCommand<'a>(String, &'a RawValue);

impl<'de: 'a, 'a> Deserialize<'de> for BatchCommand<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchCommandVisitor;

        impl<'de> Visitor<'de> for BatchCommandVisitor {
            type Value = BatchCommand<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one field")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let missing = || serde::de::Error::invalid_length(0, &self);
                let (name, request) = map.next_entry()?.ok_or_else(missing)?;
                // A second field is left unread, which makes the parser fail.
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
    fn batch_command_is_an_object_with_one_field() {
        let read = |text: &'static str| serde_json::from_str::<BatchCommand<'_>>(text).ok();
        let Some(BatchCommand(name, request)) = read(r#" {"publish": {"data":[1]} } "#) else { panic!("not read") };
        assert_eq!((name.as_str(), request.get()), ("publish", r#"{"data":[1]}"#));
        for text in ["{}", "[]", "7", "null", r#"["publish",{}]"#, r#"{"info":{},"info":{}}"#, r#"{"a":1,"b":2}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
