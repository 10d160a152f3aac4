//! The messages of the client protocol that `sub` sends and understands, and the lines that it prints.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::channel_tail::ChannelTail;
use crate::cli::escape_invisible;

/// A reply or a push. Members that `sub` does not use are ignored.
#[derive(Deserialize)]
pub(super) struct Reply<'a> {
    pub(super) id: Option<u32>,
    pub(super) error: Option<ErrorReply>,
    pub(super) connect: Option<Connected>,
    pub(super) history: Option<HistoryPage>,
    pub(super) refresh: Option<Refreshed>,
    #[serde(borrow)]
    pub(super) push: Option<Push<'a>>,
}

#[derive(Deserialize)]
pub(super) struct ErrorReply {
    pub(super) code: u32,
    pub(super) message: String,
    #[serde(default)]
    pub(super) temporary: bool,
}

#[derive(Deserialize)]
pub(super) struct Connected {
    /// Seconds until the token has to be replaced; 0 if never.
    #[serde(default)]
    pub(super) ttl: u64,
    /// Seconds between the hub's pings; 0 if it sends none.
    #[serde(default)]
    pub(super) ping: u64,
    #[serde(default)]
    pub(super) subs: BTreeMap<String, Subscribed>,
}

/// The result of subscribing.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(super) struct Subscribed {
    pub(super) recoverable: bool,
    pub(super) recovered: bool,
    pub(super) offset: u64,
    pub(super) epoch: String,
    pub(super) publications: Vec<Publication>,
}

#[derive(Deserialize)]
pub(super) struct HistoryPage {
    /// Newest first.
    #[serde(default)]
    pub(super) publications: Vec<Publication>,
}

#[derive(Deserialize)]
pub(super) struct Refreshed {
    #[serde(default)]
    pub(super) ttl: u64,
}

#[derive(Deserialize)]
pub(super) struct Push<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Cow<'a, str>,
    #[serde(rename = "pub")]
    pub(super) publication: Option<Publication>,
    pub(super) unsubscribe: Option<Unsubscribed>,
}

#[derive(Deserialize)]
pub(super) struct Unsubscribed {
    pub(super) code: u32,
    #[serde(default)]
    pub(super) reason: String,
}

/// A publication, as the hub has sent it.
pub(super) struct Publication {
    pub(super) offset: Option<u64>,
    data: Box<RawValue>,
    /// The whole object.
    json: Box<RawValue>,
}

impl<'de> Deserialize<'de> for Publication {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Members {
            offset: Option<u64>,
            data: Box<RawValue>,
        }
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let Members { offset, data } = serde_json::from_str(json.get()).map_err(serde::de::Error::custom)?;
        Ok(Self { offset, data, json })
    }
}

/// Returns the command that connects, and subscribes to all channels from their positions.
pub(super) fn connect(id: u32, token: &str, channels: &BTreeMap<String, ChannelTail>) -> String {
    #[derive(Serialize)]
    struct Position<'a> {
        recover: bool,
        offset: u64,
        epoch: &'a str,
    }
    let position = |tail: &ChannelTail| {
        tail.position().map_or_else(|| json!({}), |(offset, epoch)| json!(Position { recover: true, offset, epoch }))
    };
    let subs: BTreeMap<&String, _> = channels.iter().map(|(name, tail)| (name, position(tail))).collect();
    json!({"id": id, "connect": {"token": token, "name": "wardcast-sub", "subs": subs}}).to_string()
}

/// Returns the command that replaces the token.
pub(super) fn refresh(id: u32, token: &str) -> String {
    json!({"id": id, "refresh": {"token": token}}).to_string()
}

/// Returns the command that reads the newest publications.
pub(super) fn history(id: u32, channel: &str, limit: u32) -> String {
    json!({"id": id, "history": {"channel": channel, "limit": limit, "reverse": true}}).to_string()
}

/// Returns the line for a publication: its JSON as the hub has sent it, with the channel, or its data only. Characters that are
/// invisible or that a terminal executes are written as JSON escapes.
pub(super) fn line(channel: &str, publication: &Publication, data_only: bool) -> String {
    if data_only {
        return escape_invisible(publication.data.get());
    }
    let members = publication.json.get().trim_start_matches('{');
    escape_invisible(&format!("{{\"channel\":{},{members}", json!(channel)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(json: &str) -> Publication {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn line_is_the_publication_with_its_channel_or_the_data_only() {
        let publication = publication(r#"{"data":{"n":1.50},"offset":7,"tags":{"a":"b"}}"#);
        assert_eq!(
            line("a\"b", &publication, false),
            r#"{"channel":"a\"b","data":{"n":1.50},"offset":7,"tags":{"a":"b"}}"#
        );
        assert_eq!(line("news", &publication, true), r#"{"n":1.50}"#);
    }

    #[test]
    fn invisible_characters_are_printed_as_json_escapes() {
        let publication = publication("{\"data\":\"a\u{202e}b\u{e0041}c\"}");
        let printed = line("news", &publication, true);
        assert_eq!(printed, r#""a\u202eb\udb40\udc41c""#);
        assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), "a\u{202e}b\u{e0041}c");
    }
}
