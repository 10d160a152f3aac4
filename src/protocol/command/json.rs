//! Commands in JSON. A text frame has one or more, separated by newlines. Data is not parsed, but borrowed from the frame.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    ClientPosition, Command, CommandMethod, ConnectCommand, HistoryCommand, MalformedCommand, PublishData, RawFilter,
    SubscribeCommand, non_empty, single_method,
};
use crate::json;

#[derive(Deserialize)]
struct JsonCommand<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    connect: Option<JsonConnect<'a>>,
    #[serde(borrow)]
    subscribe: Option<JsonSubscribe<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<JsonChannelAndToken<'a>>,
    #[serde(borrow)]
    publish: Option<JsonPublish<'a>>,
    #[serde(borrow)]
    presence: Option<JsonChannelAndToken<'a>>,
    #[serde(borrow)]
    presence_stats: Option<JsonChannelAndToken<'a>>,
    #[serde(borrow)]
    history: Option<JsonHistory<'a>>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    send: Option<JsonRpc<'a>>,
    #[serde(borrow)]
    rpc: Option<JsonRpc<'a>>,
    #[serde(borrow)]
    refresh: Option<JsonChannelAndToken<'a>>,
    #[serde(borrow)]
    sub_refresh: Option<JsonSubRefresh<'a>>,
}

#[derive(Deserialize)]
struct JsonConnect<'a> {
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    subs: Option<BTreeMap<Cow<'a, str>, JsonPosition<'a>>>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    version: Cow<'a, str>,
}

#[derive(Deserialize)]
struct JsonSubscribe<'a> {
    #[serde(rename = "type", default)]
    kind: i32,
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
    #[serde(default)]
    recover: bool,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    positioned: bool,
    #[serde(default)]
    recoverable: bool,
    #[serde(default)]
    join_leave: bool,
    #[serde(borrow, default)]
    delta: Cow<'a, str>,
    #[serde(borrow)]
    tf: Option<&'a RawValue>,
    #[serde(default)]
    flag: i64,
}

/// A position, and whether the client asks for the publications after it.
#[derive(Default, Deserialize)]
struct JsonPosition<'a> {
    #[serde(default)]
    recover: bool,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
}

/// The parameters of commands that have a channel, a token, or both.
#[derive(Deserialize)]
struct JsonChannelAndToken<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct JsonPublish<'a> {
    #[serde(rename = "type", default)]
    kind: i32,
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct JsonSubRefresh<'a> {
    #[serde(rename = "type", default)]
    kind: i32,
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct JsonHistory<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(default)]
    limit: i32,
    #[serde(borrow)]
    since: Option<JsonPosition<'a>>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
struct JsonRpc<'a> {
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Deserializes a member in which `null` is a value. Only one that is left out is `None`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Parses one line of a frame.
///
/// # Errors
/// [`MalformedCommand`] if the line is not an object, has no method or several, or lacks an id that its method needs.
pub(in crate::protocol) fn parse(line: &str) -> Result<Command<'_>, MalformedCommand> {
    if !json::is_object(line.as_bytes()) {
        return Err(MalformedCommand);
    }
    let json: JsonCommand<'_> = serde_json::from_str(line).map_err(|_| MalformedCommand)?;
    let methods = [
        json.connect.map(CommandMethod::from),
        json.subscribe.map(CommandMethod::from),
        json.unsubscribe.map(|request| CommandMethod::Unsubscribe { channel: request.channel }),
        json.publish.map(CommandMethod::from),
        json.presence.map(|request| CommandMethod::Presence { channel: request.channel }),
        json.presence_stats.map(|request| CommandMethod::PresenceStats { channel: request.channel }),
        json.history.map(CommandMethod::from),
        json.rpc.map(|request| CommandMethod::Rpc { method: request.method, data: request.data }),
        json.send.map(|request| CommandMethod::Send { data: request.data }),
        json.refresh.map(|request| CommandMethod::Refresh { token: non_empty(request.token) }),
        json.sub_refresh.map(CommandMethod::from),
        json.ping.map(|_| CommandMethod::Ping),
    ];
    if json.id == 0 && line.trim() == "{}" {
        return Ok(Command { id: 0, token: None, method: CommandMethod::Pong });
    }
    single_method(json.id, json.token, methods.into_iter().flatten())
}

/// Returns whether a member of a command has the right type.
pub(super) fn is_member(name: &str, value: &RawValue) -> bool {
    name_and_value(name, value).is_some_and(|member| is_well_typed(&format!("{{{member}}}")))
}

/// Returns whether a parameter of a method has the right type.
pub(super) fn is_parameter(method: &str, name: &str, value: &RawValue) -> bool {
    let line = name_and_value(name, value).map(|member| format!(r#"{{"{method}":{{{member}}}}}"#));
    line.is_some_and(|line| is_well_typed(&line))
}

fn name_and_value(name: &str, value: &RawValue) -> Option<String> {
    serde_json::to_string(name).ok().map(|name| format!("{name}:{value}"))
}

fn is_well_typed(command: &str) -> bool {
    serde_json::from_str::<JsonCommand<'_>>(command).is_ok()
}

impl<'a> From<JsonConnect<'a>> for CommandMethod<'a> {
    fn from(json: JsonConnect<'a>) -> Self {
        let subs = json.subs.unwrap_or_default().into_iter().map(|(channel, place)| (channel, place.into()));
        Self::Connect(ConnectCommand {
            token: non_empty(json.token),
            data: json.data,
            subs: subs.collect(),
            name: json.name,
            version: json.version,
        })
    }
}

impl<'a> From<JsonPublish<'a>> for CommandMethod<'a> {
    fn from(json: JsonPublish<'a>) -> Self {
        Self::Publish { channel: json.channel, data: json.data.map(PublishData::Json) }.with_type(json.kind)
    }
}

impl<'a> From<JsonSubRefresh<'a>> for CommandMethod<'a> {
    fn from(json: JsonSubRefresh<'a>) -> Self {
        Self::SubRefresh { channel: json.channel, token: non_empty(json.token) }.with_type(json.kind)
    }
}

impl<'a> From<JsonSubscribe<'a>> for CommandMethod<'a> {
    fn from(json: JsonSubscribe<'a>) -> Self {
        Self::Subscribe(SubscribeCommand {
            channel: json.channel,
            token: non_empty(json.token),
            recovery: ClientPosition { wants_recovery: json.recover, epoch: json.epoch, offset: json.offset },
            data: json.data,
            is_positioned: json.positioned,
            is_recoverable: json.recoverable,
            wants_join_leave: json.join_leave,
            delta: json.delta,
            filter: json.tf.map(RawFilter::Json),
            flag: json.flag,
        })
        .with_type(json.kind)
    }
}

impl<'a> From<JsonHistory<'a>> for CommandMethod<'a> {
    fn from(json: JsonHistory<'a>) -> Self {
        Self::History(HistoryCommand {
            channel: json.channel,
            limit: json.limit,
            since: json.since.map(|place| (place.offset, place.epoch)),
            is_reverse: json.reverse,
        })
    }
}

impl<'a> From<JsonPosition<'a>> for ClientPosition<'a> {
    fn from(place: JsonPosition<'a>) -> Self {
        Self { wants_recovery: place.recover, epoch: place.epoch, offset: place.offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_has_an_id_and_one_method() {
        let subscribe = parse(r#"{"id":1,"subscribe":{"channel":"a"}}"#).unwrap();
        let Command { id: 1, token: None, method: CommandMethod::Subscribe(request) } = subscribe else {
            panic!("a subscribe")
        };
        assert!(request.channel == "a" && request.token.is_none());
        assert!(matches!(parse("{}").unwrap().method, CommandMethod::Pong));
        assert!(matches!(parse(r#"{"id":2,"ping":{}}"#).unwrap(), Command { id: 2, method: CommandMethod::Ping, .. }));
    }

    #[test]
    fn data_is_borrowed_unchanged() {
        let command = parse(r#"{"id":3,"publish":{"channel":"a","data": {"x" : 1e400}}}"#).unwrap();
        let CommandMethod::Publish { data, .. } = command.method else { panic!("a publish") };
        assert_eq!(data.and_then(PublishData::as_json).unwrap().get(), r#"{"x" : 1e400}"#);
    }

    #[test]
    fn invalid_command_is_malformed() {
        let nested = format!(r#"{{"id":1,"subscribe":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for line in [
            "",
            "hello",
            "null",
            "[]",
            r#"[1,null,{"channel":"a"}]"#,
            r#"{"id":1}"#,
            r#"{"id":0,"ping":{}}"#,
            r#"{"id":-1,"ping":{}}"#,
            r#"{"id":4294967296,"ping":{}}"#,
            r#"{"id":"1","ping":{}}"#,
            r#"{"id":1,"ping":{},"subscribe":{"channel":"a"}}"#,
            r#"{"id":1,"dance":{}}"#,
            r#"{"id":1,"id":2,"ping":{}}"#,
            nested.as_str(),
        ] {
            assert_eq!(parse(line).map(|_| ()).unwrap_err(), MalformedCommand, "{line:.60}");
        }
    }

    #[test]
    fn data_may_be_null_and_may_be_missing() {
        let data = |line: &'static str| match parse(line).unwrap().method {
            CommandMethod::Publish { data, .. } => data.and_then(PublishData::as_json).map(RawValue::get),
            _ => panic!("a publish"),
        };
        assert_eq!(data(r#"{"id":1,"publish":{"channel":"a","data":null}}"#), Some("null"));
        assert_eq!(data(r#"{"id":1,"publish":{"channel":"a"}}"#), None);
    }

    #[test]
    fn type_other_than_0_makes_another_method() {
        for method in ["subscribe", "publish", "sub_refresh"] {
            let is_other = |kind: i32| {
                let line = format!(r#"{{"id":1,"{method}":{{"type":{kind}}}}}"#);
                matches!(parse(&line).unwrap().method, CommandMethod::OtherType)
            };
            assert!(!is_other(0) && is_other(1) && is_other(-1), "{method}");
        }
    }

    #[test]
    fn deeply_nested_data_is_accepted() {
        let deep =
            format!(r#"{{"id":1,"publish":{{"channel":"a","data":{}{}}}}}"#, "[".repeat(9_000), "]".repeat(9_000));
        assert!(parse(&deep).is_ok());
    }
}
