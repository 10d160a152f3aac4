//! Pushes: what a client gets without having asked, as JSON without its frame.

use bytes::Bytes;
use serde::Serialize;

use super::{disconnect::Disconnect, frame, json, reply::ConnectResult};
use crate::publication::{ClientInfo, Publication};

/// `{"push":{"connect":{…}}}`: what a plain session is told when a door has let it in, the same as is answered to a
/// `connect` command.
pub fn connect_push(hello: &ConnectResult<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Push<'a> {
        connect: &'a ConnectResult<'a>,
    }
    let mut into = Vec::with_capacity(256);
    into.extend_from_slice(br#"{"push":"#);
    json::append(&mut into, &Push { connect: hello });
    into.push(b'}');
    into
}

/// `{"push":{"disconnect":{…}}}`, sent before the close frame so that a browser script can read why.
fn disconnect_push(disconnect: Disconnect) -> Vec<u8> {
    let (code, reason) = (disconnect.code(), disconnect.reason());
    format!(r#"{{"push":{{"disconnect":{{"code":{code},"reason":"{reason}"}}}}}}"#).into_bytes()
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
        json::append(&mut into, &Info::from(info));
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
pub fn farewell(disconnect: Disconnect) -> [Bytes; 2] {
    let close = frame::close(Some(disconnect.code()), disconnect.reason());
    [frame::text(&disconnect_push(disconnect)), close]
}
