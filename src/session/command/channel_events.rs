//! The session of a client that sends no commands and receives the events of one channel.

use std::borrow::Cow;

use super::{CommandFailure, CommandOutcome, server_side::ServerSideRequest};
use crate::{
    auth::{ChannelRequest, Claims, RequestedPosition},
    hub::SubscriptionSource,
    protocol::{ClientPosition, Disconnect},
    session::{Session, claims::ClaimsChange},
};

impl Session {
    /// Subscribes the session to the channel that its request names. The subscription is a server-side one, since its client
    /// cannot ask again: if publications are missing, the session is closed, and its client connects again with its position.
    pub(in crate::session) fn subscribe_to_requested_channel(&mut self, request: ChannelRequest) -> CommandOutcome {
        let Some(claims) = self.auth_state.claims().cloned() else { return CommandOutcome::Finished };
        if !self.may_subscribe_to_requested(&request, &claims) {
            return self.fail(0, CommandFailure::Close(Disconnect::FORCED));
        }
        let position = request.since.map(|since| match since {
            RequestedPosition::Known(position) => ClientPosition {
                wants_recovery: true,
                offset: position.offset,
                epoch: Cow::Owned(position.epoch.as_str().to_owned()),
            },
            RequestedPosition::Unknown => {
                ClientPosition { wants_recovery: true, offset: 0, epoch: Cow::Borrowed(UNKNOWN_EPOCH) }
            }
        });
        let subscription = match request.approval {
            Some(approval) => self.approved_request(request.channel, approval),
            None => ServerSideRequest::without_terms(request.channel, SubscriptionSource::Restored),
        };
        let (subscription, announcement) = self.requested_channel(subscription, &claims, position.as_ref());
        let otherwise = CommandFailure::Close(Disconnect::INTERNAL);
        self.subscribe_then_reply(0, ClaimsChange::Unchanged, vec![subscription], announcement, otherwise)
    }

    /// Returns whether the rules of channels still allow the subscription: they may have been reloaded during the handshake, while the
    /// backend or the broker was waited for.
    fn may_subscribe_to_requested(
        &self,
        ChannelRequest { channel, approval, .. }: &ChannelRequest,
        claims: &Claims,
    ) -> bool {
        let permissions = &self.services.permissions;
        let is_approved = approval.is_some() && permissions.asks_subscribe_hook(claims, channel);
        let is_allowed = is_approved || permissions.may_subscribe(claims, channel, None).is_ok();
        is_allowed && self.can_carry(channel)
    }
}

/// An epoch that no history has.
const UNKNOWN_EPOCH: &str = "-";
