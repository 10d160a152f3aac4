//! Changes and ends live subscriptions: newer tokens change them; their client, newer claims and their expiry end them.

use std::sync::Arc;

use actix::prelude::*;

use super::{
    Ended, ExpireSubscription, ExtendSubscription, GetSubscription, HookTerms, Reauthorize, RenewSubscription,
    Subscription, SubscriptionRenewal, SubscriptionSource, Unsubscribe,
};
use crate::{
    channel::Channel,
    clock::{NEVER, WallTime},
    hub::{CloseReason, Hub, SessionControl, SessionKey, SubscriptionEnd, recent_ends::UNSUBSCRIBED_BY_CLIENT},
    protocol::{Disconnect, Format, Push, UnsubscribeCode},
    publication::ClientInfo,
};

impl Hub {
    /// Replaces the source of a live subscription.
    pub(super) fn replace_source(&mut self, key: SessionKey, channel: &Channel, source: SubscriptionSource) {
        // The server API, and a client that names its subscriptions in `connect`, change nothing where the session is
        // subscribed already.
        if matches!(source, SubscriptionSource::ServerApi(_) | SubscriptionSource::Restored) {
            return;
        }
        // What the server API gave would otherwise end with the next token that does not name the channel.
        let held = self.registry.channels_of(key).and_then(|channels| channels.source(channel));
        if matches!(held, Some(SubscriptionSource::ServerApi(_))) {
            return;
        }
        let chan_info = source.info().cloned();
        let visibility = self.registry.replace_source(key, channel, source);
        if let Some(visibility) = visibility.filter(|visibility| visibility.info.chan_info != chan_info) {
            visibility.info = Arc::new(ClientInfo { chan_info, ..ClientInfo::clone(&visibility.info) });
            let visibility = visibility.clone();
            self.update_presence(channel, &visibility);
        }
    }

    /// Notes when the first subscription of a session expires: the session's deadline depends on it.
    pub(in crate::hub) fn update_subscription_expiry(&mut self, key: SessionKey) {
        let first = self.registry.channels_of(key);
        let first = first
            .map(|channels| (channels.earliest_expiry(), channels.earliest_renewal(), channels.earliest_warning()));
        if let (Some((expiry, renewal, warning)), Some(session)) = (first, self.registry.session_mut(key))
            && (expiry != session.first_subscription_expiry
                || renewal != session.first_subscription_renewal
                || warning != session.first_subscription_warning)
        {
            session.first_subscription_expiry = expiry;
            session.first_subscription_renewal = renewal;
            session.first_subscription_warning = warning;
            self.schedule(key);
        }
    }

    /// Notes when a new subscription of a session expires, and when the backend is asked about it or its client is warned before.
    pub(super) fn advance_subscription_expiry(&mut self, key: SessionKey, source: &SubscriptionSource) {
        let (expires_at, renew_at, warn_at) = (source.expires_at(), source.renew_at(), source.warn_at());
        if let Some(session) = self.registry.session_mut(key)
            && (expires_at < session.first_subscription_expiry
                || renew_at < session.first_subscription_renewal
                || warn_at < session.first_subscription_warning)
        {
            session.first_subscription_expiry = session.first_subscription_expiry.min(expires_at);
            session.first_subscription_renewal = session.first_subscription_renewal.min(renew_at);
            session.first_subscription_warning = session.first_subscription_warning.min(warn_at);
            self.schedule(key);
        }
    }

    /// Has the backend asked about the subscriptions for which it is time.
    pub(in crate::hub) fn renew_subscriptions(&mut self, key: SessionKey, now: WallTime) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let due = channels.iter().filter(|(_, source)| source.renew_at() <= now);
        let due: Vec<(Channel, SubscriptionSource)> = due.map(|(at, source)| (at.clone(), source.clone())).collect();
        for (channel, source) in due {
            let SubscriptionSource::Hook(mut terms) = source else { continue };
            if let Some(renewer) = self.renewers.of(key) {
                renewer.renew_subscription(channel.clone(), terms.expires_at);
            }
            terms.renew_at = NEVER;
            self.registry.replace_source(key, &channel, SubscriptionSource::Hook(terms));
        }
        self.update_subscription_expiry(key);
    }

    /// Has the client of a session warned of the subscriptions that expire soon, of each once.
    pub(in crate::hub) fn warn_of_subscription_expiries(&mut self, key: SessionKey, now: WallTime) {
        let (Some(channels), Some(session)) = (self.registry.channels_of(key), self.registry.session(key)) else {
            return;
        };
        let due = channels.iter().filter(|(_, source)| source.warn_at() <= now);
        let due: Vec<(Channel, WallTime)> =
            due.map(|(channel, source)| (channel.clone(), source.expires_at())).collect();
        let controls = session.controls.clone();
        for (channel, expires_at) in due {
            self.registry.note_warned(key, &channel);
            if now < expires_at {
                // A session whose mailbox is full waits for the broker; a warning that comes late is of no use.
                let _ = controls.try_send(SessionControl::WarnOfSubscriptionExpiry { channel, expires_at });
            }
        }
        self.update_subscription_expiry(key);
    }

    /// Notes that subscriptions of a session have ended. Most sessions have none that expires: there is nothing to look for.
    pub(in crate::hub) fn delay_subscription_expiry(&mut self, key: SessionKey) {
        if self.registry.session(key).is_some_and(|session| session.first_subscription_expiry != NEVER) {
            self.update_subscription_expiry(key);
        }
    }

    /// Ends a subscription and tells its client why. Returns whether it existed.
    pub(in crate::hub) fn end_subscription(
        &mut self,
        key: SessionKey,
        channel: &Channel,
        why: UnsubscribeCode,
    ) -> bool {
        let existed = self.unsubscribe(key, channel, Some(why));
        if existed {
            self.note_subscription_end(key, channel, SubscriptionEnd::Pushed(why));
        }
        if existed && let Some(session) = self.registry.session(key) {
            let (outbox, now) = (session.outbox.clone(), self.clock.now());
            let pushed = outbox.push(now, session.format.encode_push(&Push::Unsubscribe(channel, why)));
            let format = session.format;
            if let Err(refused) = pushed.and_then(|_| outbox.flush(&self.clock, now)) {
                self.handle_push_error(key, refused);
            } else if format == Format::ChannelEvents {
                // It has no other channel, and its client cannot ask for one.
                self.close(key, &Disconnect::FORCED);
            }
        }
        existed
    }

    /// Ends a subscription; `why` if its client has not. Returns whether it existed.
    fn unsubscribe(&mut self, key: SessionKey, channel: &Channel, why: Option<UnsubscribeCode>) -> bool {
        let Some(ended) = self.registry.unsubscribe(key, channel) else { return false };
        self.report_unsubscribed(key, channel, why);
        self.detach_subscriber(&ended);
        true
    }

    /// Takes the subscriber of an ended subscription out of the sight of other clients, and reports a channel without subscribers.
    pub(in crate::hub) fn detach_subscriber(&self, ended: &Subscription<Ended>) {
        self.end_presence(&ended.channel, ended.stage.visibility.as_deref());
        if let Some(events) = self.events.as_ref().filter(|_| !self.registry.has_subscribers(&ended.channel)) {
            events.channel_vacated(&ended.channel);
        }
    }

    /// Reports a subscription that is about to be live.
    pub(super) fn report_subscribed(&self, key: SessionKey, channel: &Channel) {
        let Some(events) = &self.events else { return };
        if !self.registry.has_subscribers(channel) {
            events.channel_occupied(channel);
        }
        if let Some(session) = self.registry.session(key) {
            events.subscribed(session.client, channel);
        }
    }

    /// Reports a subscription that has ended.
    fn report_unsubscribed(&self, key: SessionKey, channel: &Channel, why: Option<UnsubscribeCode>) {
        let Some(events) = &self.events else { return };
        // The end of a session ends its subscriptions, too.
        if let Some(session) = self.registry.session(key).filter(|session| !session.is_closing()) {
            let reason = why.map_or(UNSUBSCRIBED_BY_CLIENT, UnsubscribeCode::reason);
            events.unsubscribed(session.client, channel, why.map(UnsubscribeCode::code), reason);
        }
    }

    /// Ends the subscriptions of a session that have expired. A server-side one ends the session: its client cannot ask for
    /// it again.
    pub(in crate::hub) fn end_expired_subscriptions(&mut self, key: SessionKey, now: WallTime) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let expired = || channels.iter().filter(|(_, source)| source.expires_at() <= now);
        if expired().any(|(_, source)| source.is_server_side()) {
            return self.close(key, &Disconnect::SUBSCRIPTION_EXPIRED);
        }
        let expired: Vec<Channel> = expired().map(|(channel, _)| channel.clone()).collect();
        self.send_backlog(key);
        self.end_subscriptions(key, &expired, UnsubscribeCode::Expired);
    }

    /// Returns whether a subscription token may extend a subscription: the client asked for it. A server-side one ends by the
    /// session's own token, or by the server API.
    fn is_extendable(&self, key: SessionKey, channel: &Channel) -> bool {
        let held = self.registry.channels_of(key).and_then(|channels| channels.source(channel));
        held.is_some_and(|held| !held.is_server_side())
    }

    /// Writes what the socket accepts, before subscriptions of the session end: then only the backlog of a client that does not read
    /// closes its connection.
    fn send_backlog(&self, key: SessionKey) {
        if let Some(session) = self.registry.session(key) {
            // An error means that the session ends.
            _ = session.outbox.flush(&self.clock, self.clock.now());
        }
    }

    /// Ends subscriptions that their session may not have any more. If frames wait for its client, it is closed: they may be publications of
    /// these channels, and the outbox does not know the channels of its frames.
    pub(in crate::hub) fn end_subscriptions(&mut self, key: SessionKey, channels: &[Channel], why: UnsubscribeCode) {
        if !channels.is_empty() && self.registry.session(key).is_some_and(|session| session.outbox.has_backlog()) {
            return self.close(key, CloseReason::BACKLOG_OF_ENDED_SUBSCRIPTION);
        }
        for channel in channels {
            self.end_subscription(key, channel, why);
        }
        self.delay_subscription_expiry(key);
    }
}

impl Handler<Unsubscribe> for Hub {
    type Result = bool;

    fn handle(&mut self, Unsubscribe { key, channel }: Unsubscribe, _: &mut Self::Context) -> bool {
        let existed = self.unsubscribe(key, &channel, None);
        if existed {
            self.note_subscription_end(key, &channel, SubscriptionEnd::ByClient);
        }
        self.delay_subscription_expiry(key);
        existed
    }
}

impl Handler<GetSubscription> for Hub {
    type Result = Option<SubscriptionSource>;

    fn handle(&mut self, GetSubscription { key, channel }: GetSubscription, _: &mut Self::Context) -> Self::Result {
        // The timing wheel may come by a little after the subscription has expired.
        let is_live = |source: &&SubscriptionSource| self.clock.now() < source.expires_at();
        self.registry.channels_of(key)?.source(&channel).filter(is_live).cloned()
    }
}

impl Handler<ExtendSubscription> for Hub {
    type Result = bool;

    fn handle(&mut self, extend: ExtendSubscription, _: &mut Self::Context) -> bool {
        let ExtendSubscription { key, channel, source } = extend;
        // The token may have been revoked since its verification.
        let is_extendable = self.is_extendable(key, &channel) && !self.is_start_revoked(key, &channel, &source);
        if is_extendable {
            self.replace_source(key, &channel, source);
            self.update_subscription_expiry(key);
        }
        is_extendable
    }
}

impl Handler<ExpireSubscription> for Hub {
    type Result = bool;

    fn handle(&mut self, ExpireSubscription { key, channel }: ExpireSubscription, _: &mut Self::Context) -> bool {
        let is_extendable = self.is_extendable(key, &channel);
        if is_extendable {
            self.send_backlog(key);
            self.end_subscriptions(key, &[channel], UnsubscribeCode::Expired);
        }
        is_extendable
    }
}

impl Handler<RenewSubscription> for Hub {
    type Result = ();

    fn handle(&mut self, renew: RenewSubscription, _: &mut Self::Context) {
        let RenewSubscription { key, channel, asked, renewal } = renew;
        let held = self.registry.channels_of(key).and_then(|channels| channels.source(&channel));
        let Some(SubscriptionSource::Hook(held)) = held.filter(|held| held.expires_at() == asked) else { return };
        let terms = match renewal {
            SubscriptionRenewal::Terms { expires_at, info, renew_at } => {
                HookTerms { expires_at, info: info.or_else(|| held.info.clone()), renew_at, ..**held }
            }
            SubscriptionRenewal::Expired => HookTerms { expires_at: WallTime::default(), ..HookTerms::clone(held) },
        };
        self.replace_source(key, &channel, SubscriptionSource::Hook(Box::new(terms)));
        self.end_expired_subscriptions(key, self.clock.now());
        self.update_subscription_expiry(key);
    }
}

impl Handler<Reauthorize> for Hub {
    type Result = ();

    fn handle(&mut self, Reauthorize { key, keep }: Reauthorize, _: &mut Self::Context) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let denied = channels.iter().filter(|(channel, source)| !keep(channel, source));
        let denied: Vec<Channel> = denied.map(|(channel, _)| channel.clone()).collect();
        self.send_backlog(key);
        self.end_subscriptions(key, &denied, UnsubscribeCode::ByServer);
    }
}
