//! `unsubscribe`: ends a subscription at its client's wish.

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    channel::Channel,
    hub::Unsubscribe,
    protocol::{self, ErrorCode},
    session::Session,
};

impl Session {
    /// `unsubscribe`. It succeeds if there is no such subscription, too.
    pub(super) fn unsubscribe(&self, id: u32, channel: &str) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(channel)?;
        let reply = self.format.encode_reply(id, &protocol::Reply::Unsubscribe);
        let unsubscribed = self.services.hub.send(Unsubscribe { key: self.key, channel });
        Ok(CommandOutcome::pending(id, async move {
            unsubscribed.await.map_err(|_| ErrorCode::Internal)?;
            Ok(CommandReply::Frame(reply))
        }))
    }
}
