//! What a token grants by itself: `channels`, `subs` and `caps`, from raw JSON to checked [`Grants`]. Everything is bounded
//! while it is read. The login file's entries go the same way.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Capability, Grants, Permissions, ServerSideSubscription,
    claims::NumericDate,
    json::{BoundedList, JsonObject, JsonText, not_null, single_line},
};
use crate::{
    channel::{Channel, Pattern},
    clock::{Millis, NEVER},
};

/// The longest `info`, in bytes: it is shown to others with each publication of its owner. The same for `data`.
pub(super) const MAX_INFO_BYTES: usize = 4096;
/// Rules of `caps`. Each publication and subscription may have to look through all of them.
const MAX_RULES: usize = 32;
/// Patterns of all rules together.
const MAX_PATTERNS: usize = 128;
/// Regular expressions among them: each is compiled when a token comes in, and takes up to 32 KiB.
const MAX_REGEXES: usize = 8;

/// The three members of a token, unread.
#[derive(Clone, Copy, Default)]
pub(super) struct RawGrants<'a> {
    pub(super) channels: Option<&'a RawValue>,
    pub(super) subs: Option<&'a RawValue>,
    pub(super) caps: Option<&'a RawValue>,
}

/// What they are held against.
#[derive(Clone, Copy)]
pub(super) struct GrantContext<'a> {
    pub(super) permissions: &'a Permissions,
    /// The most subscriptions (`limits.channels_per_session`).
    pub(super) max_subscriptions: usize,
    /// Whose token it is: channels that are limited to others are not taken.
    pub(super) user: &'a str,
    pub(super) now: Millis,
}

impl RawGrants<'_> {
    /// `None` when nothing is granted, as in most tokens.
    ///
    /// # Errors
    /// What is wrong, for our own log.
    pub(super) fn validate(self, context: GrantContext<'_>) -> Result<Option<Box<Grants>>, &'static str> {
        let mut subscriptions = SubscriptionReader { list: Vec::new(), names: HashSet::new(), context, problem: None };
        if let Some(channels) = self.channels {
            subscriptions.read(channels, "channels", |json, list| json.deserialize_seq(list))?;
        }
        if let Some(subs) = self.subs {
            subscriptions.read(subs, "subs", |json, list| json.deserialize_map(list))?;
        }
        let caps = self.caps.map_or(Ok(Vec::new()), read_capabilities)?;
        let grants = Grants { caps, subscriptions: subscriptions.list };
        Ok((grants != Grants::default()).then(|| Box::new(grants)))
    }
}

type Json<'de> = serde_json::Deserializer<serde_json::de::StrRead<'de>>;

/// The subscriptions so far.
struct SubscriptionReader<'b> {
    list: Vec<ServerSideSubscription>,
    names: HashSet<Channel>,
    context: GrantContext<'b>,
    /// Why reading was given up: the parser's error cannot carry it.
    problem: Option<&'static str>,
}

/// One entry of `subs`. Options that are not listed are passed over, as those of other servers are.
#[derive(Default, Deserialize)]
struct SubsEntry<'a> {
    #[serde(default, borrow)]
    info: Option<&'a RawValue>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "not_null")]
    expire_at: Option<NumericDate>,
}

impl SubscriptionReader<'_> {
    fn read<'de>(
        &mut self,
        raw: &'de RawValue,
        what: &'static str,
        read: impl FnOnce(&mut Json<'de>, &mut Self) -> serde_json::Result<()>,
    ) -> Result<(), &'static str> {
        read(&mut serde_json::Deserializer::from_str(raw.get()), self).map_err(|_| self.problem.unwrap_or(what))
    }

    fn add<E: Error>(&mut self, name: &str, options: &SubsEntry<'_>) -> Result<(), E> {
        let added = self.add_checked(name, options);
        added.map_err(|problem| {
            self.problem = Some(problem);
            E::custom(problem)
        })
    }

    fn add_checked(&mut self, name: &str, options: &SubsEntry<'_>) -> Result<(), &'static str> {
        if self.names.len() >= self.context.max_subscriptions {
            return Err("more subscriptions than limits.channels_per_session");
        }
        let channel = Channel::new(name).map_err(|_| "a subscription to what is no channel name")?;
        let is_fine = self.context.permissions.may_be_subscribed(self.context.user, &channel);
        is_fine.map_err(|_| "a subscription to a channel of no namespace here, or limited to others")?;
        if !self.names.insert(channel.clone()) {
            return Err("two subscriptions to one channel");
        }
        let read =
            |raw: Option<&RawValue>| raw.map(|raw| single_line(raw, MAX_INFO_BYTES).ok_or("info or data too long"));
        let (info, data) = (read(options.info).transpose()?, read(options.data).transpose()?);
        let expires_at = options.expire_at.map_or(NEVER, NumericDate::millis);
        // One that is over already is none; it is no fault of the others.
        if expires_at > self.context.now {
            self.list.push(ServerSideSubscription { channel, info, data, expires_at });
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut SubscriptionReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names, or names with options")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<(), A::Error> {
        while let Some(JsonText(name)) = names.next_element()? {
            self.add(&name, &SubsEntry::default())?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut subs: A) -> Result<(), A::Error> {
        while let Some((JsonText(name), JsonObject(options))) =
            subs.next_entry::<JsonText<'de>, JsonObject<SubsEntry<'de>>>()?
        {
            self.add(&name, &options)?;
        }
        Ok(())
    }
}

/// One rule of `caps`. Unknown members refuse it: one of them may be what narrows it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCapability<'a> {
    #[serde(borrow)]
    channels: BoundedList<JsonText<'a>, MAX_PATTERNS>,
    #[serde(default, rename = "match")]
    kind: PatternKind,
    allow: BoundedList<Right, 16>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PatternKind {
    #[default]
    Exact,
    Wildcard,
    Regex,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Right {
    #[serde(rename = "sub")]
    Subscribe,
    #[serde(rename = "pub")]
    Publish,
    #[serde(rename = "prs")]
    Presence,
    #[serde(rename = "hst")]
    History,
}

fn read_capabilities(raw: &RawValue) -> Result<Vec<Capability>, &'static str> {
    let rules: BoundedList<JsonObject<RawCapability<'_>>, MAX_RULES> =
        serde_json::from_str(raw.get()).map_err(|_| "caps")?;
    let count = |kind: Option<PatternKind>| -> usize {
        let counted =
            rules.0.iter().map(|JsonObject(rule)| rule).filter(|rule| kind.is_none_or(|kind| rule.kind == kind));
        counted.map(|rule| rule.channels.0.len()).sum()
    };
    // Before anything is compiled.
    if count(None) > MAX_PATTERNS || count(Some(PatternKind::Regex)) > MAX_REGEXES {
        return Err("caps with too many patterns");
    }
    rules.0.iter().map(|JsonObject(rule)| capability(rule)).collect()
}

fn capability(rule: &RawCapability<'_>) -> Result<Capability, &'static str> {
    let pattern = |JsonText(text): &JsonText<'_>| match rule.kind {
        PatternKind::Exact => Pattern::exact(text),
        PatternKind::Wildcard => Pattern::wildcard(text),
        PatternKind::Regex => Pattern::regex(text),
    };
    let channels = rule.channels.0.iter().map(pattern).collect::<Result<_, _>>();
    let allows = |word| rule.allow.0.contains(&word);
    Ok(Capability {
        channels: channels.map_err(|_| "caps with a pattern that is none")?,
        subscribe: allows(Right::Subscribe),
        publish: allows(Right::Publish),
        presence: allows(Right::Presence),
        history: allows(Right::History),
    })
}
