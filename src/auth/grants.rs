//! The grants of a token: reads the claims `channels`, `subs` and `caps` and checks them. The entries of the login file go
//! through the same checks.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Capability, Grants, Permissions, ServerSideSubscription, TokenError,
    claims::NumericDate,
    subscription_options::{RawSubscriptionOptions, SubscriptionOptions},
};
use crate::{
    channel::{Channel, Pattern, PatternError},
    clock::{NEVER, WallTime},
    json::{JsonMembers, JsonObject, not_null},
};

/// Maximum number of rules in `caps`. Each publish and subscribe may have to look through all of them.
pub(super) const MAX_RULES: usize = 32;
/// Maximum number of patterns in all rules together.
pub(super) const MAX_PATTERNS: usize = 128;
/// Maximum number of regular expressions among the patterns: each is compiled when a token arrives, and takes up to 32 KiB.
pub(super) const MAX_REGEXES: usize = 8;

/// The three claims, not yet parsed.
#[derive(Clone, Copy, Default)]
pub(super) struct RawGrants<'a> {
    pub(super) channels: Option<&'a RawValue>,
    pub(super) subs: Option<&'a RawValue>,
    pub(super) caps: Option<&'a RawValue>,
}

/// The limits and rules against which grants are checked.
#[derive(Clone, Copy)]
pub(super) struct GrantContext<'a> {
    pub(super) permissions: &'a Permissions,
    /// `limits.channels_per_session`.
    pub(super) max_subscriptions: usize,
    /// The user of the token. Channels that are limited to other users are refused.
    pub(super) user: &'a str,
    pub(super) now: WallTime,
}

impl RawGrants<'_> {
    /// Parses and checks the grants. Returns `None` if there are none, as in most tokens.
    ///
    /// # Errors
    /// The first claim that is malformed or not allowed.
    pub(super) fn validate(self, context: GrantContext<'_>) -> Result<Option<Box<Grants>>, TokenError> {
        let channels: Vec<String> = parse(self.channels, TokenError::MalformedChannels)?;
        let subs: JsonMembers<JsonObject<SubscriptionEntry<'_>>> = parse(self.subs, TokenError::MalformedSubs)?;
        let channels = channels.into_iter().map(|name| (name, JsonObject(SubscriptionEntry::default())));
        let subscriptions = subscriptions(channels.chain(subs.0).collect(), context)?;
        let caps = capabilities(&parse::<Vec<_>>(self.caps, TokenError::MalformedCaps)?)?;
        let grants = Grants { caps, subscriptions };
        Ok((grants != Grants::default()).then(|| Box::new(grants)))
    }
}

fn parse<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>, error: TokenError) -> Result<T, TokenError> {
    raw.map_or(Ok(T::default()), |raw| serde_json::from_str(raw.get()).map_err(|_| error))
}

/// One entry of `subs`. Unknown options are ignored: other servers have some.
#[derive(Default, Deserialize)]
pub(super) struct SubscriptionEntry<'a> {
    #[serde(default, borrow)]
    info: Option<&'a RawValue>,
    #[serde(default, borrow)]
    b64info: Option<&'a RawValue>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    b64data: Option<&'a RawValue>,
    #[serde(default, borrow, rename = "override")]
    overrides: Option<&'a RawValue>,
    #[serde(default, borrow)]
    server_tags_filter: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "not_null")]
    expire_at: Option<NumericDate>,
}

impl<'a> SubscriptionEntry<'a> {
    fn options(&self) -> RawSubscriptionOptions<'a> {
        let &Self { info, b64info, data, b64data, overrides, server_tags_filter, .. } = self;
        RawSubscriptionOptions { info, b64info, data, b64data, overrides, server_tags_filter }
    }
}

fn subscriptions(
    entries: Vec<(String, JsonObject<SubscriptionEntry<'_>>)>,
    context: GrantContext<'_>,
) -> Result<Vec<ServerSideSubscription>, TokenError> {
    if entries.len() > context.max_subscriptions {
        return Err(TokenError::TooManySubscriptions);
    }
    let (mut names, mut subscriptions) = (HashSet::new(), Vec::new());
    for (name, JsonObject(entry)) in entries {
        let channel = Channel::new(&name)?;
        let allowed = context.permissions.may_be_subscribed(context.user, &channel);
        allowed.map_err(|_| TokenError::ForbiddenChannel)?;
        if !names.insert(channel.clone()) {
            return Err(TokenError::DuplicateSubscription);
        }
        let SubscriptionOptions { info, data, overrides } = entry.options().validate()?;
        let expires_at = entry.expire_at.map_or(NEVER, NumericDate::time);
        // An expired entry is left out; the others of the token are not at fault.
        if expires_at > context.now {
            subscriptions.push(ServerSideSubscription { channel, info, data, expires_at, overrides });
        }
    }
    Ok(subscriptions)
}

/// The form of a rule in `caps`, for operators.
pub(super) const CAPS_FORM: &str =
    r#"a rule is {"channels":[…],"match":"exact|wildcard|regex","allow":["sub","pub","prs","hst"]}"#;

/// One rule of `caps`. An unknown member refuses it, since it might be one that restricts the rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    channels: Vec<String>,
    #[serde(default, rename = "match")]
    kind: PatternKind,
    allow: Vec<Right>,
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

/// Counts everything before the first regular expression is compiled.
fn capabilities(rules: &[JsonObject<Rule>]) -> Result<Vec<Capability>, TokenError> {
    let count = |is_counted: fn(PatternKind) -> bool| -> usize {
        let counted = rules.iter().filter(|JsonObject(rule)| is_counted(rule.kind));
        counted.map(|JsonObject(rule)| rule.channels.len()).sum()
    };
    let regexes = count(|kind| kind == PatternKind::Regex);
    if rules.len() > MAX_RULES || count(|_| true) > MAX_PATTERNS || regexes > MAX_REGEXES {
        return Err(TokenError::TooManyPatterns);
    }
    rules.iter().map(|JsonObject(rule)| capability(rule)).collect()
}

fn capability(rule: &Rule) -> Result<Capability, TokenError> {
    let pattern = match rule.kind {
        PatternKind::Exact => Pattern::exact,
        PatternKind::Wildcard => Pattern::wildcard,
        PatternKind::Regex => Pattern::regex,
    };
    let channels = rule.channels.iter().map(|text| pattern(text)).collect::<Result<_, PatternError>>();
    let allows = |right| rule.allow.contains(&right);
    Ok(Capability {
        channels: channels?,
        subscribe: allows(Right::Subscribe),
        publish: allows(Right::Publish),
        presence: allows(Right::Presence),
        history: allows(Right::History),
    })
}
