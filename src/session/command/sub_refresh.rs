//! `sub_refresh`: a newer subscription token for a subscription that the client asked for.

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::Claims,
    channel::Channel,
    hub::{ExpireSubscription, ExtendSubscription},
    protocol::{self, ErrorCode, Expiry},
    session::Session,
};

impl Session {
    /// `sub_refresh`. An expired token ends the subscription with an unsubscribe push (2501), and the command succeeds: after
    /// error 109 SDKs would give the subscription up, after the push they subscribe again with a new token.
    pub(super) fn sub_refresh(
        &mut self,
        id: u32,
        channel: &str,
        token: Option<&str>,
        claims: &Claims,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(channel)?;
        let (hub, key, format) = (self.services.hub.clone(), self.key, self.format);
        let token = token.ok_or(ErrorCode::PermissionDenied)?;
        let extension = match self.verify_subscription_token(token, &channel, claims) {
            Ok(token) => Some((self.client_expiry(token.expires_at), self.source_from_token(token))),
            Err(CommandFailure::Error(error)) if error.has_code(ErrorCode::TokenExpired) => None,
            Err(failure) => return Err(failure),
        };
        Ok(CommandOutcome::pending(id, async move {
            let (exists, expiry) = match extension {
                Some((expiry, source)) => (hub.send(ExtendSubscription { key, channel, source }).await, expiry),
                None => (hub.send(ExpireSubscription { key, channel }).await, Expiry::NEVER),
            };
            if !exists.unwrap_or(false) {
                return Err(ErrorCode::PermissionDenied.into());
            }
            Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::SubRefresh(expiry))))
        }))
    }
}
