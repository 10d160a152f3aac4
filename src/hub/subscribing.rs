//! Beginning and ceasing to receive channels: what a session asks for, what its token brings, what newer claims take away,
//! and subscriptions whose time is over.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;

use super::{
    Hub, SessionKey,
    delivery_options::{LeftChannel, SubscriptionOptions},
    recovery::StartPosition,
    registry::{NewSubscription, SessionChannels},
    starting::ResolvedStart,
    subscribe_outcome::{ReplyBuilder, SubscribeOutcome},
    subscription_source::SubscriptionSource,
};
use crate::{
    broker::BrokerError,
    channel::Channel,
    clock::Millis,
    position::Position,
    protocol::{Disconnect, Push, UnsubscribeCode},
    publication::{ClientInfo, Publication},
};

/// A session is to receive channels: all of them, or none. The hub queues `reply` in the same turn in which the session
/// begins to receive, so that no publication overtakes it.
#[derive(Message)]
#[rtype(result = "Result<(), SubscribeError>")]
pub struct Subscribe {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub subscriptions: Vec<ChannelSubscription>,
    /// The frame that says yes, if one does; it is told of `wanted` in that order.
    pub reply: Option<ReplyBuilder>,
}

/// One channel of a [`Subscribe`].
pub struct ChannelSubscription {
    /// Its name.
    pub channel: Channel,
    /// Why.
    pub source: SubscriptionSource,
    /// How.
    pub options: SubscriptionOptions,
    /// Queued before the reply, if the session did not receive the channel yet.
    pub announcement: Option<ReplyBuilder>,
}

/// Why a session does not receive a channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// It does already. What a token brings may be there already.
    #[error("already subscribed")]
    AlreadySubscribed,
    /// `limits.channels_per_session`, or `limits.filter_nodes_per_channel`.
    #[error("too many channels or filters")]
    LimitExceeded,
    /// The session is closing.
    #[error("the session is closing")]
    Closing,
    /// What the client has missed cannot be had, and it wanted that or nothing.
    #[error("unrecoverable position")]
    Unrecoverable,
    /// The token's time was over before its subscription began.
    #[error("token expired")]
    TokenExpired,
    /// The broker could not.
    #[error("{0}")]
    Broker(#[from] BrokerError),
}

/// A session gives a channel back. Answers whether it had it.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Unsubscribe {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub channel: Channel,
}

/// Why a session receives a channel, if it does.
#[derive(Message)]
#[rtype(result = "Option<SubscriptionSource>")]
pub struct GetSubscription {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub channel: Channel,
}

/// A subscription has a newer token. Answers whether there is a subscription that a token may extend.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct ExtendSubscription {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub channel: Channel,
    /// What the token grants.
    pub source: SubscriptionSource,
}

/// A session has new claims: every live subscription is judged again, and what they do not allow is ended (2000).
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reauthorize {
    /// Who.
    pub key: SessionKey,
    /// Whether a subscription stays.
    pub keep: KeepPredicate,
}

/// What newer claims say of a subscription.
pub type KeepPredicate = Box<dyn Fn(&Channel, &SubscriptionSource) -> bool + Send>;

impl ChannelSubscription {
    fn requires_recovery(&self) -> bool {
        self.options.recover.is_some_and(|recover| recover.required)
    }

    /// From where on the client receives, if it is told.
    fn reported_position(&self, start: Option<&StartPosition>) -> Option<Position> {
        let is_told = self.options.is_positioned || self.options.is_recoverable;
        start.filter(|_| is_told).map(StartPosition::client_position)
    }

    fn outcome(&self, start: Option<&StartPosition>, missed: Vec<Publication>) -> SubscribeOutcome {
        let outcome = SubscribeOutcome::new(self.channel.clone(), self.reported_position(start));
        match (&self.options.recover, start) {
            (Some(recover), Some(start)) if start.is_recovered => {
                outcome.with_recovery_requested().with_missed(recover, &self.options, missed)
            }
            (Some(_), Some(_)) => outcome.with_recovery_requested(),
            _ => outcome,
        }
    }
}

impl Hub {
    fn channels_of(&self, key: SessionKey) -> Result<SessionChannels<'_>, SubscribeError> {
        let is_closing = self.registry.session(key).is_none_or(|session| session.is_closing());
        self.registry.channels_of(key).filter(|_| !is_closing).ok_or(SubscribeError::Closing)
    }

    fn check_allowed(&self, Subscribe { key, subscriptions, .. }: &Subscribe) -> Result<(), SubscribeError> {
        let held = self.channels_of(*key)?;
        let (known, new): (Vec<_>, Vec<_>) =
            subscriptions.iter().partition(|subscription| held.contains(&subscription.channel));
        if known.iter().any(|subscription| !subscription.source.is_server_side()) {
            Err(SubscribeError::AlreadySubscribed)
        } else if held.len() + new.len() > self.limits.channels_per_session {
            Err(SubscribeError::LimitExceeded)
        } else {
            Ok(())
        }
    }

    /// The session receives from now on, and is told so before anything else.
    pub(super) fn commit(&mut self, subscribe: Subscribe, starts: Vec<ResolvedStart>) -> Result<(), SubscribeError> {
        let Subscribe { key, subscriptions, reply } = subscribe;
        let held = self.channels_of(key)?;
        let known: Vec<bool> = subscriptions.iter().map(|subscription| held.contains(&subscription.channel)).collect();
        let Some(session) = self.registry.session(key) else { return Err(SubscribeError::Closing) };
        let (now, outbox, format) = (self.clock.now(), session.outbox.clone(), session.format);
        let client = session.client;
        if let Err(refused) = self.check_still_allowed(&subscriptions, &known) {
            if refused == SubscribeError::Closing {
                self.close(key, &Disconnect::SUBSCRIPTION_EXPIRED);
            }
            return Err(refused);
        }
        let is_for_it = |publication: &Publication| publication.exclude != Some(client);
        let starts = starts
            .into_iter()
            .map(|ResolvedStart { start, missed }| (start, missed.into_iter().filter(is_for_it).collect::<Vec<_>>()));
        let (start_positions, missed): (Vec<_>, Vec<_>) = starts.unzip();
        let outcome = subscriptions.iter().zip(&start_positions).zip(missed);
        let mut outcome: Vec<SubscribeOutcome> =
            outcome.map(|((subscription, start), missed)| subscription.outcome(start.as_ref(), missed)).collect();
        let frames = self.build_frames(&subscriptions, &known, reply.as_ref(), &start_positions, &mut outcome);
        if subscriptions
            .iter()
            .zip(&outcome)
            .any(|(subscription, outcome)| subscription.requires_recovery() && !outcome.is_recovered)
        {
            return Err(SubscribeError::Unrecoverable);
        }
        for frame in frames {
            if let Err(refused) = outbox.push(now, frame) {
                self.handle_push_error(key, refused);
                return Err(SubscribeError::Closing);
            }
        }
        for ((ChannelSubscription { channel, source, options, .. }, known), start) in
            subscriptions.into_iter().zip(known).zip(start_positions)
        {
            if known {
                self.replace_source(key, &channel, source);
                continue;
            }
            let mut delivery = options.delivery_options(format);
            delivery.skip_up_to = start.as_ref().map_or(0, |start| start.skip_up_to);
            let visibility = options.visibility.map(Box::new);
            self.begin_presence(&channel, visibility.as_deref());
            self.registry
                .subscribe(key, NewSubscription { channel: channel.clone(), source, options: delivery, visibility });
            if let (Some(state), Some(start)) = (self.registry.channel_state_mut(&channel), start) {
                state.position.get_or_insert(start.at);
                state.polled_retention = state.polled_retention.or(options.retention.filter(|_| options.is_positioned));
            }
        }
        self.update_subscription_expiry(key);
        let _ = outbox.flush(&self.clock, now);
        Ok(())
    }

    /// What tells the client of it. Should that be longer than a reply may be, or than waits for a client, nothing counts as
    /// recovered: the client knows how to go on from there.
    fn build_frames(
        &self,
        subscriptions: &[ChannelSubscription],
        known: &[bool],
        reply: Option<&ReplyBuilder>,
        start_positions: &[Option<StartPosition>],
        outcome: &mut [SubscribeOutcome],
    ) -> Vec<Bytes> {
        let tell = |outcome: &[SubscribeOutcome]| -> Vec<Bytes> {
            let fresh = subscriptions.iter().zip(known).zip(outcome).filter(|((_, known), _)| !**known);
            let announced = fresh.filter_map(|((subscription, _), outcome)| {
                subscription.announcement.as_ref().map(|announcement| announcement(std::slice::from_ref(outcome)))
            });
            announced.chain(reply.map(|reply| reply(outcome))).collect()
        };
        let fits = |bytes: usize| bytes <= self.limits.reply_bytes;
        if fits(outcome.iter().map(SubscribeOutcome::min_bytes).sum()) {
            let frames = tell(outcome);
            if fits(frames.iter().map(Bytes::len).sum()) {
                return frames;
            }
        }
        for ((outcome, start), subscription) in outcome.iter_mut().zip(start_positions).zip(subscriptions) {
            *outcome = outcome.without_missed(subscription.reported_position(start.as_ref()));
        }
        tell(outcome)
    }

    /// A session receives a channel for another reason from now on.
    fn replace_source(&mut self, key: SessionKey, channel: &Channel, source: SubscriptionSource) {
        // What the server API brings changes nothing where the channel is there.
        if matches!(source, SubscriptionSource::ServerApi(_)) {
            return;
        }
        let info = source.info().cloned();
        if let Some(visibility) =
            self.registry.replace_source(key, channel, source).filter(|visibility| visibility.client.chan_info != info)
        {
            visibility.client = Arc::new(ClientInfo { chan_info: info, ..ClientInfo::clone(&visibility.client) });
            let visibility = visibility.clone();
            self.store_presence(channel, &visibility);
        }
    }

    /// The first of a session's subscriptions to end by itself is one of the things that it is waited for.
    pub(super) fn update_subscription_expiry(&mut self, key: SessionKey) {
        let first = self.registry.channels_of(key).map(|channels| channels.earliest_expiry());
        if let (Some(first), Some(session)) = (first, self.registry.session_mut(key))
            && session.first_subscription_expiry != first
        {
            session.first_subscription_expiry = first;
            self.schedule(key);
        }
    }

    /// Stops a session's receiving a channel, and tells it why. Tells whether it did receive it.
    pub(super) fn end_subscription(&mut self, key: SessionKey, channel: &Channel, why: UnsubscribeCode) -> bool {
        let had = self.unsubscribe(key, channel);
        if had
            && let Some((outbox, format)) =
                self.registry.session(key).map(|session| (session.outbox.clone(), session.format))
        {
            let now = self.clock.now();
            let told = outbox.push(now, format.encode_push(&Push::Unsubscribe(channel, why)));
            if let Err(refused) = told.and_then(|_| outbox.flush(&self.clock, now)) {
                self.handle_push_error(key, refused);
            }
        }
        had
    }

    fn unsubscribe(&mut self, key: SessionKey, channel: &Channel) -> bool {
        let left = self.registry.unsubscribe(key, channel);
        left.map(|left| self.leave_channel(&left)).is_some()
    }

    /// A session receives a channel no more.
    pub(super) fn leave_channel(&mut self, LeftChannel { channel, is_last, visibility }: &LeftChannel) {
        if *is_last {
            self.broker_subscriptions.release(channel);
        }
        self.end_presence(channel, visibility.as_deref());
    }

    /// Ends the subscriptions whose time is over. One that nobody asked for ends the session: the client
    /// cannot ask for it anew.
    pub(super) fn end_expired_subscriptions(&mut self, key: SessionKey, now: Millis) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let over = channels.iter().filter(|(_, source)| source.expires_at() <= now);
        let over: Vec<(Channel, bool)> =
            over.map(|(channel, source)| (channel.clone(), source.is_server_side())).collect();
        if over.iter().any(|(_, is_server_side)| *is_server_side) {
            return self.close(key, &Disconnect::SUBSCRIPTION_EXPIRED);
        }
        for (channel, _) in over {
            self.end_subscription(key, &channel, UnsubscribeCode::Expired);
        }
        self.update_subscription_expiry(key);
    }
}

impl Handler<Subscribe> for Hub {
    type Result = ResponseActFuture<Self, Result<(), SubscribeError>>;

    fn handle(&mut self, mut subscribe: Subscribe, _: &mut Self::Context) -> Self::Result {
        if let Err(refused) = self.check_allowed(&subscribe) {
            return Box::pin(actix::fut::ready(Err(refused)));
        }
        if let Some(held) = self.registry.channels_of(subscribe.key) {
            let known = subscribe.subscriptions.iter_mut().filter(|subscription| held.contains(&subscription.channel));
            // Nothing is missing where it receives already.
            known.for_each(|subscription| subscription.options.recover = None);
        }
        self.resolve(subscribe, 0)
    }
}

impl Handler<Unsubscribe> for Hub {
    type Result = bool;

    fn handle(&mut self, Unsubscribe { key, channel }: Unsubscribe, _: &mut Self::Context) -> bool {
        let had = self.unsubscribe(key, &channel);
        self.update_subscription_expiry(key);
        had
    }
}

impl Handler<GetSubscription> for Hub {
    type Result = Option<SubscriptionSource>;

    fn handle(
        &mut self,
        GetSubscription { key, channel }: GetSubscription,
        _: &mut Self::Context,
    ) -> Option<SubscriptionSource> {
        // The wheel may come by a little later than the end.
        let is_live = |source: &&SubscriptionSource| self.clock.now() < source.expires_at();
        self.registry.channels_of(key)?.source(&channel).filter(is_live).cloned()
    }
}

impl Handler<ExtendSubscription> for Hub {
    type Result = bool;

    fn handle(
        &mut self,
        ExtendSubscription { key, channel, source }: ExtendSubscription,
        _: &mut Self::Context,
    ) -> bool {
        let held = self.registry.channels_of(key).and_then(|channels| channels.source(&channel));
        // One that the session's own token brings ends with that token's word, one of the server API with its.
        let may = held.is_some_and(|held| !held.is_server_side());
        if may {
            self.replace_source(key, &channel, source);
            self.update_subscription_expiry(key);
        }
        may
    }
}

impl Handler<Reauthorize> for Hub {
    type Result = ();

    fn handle(&mut self, Reauthorize { key, keep }: Reauthorize, _: &mut Self::Context) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let over = channels.iter().filter(|(channel, source)| !keep(channel, source));
        let over: Vec<Channel> = over.map(|(channel, _)| channel.clone()).collect();
        for channel in over {
            self.end_subscription(key, &channel, UnsubscribeCode::ByServer);
        }
        self.update_subscription_expiry(key);
    }
}
