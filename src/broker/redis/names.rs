//! Builds and parses all names in Redis: the PUB/SUB channels, and the keys. No other module builds a name.
//!
//! Everything about a channel is named `PREFIX:KIND:{TAG}REST`. Redis Cluster keeps names with the same tag in one slot, so that
//! a script can use all of them. Without Cluster the tag is the name of the channel, and REST is empty: publications of `news`
//! go over `wardcast:c:{news}`. With Cluster the tag is that of the channel's [partition](super::partition), and REST is the
//! name: `wardcast:c:{1234}news`. The key of an idempotency key ends with it, in braces.
//!
//! Braces and `%` within names are percent-escaped, because a name that starts with `}` would make an empty tag. So every channel
//! has one name of each kind in Redis, and each such name one channel.

use std::borrow::Cow;

use super::partition::{PartitionTable, slot_of};
use crate::{channel::Channel, revocation::user_tag};

/// The names that one instance uses.
#[derive(Debug)]
pub(super) struct RedisNames {
    prefix: String,
    /// The instance, escaped.
    instance: String,
    /// Of a Cluster.
    partitions: Option<PartitionTable>,
    publication_prefix: String,
    control: String,
    replies: String,
    probe: String,
    publish_check: String,
    storage_check: String,
    revocations: [String; 2],
}

/// The PUB/SUB channels that an instance uses on one server for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnNames {
    /// Control, replies and probe, as far as the server has them. The instance is always subscribed to these.
    pub(super) subscribed: Vec<String>,
    /// The probe. `None`: a master of a Cluster that has no partition, and so no subscriptions.
    pub(super) probe: Option<String>,
    /// A PUB/SUB channel without subscribers, to publish to. `None` together with `probe`.
    pub(super) publish_check: Option<String>,
    /// A key that only this instance writes, to find out whether the server stores anything. `None` together with `probe`.
    pub(super) storage_check: Option<String>,
}

/// Where a message comes from: what its PUB/SUB channel is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MessageSource {
    /// Publications of this channel.
    Channel(Channel),
    /// Survey questions and controls for every instance.
    Control,
    /// Survey answers, and commands of clients, for this instance.
    Replies,
    /// Probes of this instance.
    Probe,
}

/// What a name of a channel is for. The letter is part of the layout in Redis.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    /// PUB/SUB channel.
    Publications = b'c',
    /// Stream of the history.
    History = b's',
    /// Hash of the history: epoch, newest offset, newest version.
    HistoryMeta = b'm',
    /// Hash of the presence: client ids and their entries.
    PresenceMembers = b'p',
    /// Sorted set of the presence: client ids and when they expire.
    PresenceExpiries = b'e',
    /// The result of the publish with an idempotency key.
    Idempotency = b'i',
}

impl RedisNames {
    /// Builds the names with `prefix` for the instance with this id. The prefix has no braces.
    pub(super) fn new(prefix: &str, instance: &str) -> Self {
        Self::with_partitions(prefix, instance, None)
    }

    /// Builds the names for a Cluster. The channels that an instance is always subscribed to have a name in each partition.
    pub(super) fn partitioned(prefix: &str, instance: &str, partitions: PartitionTable) -> Self {
        Self::with_partitions(prefix, instance, Some(partitions))
    }

    fn with_partitions(prefix: &str, instance: &str, partitions: Option<PartitionTable>) -> Self {
        let mut names = Self {
            prefix: prefix.to_owned(),
            instance: escape(instance).into_owned(),
            partitions,
            publication_prefix: format!("{prefix}:c:"),
            control: format!("{prefix}:control"),
            replies: String::new(),
            probe: format!("{prefix}:probe:{}", escape(instance)),
            publish_check: format!("{prefix}:publish-check"),
            storage_check: format!("{prefix}:check:{}", escape(instance)),
            revocations: ["entries", "expiries"].map(|what| format!("{prefix}:{{revocations}}:{what}")),
        };
        names.replies = names.replies_channel_of(instance);
        if let Some(table) = &names.partitions {
            names.control = format!("{prefix}:control:{{{}}}", table.tag(table.partition_of("control")));
        }
        names
    }

    /// Returns the PUB/SUB channel for publications of `channel`.
    pub(super) fn publication_channel(&self, channel: &Channel) -> String {
        self.name(Kind::Publications, channel)
    }

    /// Returns the command that publishes to the channels of these names.
    pub(super) fn publish_command(&self) -> &'static str {
        if self.is_sharded() { "SPUBLISH" } else { "PUBLISH" }
    }

    /// Returns the key of a channel's history: a stream whose ids are the offsets.
    pub(super) fn history_key(&self, channel: &Channel) -> String {
        self.name(Kind::History, channel)
    }

    /// Returns the key of what outlives the publications of a history: a hash.
    pub(super) fn history_meta_key(&self, channel: &Channel) -> String {
        self.name(Kind::HistoryMeta, channel)
    }

    /// Returns the key of a channel's presence: a hash of entries by client id.
    pub(super) fn presence_members_key(&self, channel: &Channel) -> String {
        self.name(Kind::PresenceMembers, channel)
    }

    /// Returns the key of the times at which the entries of a channel's presence expire: a sorted set of client ids.
    pub(super) fn presence_expiries_key(&self, channel: &Channel) -> String {
        self.name(Kind::PresenceExpiries, channel)
    }

    /// Returns the key under which the result of the publish to `channel` with this idempotency key is stored.
    pub(super) fn idempotency_key(&self, channel: &Channel, key: &str) -> String {
        format!("{}{{{}}}", self.name(Kind::Idempotency, channel), escape(key))
    }

    fn name(&self, kind: Kind, channel: &Channel) -> String {
        let (prefix, kind, name) = (&self.prefix, char::from(kind as u8), escape(channel.as_str()));
        match &self.partitions {
            None => format!("{prefix}:{kind}:{{{name}}}"),
            Some(table) => format!("{prefix}:{kind}:{{{}}}{name}", table.tag(table.partition_of(channel.as_str()))),
        }
    }

    /// Returns the key of the record of the layout of keys. It is the same in all layouts.
    pub(super) fn layout_key(&self) -> String {
        format!("{}:layout", self.prefix)
    }

    /// Returns the key of the record of the servers over which channels are spread. It is on every server.
    pub(super) fn servers_key(&self) -> String {
        format!("{}:servers", self.prefix)
    }

    /// Returns the key of a ticket. A valid id (`A-Za-z0-9_-`) needs no escaping.
    pub(super) fn ticket_key(&self, id: &str) -> String {
        format!("{}:ticket:{id}", self.prefix)
    }

    /// Returns the key of the logins of the user with this tag: a hash of records.
    pub(super) fn logins_key(&self, user_tag: &str) -> String {
        format!("{}:logins:{user_tag}", self.prefix)
    }

    /// Returns the key of failed logins, whose `name` is a MAC. One hash tag, so that one script may use several; all are on the
    /// server of [`Self::login_failures_home`].
    pub(super) fn login_failures_key(&self, kind: &str, name: &str) -> String {
        format!("{}:{kind}:{name}", self.login_failures_home())
    }

    /// Returns the name whose server has the keys of all failed logins. The failures of an address count together for all users.
    pub(super) fn login_failures_home(&self) -> String {
        format!("{}:{{login-failures}}", self.prefix)
    }

    /// Returns the key of the connections of a user: a hash of numbers by instance.
    pub(super) fn connections_key(&self, user: &str) -> String {
        format!("{}:connections:{}", self.prefix, user_tag(user))
    }

    /// Returns the key of the rate of the user with this tag.
    pub(super) fn rate_key(&self, user_tag: &str) -> String {
        format!("{}:rate:{user_tag}", self.prefix)
    }

    /// Returns the keys of the revocations: what is revoked (hash), and when it expires (sorted set). One hash tag, so that one
    /// script may use both.
    pub(super) fn revocation_hash_and_expiries(&self) -> &[String; 2] {
        &self.revocations
    }

    /// Returns the key of the hash of revocations. Its slot decides which server keeps them.
    pub(super) fn revocation_hash(&self) -> &str {
        &self.revocations[0]
    }

    /// Returns a key of a lane of the outbox of events. One hash tag for each lane, so that a script may use all keys of it; all are
    /// on the server of [`Self::event_lane_home`].
    pub(super) fn event_key(&self, lane: usize, what: &str) -> String {
        format!("{}:{{events-{lane}}}:{what}", self.prefix)
    }

    /// Returns the key of what an instance has stored in a lane of the outbox of events.
    pub(super) fn event_key_of_node(&self, lane: usize, what: &str, instance: &str) -> String {
        format!("{}:{}", self.event_key(lane, what), escape(instance))
    }

    /// Returns the key whose server has all keys of a lane of the outbox of events: that of the events, which other releases have
    /// always looked for there.
    pub(super) fn event_lane_home(&self, lane: usize) -> String {
        self.event_key(lane, "queue")
    }

    /// Returns the PUB/SUB channel that every instance subscribes to.
    pub(super) fn control_channel(&self) -> &str {
        &self.control
    }

    /// Returns the PUB/SUB channel on which the asking instance waits for answers. In a Cluster its partition follows from the
    /// instance.
    pub(super) fn replies_channel_of(&self, instance: &str) -> String {
        let (prefix, name) = (&self.prefix, escape(instance));
        match &self.partitions {
            None => format!("{prefix}:replies:{name}"),
            Some(table) => format!("{prefix}:replies:{{{}}}{name}", table.tag(table.partition_of(instance))),
        }
    }

    /// Returns the names that this instance uses on the server that has the slots for which `has_slot` returns true. Without
    /// Cluster every server has all names.
    pub(super) fn own_names(&self, has_slot: impl Fn(u16) -> bool) -> OwnNames {
        let Some(table) = &self.partitions else {
            return OwnNames {
                subscribed: vec![self.control.clone(), self.replies.clone(), self.probe.clone()],
                probe: Some(self.probe.clone()),
                publish_check: Some(self.publish_check.clone()),
                storage_check: Some(self.storage_check.clone()),
            };
        };
        let own_tag =
            table.all().find(|partition| has_slot(table.slot(*partition))).map(|partition| table.tag(partition));
        let probe = own_tag.map(|tag| format!("{}:probe:{{{tag}}}{}", self.prefix, self.instance));
        let has = |name: &&String| has_slot(slot_of(name.as_bytes()));
        let subscribed = [&self.control, &self.replies].into_iter().filter(has).chain(&probe).cloned().collect();
        let publish_check = own_tag.map(|tag| format!("{}:{{{tag}}}", self.publish_check));
        let storage_check = own_tag.map(|tag| format!("{}:check:{{{tag}}}{}", self.prefix, self.instance));
        OwnNames { subscribed, probe, publish_check, storage_check }
    }

    /// Returns the slot of a channel in a Cluster.
    pub(super) fn slot_of(&self, channel: &Channel) -> u16 {
        self.partitions.as_ref().map_or(0, |table| table.slot(table.partition_of(channel.as_str())))
    }

    /// Returns whether this is the layout of a Cluster, where every PUB/SUB channel is a shard channel.
    pub(super) fn is_sharded(&self) -> bool {
        self.partitions.is_some()
    }

    /// Parses the name of a PUB/SUB channel. `None`: no instance of this installation builds such a name.
    pub(super) fn parse(&self, name: &[u8]) -> Option<MessageSource> {
        let name = std::str::from_utf8(name).ok()?;
        if let Some(tagged) = name.strip_prefix(&self.publication_prefix) {
            let (tag, rest) = tagged.strip_prefix('{')?.split_once('}')?;
            let escaped = if self.partitions.is_some() { rest } else { tag };
            let channel = Channel::new(&unescape(escaped)?).ok()?;
            let is_ours = match &self.partitions {
                None => rest.is_empty(),
                Some(table) => table.tag(table.partition_of(channel.as_str())) == tag,
            };
            return is_ours.then_some(MessageSource::Channel(channel));
        }
        if name == self.replies {
            return Some(MessageSource::Replies);
        }
        if name == self.control {
            return Some(MessageSource::Control);
        }
        if self.is_sharded() {
            return self.parse_probe_in_partition(name);
        }
        (name == self.probe).then_some(MessageSource::Probe)
    }

    /// Probes come over any partition.
    fn parse_probe_in_partition(&self, name: &str) -> Option<MessageSource> {
        let (_, instance) = name.strip_prefix(&self.prefix)?.strip_prefix(":probe:{")?.split_once('}')?;
        (instance == self.instance).then_some(MessageSource::Probe)
    }
}

const ESCAPES: [(char, &str); 3] = [('%', "%25"), ('{', "%7B"), ('}', "%7D")];

/// Escapes what has a meaning in names of Redis. Most names contain nothing of it.
fn escape(name: &str) -> Cow<'_, str> {
    if !name.contains(['%', '{', '}']) {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for character in name.chars() {
        match ESCAPES.iter().find(|(plain, _)| *plain == character) {
            Some((_, code)) => escaped.push_str(code),
            None => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
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
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn clustered() -> RedisNames {
        RedisNames::partitioned("wardcast", "a{b", PartitionTable::new(1024))
    }

    fn all_names(names: &RedisNames, channel: &Channel) -> [String; 7] {
        [
            names.publication_channel(channel),
            names.history_key(channel),
            names.history_meta_key(channel),
            names.presence_members_key(channel),
            names.presence_expiries_key(channel),
            names.idempotency_key(channel, "a"),
            names.idempotency_key(channel, "}{"),
        ]
    }

    fn awkward_name() -> impl Strategy<Value = Channel> {
        let text = prop_oneof![
            3 => "[{}%\"' ?\\\\:$#a-c7BD25]{1,12}",
            1 => "\\PC{1,40}",
            1 => "[é日{}%]{60,120}",
        ];
        text.prop_filter_map("a channel name", |text| Channel::new(&text).ok())
    }

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
        let own = names.own_names(|_| unreachable!("there are no slots"));
        assert_eq!(own.subscribed, ["wardcast:control", "wardcast:replies:a%7Bb", "wardcast:probe:a%7Bb"]);
        assert_eq!(names.replies_channel_of("a{b"), own.subscribed[1]);
        let sources: Vec<_> = own.subscribed.iter().map(|name| names.parse(name.as_bytes())).collect();
        assert_eq!(sources, [Some(MessageSource::Control), Some(MessageSource::Replies), Some(MessageSource::Probe)]);
    }

    #[test]
    fn each_master_of_a_cluster_gets_a_probe_and_one_of_them_each_other_own_name() {
        let names = clustered();
        let masters = [0..5000_u16, 5000..5001, 5001..16_384];
        let own = masters.clone().map(|slots| names.own_names(|slot| slots.contains(&slot)));
        assert_eq!(own[1], OwnNames::default(), "this master has no partition");
        let mut subscribed: Vec<_> = own.iter().flat_map(|own| own.subscribed.clone()).collect();
        for (own, slots) in own.iter().zip(&masters) {
            for name in own.subscribed.iter().chain(&own.probe).chain(&own.publish_check).chain(&own.storage_check) {
                assert!(slots.contains(&slot_of(name.as_bytes())), "{name}");
            }
            assert!(own.probe.iter().all(|probe| own.subscribed.contains(probe)));
        }
        subscribed.retain(|name| names.parse(name.as_bytes()) != Some(MessageSource::Probe));
        subscribed.sort();
        assert_eq!(subscribed, [names.control_channel().to_owned(), names.replies_channel_of("a{b")]);
    }

    #[test]
    fn names_of_a_cluster_carry_the_tag_of_their_partition() {
        let names = clustered();
        let channel = Channel::new("}a{b}").unwrap();
        let table = PartitionTable::new(1024);
        let partition = table.partition_of("}a{b}");
        let tag = table.tag(partition);
        assert_eq!(names.publication_channel(&channel), format!("wardcast:c:{{{tag}}}%7Da%7Bb%7D"));
        assert_eq!(names.idempotency_key(&channel, "k{"), format!("wardcast:i:{{{tag}}}%7Da%7Bb%7D{{k%7B}}"));
        for (name, source) in [
            (names.publication_channel(&channel), MessageSource::Channel(channel)),
            (names.control_channel().to_owned(), MessageSource::Control),
            (format!("wardcast:probe:{{{tag}}}a%7Bb"), MessageSource::Probe),
            (names.replies_channel_of("a{b"), MessageSource::Replies),
        ] {
            assert_eq!(names.parse(name.as_bytes()), Some(source), "{name}");
        }
        let elsewhere = table.all().find(|other| *other != partition).unwrap();
        for name in [
            format!("wardcast:c:{{{}}}%7Da%7Bb%7D", table.tag(elsewhere)),
            "wardcast:c:{news}".to_owned(),
            "wardcast:c:{1}".to_owned(),
            "wardcast:control".to_owned(),
            "wardcast:control:{1}x".to_owned(),
            "wardcast:probe:{1}other".to_owned(),
            names.replies_channel_of("other"),
        ] {
            assert_eq!(names.parse(name.as_bytes()), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_two_channels_or_kinds_share_a_name_in_redis(
            channels in prop::collection::vec(awkward_name(), 1..20),
            keys in prop::collection::vec("[{}%a]{0,4}", 2..6),
        ) {
            for names in [RedisNames::new("wardcast", "n"), clustered()] {
                let mut owners = HashMap::new();
                for channel in &channels {
                    let stored = all_names(&names, channel).into_iter().enumerate().map(|(kind, name)| (kind.to_string(), name));
                    let keyed = keys.iter().map(|key| (format!("key {key}"), names.idempotency_key(channel, key)));
                    let slot = slot_of(names.history_key(channel).as_bytes());
                    for (kind, name) in stored.filter(|(kind, _)| kind != "5" && kind != "6").chain(keyed) {
                        prop_assert_eq!(slot_of(name.as_bytes()), slot, "{}", &name);
                        let owner = (channel.clone(), kind);
                        let before = owners.insert(name, owner.clone()).unwrap_or_else(|| owner.clone());
                        prop_assert_eq!(before, owner);
                    }
                    let name = names.publication_channel(channel);
                    prop_assert_eq!(names.parse(name.as_bytes()), Some(MessageSource::Channel(channel.clone())));
                }
            }
        }
    }
}
