//! The JSON encoder of replies and pushes. Raw JSON is inserted unchanged: it was validated on arrival and is not parsed again.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    channel::Channel,
    clock::WallTime,
    json,
    protocol::{
        push::{PublicationPush, Push, PushData},
        reply::{ConnectResult, Expiry, HistoryResult, RefreshResult, Reply, SubscribeResult},
    },
    publication::ClientInfo,
};

/// Returns raw JSON with spaces in place of CR and LF, so that it can be part of a reply, which ends at a newline. The result shares the bytes of `whole`, which contains `raw`, unless bytes are replaced or
/// `raw` is less than a quarter of `whole`: queues count the publication alone, so it must not keep a much larger buffer in
/// memory.
pub fn to_single_line(whole: &Bytes, raw: &RawValue) -> Bytes {
    match json::single_line(raw) {
        Cow::Borrowed(text) => part_of(whole, text),
        Cow::Owned(text) => text.into(),
    }
}

/// Returns a part of a message, which keeps all of it in memory unless it is much longer.
pub fn part_of(whole: &Bytes, part: &[u8]) -> Bytes {
    if whole.len() > 4 * part.len() { Bytes::copy_from_slice(part) } else { whole.slice_ref(part) }
}

/// Encodes a reply: `{"id":1,"subscribe":{…}}`.
pub(in crate::protocol) fn encode_reply(id: u32, reply: &Reply<'_>) -> Vec<u8> {
    let mut into = Vec::with_capacity(256);
    object(&mut into, |reply_object| {
        reply_object.number("id", id.into());
        match reply {
            Reply::Error(error) => reply_object.value("error", error),
            Reply::Connect(result) => reply_object.object("connect", |object| write_connect_result(object, result)),
            Reply::Subscribe(result) => {
                reply_object.object("subscribe", |object| write_subscribe_result(object, result))
            }
            Reply::Unsubscribe => reply_object.object("unsubscribe", |_| ()),
            Reply::Publish => reply_object.object("publish", |_| ()),
            Reply::Presence(members) => reply_object.object("presence", |object| write_presence(object, members)),
            Reply::PresenceStats(stats) => reply_object.value("presence_stats", stats),
            Reply::History(result) => reply_object.object("history", |object| write_history_result(object, result)),
            Reply::Rpc(data) => reply_object.object("rpc", |object| {
                if let Some(data) = data {
                    object.raw("data", data);
                }
            }),
            Reply::Ping => reply_object.object("ping", |_| ()),
            Reply::Refresh(result) => reply_object.object("refresh", |object| write_refresh_result(object, result)),
            Reply::SubRefresh(expiry) => reply_object.value("sub_refresh", expiry),
        }
    });
    into
}

/// Encodes a push: `{"push":{"channel":"news","pub":{…}}}`.
pub(in crate::protocol) fn encode_push(push: &Push<'_>) -> Vec<u8> {
    let mut into = Vec::with_capacity(match push {
        Push::Publication(publication) => publication.publication.cost_bytes(),
        _ => 128,
    });
    object(&mut into, |whole| whole.object("push", |object| write_push(object, push)));
    into
}

/// Encodes the result of `history` alone, for the server API. All members are there, even without publications.
pub fn encode_history_result(result: &HistoryResult<'_>) -> Vec<u8> {
    let mut into = Vec::with_capacity(256);
    object(&mut into, |object| {
        write_publication_array(object, &result.publications);
        object.value("epoch", &result.position.epoch);
        object.value("offset", &result.position.offset);
    });
    into
}

/// Encodes the result of `presence` alone, for the server API.
pub fn encode_presence_result(members: &[Arc<ClientInfo>]) -> Vec<u8> {
    let mut into = Vec::with_capacity(256);
    object(&mut into, |object| write_presence(object, members));
    into
}

fn write_push(object: &mut ObjectWriter<'_>, push: &Push<'_>) {
    match push {
        Push::Join(channel, info) => {
            write_channel(object, channel).object("join", |object| object.value("info", &ClientInfoJson(info)));
        }
        Push::Leave(channel, info) => {
            write_channel(object, channel).object("leave", |object| object.value("info", &ClientInfoJson(info)));
        }
        Push::Publication(push) => {
            write_channel(object, &push.publication.channel).object("pub", |object| write_publication(object, push));
        }
        Push::Subscribe(channel, result) => {
            write_channel(object, channel).object("subscribe", |object| write_subscribe_result(object, result));
        }
        Push::Unsubscribe(channel, why) => {
            write_channel(object, channel)
                .object("unsubscribe", |object| write_reason(object, why.code(), why.reason()));
        }
        Push::SubRefresh(channel, expiry) => write_channel(object, channel).value("sub_refresh", expiry),
        Push::Connect(result) => object.object("connect", |object| write_connect_result(object, result)),
        Push::Refresh(expiry) => object.value("refresh", expiry),
        Push::Disconnect(code, reason) => {
            object.object("disconnect", |object| write_reason(object, u32::from(*code), reason));
        }
    }
}

/// Encodes the content of a push alone, without its channel.
pub(super) fn encode_push_content(push: &Push<'_>) -> Vec<u8> {
    let mut into = Vec::with_capacity(128);
    object(&mut into, |object| match push {
        Push::Join(_, info) | Push::Leave(_, info) => object.value("info", &ClientInfoJson(info)),
        Push::Publication(push) => write_publication(object, push),
        Push::Subscribe(_, result) => write_subscribe_result(object, result),
        Push::Unsubscribe(_, why) => write_reason(object, why.code(), why.reason()),
        Push::Connect(result) => write_connect_result(object, result),
        Push::SubRefresh(_, expiry) | Push::Refresh(expiry) => write_expiry(object, *expiry),
        Push::Disconnect(code, reason) => write_reason(object, u32::from(*code), reason),
    });
    into
}

fn write_channel<'o, 'v>(object: &'o mut ObjectWriter<'v>, channel: &Channel) -> &'o mut ObjectWriter<'v> {
    object.value("channel", &channel.as_str());
    object
}

fn write_reason(object: &mut ObjectWriter<'_>, code: u32, reason: &str) {
    object.number("code", code.into());
    object.value("reason", &reason);
}

fn write_connect_result(object: &mut ObjectWriter<'_>, result: &ConnectResult<'_>) {
    object.value("client", &result.client);
    object.value("version", &result.version);
    write_expiry(object, result.expiry);
    if let Some(data) = result.data {
        object.raw("data", data);
    }
    if !result.subs.is_empty() {
        object.object("subs", |object| {
            for (channel, result) in &result.subs {
                object.object(channel, |object| write_subscribe_result(object, result));
            }
        });
    }
    object.number("ping", result.ping.into());
    object.flag("pong", result.pong);
    object.value("session", &result.session);
    object.value("node", &result.node);
}

fn write_expiry(object: &mut ObjectWriter<'_>, expiry: Expiry) {
    object.flag("expires", expiry.expires);
    object.number("ttl", expiry.ttl.into());
}

fn write_subscribe_result(object: &mut ObjectWriter<'_>, result: &SubscribeResult<'_>) {
    write_expiry(object, result.expiry);
    object.flag("recoverable", result.is_recoverable);
    if let Some(position) = &result.position {
        object.value("epoch", &position.epoch);
        object.number("offset", position.offset);
    }
    write_publications(object, &result.publications);
    object.flag("recovered", result.is_recovered);
    object.flag("was_recovering", result.was_recovering);
    object.flag("positioned", result.is_positioned);
    if let Some(data) = result.data {
        object.raw("data", data);
    }
    object.flag("delta", result.has_delta);
}

fn write_presence(object: &mut ObjectWriter<'_>, members: &[Arc<ClientInfo>]) {
    object
        .object("presence", |object| members.iter().for_each(|info| object.value(&info.client, &ClientInfoJson(info))));
}

fn write_history_result(object: &mut ObjectWriter<'_>, result: &HistoryResult<'_>) {
    write_publications(object, &result.publications);
    object.value("epoch", &result.position.epoch);
    object.number("offset", result.position.offset);
}

fn write_refresh_result(object: &mut ObjectWriter<'_>, result: &RefreshResult<'_>) {
    object.value("client", &result.client);
    object.value("version", &result.version);
    write_expiry(object, result.expiry);
}

fn write_publications(object: &mut ObjectWriter<'_>, publications: &[PublicationPush<'_>]) {
    if !publications.is_empty() {
        write_publication_array(object, publications);
    }
}

fn write_publication_array(object: &mut ObjectWriter<'_>, publications: &[PublicationPush<'_>]) {
    let into = object.key("publications");
    into.push(b'[');
    for (index, push) in publications.iter().enumerate() {
        if index > 0 {
            into.push(b',');
        }
        self::object(into, |object| write_publication(object, push));
    }
    into.push(b']');
}

fn write_publication(object: &mut ObjectWriter<'_>, PublicationPush { publication, content }: &PublicationPush<'_>) {
    match content {
        // Connections that use JSON cannot subscribe to binary channels, but the server API reads their histories.
        _ if publication.is_binary => object.value("b64data", &BASE64_STANDARD.encode(&publication.data)),
        PushData::Plain => object.raw("data", &publication.data),
        PushData::Full => object.value("data", &utf8_text(&publication.data)),
        PushData::Delta(delta) => object.value("data", &utf8_text(delta)),
    }
    if let Some(info) = &publication.info {
        object.value("info", &ClientInfoJson(info));
    }
    object.number("offset", publication.position.map_or(0, |position| position.offset));
    if !publication.tags.is_empty() {
        object.value("tags", &publication.tags);
    }
    if publication.time != WallTime::default() {
        object.value("time", &publication.time);
    }
    object.flag("delta", matches!(content, PushData::Delta(_)) && !publication.is_binary);
}

fn utf8_text(bytes: &[u8]) -> Cow<'_, str> {
    debug_assert!(std::str::from_utf8(bytes).is_ok(), "JSON, and deltas for JSON, are UTF-8");
    String::from_utf8_lossy(bytes)
}

/// A client's public data. Its raw parts come from tokens; one that is not JSON after all becomes `null`.
struct ClientInfoJson<'a>(&'a ClientInfo);

impl Serialize for ClientInfoJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct JsonClientInfo<'a> {
            user: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            client: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            conn_info: Option<Option<&'a RawValue>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            chan_info: Option<Option<&'a RawValue>>,
        }
        fn raw(bytes: Option<&Bytes>) -> Option<Option<&RawValue>> {
            bytes.map(|bytes| serde_json::from_slice(bytes).ok())
        }
        let Self(ClientInfo { user, client, conn_info, chan_info }) = self;
        JsonClientInfo { user, client, conn_info: raw(conn_info.as_ref()), chan_info: raw(chan_info.as_ref()) }
            .serialize(serializer)
    }
}

/// A writer of a JSON object. Numbers that are zero and flags that are false are left out.
struct ObjectWriter<'v> {
    into: &'v mut Vec<u8>,
    is_empty: bool,
}

fn object(into: &mut Vec<u8>, write: impl FnOnce(&mut ObjectWriter<'_>)) {
    into.push(b'{');
    write(&mut ObjectWriter { into, is_empty: true });
    into.push(b'}');
}

impl ObjectWriter<'_> {
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.into.push(b',');
        }
        append(self.into, &key);
        self.into.push(b':');
        self.into
    }

    fn object(&mut self, key: &str, write: impl FnOnce(&mut ObjectWriter<'_>)) {
        object(self.key(key), write);
    }

    fn value(&mut self, key: &str, value: &impl Serialize) {
        append(self.key(key), value);
    }

    fn raw(&mut self, key: &str, json: &[u8]) {
        self.key(key).extend_from_slice(json);
    }

    fn number(&mut self, key: &str, number: u64) {
        if number != 0 {
            self.value(key, &number);
        }
    }

    fn flag(&mut self, key: &str, flag: bool) {
        if flag {
            self.raw(key, b"true");
        }
    }
}

/// Appends a value. This cannot fail: the values here have no floats and no maps whose keys are not strings.
fn append(into: &mut Vec<u8>, value: &impl Serialize) {
    let written = serde_json::to_writer(into, value);
    debug_assert!(written.is_ok(), "these values are always JSON");
}
