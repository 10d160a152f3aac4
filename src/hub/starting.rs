//! Finding out where a subscription begins: the channel is asked for at the broker, its history is read where the client may
//! have missed something or nobody here knows where the channel stands, and put together with what was delivered meanwhile.

use std::{collections::HashSet, sync::Arc};

use actix::prelude::*;
use futures_util::future::join_all;

use super::{
    Hub,
    broker_subscriptions::BrokerSubscriptions,
    delivery_options::{RecoveryRequest, RequestedEpoch},
    recovery::{self, HistoryRead, LocalState, MergeOutcome, StartPosition},
    subscribing::{ChannelSubscription, Subscribe, SubscribeError},
};
use crate::{
    broker::{BrokerError, HistoryPage, HistoryRequest, Retention, SincePosition},
    channel::Channel,
    config::RecoveryMode,
    position::Position,
    publication::Publication,
};

/// How often a history is read for one subscription: again only when what was kept does not reach to it, or it has become
/// another history meanwhile.
const READS: u8 = 3;

/// Where a subscription begins; a channel without a history has no such place.
pub(super) struct ResolvedStart {
    pub(super) start: Option<StartPosition>,
    pub(super) missed: Vec<Publication>,
}

type HistoryResult = Result<Option<HistoryPage>, BrokerError>;

impl Hub {
    /// Begins when the broker has answered, which may be at once.
    pub(super) fn resolve(
        &mut self,
        subscribe: Subscribe,
        reads: u8,
    ) -> ResponseActFuture<Self, Result<(), SubscribeError>> {
        let queries: Vec<_> = subscribe
            .subscriptions
            .iter()
            .map(|subscription| self.history_query(&subscribe, subscription, reads))
            .collect();
        let is_heard = |subscription: &ChannelSubscription| self.registry.has_subscribers(&subscription.channel);
        if reads == 0 && queries.iter().all(Option::is_none) && subscribe.subscriptions.iter().all(is_heard) {
            let starts =
                subscribe.subscriptions.iter().map(|subscription| self.start_without_history(subscription)).collect();
            return Box::pin(actix::fut::ready(self.commit(subscribe, starts)));
        }
        // All of them: one that somebody receives now may be given back while the broker is asked for another.
        let asked = subscribe.subscriptions.iter().zip(queries).map(|(subscription, query)| {
            self.catch_up_buffer.begin(&subscription.channel);
            acquire_and_read(self.broker_subscriptions.clone(), subscription.channel.clone(), query)
        });
        let results = join_all(asked.collect::<Vec<_>>());
        Box::pin(results.into_actor(self).then(move |results, hub, _| hub.on_resolved(subscribe, results, reads)))
    }

    /// What has to be read before a subscription begins.
    fn history_query(
        &self,
        Subscribe { key, .. }: &Subscribe,
        subscription: &ChannelSubscription,
        reads: u8,
    ) -> Option<(HistoryRequest, Retention)> {
        let ChannelSubscription { channel, options, .. } = subscription;
        let retention = options.retention?;
        let is_known = self.registry.channels_of(*key).is_some_and(|channels| channels.contains(channel));
        let recover = options.recover.as_ref().filter(|recover| recover.epoch != RequestedEpoch::Unknown);
        // Whoever reads again reads all: what is known now may not be when the others have answered.
        if is_known || (reads == 0 && !recovery::needs_history(self.position(channel), recover)) {
            return None;
        }
        let limit = self.limits.recovered_publications;
        let request = match recover {
            Some(RecoveryRequest { mode: RecoveryMode::Stream, offset, .. }) => {
                HistoryRequest { since: Some(SincePosition { offset: *offset, epoch: None }), limit, is_reverse: false }
            }
            Some(RecoveryRequest { mode: RecoveryMode::Cache, .. }) => {
                HistoryRequest { since: None, limit: 1, is_reverse: true }
            }
            None => HistoryRequest::default(),
        };
        Some((request, retention))
    }

    fn position(&self, channel: &Channel) -> Option<Position> {
        self.registry.channel_state(channel).and_then(|state| state.position)
    }

    /// Where a subscription begins of which nothing has to be read.
    fn start_without_history(
        &self,
        ChannelSubscription { channel, options, .. }: &ChannelSubscription,
    ) -> ResolvedStart {
        let at = self.position(channel).filter(|_| options.retention.is_some());
        let is_recovered = options.recover.is_some_and(|recover| recover.epoch != RequestedEpoch::Unknown);
        let start = at.map(|at| if is_recovered { StartPosition::recovered(at) } else { StartPosition::at(at) });
        ResolvedStart { start, missed: Vec::new() }
    }

    /// Whether what was allowed when it was asked for still is: the broker may have been slow, and others quick.
    pub(super) fn check_still_allowed(
        &self,
        subscriptions: &[ChannelSubscription],
        known: &[bool],
    ) -> Result<(), SubscribeError> {
        let now = self.clock.now();
        for (ChannelSubscription { channel, source, options, .. }, _) in
            subscriptions.iter().zip(known).filter(|(_, known)| !**known)
        {
            // What was missed is not for whoever may not receive what is live.
            if source.expires_at() <= now {
                let is_server_side = source.is_server_side();
                return Err(if is_server_side { SubscribeError::Closing } else { SubscribeError::TokenExpired });
            }
            let Some(filter) = &options.filter else { continue };
            let filters = || self.registry.groups(channel).filter_map(|(_, options, _)| options.filter.as_ref());
            let nodes: usize = filters().map(|filter| filter.nodes()).sum();
            if nodes + filter.nodes() > self.limits.filter_nodes_per_channel && !filters().any(|held| held == filter) {
                return Err(SubscribeError::LimitExceeded);
            }
        }
        Ok(())
    }

    fn on_resolved(
        &mut self,
        subscribe: Subscribe,
        results: Vec<HistoryResult>,
        reads: u8,
    ) -> ResponseActFuture<Self, Result<(), SubscribeError>> {
        let channels: Vec<Channel> =
            subscribe.subscriptions.iter().map(|subscription| subscription.channel.clone()).collect();
        let acquired: Vec<Channel> = channels
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok())
            .map(|(channel, _)| channel.clone())
            .collect();
        let heard: HashSet<&Channel> =
            acquired.iter().filter(|channel| self.registry.has_subscribers(channel)).collect();
        let histories: Result<Vec<Option<HistoryPage>>, BrokerError> = results.into_iter().collect();
        let outcome = match histories {
            Err(error) => Err(error.into()),
            Ok(histories) => {
                let starts = subscribe.subscriptions.iter().zip(histories);
                let starts = starts
                    .map(|(subscription, history)| self.merge_with_history(subscription, history, reads + 1 >= READS));
                match starts.collect::<Option<Vec<ResolvedStart>>>() {
                    Some(starts) => self.commit(subscribe, starts),
                    None => {
                        let again = self.resolve(subscribe, reads + 1);
                        acquired.iter().for_each(|channel| self.broker_subscriptions.release(channel));
                        channels.iter().for_each(|channel| self.catch_up_buffer.end(channel));
                        return again;
                    }
                }
            }
        };
        // Other sessions hold the channel for all already, or there is nobody to hold it for.
        let spare = acquired.iter().filter(|channel| outcome.is_err() || heard.contains(channel));
        spare.for_each(|channel| self.broker_subscriptions.release(channel));
        channels.iter().for_each(|channel| self.catch_up_buffer.end(channel));
        Box::pin(actix::fut::ready(outcome))
    }

    /// Puts together what was read and what was delivered here; `None`: reading again helps.
    fn merge_with_history(
        &self,
        subscription: &ChannelSubscription,
        history: Option<HistoryPage>,
        is_last_try: bool,
    ) -> Option<ResolvedStart> {
        let recover = subscription.options.recover.as_ref().filter(|recover| recover.epoch != RequestedEpoch::Unknown);
        let here = self.position(&subscription.channel);
        let Some(HistoryPage { mut publications, top }) = history else {
            let has_moved = subscription.options.retention.is_some() && recovery::needs_history(here, recover);
            return (!has_moved).then(|| self.start_without_history(subscription));
        };
        let (deliveries, positions) = self.catch_up_buffer.deliveries(&subscription.channel);
        let offset = |publication: &Publication| publication.position.map_or(0, |position| position.offset);
        let offsets: Vec<u64> = publications.iter().map(offset).collect();
        let (local, read) =
            (LocalState { position: here, buffered: positions }, HistoryRead { offsets: &offsets, top });
        let start = match recovery::merge(recover, local, read, self.limits.recovered_publications) {
            MergeOutcome::Start(start) => start,
            MergeOutcome::ReadAgain if is_last_try => StartPosition::at(here.unwrap_or(top)),
            MergeOutcome::ReadAgain => return None,
        };
        publications.truncate(start.from_history.end);
        let mut missed = publications.split_off(start.from_history.start);
        missed.extend(
            deliveries[start.from_buffer.clone()].iter().filter_map(|delivery| delivery.publication().cloned()),
        );
        Some(ResolvedStart { start: Some(start), missed })
    }
}

/// Holds a channel, then reads what there is to read of its history: what is published later than that is delivered.
async fn acquire_and_read(
    broker_subscriptions: Arc<BrokerSubscriptions>,
    channel: Channel,
    query: Option<(HistoryRequest, Retention)>,
) -> HistoryResult {
    broker_subscriptions.clone().acquire(channel.clone()).await?;
    let Some((request, retention)) = query else { return Ok(None) };
    let history = broker_subscriptions.broker().read_history(channel.clone(), request, retention).await;
    if history.is_err() {
        broker_subscriptions.release(&channel);
    }
    history.map(Some)
}
