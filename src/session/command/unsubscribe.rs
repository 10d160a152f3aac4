//! `unsubscribe`: ends a subscription at the request of its client.

use super::{CommandOutcome, CommandReply};
use crate::{
    channel::Channel,
    hub::Unsubscribe,
    protocol::{self, ErrorCode},
    session::Session,
};

impl Session {
    /// `unsubscribe`. It succeeds if there is no such subscription, too, and for a name that no channel can have: after an error
    /// SDKs drop the connection.
    pub(super) fn unsubscribe(&mut self, id: u32, channel: &str) -> CommandOutcome {
        let reply = self.format.encode_reply(id, &protocol::Reply::Unsubscribe);
        let Ok(channel) = Channel::new(channel) else {
            self.send(reply);
            return CommandOutcome::Finished;
        };
        let unsubscribed = self.services.hub.send(Unsubscribe { key: self.key, channel });
        CommandOutcome::pending(id, async move {
            unsubscribed.await.map_err(|_| ErrorCode::Internal)?;
            Ok(CommandReply::Frame(reply))
        })
    }
}
