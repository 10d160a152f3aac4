//! Checks the rights of a session, which may depend on its subscriptions.

use std::sync::Arc;

use crate::{
    auth::{ChannelRight, Claims},
    channel::Channel,
    hub::{GetSubscription, SubscriptionSource},
    protocol::{ErrorCode, WireError},
    session::Session,
};

impl Session {
    /// Checks a right. Asks the hub for the session's subscription if the right depends on it, or if `needs_subscription`;
    /// returns its source then.
    pub(super) fn check_right(
        &self,
        right: ChannelRight,
        channel: &Channel,
        claims: &Arc<Claims>,
        needs_subscription: bool,
    ) -> impl Future<Output = Result<Option<SubscriptionSource>, WireError>> + use<> {
        let permissions = self.services.permissions.clone();
        let asks_hub = needs_subscription || permissions.depends_on_subscription(right, channel);
        let (key, channel, claims) = (self.key, channel.clone(), claims.clone());
        let found = asks_hub.then(|| self.services.hub.send(GetSubscription { key, channel: channel.clone() }));
        async move {
            let source = match found {
                Some(found) => found.await.unwrap_or(None),
                None => None,
            };
            permissions.may(right, &claims, &channel, source.is_some())?;
            Ok(source)
        }
    }

    /// Returns a check of the same right for later, when the backend or the broker has been waited for.
    pub(super) fn recheck_right(
        &self,
        right: ChannelRight,
        channel: &Channel,
        claims: &Arc<Claims>,
    ) -> impl AsyncFnOnce() -> Result<(), WireError> + use<> {
        let (services, outbox, key) = (self.services.clone(), self.outbox.clone(), self.key);
        let (channel, claims) = (channel.clone(), claims.clone());
        async move || {
            // The session may have been closed meanwhile.
            if outbox.is_closing() || outbox.check_token(services.clock.now()).is_err() {
                return Err(ErrorCode::PermissionDenied.into());
            }
            let subscription = GetSubscription { key, channel: channel.clone() };
            let is_subscribed = services.permissions.depends_on_subscription(right, &channel)
                && services.hub.send(subscription).await.is_ok_and(|found| found.is_some());
            Ok(services.permissions.may(right, &claims, &channel, is_subscribed)?)
        }
    }
}
