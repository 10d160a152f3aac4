//! `sub_refresh`: a newer subscription token for a subscription that the client asked for.

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::Claims,
    channel::Channel,
    hub::ExtendSubscription,
    protocol::{self, ErrorCode},
    session::Session,
};

impl Session {
    /// `sub_refresh`.
    pub(super) fn sub_refresh(
        &mut self,
        id: u32,
        channel: &str,
        token: Option<&str>,
        claims: &Claims,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(channel)?;
        let token = self.verify_subscription_token(token.ok_or(ErrorCode::PermissionDenied)?, &channel, claims)?;
        let reply = self.format.encode_reply(id, &protocol::Reply::SubRefresh(self.client_expiry(token.expires_at)));
        let source = self.source_from_token(token);
        let extended = self.services.hub.send(ExtendSubscription { key: self.key, channel, source });
        Ok(CommandOutcome::pending(id, async move {
            let is_extended = extended.await.unwrap_or(false);
            if is_extended { Ok(CommandReply::Frame(reply)) } else { Err(ErrorCode::PermissionDenied.into()) }
        }))
    }
}
