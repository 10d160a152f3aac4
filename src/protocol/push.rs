//! Pushes: what a client gets without having asked, as JSON without its frame.

use bytes::Bytes;
use serde::Serialize;

use super::{
    disconnect::{Disconnect, Unsubscribed},
    frame, json,
    reply::{ConnectResult, Expiry, SubscribeResult},
};
use crate::{
    channel::Channel,
    publication::{ClientInfo, Publication},
};

/// `{"push":{"connect":{…}}}`: what a plain session is told when a door has let it in, the same as is answered to a
/// `connect` command.
pub fn connect_push(hello: &ConnectResult<'_>) -> Vec<u8> {
    push(None, "connect", hello)
}

/// `{"push":{"disconnect":{…}}}`, sent before the close frame so that a browser script can read why.
fn disconnect_push(disconnect: &Disconnect) -> Vec<u8> {
    push(None, "disconnect", &Reason { code: disconnect.code().into(), reason: disconnect.reason() })
}

/// `{"push":{"channel":"news","subscribe":{…}}}`: the session receives a channel that its newest token brings.
pub fn subscribe_push(channel: &Channel, result: &SubscribeResult<'_>) -> Vec<u8> {
    push(Some(channel), "subscribe", result)
}

/// `{"push":{"channel":"news","unsubscribe":{"code":2000,…}}}`: the session receives a channel no more.
pub fn unsubscribe_push(channel: &Channel, why: Unsubscribed) -> Vec<u8> {
    push(Some(channel), "unsubscribe", &Reason { code: why.code(), reason: why.reason() })
}

/// `{"push":{"refresh":{…}}}`: the session ends at another time than it was told.
pub fn refresh_push(expiry: Expiry) -> Vec<u8> {
    push(None, "refresh", &expiry)
}

#[derive(Serialize)]
struct Reason<'a> {
    code: u32,
    reason: &'a str,
}

fn push(channel: Option<&Channel>, kind: &str, value: &impl Serialize) -> Vec<u8> {
    let mut into = Vec::with_capacity(128);
    into.extend_from_slice(br#"{"push":{"#);
    if let Some(channel) = channel {
        into.extend_from_slice(br#""channel":"#);
        json::append(&mut into, &channel.as_str());
        into.push(b',');
    }
    into.extend_from_slice(format!(r#""{kind}":"#).as_bytes());
    json::append(&mut into, value);
    into.extend_from_slice(b"}}");
    into
}

/// `{"push":{"channel":"news","pub":{"data":…}}}`: written once for all subscribers.
pub fn publication_push(publication: &Publication) -> Vec<u8> {
    let mut into = Vec::with_capacity(publication.cost_bytes());
    into.extend_from_slice(br#"{"push":{"channel":"#);
    json::append(&mut into, &publication.channel.as_str());
    into.extend_from_slice(br#","pub":{"data":"#);
    into.extend_from_slice(&publication.data);
    if let Some(info) = &publication.info {
        into.extend_from_slice(br#","info":"#);
        json::append(&mut into, &Info::from(&**info));
    }
    into.extend_from_slice(b"}}}");
    into
}

#[derive(Serialize)]
struct Info<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "json::raw")]
    conn_info: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "json::raw")]
    chan_info: Option<Bytes>,
}

impl<'a> From<&'a ClientInfo> for Info<'a> {
    fn from(info: &'a ClientInfo) -> Self {
        let (conn_info, chan_info) = (info.conn_info.clone(), info.chan_info.clone());
        Self { user: &info.user, client: &info.client, conn_info, chan_info }
    }
}

/// The last two frames of a connection that we close: why as a push, then the close frame itself.
pub fn farewell(disconnect: &Disconnect) -> [Bytes; 2] {
    let close = frame::close(Some(disconnect.code()), disconnect.reason());
    [frame::text(&disconnect_push(disconnect)), close]
}
