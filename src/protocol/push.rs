//! Pushes: messages to a client that do not answer a command. They are the same values in both formats.

use super::{
    disconnect::UnsubscribeCode,
    reply::{ConnectResult, Expiry, SubscribeResult},
};
use crate::{
    channel::Channel,
    publication::{ClientInfo, Publication},
};

/// A push. All but the last three concern a channel.
#[derive(Debug)]
pub enum Push<'a> {
    /// A client has subscribed to the channel.
    Join(&'a Channel, &'a ClientInfo),
    /// A client has left the channel.
    Leave(&'a Channel, &'a ClientInfo),
    /// A publication.
    Publication(PublicationPush<'a>),
    /// The session has been subscribed to a channel by its newest token or by the server API.
    Subscribe(&'a Channel, &'a SubscribeResult<'a>),
    /// The hub has ended a subscription.
    Unsubscribe(&'a Channel, UnsubscribeCode),
    /// The token of a subscription of a plain session is about to expire.
    SubRefresh(&'a Channel, Expiry),
    /// A plain session has been authenticated. The content is that of the reply to `connect`.
    Connect(&'a ConnectResult<'a>),
    /// The expiry of the session has changed.
    Refresh(Expiry),
    /// The hub closes the connection, with this code and reason. For connections without close frames only.
    Disconnect(u16, &'a str),
}

/// A publication as a client gets it, live or from the history.
#[derive(Clone, Copy, Debug)]
pub struct PublicationPush<'a> {
    /// The publication.
    pub publication: &'a Publication,
    /// The form of its data.
    pub content: PushData<'a>,
}

/// The form of a publication's data on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushData<'a> {
    /// The data itself, on a subscription without deltas.
    Plain,
    /// The whole data on a subscription with deltas. In JSON it is a string that contains the data.
    Full,
    /// A delta to the publication before. In JSON it is a string, so it must be UTF-8.
    Delta(&'a [u8]),
}

impl<'a> From<&'a Publication> for PublicationPush<'a> {
    fn from(publication: &'a Publication) -> Self {
        Self { publication, content: PushData::Plain }
    }
}
