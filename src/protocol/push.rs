//! Pushes: what a client gets without having asked, whichever format it is written in.

use super::{
    disconnect::{Disconnect, UnsubscribeCode},
    reply::{ConnectResult, Expiry, SubscribeResult},
};
use crate::{
    channel::Channel,
    publication::{ClientInfo, Publication},
};

/// A push. All but the last three are about a channel.
#[derive(Debug)]
pub enum Push<'a> {
    /// Somebody has come.
    Join(&'a Channel, &'a ClientInfo),
    /// Somebody has left.
    Leave(&'a Channel, &'a ClientInfo),
    /// Something was published.
    Publication(PublicationPush<'a>),
    /// The session receives a channel that its newest token, or the server API, brings.
    Subscribe(&'a Channel, &'a SubscribeResult<'a>),
    /// The session receives a channel no more.
    Unsubscribe(&'a Channel, UnsubscribeCode),
    /// What a plain session is told when a door has let it in, the same as is answered to a `connect` command.
    Connect(&'a ConnectResult<'a>),
    /// The session ends at another time than it was told.
    Refresh(Expiry),
    /// The connection is closed; before the close frame, so that a browser script can read why.
    Disconnect(&'a Disconnect),
}

/// A publication as clients get it, live or from the history.
#[derive(Clone, Copy, Debug)]
pub struct PublicationPush<'a> {
    /// Which.
    pub publication: &'a Publication,
    /// What stands for its data.
    pub content: PushData<'a>,
}

/// What a publication's data looks like on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushData<'a> {
    /// As it is.
    Plain,
    /// As it is, on a subscription with differences: there JSON has a string in which the data stands.
    Full,
    /// A difference to the publication before; in JSON a string, so it has to be UTF-8.
    Delta(&'a [u8]),
}

impl<'a> From<&'a Publication> for PublicationPush<'a> {
    fn from(publication: &'a Publication) -> Self {
        Self { publication, content: PushData::Plain }
    }
}
