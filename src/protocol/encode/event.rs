//! The encoder of the events of one channel, for `EventSource`. A publication is an event without a name, whose id is its
//! position: browsers send the last one as `Last-Event-ID` when they reconnect. Each other push is an event with its name.

use bytes::Bytes;

use super::json;
use crate::{position::Position, protocol::push::Push};

pub(in crate::protocol) fn encode_push(push: &Push<'_>) -> Bytes {
    let (name, position) = match push {
        Push::Publication(push) => ("", push.publication.position),
        Push::Subscribe(_, result) => ("subscribe", result.position),
        Push::Join(..) => ("join", None),
        Push::Leave(..) => ("leave", None),
        Push::Unsubscribe(..) => ("unsubscribe", None),
        Push::SubRefresh(..) => ("sub_refresh", None),
        Push::Connect(_) => ("connect", None),
        Push::Refresh(_) => ("refresh", None),
        Push::Disconnect(..) => ("disconnect", None),
    };
    let content = json::encode_push_content(push);
    let mut into = Vec::with_capacity(content.len() + 64);
    if !name.is_empty() {
        into.extend_from_slice(format!("event: {name}\n").as_bytes());
    }
    if let Some(Position { offset, epoch }) = position {
        into.extend_from_slice(format!("id: {}:{offset}\n", epoch.as_str()).as_bytes());
    }
    into.extend_from_slice(b"data: ");
    into.extend_from_slice(&content);
    into.extend_from_slice(b"\n\n");
    into.into()
}
