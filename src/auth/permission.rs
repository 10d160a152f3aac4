//! What a user may do with a channel. Every path asks here: subscribe and publish, by socket and by REST. Pure.

use std::collections::HashMap;

use super::{Claims, SubscriptionClaims};
use crate::{
    channel::Channel,
    config::{AllowPublish, AllowSubscribe, Channels, Namespace},
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
        match channel.namespace() {
            None => Ok(&self.plain),
            Some(namespace) => self.namespaces.get(namespace).ok_or(Denied::UnknownNamespace),
        }
    }

    /// Whether whoever has these claims may subscribe by himself; `token` is a good subscription token for this channel.
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
        granted(
            token.is_some()
                || (!claims.is_anonymous()
                    && !channel.is_reserved()
                    && options.allow_subscribe == AllowSubscribe::User),
        )
    }

    /// Whether it matters for publishing that the session receives the channel.
    pub fn publish_wants_subscription(&self, channel: &Channel) -> bool {
        self.known(channel).is_ok_and(|options| options.allow_publish == AllowPublish::Subscriber)
    }

    /// Whether whoever has these claims may publish. `is_subscribed`: whether the session that asks receives the channel at
    /// the moment; over REST nobody does.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_publish(&self, claims: &Claims, channel: &Channel, is_subscribed: bool) -> Result<(), Denied> {
        let options = self.known(channel)?;
        let is_allowed = match options.allow_publish {
            AllowPublish::None => false,
            AllowPublish::Subscriber => is_subscribed,
            AllowPublish::User => !claims.is_anonymous(),
            AllowPublish::Anonymous => true,
        };
        granted(is_allowed && !channel.is_reserved())
    }
}

fn granted(is_granted: bool) -> Result<(), Denied> {
    if is_granted { Ok(()) } else { Err(Denied::NotGranted) }
}
