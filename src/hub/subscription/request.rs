//! Requests for subscriptions, from their check to the commit. The broker is asked for all channels of all requests of a
//! session at once; at the same time it stores the presence of the subscriber. The requests are finished in their order, each
//! as soon as those before it are: so the client gets its replies in the order of its commands.

use std::{collections::VecDeque, rc::Rc};

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::{FutureExt, LocalBoxFuture, join, join_all, ready};

use super::{
    CatchingUp, FinishedRequests, RefusalBuilder, RefusedSubscribe, ReplyBuilder, Requested, Subscribe, SubscribeEach,
    SubscribeError, SubscribeRequest, Subscription, Visibility, page_budget::PageBudget,
};
use crate::{
    broker::{BrokerError, BrokerFuture},
    channel::Channel,
    hub::{Hub, SessionKey},
};

/// How often the history is read for one request. It is read again only if the stored deliveries do not reach back to what
/// was read, or if the history has another epoch by then.
const MAX_READS: u8 = 3;

/// The calls that store the presence of the subscriptions of a request, in their order. `None`: there is nothing to wait for.
type PresenceCalls = Vec<Option<BrokerFuture<()>>>;

/// The subscriptions of a request, or why the session may not have them.
type RequestedChannels = Result<Vec<Subscription<Requested>>, SubscribeError>;

type RequestResult = Result<(), SubscribeError>;

/// The results of the requests that are finished, in their order.
type GroupFuture = ResponseActFuture<Hub, Vec<RequestResult>>;

/// A request while its subscriptions are resolved.
struct PendingRequest {
    key: SessionKey,
    reply: Option<ReplyBuilder>,
    refusal: Option<RefusalBuilder>,
    /// The channel, if the client has asked for it alone.
    channel: Option<Channel>,
    /// The channels in whose presence the session is stored, if this request succeeds.
    presence: Vec<(Channel, Visibility)>,
    reads: u8,
}

/// A request for which the broker has answered, or which has failed.
struct ResolvedRequest {
    request: PendingRequest,
    subscriptions: Result<Vec<Subscription<CatchingUp>>, SubscribeError>,
    /// What it has read was dropped: it has to be requested again.
    is_postponed: bool,
}

/// How far a request is.
enum RequestProgress {
    /// It is finished, with this result.
    Finished(RequestResult),
    /// The broker was asked; this is ready when it has answered.
    Resolving(LocalBoxFuture<'static, ResolvedRequest>),
}

/// Requests of a session that are carried out side by side.
struct RequestGroup {
    key: SessionKey,
    results: Vec<RequestResult>,
    /// Those that are not finished.
    resolved: VecDeque<ResolvedRequest>,
}

impl PendingRequest {
    fn new(key: SessionKey, reply: Option<ReplyBuilder>, refusal: Option<RefusalBuilder>) -> Self {
        Self { key, reply, refusal, channel: None, presence: Vec::new(), reads: 0 }
    }
}

impl ResolvedRequest {
    /// The request, when the broker has answered for all of its subscriptions.
    fn when_ready<F>(request: PendingRequest, resolving: Vec<F>) -> LocalBoxFuture<'static, Self>
    where
        F: Future<Output = Result<Subscription<CatchingUp>, BrokerError>> + 'static,
    {
        let resolved = join_all(resolving).map(|resolved| {
            let subscriptions: Result<Vec<_>, _> = resolved.into_iter().collect();
            Self { request, subscriptions: subscriptions.map_err(SubscribeError::from), is_postponed: false }
        });
        resolved.boxed_local()
    }

    /// Postpones the request if there was no room for a page that was read for it.
    fn postpone_without_page(mut self) -> Self {
        let is_dropped = |subscription: &Subscription<CatchingUp>| subscription.stage.is_page_dropped;
        if self.subscriptions.iter().flatten().any(is_dropped) {
            (self.subscriptions, self.is_postponed) = (Ok(Vec::new()), true);
        }
        self
    }

    /// Returns whether the broker has answered, and the reply may bring missed publications.
    fn recovers(&self) -> bool {
        let recovers = |subscription: &Subscription<CatchingUp>| subscription.stage.requested.options.recover.is_some();
        self.subscriptions.as_ref().is_ok_and(|subscriptions| subscriptions.iter().any(recovers))
    }
}

impl Hub {
    /// Carries out requests of a session side by side. Ends before all are finished if the client has to read the replies
    /// first, or if more was read of their histories than may wait; then the others have had no effect.
    fn carry_out(&mut self, key: SessionKey, requests: Vec<(PendingRequest, RequestedChannels)>) -> GroupFuture {
        let (mut results, mut resolving) = (Vec::with_capacity(requests.len()), Vec::new());
        let pages = Rc::new(match requests.len() {
            1 => PageBudget::of_request(self.limits.reply_bytes),
            _ => PageBudget::of_group(self.limits.waiting_pages_bytes),
        });
        for (request, subscriptions) in requests {
            if !results.is_empty() && self.must_drain(key) {
                break;
            }
            match self.begin_request(request, subscriptions, &pages, !resolving.is_empty()) {
                RequestProgress::Finished(result) => results.push(result),
                RequestProgress::Resolving(request) => resolving.push(request),
            }
        }
        if resolving.is_empty() {
            self.flush_replies(key);
            return Box::pin(actix::fut::ready(results));
        }
        let resolved = resolving.into_iter().enumerate().map(|(place, request)| {
            // The first one does not wait for others: recoveries that have no room in it fail.
            request.map(move |resolved| if place == 0 { resolved } else { resolved.postpone_without_page() })
        });
        let resolved = join_all(resolved).into_actor(self);
        Box::pin(resolved.then(move |resolved, hub, _| {
            hub.finish_in_order(RequestGroup { key, results, resolved: resolved.into() })
        }))
    }

    /// Checks a request, and finishes it if the broker is not needed. A request that follows others waits for them.
    fn begin_request(
        &mut self,
        mut request: PendingRequest,
        subscriptions: RequestedChannels,
        pages: &Rc<PageBudget>,
        follows_others: bool,
    ) -> RequestProgress {
        let key = request.key;
        let checked = subscriptions
            .and_then(|subscriptions| self.check_request(key, &subscriptions).map(|_| ()).map(|()| subscriptions));
        let mut subscriptions = match checked {
            Ok(subscriptions) => subscriptions,
            Err(error) if follows_others => {
                let failed = ResolvedRequest { request, subscriptions: Err(error), is_postponed: false };
                return RequestProgress::Resolving(Box::pin(ready(failed)));
            }
            Err(error) => return RequestProgress::Finished(self.finish(request, Err(error))),
        };
        if let Some(held) = self.registry.channels_of(key) {
            let held = subscriptions.iter_mut().filter(|subscription| held.contains(&subscription.channel));
            // A session that is subscribed has missed nothing.
            held.for_each(|subscription| subscription.stage.options.recover = None);
        }
        subscriptions.iter_mut().for_each(|subscription| self.skip_what_the_filter_drops(subscription));
        let storing = self.store_presence(&mut request, &subscriptions);
        let is_stored = storing.iter().all(Option::is_none);
        let needs_broker = |subscription: &Subscription<Requested>| self.needs_broker(key, subscription);
        if is_stored && !follows_others && !subscriptions.iter().any(needs_broker) {
            let ready = subscriptions.into_iter().map(|subscription| {
                let here = self.channel_position(&subscription.channel);
                subscription.into_ready(here)
            });
            let committed = self.commit(key, ready.collect(), request.reply.take());
            return RequestProgress::Finished(self.finish(request, committed));
        }
        // For all channels: one that has subscribers now may lose them while the broker is asked for another.
        let resolving = subscriptions.into_iter().zip(storing).enumerate().map(|(place, (subscription, stored))| {
            let pages = (pages.clone(), place == 0 && !follows_others);
            let query = self.history_query(key, &subscription.channel, &subscription.stage);
            let catch_up = self.catch_up_buffer.begin(&subscription.channel);
            with_presence(
                subscription.resolving(catch_up, query).resolve(self.broker_subscriptions.clone(), pages),
                stored,
            )
        });
        RequestProgress::Resolving(ResolvedRequest::when_ready(request, resolving.collect()))
    }

    /// Finishes the requests of a group in their order, until a history has to be read again, or the client has to read the
    /// replies, or what was read for one was dropped.
    fn finish_in_order(&mut self, mut group: RequestGroup) -> GroupFuture {
        while let Some(resolved) = group.resolved.pop_front() {
            if resolved.recovers() && !self.may_deliver() {
                // The reply may bring publications. It waits like deliveries.
                group.resolved.push_front(resolved);
                let released = self.wait_until_released().into_actor(self);
                return Box::pin(released.then(move |(), hub, _| hub.finish_in_order(group)));
            }
            if resolved.is_postponed || (!group.results.is_empty() && self.must_drain(group.key)) {
                group.resolved.push_front(resolved);
                group.resolved.drain(..).for_each(|resolved| self.withdraw(&resolved.request));
                break;
            }
            match self.finish_resolved(resolved) {
                RequestProgress::Finished(result) => group.results.push(result),
                RequestProgress::Resolving(again) => {
                    return Box::pin(again.into_actor(self).then(move |resolved, hub, _| {
                        group.resolved.push_front(resolved);
                        hub.finish_in_order(group)
                    }));
                }
            }
        }
        self.flush_replies(group.key);
        Box::pin(actix::fut::ready(group.results))
    }

    /// Commits a request, or has its histories read again.
    fn finish_resolved(
        &mut self,
        ResolvedRequest { mut request, subscriptions, .. }: ResolvedRequest,
    ) -> RequestProgress {
        let mut subscriptions = match subscriptions {
            Ok(subscriptions) => subscriptions,
            Err(error) => return RequestProgress::Finished(self.finish(request, Err(error))),
        };
        let Some(client) = self.registry.session(request.key).map(|session| session.client) else {
            return RequestProgress::Finished(self.finish(request, Err(SubscribeError::Closing)));
        };
        request.reads += 1;
        let (max_publications, is_last_read) = (self.limits.recovered_publications, request.reads >= MAX_READS);
        let is_known = |subscription: &mut Subscription<CatchingUp>| {
            subscription.find_start(self.channel_position(&subscription.channel), max_publications, is_last_read)
        };
        if subscriptions.iter_mut().all(is_known) {
            let ready = subscriptions.into_iter().map(|subscription| subscription.into_ready(client));
            let committed = self.commit(request.key, ready.collect(), request.reply.take());
            return RequestProgress::Finished(self.finish(request, committed));
        }
        // All histories are read again: what is known now may be outdated when the others have been read.
        let pages = Rc::new(PageBudget::of_request(self.limits.reply_bytes));
        let resolving = subscriptions.into_iter().enumerate().map(|(place, subscription)| {
            let Subscription { channel, stage, .. } = &subscription;
            let query = self.full_history_query(request.key, channel, &stage.requested);
            subscription.read_history(self.broker_subscriptions.clone(), query, (pages.clone(), place == 0))
        });
        let resolving = resolving.collect();
        RequestProgress::Resolving(ResolvedRequest::when_ready(request, resolving))
    }

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

    /// Ends a request, and answers it if it has failed.
    fn finish(&mut self, mut request: PendingRequest, result: RequestResult) -> RequestResult {
        if let Err(error) = &result {
            self.withdraw(&request);
            if let Some((error, frame)) = request.refusal.take().and_then(|refusal| refusal(error)) {
                if let Some(channel) = &request.channel {
                    self.note_refused_subscription(request.key, channel, error.code(), error.message());
                }
                self.push_reply(request.key, frame);
            }
        }
        result
    }

    /// Removes the session from the presence of the channels of a request that it does not have.
    fn withdraw(&self, request: &PendingRequest) {
        let held = self.registry.channels_of(request.key);
        let is_held = |channel| held.as_ref().is_some_and(|held| held.contains(channel));
        for (channel, visibility) in request.presence.iter().filter(|(channel, _)| !is_held(channel)) {
            self.withdraw_presence(channel, Some(visibility));
        }
    }

    fn push_reply(&mut self, key: SessionKey, frame: Bytes) {
        let Some(session) = self.registry.session(key) else { return };
        if let Err(refused) = session.outbox.push_reply(self.clock.now(), session.format.compress(frame)) {
            self.handle_push_error(key, refused);
        }
    }

    fn flush_replies(&self, key: SessionKey) {
        if let Some(session) = self.registry.session(key) {
            let _ = session.outbox.flush(&self.clock, self.clock.now());
        }
    }

    /// Returns whether the client has to read its replies before there may be more.
    fn must_drain(&self, key: SessionKey) -> bool {
        let must_drain = || self.registry.session(key).is_some_and(|session| session.outbox.must_drain());
        if must_drain() {
            self.flush_replies(key);
        }
        must_drain()
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

impl Handler<Subscribe> for Hub {
    type Result = ResponseActFuture<Self, RequestResult>;

    fn handle(&mut self, Subscribe { key, subscriptions, reply }: Subscribe, _: &mut Self::Context) -> Self::Result {
        let request = PendingRequest::new(key, reply, None);
        let finished = self.carry_out(key, vec![(request, Ok(subscriptions))]);
        // A group never ends before its first request.
        Box::pin(finished.map(|mut results, _, _| results.pop().unwrap_or(Err(SubscribeError::Closing))))
    }
}

impl Handler<SubscribeEach> for Hub {
    type Result = ResponseActFuture<Self, FinishedRequests>;

    fn handle(&mut self, SubscribeEach { key, requests }: SubscribeEach, _: &mut Self::Context) -> Self::Result {
        let requests = requests.into_iter().map(|SubscribeRequest { subscription, reply, refusal }| {
            let (channel, subscriptions) = match subscription {
                Ok(subscription) => (Some(subscription.channel.clone()), Ok(vec![subscription])),
                Err(RefusedSubscribe { error, channel }) => (channel, Err(error)),
            };
            let request = PendingRequest { channel, ..PendingRequest::new(key, Some(reply), Some(refusal)) };
            (request, subscriptions)
        });
        let finished = self.carry_out(key, requests.collect());
        Box::pin(finished.map(|results, _, _| FinishedRequests::count(&results)))
    }
}
