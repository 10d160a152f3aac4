//! What is published: data for a channel, and who sent it when that is a client.

use std::{collections::BTreeSet, fmt, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use uuid::Uuid;

use crate::{channel::Channel, clock::Millis, position::Position};

/// How many tags a publication may have: filters look at each.
const TAGS: usize = 32;
/// How long they may be, as they are written: the history keeps them, and every subscriber gets them.
pub const TAGS_BYTES: usize = 4096;

/// One publication, as the broker carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where it goes.
    pub channel: Channel,
    /// Raw JSON, validated once where it came in, without CR and LF (they separate replies on the wire).
    pub data: Bytes,
    /// The sender, when it came over a client's own socket or token. Never what the client says of itself.
    pub info: Option<Arc<ClientInfo>>,
    /// Where it stands in the channel's history, once the broker has put it there.
    pub position: Option<Position>,
    /// Names and values for filters: a JSON object of strings, validated where it came in.
    pub tags: Option<Arc<str>>,
    /// When the broker put it into the history, in milliseconds since 1970; 0 without one.
    pub time: Millis,
    /// Whoever published it wants it sent as a difference to the one before, where that was agreed on.
    pub is_delta: bool,
    /// The connection that does not get it, usually because it has caused it.
    pub exclude: Option<Uuid>,
}

/// Who a client is to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// `sub` of the token.
    pub user: String,
    /// The connection's id; empty when it came over REST.
    pub client: String,
    /// `info` of the token: raw JSON.
    pub conn_info: Option<Bytes>,
    /// `info` of its subscription: raw JSON.
    pub chan_info: Option<Bytes>,
}

impl Publication {
    /// Data for a channel, and nothing else said of it.
    pub fn new(channel: Channel, data: Bytes) -> Self {
        Self { channel, data, info: None, position: None, tags: None, time: 0, is_delta: false, exclude: None }
    }

    /// Whether a text may be `tags`: a JSON object of at most 32 strings on one line, no longer than [`TAGS_BYTES`], each
    /// name once.
    pub fn is_tags(text: &str) -> bool {
        let is_read = || serde_json::from_str::<StrictTags>(text).is_ok();
        text.len() <= TAGS_BYTES && !text.contains(['\r', '\n']) && is_read()
    }

    /// Bytes that queues count for it: what it carries and what carrying it costs.
    pub fn cost_bytes(&self) -> usize {
        const OVERHEAD: usize = 128;
        let info = self.info.as_ref().map_or(0, |info| {
            let raw = [&info.conn_info, &info.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
            info.user.len() + info.client.len() + raw
        });
        let tags = self.tags.as_ref().map_or(0, |tags| tags.len());
        OVERHEAD + self.channel.as_str().len() + self.data.len() + info + tags
    }
}

/// An object of strings, read for its form.
struct StrictTags;

impl<'de> Deserialize<'de> for StrictTags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = StrictTags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {TAGS} strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<StrictTags, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((name, _)) = object.next_entry::<String, String>()? {
                    // Of two with one name each reader would take another.
                    if !names.insert(name) || names.len() > TAGS {
                        return Err(A::Error::custom("too many tags, or two with one name"));
                    }
                }
                Ok(StrictTags)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_a_few_strings_by_name() {
        let many = |count| format!("{{{}}}", (0..count).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(","));
        let long = |length| format!("{{\"a\":\"{}\"}}", "x".repeat(length));
        for good in ["{}", "{ \"a\" : \"1\", \"A\":\"\\n\" }", &many(32), &long(TAGS_BYTES - 8)] {
            assert!(Publication::is_tags(good), "{good}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(2_000));
        for bad in
            ["", "[]", "7", "null", "{", "{\"a\":1}", "{\"a\":null}", "{\"a\":\"1\",\"\\u0061\":\"2\"}", "{\n}", &deep]
        {
            assert!(!Publication::is_tags(bad), "{bad}");
        }
        assert!(!Publication::is_tags(&many(33)) && !Publication::is_tags(&long(TAGS_BYTES - 7)));
    }
}
