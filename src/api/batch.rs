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

use super::{Fault, Shared, method::Method, request::read_object};
use crate::protocol::{ErrorBody, ErrorCode};

/// Commands of a parallel batch at a time: each may ask all instances.
const PARALLEL: usize = 16;
/// Bytes of all results together; what was read and would go over is error 106. All channels a thousand times are more
/// than anybody has memory for.
const REPLIES_BYTES: usize = 16 << 20;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    commands: Option<Vec<&'a RawValue>>,
    parallel: Option<bool>,
}

/// Answers in the order of the commands.
#[derive(Serialize)]
pub(super) struct Replies {
    replies: Vec<Reply>,
}

/// `{"publish":{…}}` or `{"error":{…}}`.
enum Reply {
    Done(Method, Box<RawValue>),
    Failed(ErrorBody),
}

impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut reply = serializer.serialize_map(Some(1))?;
        match self {
            Self::Done(method, result) => reply.serialize_entry(method.name(), result)?,
            Self::Failed(error) => reply.serialize_entry("error", error)?,
        }
        reply.end()
    }
}

/// Does the commands.
pub(super) async fn batch(body: &Bytes, shared: &Shared) -> Result<Replies, Fault> {
    let Batch { commands, parallel } = read_object(body)?;
    let commands = commands.ok_or(ErrorCode::BadRequest)?;
    if commands.len() > shared.config.limits.broadcast_channels {
        return Err(ErrorCode::LimitExceeded.into());
    }
    let at_a_time = if parallel.unwrap_or_default() { PARALLEL } else { 1 };
    let mut results = stream::iter(commands).map(|command| call(command, shared)).buffered(at_a_time);
    let (mut replies, mut bytes) = (Vec::new(), 0);
    while let Some(result) = results.next().await {
        let result = result.and_then(|(method, result)| {
            let after = bytes + result.get().len();
            // What was done is told: who reads an error of it does it again.
            if after > REPLIES_BYTES && method.only_reads() {
                return Err(ErrorCode::LimitExceeded);
            }
            bytes = after;
            Ok(Reply::Done(method, result))
        });
        replies.push(result.unwrap_or_else(|error| {
            shared.metrics.count_error(error.code());
            Reply::Failed(error.body())
        }));
    }
    Ok(Replies { replies })
}

async fn call(command: &RawValue, shared: &Shared) -> Result<(Method, Box<RawValue>), ErrorCode> {
    let Single(name, request) = serde_json::from_str(command.get()).map_err(|_| ErrorCode::MethodNotFound)?;
    let method = Method::named(&name).ok_or(ErrorCode::MethodNotFound)?;
    // Of its own: a little data that waits in a queue must not keep the whole batch.
    let request = Bytes::copy_from_slice(request.get().as_bytes());
    match method.call(&request, shared).await {
        Ok(result) => Ok((method, result)),
        Err(Fault::Refused(error)) => Err(error),
        Err(Fault::Malformed(_)) => Err(ErrorCode::BadRequest),
    }
}

/// An object of one member: a method and its request.
struct Single<'a>(String, &'a RawValue);

impl<'de: 'a, 'a> Deserialize<'de> for Single<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl<'de> Visitor<'de> for One {
            type Value = Single<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of one member")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let missing = || serde::de::Error::invalid_length(0, &self);
                let (name, request) = map.next_entry()?.ok_or_else(missing)?;
                // A second member is left unread, which is an error of the parser's.
                Ok(Single(name, request))
            }
        }

        deserializer.deserialize_map(One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_object_of_one_member() {
        let read = |text: &'static str| serde_json::from_str::<Single<'_>>(text).ok();
        let Some(Single(name, request)) = read(r#" {"publish": {"data":[1]} } "#) else { panic!("not read") };
        assert_eq!((name.as_str(), request.get()), ("publish", r#"{"data":[1]}"#));
        for text in ["{}", "[]", "7", "null", r#"["publish",{}]"#, r#"{"info":{},"info":{}}"#, r#"{"a":1,"b":2}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
