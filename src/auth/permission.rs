//! Who may do what in which channel. Every path asks here: subscribe, publish, history and presence, by
//! socket and by REST. Pure.

use std::collections::HashMap;

use super::{Cap, Claims, SubscriptionClaims};
use crate::{
    channel::{Channel, Pattern},
    config::{AllowPublish, AllowRead, AllowSubscribe, Channels, Namespace},
};

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The channel names a namespace that is not configured (error 102).
    #[error("unknown namespace")]
    UnknownNamespace,
    /// The name is not one that its namespace takes (`channel_regex`; error 107).
    #[error("not a name of its namespace")]
    BadName,
    /// Not granted (error 103). Whether the channel exists is not told.
    #[error("not granted")]
    NotGranted,
}

/// What the configuration allows, and what a token adds to it.
#[derive(Debug)]
pub struct Permissions {
    plain: Channels,
    namespaces: HashMap<String, Channels>,
}

impl Permissions {
    /// Of `[channels]` and `[[namespaces]]`.
    pub fn new(plain: &Channels, namespaces: &[Namespace]) -> Self {
        let namespaces = namespaces.iter().map(|namespace| (namespace.name.clone(), namespace.channels.clone()));
        Self { plain: plain.clone(), namespaces: namespaces.collect() }
    }

    /// The options of a channel, which is one of this configuration.
    ///
    /// # Errors
    /// [`Denied::UnknownNamespace`] or [`Denied::BadName`].
    pub fn known(&self, channel: &Channel) -> Result<&Channels, Denied> {
        let options = match channel.namespace() {
            None => &self.plain,
            Some(namespace) => self.namespaces.get(namespace).ok_or(Denied::UnknownNamespace)?,
        };
        let name = channel.local_name();
        // `#42` has no name, only a user.
        let is_nameless = name.is_empty() && channel.users().is_some();
        match &options.channel_regex {
            Some(regex) if !is_nameless && !regex.matches(name) => Err(Denied::BadName),
            _ => Ok(options),
        }
    }

    /// Whether whoever has these claims may subscribe by himself; `token` is a good subscription token; one
    /// for another channel or user is refused, whatever else is granted.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_subscribe(
        &self,
        claims: &Claims,
        channel: &Channel,
        token: Option<&SubscriptionClaims>,
    ) -> Result<(), Denied> {
        let options = self.known(channel)?;
        let has_token = match token {
            None => false,
            Some(token) if token.channel == *channel && token.user == claims.user => true,
            Some(_) => return Err(Denied::NotGranted),
        };
        let is_granted = || has_token || has_cap(claims, channel, |cap| cap.subscribe);
        granted(match membership(&claims.user, channel) {
            Membership::Outsider => false,
            // To be named is the grant, but not a substitute for the token that `$` asks for.
            Membership::Named => !channel.is_private() || is_granted(),
            Membership::Open if channel.is_private() => is_granted(),
            Membership::Open => {
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
    /// the moment, which matters where [`Self::publish_wants_subscription`]; over REST nobody does.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_publish(&self, claims: &Claims, channel: &Channel, is_subscribed: bool) -> Result<(), Denied> {
        let options = self.known(channel)?;
        if membership(&claims.user, channel) == Membership::Outsider {
            return Err(Denied::NotGranted);
        }
        let is_allowed = match options.allow_publish {
            AllowPublish::None => false,
            AllowPublish::Subscriber => is_subscribed,
            AllowPublish::User => !claims.is_anonymous(),
            AllowPublish::Anonymous => true,
        };
        // Who has not got into a private channel does not get a word into it either.
        let is_inside = is_subscribed || !channel.is_private();
        granted((is_allowed && is_inside) || has_cap(claims, channel, |cap| cap.publish))
    }

    /// Whether it matters for [`Self::may_publish`] that the session is subscribed; finding out costs a question to the hub.
    pub fn publish_wants_subscription(&self, channel: &Channel) -> bool {
        channel.is_private()
            || self.known(channel).is_ok_and(|options| options.allow_publish == AllowPublish::Subscriber)
    }

    /// Whether whoever has these claims may read what the channel has kept. `is_subscribed`: as for [`Self::may_publish`],
    /// where [`Self::history_wants_subscription`].
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_read_history(&self, claims: &Claims, channel: &Channel, is_subscribed: bool) -> Result<(), Denied> {
        let allowed = self.known(channel)?.allow_history;
        may_read(claims, channel, is_subscribed, allowed, |cap| cap.history)
    }

    /// Whether whoever has these claims may know who is in the channel. `is_subscribed`: as for [`Self::may_publish`], where
    /// [`Self::presence_wants_subscription`].
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_read_presence(&self, claims: &Claims, channel: &Channel, is_subscribed: bool) -> Result<(), Denied> {
        let allowed = self.known(channel)?.allow_presence;
        may_read(claims, channel, is_subscribed, allowed, |cap| cap.presence)
    }

    /// Whether it matters for [`Self::may_read_history`] that the session is subscribed.
    pub fn history_wants_subscription(&self, channel: &Channel) -> bool {
        let wants = |options: &Channels| options.allow_history == AllowRead::Subscriber;
        channel.is_private() || self.known(channel).is_ok_and(wants)
    }

    /// Whether it matters for [`Self::may_read_presence`] that the session is subscribed.
    pub fn presence_wants_subscription(&self, channel: &Channel) -> bool {
        let wants = |options: &Channels| options.allow_presence == AllowRead::Subscriber;
        channel.is_private() || self.known(channel).is_ok_and(wants)
    }

    /// Whether a token or the server API may bring `user` a subscription to the channel: any known one that is not limited
    /// to others.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_be_given(&self, user: &str, channel: &Channel) -> Result<(), Denied> {
        self.known(channel)?;
        granted(membership(user, channel) != Membership::Outsider)
    }
}

fn may_read(
    claims: &Claims,
    channel: &Channel,
    is_subscribed: bool,
    allowed: AllowRead,
    grants: impl Fn(&Cap) -> bool,
) -> Result<(), Denied> {
    if membership(&claims.user, channel) == Membership::Outsider {
        return Err(Denied::NotGranted);
    }
    let is_allowed = match allowed {
        AllowRead::None => false,
        AllowRead::Subscriber => is_subscribed,
        AllowRead::User => !claims.is_anonymous(),
        AllowRead::Anonymous => true,
    };
    // Who has not got into a private channel does not look into it either.
    let is_inside = is_subscribed || !channel.is_private();
    granted((is_allowed && is_inside) || has_cap(claims, channel, grants))
}

/// What the users in a channel's name mean for one of them.
#[derive(PartialEq, Eq)]
enum Membership {
    /// The name has no users.
    Open,
    /// It has, and the user is among them.
    Named,
    /// It has, and he is not.
    Outsider,
}

/// Nobody is nobody's member: `dialog#42,` is not open to sessions without a user.
fn membership(user: &str, channel: &Channel) -> Membership {
    let Some(mut users) = channel.users() else { return Membership::Open };
    if !user.is_empty() && users.any(|named| named == user) { Membership::Named } else { Membership::Outsider }
}

/// Reserved names are granted by their whole name only: who writes `*` seldom thinks of them.
fn has_cap(claims: &Claims, channel: &Channel, grants: impl Fn(&Cap) -> bool) -> bool {
    let matches = |pattern: &Pattern| {
        (matches!(pattern, Pattern::Exact(_)) || !channel.is_reserved()) && pattern.matches(channel.as_str())
    };
    let caps = claims.grants.iter().flat_map(|grants| &grants.caps);
    caps.filter(|cap| grants(cap)).any(|cap| cap.channels.iter().any(matches))
}

fn granted(is_granted: bool) -> Result<(), Denied> {
    if is_granted { Ok(()) } else { Err(Denied::NotGranted) }
}

#[cfg(test)]
mod tests;
