//! All names at Redis are built and read here: the channel of every Wardcast channel, the three an instance keeps for
//! itself, and the keys of tickets. Publisher, subscriber, survey and tickets ask it; nobody else puts a name together.
//!
//! `{prefix}:c:{channel}` carries publications. The channel stands in braces: its hash tag, which keeps all that belongs
//! to it in one slot of a cluster. Braces and `%` inside are percent-escaped, because a name that begins with `}` would
//! make an empty tag, and undone when read: one channel has one name, and one name one channel.

use std::borrow::Cow;

use crate::channel::Channel;

/// The names of one instance.
#[derive(Debug)]
pub(super) struct Keys {
    channels: String,
    tickets: String,
    replies_of: String,
    control: String,
    replies: String,
    probe: String,
}

/// What a name at Redis stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Publications of this channel.
    Channel(Channel),
    /// Questions and orders to every instance.
    Control,
    /// Answers to this instance.
    Replies,
    /// This instance's own probe.
    Probe,
}

impl Keys {
    /// The names under `prefix` for the instance with this id.
    pub(super) fn new(prefix: &str, instance: &str) -> Self {
        let replies_of = format!("{prefix}:replies:");
        Self {
            channels: format!("{prefix}:c:"),
            tickets: format!("{prefix}:ticket:"),
            control: format!("{prefix}:control"),
            replies: format!("{replies_of}{}", escape(instance)),
            probe: format!("{prefix}:probe:{}", escape(instance)),
            replies_of,
        }
    }

    /// Where publications of `channel` go.
    pub(super) fn channel(&self, channel: &Channel) -> String {
        format!("{}{{{}}}", self.channels, escape(channel.as_str()))
    }

    /// Where a ticket waits; the id is one (`A-Za-z0-9_-`), so that nothing has to be escaped.
    pub(super) fn ticket(&self, id: &str) -> String {
        format!("{}{id}", self.tickets)
    }

    /// Where every instance listens.
    pub(super) fn control(&self) -> &str {
        &self.control
    }

    /// Where the asking instance waits for answers.
    pub(super) fn replies_of(&self, instance: &str) -> String {
        format!("{}{}", self.replies_of, escape(instance))
    }

    /// Where only this instance listens, to hear itself.
    pub(super) fn probe(&self) -> &str {
        &self.probe
    }

    /// What an instance is always subscribed to.
    pub(super) fn own(&self) -> [&str; 3] {
        [&self.control, &self.replies, &self.probe]
    }

    /// What a name stands for; `None` if we would never have written it.
    pub(super) fn source(&self, name: &[u8]) -> Option<Source> {
        let name = std::str::from_utf8(name).ok()?;
        if let Some(tagged) = name.strip_prefix(&self.channels) {
            let escaped = tagged.strip_prefix('{')?.strip_suffix('}')?;
            return Channel::new(&unescape(escaped)?).ok().map(Source::Channel);
        }
        match name {
            _ if name == self.control => Some(Source::Control),
            _ if name == self.replies => Some(Source::Replies),
            _ if name == self.probe => Some(Source::Probe),
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

/// The inverse of [`escape`], and of nothing else: `%41` or a bare brace is no name of ours.
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
    // Most names have nothing escaped, and are not copied here.
    name += rest;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_one_name_and_comes_back() {
        let keys = Keys::new("wardcast", "node");
        for (name, expected) in [
            ("news", "wardcast:c:{news}"),
            ("}a{b}", "wardcast:c:{%7Da%7Bb%7D}"),
            ("50%", "wardcast:c:{50%25}"),
            ("%7B", "wardcast:c:{%257B}"),
            ("чат:日本 1", "wardcast:c:{чат:日本 1}"),
        ] {
            let channel = Channel::new(name).unwrap();
            assert_eq!(keys.channel(&channel), expected);
            assert_eq!(keys.source(expected.as_bytes()), Some(Source::Channel(channel)));
        }
    }

    #[test]
    fn names_that_we_never_write_stand_for_nothing() {
        let keys = Keys::new("wardcast", "node");
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
            assert_eq!(keys.source(name.as_bytes()), None, "{name:?}");
        }
        assert_eq!(keys.source(b"wardcast:c:{\xff}"), None);
    }

    #[test]
    fn an_instance_knows_its_own_names() {
        let keys = Keys::new("wardcast", "a{b");
        assert_eq!(keys.own(), ["wardcast:control", "wardcast:replies:a%7Bb", "wardcast:probe:a%7Bb"]);
        assert_eq!(keys.replies_of("a{b"), keys.own()[1]);
        let sources = keys.own().map(|name| keys.source(name.as_bytes()));
        assert_eq!(sources, [Some(Source::Control), Some(Source::Replies), Some(Source::Probe)]);
    }
}
