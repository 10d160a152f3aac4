//! From the request to the commit: the broker is asked for each channel and, where publications may be missing, for its
//! history; both are merged with what was delivered meanwhile. At the same time it stores the presence of the subscriber.

use std::sync::Arc;

use actix::prelude::*;
use futures_util::future::{FutureExt, join, join_all, ready};
use uuid::Uuid;

use super::{
    CatchingUp, HistoryQuery, ReplyBuilder, Requested, Resolving, Subscribe, SubscribeError, Subscription,
    SubscriptionOptions, Visibility,
    options::{RecoveryRequest, RequestedEpoch},
    recovery::{self, HistoryRead, LocalState, StartPosition},
};
use crate::{
    broker::{BrokerError, BrokerFuture, HistoryPage, HistoryRequest, SincePosition},
    channel::Channel,
    config::RecoveryMode,
    hub::{Hub, SessionKey, broker_subscriptions::BrokerSubscriptions},
    position::Position,
    publication::Publication,
};

/// How often the history is read for one request. It is read again only if the stored deliveries do not reach back to what
/// was read, or if the history has another epoch by then.
const MAX_READS: u8 = 3;

/// The calls that store the presence of the subscriptions of a request, in their order. `None`: there is nothing to wait for.
type PresenceCalls = Vec<Option<BrokerFuture<()>>>;

type SubscribeFuture = ResponseActFuture<Hub, Result<(), SubscribeError>>;

/// A request while its subscriptions are resolved.
pub(super) struct PendingRequest {
    pub(super) key: SessionKey,
    pub(super) client: Uuid,
    pub(super) reply: Option<ReplyBuilder>,
    /// The channels in whose presence the session is stored, if this request succeeds.
    presence: Vec<(Channel, Visibility)>,
    reads: u8,
}

impl Subscription<Resolving> {
    /// Asks the broker for the channel, then reads its history: whatever is published after the read is delivered.
    async fn resolve(
        self,
        broker_subscriptions: Arc<BrokerSubscriptions>,
    ) -> Result<Subscription<CatchingUp>, BrokerError> {
        let hold = broker_subscriptions.clone().acquire(self.channel.clone()).await?;
        let query = self.stage.query;
        let catching_up = self.next_stage(|Resolving { requested, catch_up, .. }| CatchingUp {
            requested,
            catch_up,
            hold,
            history: None,
            start: None,
        });
        catching_up.read_history(broker_subscriptions, query).await
    }
}

impl Subscription<CatchingUp> {
    async fn read_history(
        mut self,
        broker_subscriptions: Arc<BrokerSubscriptions>,
        query: Option<HistoryQuery>,
    ) -> Result<Self, BrokerError> {
        self.stage.history = match query {
            Some(HistoryQuery { request, retention, known }) => {
                Some(broker_subscriptions.broker().read_missed(self.channel.clone(), request, retention, known).await?)
            }
            None => None,
        };
        Ok(self)
    }

    /// Merges what was read with what was stored. The channel is at `here` on this hub.
    ///
    /// Returns whether it is known where the subscription starts; otherwise the history has to be read again.
    fn find_start(&mut self, here: Option<Position>, max_publications: usize, is_last_read: bool) -> bool {
        let CatchingUp { requested, catch_up, history, start, .. } = &mut self.stage;
        let recover = requested.options.possible_recovery();
        let Some(HistoryPage { publications, top }) = history else {
            let is_outdated = requested.options.retention.is_some() && recovery::needs_history(here, recover);
            *start = requested.options.start_without_history(here);
            return !is_outdated;
        };
        let offset = |publication: &Publication| publication.position.map_or(0, |position| position.offset);
        let offsets: Vec<u64> = publications.iter().map(offset).collect();
        let read = HistoryRead { offsets: &offsets, top: *top };
        let merged = catch_up.read(|_, buffered| {
            recovery::merge(recover, LocalState { position: here, buffered }, read, max_publications)
        });
        *start = match merged {
            Ok(start) => Some(start),
            Err(recovery::ReadAgain) if is_last_read => Some(StartPosition::at(here.unwrap_or(*top))),
            Err(recovery::ReadAgain) => None,
        };
        start.is_some()
    }
}

impl SubscriptionOptions {
    /// Returns where a subscription starts if the channel is at `here` and nothing has to be read.
    pub(super) fn start_without_history(&self, here: Option<Position>) -> Option<StartPosition> {
        let at = here.filter(|_| self.retention.is_some())?;
        Some(if self.possible_recovery().is_some() { StartPosition::recovered(at) } else { StartPosition::at(at) })
    }
}

impl Hub {
    pub(super) fn channel_position(&self, channel: &Channel) -> Option<Position> {
        self.registry.channel_state(channel).and_then(|state| state.position)
    }

    /// Moves the position of a client that wants to recover beyond publications that are known not to match its filter.
    fn skip_what_the_filter_drops(&self, Subscription { channel, stage, .. }: &mut Subscription<Requested>) {
        let SubscriptionOptions { filter: Some(filter), recover: Some(recover), .. } = &mut stage.options else {
            return;
        };
        if let (RecoveryMode::Stream, RequestedEpoch::Exactly(epoch)) = (recover.mode, recover.epoch) {
            let since = Position { offset: recover.offset, epoch };
            recover.offset = self.filter_tracks.advance(channel, filter, since).offset;
        }
    }

    /// Returns what has to be read of the history, if the subscription is to start from what is known now.
    fn history_query(&self, key: SessionKey, channel: &Channel, requested: &Requested) -> Option<HistoryQuery> {
        let recover = requested.options.possible_recovery();
        let is_needed = recovery::needs_history(self.channel_position(channel), recover);
        self.full_history_query(key, channel, requested).filter(|_| is_needed)
    }

    /// Returns what has to be read of the history, if nothing is known. There is nothing to read in a channel without a
    /// history, or to which the session is subscribed.
    fn full_history_query(&self, key: SessionKey, channel: &Channel, requested: &Requested) -> Option<HistoryQuery> {
        let retention = requested.options.retention?;
        if self.registry.channels_of(key).is_some_and(|channels| channels.contains(channel)) {
            return None;
        }
        let limit = self.limits.recovered_publications;
        let request = match requested.options.possible_recovery() {
            Some(RecoveryRequest { mode: RecoveryMode::Stream, offset, .. }) => {
                let since = Some(SincePosition { offset: *offset, epoch: None });
                HistoryRequest { since, limit, ..HistoryRequest::default() }
            }
            Some(RecoveryRequest { mode: RecoveryMode::Cache, .. }) => {
                HistoryRequest { limit: 1, is_reverse: true, ..HistoryRequest::default() }
            }
            None => HistoryRequest::default(),
        };
        let known = requested.options.possible_recovery().and_then(RecoveryRequest::position);
        Some(HistoryQuery { request, retention, known })
    }

    /// Returns whether the broker has to be asked: for the channel, or for its history.
    fn needs_broker(&self, key: SessionKey, Subscription { channel, stage, .. }: &Subscription<Requested>) -> bool {
        !self.registry.has_subscribers(channel) || self.history_query(key, channel, stage).is_some()
    }

    /// Goes on when the broker has answered for all subscriptions.
    fn continue_when_resolved<F>(&self, request: PendingRequest, resolving: Vec<F>) -> SubscribeFuture
    where
        F: Future<Output = Result<Subscription<CatchingUp>, BrokerError>> + 'static,
    {
        let resolved = join_all(resolving).into_actor(self);
        Box::pin(resolved.then(move |resolved, hub, _| hub.on_resolved(request, resolved)))
    }

    fn on_resolved(
        &mut self,
        mut request: PendingRequest,
        resolved: Vec<Result<Subscription<CatchingUp>, BrokerError>>,
    ) -> SubscribeFuture {
        let mut subscriptions = match resolved.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(subscriptions) => subscriptions,
            Err(error) => return finished(self.finish(&request, Err(error.into()))),
        };
        request.reads += 1;
        let (max_publications, is_last_read) = (self.limits.recovered_publications, request.reads >= MAX_READS);
        let is_known = |subscription: &mut Subscription<CatchingUp>| {
            subscription.find_start(self.channel_position(&subscription.channel), max_publications, is_last_read)
        };
        if subscriptions.iter_mut().all(is_known) {
            let ready = subscriptions.into_iter().map(|subscription| subscription.into_ready(request.client));
            let committed = self.commit(request.key, ready.collect(), request.reply.take());
            return finished(self.finish(&request, committed));
        }
        // All histories are read again: what is known now may be outdated when the others have been read.
        let resolving = subscriptions.into_iter().map(|subscription| {
            let Subscription { channel, stage, .. } = &subscription;
            let query = self.full_history_query(request.key, channel, &stage.requested);
            subscription.read_history(self.broker_subscriptions.clone(), query)
        });
        let resolving = resolving.collect();
        self.continue_when_resolved(request, resolving)
    }
}

impl Hub {
    /// Begins to store the presence of the subscriptions that the session does not have yet; returns the calls that the
    /// broker has not completed at once.
    fn store_presence(&self, request: &mut PendingRequest, subscriptions: &[Subscription<Requested>]) -> PresenceCalls {
        let held = self.registry.channels_of(request.key);
        let is_held = |channel| held.as_ref().is_some_and(|held| held.contains(channel));
        let calls = subscriptions.iter().map(|Subscription { channel, stage, .. }| {
            let visibility = stage.options.visibility.as_ref();
            let visibility = visibility.filter(|visibility| visibility.in_presence && !is_held(channel))?;
            request.presence.push((channel.clone(), visibility.clone()));
            let mut call = self.begin_presence(channel, visibility);
            match (&mut call).now_or_never() {
                Some(result) => result.err().map(|error| ready(Err(error)).boxed()),
                None => Some(call),
            }
        });
        calls.collect()
    }

    /// Ends a request. If it has failed, the session is removed from the presence of the channels that it does not have.
    fn finish(&self, request: &PendingRequest, result: Result<(), SubscribeError>) -> Result<(), SubscribeError> {
        if result.is_err() {
            let held = self.registry.channels_of(request.key);
            let is_held = |channel| held.as_ref().is_some_and(|held| held.contains(channel));
            for (channel, visibility) in request.presence.iter().filter(|(channel, _)| !is_held(channel)) {
                self.withdraw_presence(channel, Some(visibility));
            }
        }
        result
    }
}

/// Waits until the presence of a subscription is stored, and the broker has answered everything else.
async fn with_presence<T>(
    resolved: impl Future<Output = Result<T, BrokerError>>,
    stored: Option<BrokerFuture<()>>,
) -> Result<T, BrokerError> {
    let stored = async move { if let Some(stored) = stored { stored.await } else { Ok(()) } };
    let (resolved, stored) = join(resolved, stored).await;
    stored.and(resolved)
}

fn finished(result: Result<(), SubscribeError>) -> SubscribeFuture {
    Box::pin(actix::fut::ready(result))
}

impl Handler<Subscribe> for Hub {
    type Result = SubscribeFuture;

    fn handle(
        &mut self,
        Subscribe { key, mut subscriptions, reply }: Subscribe,
        _: &mut Self::Context,
    ) -> Self::Result {
        let client = match self.check_request(key, &subscriptions) {
            Ok(session) => session.client,
            Err(error) => return finished(Err(error)),
        };
        if let Some(held) = self.registry.channels_of(key) {
            let held = subscriptions.iter_mut().filter(|subscription| held.contains(&subscription.channel));
            // A session that is subscribed has missed nothing.
            held.for_each(|subscription| subscription.stage.options.recover = None);
        }
        subscriptions.iter_mut().for_each(|subscription| self.skip_what_the_filter_drops(subscription));
        let mut request = PendingRequest { key, client, reply, presence: Vec::new(), reads: 0 };
        let storing = self.store_presence(&mut request, &subscriptions);
        let is_stored = storing.iter().all(Option::is_none);
        if is_stored && !subscriptions.iter().any(|subscription| self.needs_broker(key, subscription)) {
            let ready = subscriptions.into_iter().map(|subscription| {
                let here = self.channel_position(&subscription.channel);
                subscription.into_ready(here)
            });
            let committed = self.commit(key, ready.collect(), request.reply.take());
            return finished(self.finish(&request, committed));
        }
        // For all channels: one that has subscribers now may lose them while the broker is asked for another.
        let resolving = subscriptions.into_iter().zip(storing).map(|(subscription, stored)| {
            let query = self.history_query(key, &subscription.channel, &subscription.stage);
            let catch_up = self.catch_up_buffer.begin(&subscription.channel);
            with_presence(subscription.resolving(catch_up, query).resolve(self.broker_subscriptions.clone()), stored)
        });
        let resolving = resolving.collect();
        self.continue_when_resolved(request, resolving)
    }
}
