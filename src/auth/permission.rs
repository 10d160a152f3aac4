//! What a user may do with a channel. Every path asks here: subscribe and publish, by socket and by REST. Pure.

use crate::{
    channel::Channel,
    config::{AllowPublish, AllowSubscribe, Channels},
};

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The channel names a namespace that is not configured (error 102).
    #[error("unknown namespace")]
    UnknownNamespace,
    /// Not granted (error 103). Whether the channel exists is not told.
    #[error("not granted")]
    NotGranted,
}

/// Whether a user may subscribe.
///
/// # Errors
/// [`Denied`].
pub fn may_subscribe(channel: &Channel, options: &Channels) -> Result<(), Denied> {
    let is_granted = !channel.is_reserved() && options.allow_subscribe == AllowSubscribe::User;
    known(channel).and(granted(is_granted))
}

/// Whether a user may publish. `is_subscribed`: whether the session that asks receives the channel at the moment; over
/// REST nobody does.
///
/// # Errors
/// [`Denied`].
pub fn may_publish(channel: &Channel, is_subscribed: bool, options: &Channels) -> Result<(), Denied> {
    let is_allowed = match options.allow_publish {
        AllowPublish::None => false,
        AllowPublish::Subscriber => is_subscribed,
        AllowPublish::User => true,
    };
    known(channel).and(granted(is_allowed && !channel.is_reserved()))
}

/// Whether the channel is one of this configuration: plain channels are, namespaces are not configured yet.
///
/// # Errors
/// [`Denied::UnknownNamespace`].
pub fn known(channel: &Channel) -> Result<(), Denied> {
    channel.namespace().map_or(Ok(()), |_| Err(Denied::UnknownNamespace))
}

fn granted(is_granted: bool) -> Result<(), Denied> {
    if is_granted { Ok(()) } else { Err(Denied::NotGranted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_channels_follow_the_options_and_reserved_ones_are_closed() {
        let open = Channels { allow_subscribe: AllowSubscribe::User, allow_publish: AllowPublish::Subscriber };
        let shut = Channels { allow_subscribe: AllowSubscribe::None, allow_publish: AllowPublish::None };
        let channel = |name| Channel::new(name).unwrap();
        assert_eq!(may_subscribe(&channel("news"), &open), Ok(()));
        assert_eq!(may_subscribe(&channel("news"), &shut), Err(Denied::NotGranted));
        assert_eq!(may_publish(&channel("news"), true, &open), Ok(()));
        assert_eq!(may_publish(&channel("news"), false, &open), Err(Denied::NotGranted));
        for reserved in ["$secret", "#42", "dialog#42,43"] {
            assert_eq!(may_subscribe(&channel(reserved), &open), Err(Denied::NotGranted), "{reserved}");
            assert_eq!(may_publish(&channel(reserved), true, &open), Err(Denied::NotGranted), "{reserved}");
        }
        assert_eq!(may_subscribe(&channel("chat:1"), &open), Err(Denied::UnknownNamespace));
    }
}
