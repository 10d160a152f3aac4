//! Commands in Protobuf: any bytes are read without harm, and a command that the generated code has written means the same as
//! its JSON form.

use prost::Message;
use serde_json::{Map, Value, json, value::RawValue};
use wardcast::protocol::{CommandMethod, Format, schema};

use super::method_text;

/// A binary frame with its messages, and once more the whole as one message.
pub fn protobuf(data: &[u8]) {
    let mut rest = data;
    while let Ok((message, next)) = Format::Protobuf.find_first_message(rest) {
        assert!(next > 0 && next == message.end && message.start <= message.end, "{message:?}, then {next}");
        check_message(&rest[message]);
        rest = &rest[next..];
    }
    check_message(data);
}

fn check_message(message: &[u8]) {
    let found = Format::Protobuf.parse_command(message);
    if let Ok(found) = &found {
        assert!(found.id > 0 || matches!(found.method, CommandMethod::Pong | CommandMethod::Send { .. }), "no id");
        assert!(found.token.as_deref().is_none_or(|token| !token.is_empty()));
        // This also reads filters, which the parser leaves for later.
        let _ = method_text::describe(&found.method);
    }
    let Ok(other) = schema::Command::decode(message) else { return };
    if let Ok(found) = found {
        assert_eq!((found.id, found.token.as_deref().unwrap_or_default()), (other.id, &*other.token));
    }
    compare_with_json(&other);
}

fn compare_with_json(command: &schema::Command) {
    let written = command.encode_to_vec();
    let meaning = meaning(Format::Protobuf, &written);
    let is_invalid = |publish: &schema::PublishRequest| publish.r#type == 0 && raw_json(&publish.data).is_null();
    let publishes_invalid_json = command.publish.as_ref().is_some_and(is_invalid);
    if publishes_invalid_json && meaning != "none" {
        assert!(meaning.ends_with(" None"), "{meaning}");
    } else if !publishes_invalid_json {
        assert_eq!(meaning, self::meaning(Format::Json, to_json(command).as_bytes()));
    }
}

fn meaning(format: Format, message: &[u8]) -> String {
    let Ok(command) = format.parse_command(message) else { return "none".to_owned() };
    format!("{} {:?} {}", command.id, command.token, method_text::describe(&command.method))
}

/// An object without members that are zero or empty, as SDKs write JSON.
fn object(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let is_there = |(_, value): &(_, Value)| ![json!(0), json!(""), json!(false), Value::Null].contains(value);
    members.into_iter().filter(is_there).map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
}

/// A placeholder for raw JSON; null if the bytes are not JSON.
fn raw_json(data: &[u8]) -> Value {
    // Kept as text, because serialising a value would normalise it.
    serde_json::from_slice::<&RawValue>(data).map_or(Value::Null, |raw| json!({ "raw": raw.get() }))
}

fn to_json(command: &schema::Command) -> String {
    let schema::Command { id, token, .. } = command;
    let of = |channel: &String| object([("channel", json!(channel))]);
    let methods = [
        ("connect", command.connect.as_ref().map(connect)),
        ("subscribe", command.subscribe.as_ref().map(subscribe)),
        ("unsubscribe", command.unsubscribe.as_ref().map(|request| of(&request.channel))),
        ("publish", command.publish.as_ref().map(publish)),
        ("presence", command.presence.as_ref().map(|request| of(&request.channel))),
        ("presence_stats", command.presence_stats.as_ref().map(|request| of(&request.channel))),
        ("history", command.history.as_ref().map(history)),
        ("ping", command.ping.map(|_| json!({}))),
        ("send", command.send.as_ref().map(|request| object([("data", raw_json(&request.data))]))),
        ("rpc", command.rpc.as_ref().map(rpc)),
        ("refresh", command.refresh.as_ref().map(|request| object([("token", json!(request.token))]))),
        ("sub_refresh", command.sub_refresh.as_ref().map(sub_refresh)),
    ];
    let methods = methods.into_iter().map(|(key, method)| (key, method.unwrap_or_default()));
    to_text(&object([("id", json!(id)), ("token", json!(token))].into_iter().chain(methods)))
}

/// The text of a value, with raw JSON in place of its placeholders.
fn to_text(value: &Value) -> String {
    match value {
        Value::Object(members) => match members.get("raw") {
            Some(Value::String(raw)) => raw.clone(),
            _ => {
                let members = members.iter().map(|(key, value)| format!("{}:{}", json!(key), to_text(value)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
        },
        other => other.to_string(),
    }
}

fn publish(request: &schema::PublishRequest) -> Value {
    object([("channel", json!(request.channel)), ("data", raw_json(&request.data)), ("type", json!(request.r#type))])
}

fn rpc(request: &schema::RpcRequest) -> Value {
    object([("method", json!(request.method)), ("data", raw_json(&request.data))])
}

fn sub_refresh(request: &schema::SubRefreshRequest) -> Value {
    object([("channel", json!(request.channel)), ("token", json!(request.token)), ("type", json!(request.r#type))])
}

fn connect(request: &schema::ConnectRequest) -> Value {
    let subs = request.subs.iter().map(|(key, sub)| (key.clone(), subscribe(sub)));
    let headers = request.headers.iter().map(|(key, value)| (key.clone(), json!(value)));
    object([
        ("token", json!(request.token)),
        ("data", raw_json(&request.data)),
        ("subs", subs.collect::<Map<_, _>>().into()),
        ("name", json!(request.name)),
        ("version", json!(request.version)),
        // Serialised here, because a header may be called "raw".
        ("headers", json!({ "raw": Value::Object(headers.collect()).to_string() })),
    ])
}

fn subscribe(request: &schema::SubscribeRequest) -> Value {
    object([
        ("channel", json!(request.channel)),
        ("token", json!(request.token)),
        ("recover", json!(request.recover)),
        ("epoch", json!(request.epoch)),
        ("offset", json!(request.offset)),
        ("data", raw_json(&request.data)),
        ("positioned", json!(request.positioned)),
        ("recoverable", json!(request.recoverable)),
        ("join_leave", json!(request.join_leave)),
        ("delta", json!(request.delta)),
        ("tf", request.tf.as_ref().map(filter).unwrap_or_default()),
        ("flag", json!(request.flag)),
        ("type", json!(request.r#type)),
    ])
}

fn filter(node: &schema::FilterNode) -> Value {
    let nodes: Vec<Value> = node.nodes.iter().map(filter).collect();
    json!({"op": node.op, "key": node.key, "cmp": node.cmp, "val": node.val, "vals": node.vals, "nodes": nodes})
}

fn history(request: &schema::HistoryRequest) -> Value {
    let place =
        |since: &schema::StreamPosition| object([("offset", json!(since.offset)), ("epoch", json!(since.epoch))]);
    object([
        ("channel", json!(request.channel)),
        ("limit", json!(request.limit)),
        ("since", request.since.as_ref().map(place).unwrap_or_default()),
        ("reverse", json!(request.reverse)),
    ])
}
