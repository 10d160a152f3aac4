//! Who may do what in which channel. Every path asks here: subscribe, publish, history and presence, by
//! socket and by REST. Pure.

use std::collections::HashMap;

use super::{Capability, Claims, SubscriptionClaims};
use crate::{
    channel::{Channel, Pattern},
    config::{AllowSubscribe, ChannelAccess, ChannelOptions, Namespace},
    protocol::ErrorCode,
};

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// The channel names a namespace that is not configured (error 102).
    #[error("unknown namespace")]
    UnknownNamespace,
    /// The name is not one that its namespace takes (`channel_regex`; error 107).
    #[error("not a name of its namespace")]
    InvalidName,
    /// Not granted (error 103). Whether the channel exists is not told.
    #[error("not granted")]
    NotGranted,
}

/// The error that a client or a caller of the server API gets.
impl From<PermissionError> for ErrorCode {
    fn from(error: PermissionError) -> Self {
        match error {
            PermissionError::UnknownNamespace => Self::UnknownChannel,
            PermissionError::InvalidName => Self::BadRequest,
            PermissionError::NotGranted => Self::PermissionDenied,
        }
    }
}

/// What the configuration allows, and what a token adds to it.
#[derive(Debug)]
pub struct Permissions {
    without_namespace: ChannelOptions,
    namespaces: HashMap<String, ChannelOptions>,
}

impl Permissions {
    /// Of `[channels]` and `[[namespaces]]`.
    pub fn new(without_namespace: &ChannelOptions, namespaces: &[Namespace]) -> Self {
        let namespaces = namespaces.iter().map(|namespace| (namespace.name.clone(), namespace.channels.clone()));
        Self { without_namespace: without_namespace.clone(), namespaces: namespaces.collect() }
    }

    /// The options of a channel, which is one of this configuration.
    ///
    /// # Errors
    /// [`PermissionError::UnknownNamespace`] or [`PermissionError::InvalidName`].
    pub fn channel_options(&self, channel: &Channel) -> Result<&ChannelOptions, PermissionError> {
        let options = match channel.namespace() {
            None => &self.without_namespace,
            Some(namespace) => self.namespaces.get(namespace).ok_or(PermissionError::UnknownNamespace)?,
        };
        let name = channel.local_name();
        // `#42` has no name, only a user.
        let is_nameless = name.is_empty() && channel.users().is_some();
        match &options.channel_regex {
            Some(regex) if !is_nameless && !regex.matches(name) => Err(PermissionError::InvalidName),
            _ => Ok(options),
        }
    }

    /// Whether whoever has these claims may subscribe by himself; `token` is a good subscription token; one
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
        let is_granted = || has_token || has_capability(claims, channel, |cap| cap.subscribe);
        require(match membership(&claims.user, channel) {
            Membership::Outsider => false,
            // To be named is the grant, but not a substitute for the token that `$` asks for.
            Membership::Member => !channel.is_private() || is_granted(),
            Membership::Unrestricted if channel.is_private() => is_granted(),
            Membership::Unrestricted => {
                let is_allowed = match options.allow_subscribe {
                    AllowSubscribe::None => false,
                    AllowSubscribe::User => !claims.is_anonymous(),
                    AllowSubscribe::Anonymous => true,
                };
                is_allowed || is_granted()
            }
        })
    }

    /// Whether whoever has these claims may publish. `is_subscribed`: whether the session that asks receives the channel at
    /// the moment, which matters where [`Self::publish_depends_on_subscription`]; over REST nobody does.
    ///
    /// # Errors
    /// [`PermissionError`].
    pub fn may_publish(&self, claims: &Claims, channel: &Channel, is_subscribed: bool) -> Result<(), PermissionError> {
        let allowed = self.channel_options(channel)?.allow_publish;
        may_access(claims, channel, is_subscribed, allowed, |cap| cap.publish)
    }

    /// Whether it matters for [`Self::may_publish`] that the session is subscribed; finding out costs a question to the hub.
    pub fn publish_depends_on_subscription(&self, channel: &Channel) -> bool {
        self.depends_on_subscription(channel, |options| options.allow_publish)
    }

    /// Whether whoever has these claims may read what the channel has kept. `is_subscribed`: as for [`Self::may_publish`],
    /// where [`Self::history_depends_on_subscription`].
    ///
    /// # Errors
    /// [`PermissionError`].
    pub fn may_read_history(
        &self,
        claims: &Claims,
        channel: &Channel,
        is_subscribed: bool,
    ) -> Result<(), PermissionError> {
        let allowed = self.channel_options(channel)?.allow_history;
        may_access(claims, channel, is_subscribed, allowed, |cap| cap.history)
    }

    /// Whether whoever has these claims may know who is in the channel. `is_subscribed`: as for [`Self::may_publish`], where
    /// [`Self::presence_depends_on_subscription`].
    ///
    /// # Errors
    /// [`PermissionError`].
    pub fn may_read_presence(
        &self,
        claims: &Claims,
        channel: &Channel,
        is_subscribed: bool,
    ) -> Result<(), PermissionError> {
        let allowed = self.channel_options(channel)?.allow_presence;
        may_access(claims, channel, is_subscribed, allowed, |cap| cap.presence)
    }

    /// Whether it matters for [`Self::may_read_history`] that the session is subscribed.
    pub fn history_depends_on_subscription(&self, channel: &Channel) -> bool {
        self.depends_on_subscription(channel, |options| options.allow_history)
    }

    /// Whether it matters for [`Self::may_read_presence`] that the session is subscribed.
    pub fn presence_depends_on_subscription(&self, channel: &Channel) -> bool {
        self.depends_on_subscription(channel, |options| options.allow_presence)
    }

    fn depends_on_subscription(&self, channel: &Channel, access: impl Fn(&ChannelOptions) -> ChannelAccess) -> bool {
        let is_for_subscribers = |options| access(options) == ChannelAccess::Subscriber;
        channel.is_private() || self.channel_options(channel).is_ok_and(is_for_subscribers)
    }

    /// Whether a token or the server API may bring `user` a subscription to the channel: any known one that is not limited
    /// to others.
    ///
    /// # Errors
    /// [`PermissionError`].
    pub fn may_be_subscribed(&self, user: &str, channel: &Channel) -> Result<(), PermissionError> {
        self.channel_options(channel)?;
        require(membership(user, channel) != Membership::Outsider)
    }
}

fn may_access(
    claims: &Claims,
    channel: &Channel,
    is_subscribed: bool,
    allowed: ChannelAccess,
    grants: impl Fn(&Capability) -> bool,
) -> Result<(), PermissionError> {
    if membership(&claims.user, channel) == Membership::Outsider {
        return Err(PermissionError::NotGranted);
    }
    let is_allowed = match allowed {
        ChannelAccess::None => false,
        ChannelAccess::Subscriber => is_subscribed,
        ChannelAccess::User => !claims.is_anonymous(),
        ChannelAccess::Anonymous => true,
    };
    // A private channel is closed to sessions that are not subscribed, unless their token grants the access.
    let may_enter = is_subscribed || !channel.is_private();
    require((is_allowed && may_enter) || has_capability(claims, channel, grants))
}

/// What the users in a channel's name mean for one of them.
#[derive(PartialEq, Eq)]
enum Membership {
    /// The name has no users.
    Unrestricted,
    /// It has, and the user is among them.
    Member,
    /// It has, and he is not.
    Outsider,
}

/// Nobody is nobody's member: `dialog#42,` is not open to sessions without a user.
fn membership(user: &str, channel: &Channel) -> Membership {
    let Some(mut users) = channel.users() else { return Membership::Unrestricted };
    if !user.is_empty() && users.any(|named| named == user) { Membership::Member } else { Membership::Outsider }
}

/// Reserved names are granted by their whole name only: who writes `*` seldom thinks of them.
fn has_capability(claims: &Claims, channel: &Channel, grants: impl Fn(&Capability) -> bool) -> bool {
    let matches = |pattern: &Pattern| {
        (matches!(pattern, Pattern::Exact(_)) || !channel.is_reserved()) && pattern.matches(channel.as_str())
    };
    let caps = claims.grants.iter().flat_map(|grants| &grants.caps);
    caps.filter(|cap| grants(cap)).any(|cap| cap.channels.iter().any(matches))
}

fn require(is_granted: bool) -> Result<(), PermissionError> {
    if is_granted { Ok(()) } else { Err(PermissionError::NotGranted) }
}

#[cfg(test)]
mod tests;
