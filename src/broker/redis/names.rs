//! Builds and parses all names in Redis: the PUB/SUB channel of every Wardcast channel, the three channels that an instance
//! always subscribes to, one without subscribers, and the keys of tickets and of the role check. No other module builds a name.
//!
//! With the prefix `wardcast`, publications of the channel `news` go over `wardcast:c:{news}`. The braces make the channel's
//! name a hash tag, which keeps everything about a channel in one slot of a cluster. Braces and `%` within the name are
//! percent-escaped, because a name that starts with `}` would make an empty tag. So each channel has one name in Redis, and
//! each such name one channel.

use std::borrow::Cow;

use crate::channel::Channel;

/// The names that one instance uses.
#[derive(Debug)]
pub(super) struct RedisNames {
    publication_prefix: String,
    ticket_prefix: String,
    replies_prefix: String,
    control: String,
    replies: String,
    probe: String,
    publish_check: String,
    role_key: String,
}

/// Where a message comes from: what its PUB/SUB channel is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MessageSource {
    /// Publications of this channel.
    Channel(Channel),
    /// Survey questions and controls for every instance.
    Control,
    /// Survey answers for this instance.
    Replies,
    /// Probes of this instance.
    Probe,
}

impl RedisNames {
    /// Builds the names with `prefix` for the instance with this id.
    pub(super) fn new(prefix: &str, instance: &str) -> Self {
        let replies_prefix = format!("{prefix}:replies:");
        Self {
            publication_prefix: format!("{prefix}:c:"),
            ticket_prefix: format!("{prefix}:ticket:"),
            control: format!("{prefix}:control"),
            replies: format!("{replies_prefix}{}", escape(instance)),
            probe: format!("{prefix}:probe:{}", escape(instance)),
            publish_check: format!("{prefix}:publish-check"),
            role_key: format!("{prefix}:role-check"),
            replies_prefix,
        }
    }

    /// Returns the PUB/SUB channel for publications of `channel`.
    pub(super) fn publication_channel(&self, channel: &Channel) -> String {
        format!("{}{{{}}}", self.publication_prefix, escape(channel.as_str()))
    }

    /// Returns the key of a ticket. A valid id (`A-Za-z0-9_-`) needs no escaping.
    pub(super) fn ticket_key(&self, id: &str) -> String {
        format!("{}{id}", self.ticket_prefix)
    }

    /// Returns the PUB/SUB channel that every instance subscribes to.
    pub(super) fn control_channel(&self) -> &str {
        &self.control
    }

    /// Returns the PUB/SUB channel on which the asking instance waits for answers.
    pub(super) fn replies_channel_of(&self, instance: &str) -> String {
        format!("{}{}", self.replies_prefix, escape(instance))
    }

    /// Returns the PUB/SUB channel that only this instance uses, to receive its own probes.
    pub(super) fn probe_channel(&self) -> &str {
        &self.probe
    }

    /// Returns the PUB/SUB channel without subscribers that checks publish to.
    pub(super) fn publish_check_channel(&self) -> &str {
        &self.publish_check
    }

    /// Returns the key that is written to find out whether the server accepts writes.
    pub(super) fn role_key(&self) -> &str {
        &self.role_key
    }

    /// Returns the PUB/SUB channels that the instance is always subscribed to.
    pub(super) fn own_channels(&self) -> [&str; 3] {
        [&self.control, &self.replies, &self.probe]
    }

    /// Parses the name of a PUB/SUB channel. `None`: no instance builds such a name.
    pub(super) fn parse(&self, name: &[u8]) -> Option<MessageSource> {
        let name = std::str::from_utf8(name).ok()?;
        if let Some(tagged) = name.strip_prefix(&self.publication_prefix) {
            let escaped = tagged.strip_prefix('{')?.strip_suffix('}')?;
            return Channel::new(&unescape(escaped)?).ok().map(MessageSource::Channel);
        }
        match name {
            _ if name == self.control => Some(MessageSource::Control),
            _ if name == self.replies => Some(MessageSource::Replies),
            _ if name == self.probe => Some(MessageSource::Probe),
            _ => None,
        }
    }
}

const ESCAPES: [(char, &str); 3] = [('%', "%25"), ('{', "%7B"), ('}', "%7D")];

fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        match ESCAPES.iter().find(|(plain, _)| *plain == character) {
            Some((_, code)) => escaped.push_str(code),
            None => escaped.push(character),
        }
    }
    escaped
}

/// Reverses [`escape`], and refuses what it never produces, such as `%41` or an unescaped brace.
fn unescape(escaped: &str) -> Option<Cow<'_, str>> {
    let mut name = Cow::Borrowed("");
    let mut rest = escaped;
    while let Some(at) = rest.find(['%', '{', '}']) {
        let (plain, code) = ESCAPES.iter().find(|(_, code)| rest[at..].starts_with(code))?;
        let name = name.to_mut();
        name.push_str(&rest[..at]);
        name.push(*plain);
        rest = &rest[at + code.len()..];
    }
    // Most names contain no escape, and are only borrowed.
    name += rest;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_maps_to_one_redis_name_and_back() {
        let names = RedisNames::new("wardcast", "node");
        for (name, expected) in [
            ("news", "wardcast:c:{news}"),
            ("}a{b}", "wardcast:c:{%7Da%7Bb%7D}"),
            ("50%", "wardcast:c:{50%25}"),
            ("%7B", "wardcast:c:{%257B}"),
            ("чат:日本 1", "wardcast:c:{чат:日本 1}"),
        ] {
            let channel = Channel::new(name).unwrap();
            assert_eq!(names.publication_channel(&channel), expected);
            assert_eq!(names.parse(expected.as_bytes()), Some(MessageSource::Channel(channel)));
        }
    }

    #[test]
    fn foreign_names_are_not_recognised() {
        let names = RedisNames::new("wardcast", "node");
        for name in [
            "other:c:{news}",
            "wardcast:c:news",
            "wardcast:c:{}",
            "wardcast:c:{a}b",
            "wardcast:c:{a}}",
            "wardcast:c:{%41}",
            "wardcast:c:{%7b}",
            "wardcast:c:{%}",
            "wardcast:c:{a\n}",
            "wardcast:replies:another",
            "wardcast:control:x",
            "",
        ] {
            assert_eq!(names.parse(name.as_bytes()), None, "{name:?}");
        }
        assert_eq!(names.parse(b"wardcast:c:{\xff}"), None);
    }

    #[test]
    fn instance_recognises_its_own_names() {
        let names = RedisNames::new("wardcast", "a{b");
        assert_eq!(names.own_channels(), ["wardcast:control", "wardcast:replies:a%7Bb", "wardcast:probe:a%7Bb"]);
        assert_eq!(names.replies_channel_of("a{b"), names.own_channels()[1]);
        let sources = names.own_channels().map(|name| names.parse(name.as_bytes()));
        assert_eq!(sources, [Some(MessageSource::Control), Some(MessageSource::Replies), Some(MessageSource::Probe)]);
    }
}
