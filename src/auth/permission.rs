//! Permissions: which session may do what in which channel. Every path asks here, over the socket and over REST. Pure.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{Capability, Claims, SubscriptionClaims};
use crate::{
    channel::{Channel, Pattern},
    config::{AllowSubscribe, ChannelAccess, ChannelOptions, Namespace},
    protocol::{ErrorCode, WireError},
    revocation::{Revocations, TokenIdentity},
};

/// Why a session may not use a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// The channel's namespace is not configured (error 102).
    #[error("unknown namespace")]
    UnknownNamespace,
    /// The name does not match `channel_regex` of its namespace (error 107).
    #[error("the name does not match channel_regex of its namespace")]
    InvalidName,
    /// Not granted (error 103). The client does not learn whether the channel exists.
    #[error("not granted")]
    NotGranted,
}

/// The error that a client or a caller of the server API receives.
impl From<PermissionError> for WireError {
    fn from(error: PermissionError) -> Self {
        match error {
            PermissionError::UnknownNamespace => ErrorCode::UnknownChannel.into(),
            PermissionError::InvalidName => ErrorCode::BadRequest.with_detail(format_args!("channel: {error}")),
            PermissionError::NotGranted => ErrorCode::PermissionDenied.into(),
        }
    }
}

/// An action in a channel that needs a permission, apart from subscribing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelRight {
    /// Publishing (`allow_publish`, `pub` in `caps`).
    Publish,
    /// Reading the history (`allow_history`, `hst` in `caps`).
    History,
    /// Reading presence (`allow_presence`, `prs` in `caps`).
    Presence,
}

impl ChannelRight {
    /// Returns which sessions have the right by configuration.
    fn access(self, options: &ChannelOptions) -> ChannelAccess {
        match self {
            // The hook decides about what the channel's name does not exclude.
            Self::Publish if options.publish_hook => ChannelAccess::Anonymous,
            Self::Publish => options.allow_publish,
            Self::History => options.allow_history,
            Self::Presence => options.allow_presence,
        }
    }

    /// Returns whether a rule of `caps` grants the right.
    fn is_granted_by(self, cap: &Capability) -> bool {
        match self {
            Self::Publish => cap.publish,
            Self::History => cap.history,
            Self::Presence => cap.presence,
        }
    }
}

/// The permissions of the configuration. A token can add to them.
#[derive(Debug)]
pub struct Permissions {
    rules: ArcSwap<ChannelRules>,
    revocations: Option<Arc<Revocations>>,
}

/// `[channels]` and `[[namespaces]]`. A reload replaces them as a whole.
#[derive(Debug)]
struct ChannelRules {
    without_namespace: Arc<ChannelOptions>,
    namespaces: HashMap<String, Arc<ChannelOptions>>,
    /// What precedes the user in the names of the personal channels (`subscribe_to_personal`), like `chat:#`.
    personal_prefixes: Vec<String>,
}

impl ChannelRules {
    fn new(without_namespace: &ChannelOptions, namespaces: &[Namespace]) -> Self {
        let personal = namespaces.iter().filter(|namespace| namespace.channels.subscribe_to_personal);
        let personal = personal.map(|namespace| format!("{}:#", namespace.name));
        let without = without_namespace.subscribe_to_personal.then(|| "#".to_owned());
        let personal_prefixes = without.into_iter().chain(personal).collect();
        let namespaces = namespaces.iter().map(|namespace| (namespace.name.clone(), namespace.channels.clone().into()));
        let without_namespace = Arc::new(without_namespace.clone());
        Self { without_namespace, namespaces: namespaces.collect(), personal_prefixes }
    }
}

impl Permissions {
    /// Creates the permissions of `[channels]` and `[[namespaces]]`.
    pub fn new(without_namespace: &ChannelOptions, namespaces: &[Namespace]) -> Self {
        Self { rules: ArcSwap::from_pointee(ChannelRules::new(without_namespace, namespaces)), revocations: None }
    }

    /// Replaces `[channels]` and `[[namespaces]]`. What is asked from now on is answered by the new ones.
    pub fn replace_rules(&self, without_namespace: &ChannelOptions, namespaces: &[Namespace]) {
        self.rules.store(Arc::new(ChannelRules::new(without_namespace, namespaces)));
    }

    /// Returns the permissions without what these revocations take away.
    pub fn without_revoked(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations: Some(revocations), ..self }
    }

    /// Returns the revocations.
    pub(super) fn revocations(&self) -> Option<&Arc<Revocations>> {
        self.revocations.as_ref()
    }

    /// Returns whether a token is revoked.
    pub fn is_revoked(&self, user: &str, token: &TokenIdentity) -> bool {
        self.revocations.as_ref().is_some_and(|revocations| revocations.is_revoked(user, token))
    }

    /// Returns whether a token is revoked because its key has been removed or has ended, or may not name its user.
    pub fn has_revoked_key(&self, user: &str, token: &TokenIdentity) -> bool {
        self.revocations.as_ref().is_some_and(|revocations| revocations.has_revoked_key(user, token))
    }

    /// Returns whether a token is revoked in one channel.
    pub fn is_revoked_in(&self, user: &str, channel: &Channel, token: &TokenIdentity) -> bool {
        self.revocations.as_ref().is_some_and(|revocations| revocations.is_revoked_in(user, channel, token))
    }

    /// Returns the options of a channel.
    ///
    /// # Errors
    /// [`PermissionError::UnknownNamespace`] or [`PermissionError::InvalidName`] if the configuration has no such channel.
    pub fn channel_options(&self, channel: &Channel) -> Result<Arc<ChannelOptions>, PermissionError> {
        let rules = self.rules.load();
        let options = match channel.namespace() {
            None => &rules.without_namespace,
            Some(namespace) => rules.namespaces.get(namespace).ok_or(PermissionError::UnknownNamespace)?,
        };
        let name = channel.local_name();
        // `#42` has only users and no local name to match.
        let is_nameless = name.is_empty() && channel.users().is_some();
        match &options.channel_regex {
            Some(regex) if !is_nameless && !regex.matches(name) => Err(PermissionError::InvalidName),
            _ => Ok(options.clone()),
        }
    }

    /// Returns the channels to which the configuration subscribes each session of a user (`subscribe_to_personal`). None for
    /// anonymous sessions, and for users whose name cannot be the only user in a channel's name.
    pub fn personal_channels(&self, user: &str) -> impl Iterator<Item = Channel> + use<> {
        let rules = self.rules.load();
        let names = rules.personal_prefixes.iter().map(|prefix| format!("{prefix}{user}"));
        let channels = names.filter_map(|name| Channel::new(&name).ok());
        let allowed: Vec<_> = channels.filter(|channel| self.may_be_subscribed(user, channel).is_ok()).collect();
        allowed.into_iter()
    }

    /// Checks whether a session with these claims may subscribe on its own request. `token` is a valid subscription token; one
    /// for another channel or user is refused, whatever else is granted.
    ///
    /// # Errors
    /// [`PermissionError`].
    pub fn may_subscribe(
        &self,
        claims: &Claims,
        channel: &Channel,
        token: Option<&SubscriptionClaims>,
    ) -> Result<(), PermissionError> {
        let options = self.channel_options(channel)?;
        let has_token = match token {
            None => false,
            Some(token) if token.channel == *channel && token.user == claims.user => true,
            Some(_) => return Err(PermissionError::NotGranted),
        };
        // What a subscription token allows, its own revocation takes away.
        if self.is_revoked_in(&claims.user, channel, &token.map_or(claims.token, |token| token.token)) {
            return Err(PermissionError::NotGranted);
        }
        let is_granted = || has_token || has_capability(claims, channel, |cap| cap.subscribe);
        require(match membership(&claims.user, channel) {
            Membership::Outsider => false,
            // The user's name in the channel is a grant, but does not replace the token that `$` requires.
            Membership::Member => !channel.is_private() || is_granted(),
            Membership::Unrestricted if channel.is_private() => is_granted(),
            Membership::Unrestricted => {
                let is_allowed = match options.allow_subscribe {
                    _ if options.subscribe_hook => false,
                    AllowSubscribe::None => false,
                    AllowSubscribe::User => !claims.is_anonymous(),
                    AllowSubscribe::Anonymous => true,
                };
                is_allowed || is_granted()
            }
        })
    }

    /// Returns whether the subscribe hook decides if a session with these claims may subscribe to the channel: if its namespace
    /// has `subscribe_hook`, no grant allows it, and neither name nor revocation excludes it.
    pub fn asks_subscribe_hook(&self, claims: &Claims, channel: &Channel) -> bool {
        self.channel_options(channel).is_ok_and(|options| options.subscribe_hook)
            && !channel.is_reserved()
            && !self.is_revoked_in(&claims.user, channel, &claims.token)
            && self.may_subscribe(claims, channel, None).is_err()
    }

    /// Returns whether the publish hook is asked before a client's publication to the channel.
    pub fn asks_publish_hook(&self, channel: &Channel) -> bool {
        self.channel_options(channel).is_ok_and(|options| options.publish_hook)
    }

    /// Checks whether a session with these claims has a right. `is_subscribed` is whether the session is subscribed to the
    /// channel now. It matters only if [`Self::depends_on_subscription`], and is always `false` over REST.
    ///
    /// # Errors
    /// [`PermissionError`].
    pub fn may(
        &self,
        right: ChannelRight,
        claims: &Claims,
        channel: &Channel,
        is_subscribed: bool,
    ) -> Result<(), PermissionError> {
        let options = self.channel_options(channel)?;
        if membership(&claims.user, channel) == Membership::Outsider
            || (!is_subscribed && self.is_revoked_in(&claims.user, channel, &claims.token))
        {
            return Err(PermissionError::NotGranted);
        }
        let is_allowed = match right.access(&options) {
            ChannelAccess::None => false,
            ChannelAccess::Subscriber => is_subscribed,
            ChannelAccess::User => !claims.is_anonymous(),
            ChannelAccess::Anonymous => true,
        };
        // The configuration opens a private channel only to its subscribers.
        let may_enter = is_subscribed || !channel.is_private();
        require((is_allowed && may_enter) || has_capability(claims, channel, |cap| right.is_granted_by(cap)))
    }

    /// Returns whether the result of [`Self::may`] depends on the session's subscription, which only the hub knows.
    pub fn depends_on_subscription(&self, right: ChannelRight, channel: &Channel) -> bool {
        let is_for_subscribers = |options: Arc<ChannelOptions>| right.access(&options) == ChannelAccess::Subscriber;
        channel.is_private() || self.channel_options(channel).is_ok_and(is_for_subscribers)
    }

    /// Checks whether a token or the server API may subscribe `user` to the channel: any channel of the configuration that is
    /// not limited to other users.
    ///
    /// # Errors
    /// [`PermissionError`].
    pub fn may_be_subscribed(&self, user: &str, channel: &Channel) -> Result<(), PermissionError> {
        self.channel_options(channel)?;
        require(membership(user, channel) != Membership::Outsider)
    }
}

/// Whether the users in a channel's name include one user.
#[derive(PartialEq, Eq)]
enum Membership {
    /// The name has no users.
    Unrestricted,
    /// The user is one of the users in the name.
    Member,
    /// The name has users, and the user is not one of them.
    Outsider,
}

/// A session without a user is never a member: `dialog#42,` is not open to it.
fn membership(user: &str, channel: &Channel) -> Membership {
    let Some(mut users) = channel.users() else { return Membership::Unrestricted };
    if !user.is_empty() && users.any(|member| member == user) { Membership::Member } else { Membership::Outsider }
}

/// Returns whether a rule of `caps` that matches the channel grants a right. Only an exact pattern matches a reserved name: an
/// author of `*` rarely has those in mind.
fn has_capability(claims: &Claims, channel: &Channel, is_granted_by: impl Fn(&Capability) -> bool) -> bool {
    let matches = |pattern: &Pattern| {
        (matches!(pattern, Pattern::Exact(_)) || !channel.is_reserved()) && pattern.matches(channel.as_str())
    };
    let caps = claims.grants.iter().flat_map(|grants| &grants.caps);
    caps.filter(|cap| is_granted_by(cap)).any(|cap| cap.channels.iter().any(matches))
}

fn require(is_granted: bool) -> Result<(), PermissionError> {
    if is_granted { Ok(()) } else { Err(PermissionError::NotGranted) }
}

#[cfg(test)]
mod tests;
