//! Commands in JSON: one or more in a text frame, joined by newlines. Data stays raw and is borrowed from the frame.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Command, ConnectRequest, HistoryRequest, Malformed, Method, Recovery, SubscribeRequest, UnreadFilter, given, only,
};

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    connect: Option<Connect<'a>>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<OfChannel<'a>>,
    #[serde(borrow)]
    publish: Option<Publish<'a>>,
    #[serde(borrow)]
    presence: Option<OfChannel<'a>>,
    #[serde(borrow)]
    presence_stats: Option<OfChannel<'a>>,
    #[serde(borrow)]
    history: Option<History<'a>>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    send: Option<Call<'a>>,
    #[serde(borrow)]
    rpc: Option<Call<'a>>,
    #[serde(borrow)]
    refresh: Option<OfChannel<'a>>,
    #[serde(borrow)]
    sub_refresh: Option<OfChannel<'a>>,
}

#[derive(Deserialize)]
struct Connect<'a> {
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    subs: Option<BTreeMap<Cow<'a, str>, Place<'a>>>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    headers: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

#[derive(Deserialize)]
struct Subscribe<'a> {
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

/// Where a client stands, and whether it wants what came after.
#[derive(Default, Deserialize)]
struct Place<'a> {
    #[serde(default)]
    recover: bool,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
}

/// A channel, a token, or both.
#[derive(Deserialize)]
struct OfChannel<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct History<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(default)]
    limit: i32,
    #[serde(borrow)]
    since: Option<Place<'a>>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Reads one line of a frame.
///
/// # Errors
/// [`Malformed`]: no object, no method or several, an id where none may be or none where one must.
pub(in crate::protocol) fn command(line: &str) -> Result<Command<'_>, Malformed> {
    // serde would also take an array for an object, member by member.
    if !line.trim_start().starts_with('{') {
        return Err(Malformed);
    }
    let said: Envelope<'_> = serde_json::from_str(line).map_err(|_| Malformed)?;
    let methods = [
        said.connect.map(Method::from),
        said.subscribe.map(Method::from),
        said.unsubscribe.map(|request| Method::Unsubscribe { channel: request.channel }),
        said.publish.map(|request| Method::Publish { channel: request.channel, data: Some(request.data) }),
        said.presence.map(|request| Method::Presence { channel: request.channel }),
        said.presence_stats.map(|request| Method::PresenceStats { channel: request.channel }),
        said.history.map(Method::from),
        said.rpc.map(|request| Method::Rpc { method: request.method, data: request.data }),
        said.send.map(|request| Method::Send { data: request.data }),
        said.refresh.map(|request| Method::Refresh { token: given(request.token) }),
        said.sub_refresh.map(|request| Method::SubRefresh { channel: request.channel, token: given(request.token) }),
        said.ping.map(|_| Method::Ping),
    ];
    if said.id == 0 && line.trim() == "{}" {
        return Ok(Command { id: 0, token: None, method: Method::Pong });
    }
    only(said.id, said.token, methods.into_iter().flatten())
}

impl<'a> From<Connect<'a>> for Method<'a> {
    fn from(said: Connect<'a>) -> Self {
        let subs = said.subs.unwrap_or_default().into_iter().map(|(channel, place)| (channel, place.into()));
        Self::Connect(ConnectRequest {
            token: given(said.token),
            data: said.data,
            subs: subs.collect(),
            name: said.name,
            version: said.version,
            headers: said.headers.unwrap_or_default(),
        })
    }
}

impl<'a> From<Subscribe<'a>> for Method<'a> {
    fn from(said: Subscribe<'a>) -> Self {
        Self::Subscribe(SubscribeRequest {
            channel: said.channel,
            token: given(said.token),
            recovery: Recovery { is_wanted: said.recover, epoch: said.epoch, offset: said.offset },
            data: said.data,
            is_positioned: said.positioned,
            is_recoverable: said.recoverable,
            wants_join_leave: said.join_leave,
            delta: said.delta,
            filter: said.tf.map(UnreadFilter::Json),
            flag: said.flag,
        })
    }
}

impl<'a> From<History<'a>> for Method<'a> {
    fn from(said: History<'a>) -> Self {
        Self::History(HistoryRequest {
            channel: said.channel,
            limit: said.limit,
            since: said.since.map(|place| (place.offset, place.epoch)),
            is_reverse: said.reverse,
        })
    }
}

impl<'a> From<Place<'a>> for Recovery<'a> {
    fn from(place: Place<'a>) -> Self {
        Self { is_wanted: place.recover, epoch: place.epoch, offset: place.offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Command<'_>, Malformed> {
        command(line)
    }

    #[test]
    fn a_command_is_its_id_and_one_method() {
        let subscribe = one(r#"{"id":1,"subscribe":{"channel":"a"}}"#).unwrap();
        let Command { id: 1, token: None, method: Method::Subscribe(request) } = subscribe else {
            panic!("a subscribe")
        };
        assert!(request.channel == "a" && request.token.is_none());
        assert!(matches!(one("{}").unwrap().method, Method::Pong));
        assert!(matches!(one(r#"{"id":2,"ping":{}}"#).unwrap(), Command { id: 2, method: Method::Ping, .. }));
    }

    #[test]
    fn data_is_borrowed_as_it_stands() {
        let command = one(r#"{"id":3,"publish":{"channel":"a","data": {"x" : 1e400}}}"#).unwrap();
        let Method::Publish { data, .. } = command.method else { panic!("a publish") };
        assert_eq!(data.unwrap().get(), r#"{"x" : 1e400}"#);
    }

    #[test]
    fn what_is_no_command_is_malformed() {
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
            r#"{"id":1,"publish":{"channel":"a"}}"#,
            r#"{"id":1,"id":2,"ping":{}}"#,
            nested.as_str(),
        ] {
            assert_eq!(one(line).map(|_| ()).unwrap_err(), Malformed, "{line:.60}");
        }
    }

    #[test]
    fn deep_data_costs_no_stack() {
        let deep =
            format!(r#"{{"id":1,"publish":{{"channel":"a","data":{}{}}}}}"#, "[".repeat(9_000), "]".repeat(9_000));
        assert!(one(&deep).is_ok());
    }
}
