//! Resolves a subscription: asks the broker for the channel and, where publications may be missing, for its history, and merges
//! both with the deliveries that arrived meanwhile.

use std::{rc::Rc, sync::Arc};

use super::{
    CatchingUp, HistoryQuery, Requested, Resolving, Subscription, SubscriptionOptions,
    options::{RecoveryRequest, RequestedEpoch},
    page_budget::PageBudget,
    recovery::{self, HistoryRead, LocalState, StartPosition},
};
use crate::{
    broker::{BrokerError, HistoryRequest, SincePosition},
    channel::Channel,
    config::RecoveryMode,
    hub::{Hub, SessionKey, broker_subscriptions::BrokerSubscriptions},
    position::Position,
    publication::Publication,
};

impl Subscription<Resolving> {
    /// Asks the broker for the channel, then reads its history: whatever is published after the read is delivered.
    pub(super) async fn resolve(
        self,
        broker_subscriptions: Arc<BrokerSubscriptions>,
        pages: (Rc<PageBudget>, bool),
    ) -> Result<Subscription<CatchingUp>, BrokerError> {
        let hold = broker_subscriptions.clone().acquire(self.channel.clone()).await?;
        let query = self.stage.query;
        let catching_up = self.next_stage(|Resolving { requested, catch_up, .. }| CatchingUp {
            requested,
            catch_up,
            hold,
            history: None,
            is_page_dropped: false,
            start: None,
            stored: None,
        });
        catching_up.read_history(broker_subscriptions, query, pages).await
    }
}

impl Subscription<CatchingUp> {
    /// Reads the history within the budget of its request, in which it may be the first.
    pub(super) async fn read_history(
        mut self,
        broker_subscriptions: Arc<BrokerSubscriptions>,
        query: Option<HistoryQuery>,
        (pages, is_first): (Rc<PageBudget>, bool),
    ) -> Result<Self, BrokerError> {
        (self.stage.history, self.stage.is_page_dropped) = (None, false);
        let Some(HistoryQuery { request, retention, known }) = query else { return Ok(self) };
        let read = || broker_subscriptions.broker().read_missed(self.channel.clone(), request, retention, known);
        let (page, is_dropped) =
            // A position is no page.
            if request.limit == 0 { (read().await?, false) } else { pages.read(is_first, read).await? };
        (self.stage.history, self.stage.is_page_dropped) = (Some(page), is_dropped);
        Ok(self)
    }

    /// Merges what was read with what was stored. The channel is at `here` on this hub.
    ///
    /// Returns whether it is known where the subscription starts; otherwise the history has to be read again.
    pub(super) fn find_start(&mut self, here: Option<Position>, max_publications: usize, is_last_read: bool) -> bool {
        let CatchingUp { requested, catch_up, history, start, stored, .. } = &mut self.stage;
        let recover = requested.options.possible_recovery();
        let Some(page) = history else {
            let is_outdated = requested.options.retention.is_some() && recovery::needs_history(here, recover);
            *start = requested.options.start_without_history(here);
            return !is_outdated;
        };
        let offset = |publication: &Publication| publication.position.map_or(0, |position| position.offset);
        let offsets: Vec<u64> = page.publications.iter().map(offset).collect();
        let read = HistoryRead { offsets: &offsets, top: page.top };
        let newest = catch_up.newest();
        // Both are of one epoch, or the history is read again.
        *stored = Some(newest.filter(|newest| newest.is_after(page.top)).unwrap_or_else(|| page.newest()));
        let newest = newest.map(|newest| newest.position);
        let merged = catch_up.read(|_, buffered| {
            recovery::merge(recover, LocalState { position: here, newest, buffered }, read, max_publications)
        });
        *start = match merged {
            Ok(start) => Some(start),
            Err(recovery::ReadAgain) if is_last_read => Some(StartPosition::at(here.unwrap_or(page.top))),
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
    pub(super) fn skip_what_the_filter_drops(&self, Subscription { channel, stage, .. }: &mut Subscription<Requested>) {
        let SubscriptionOptions { filter: Some(filter), recover: Some(recover), .. } = &mut stage.options else {
            return;
        };
        if let (RecoveryMode::Stream, RequestedEpoch::Exactly(epoch)) = (recover.mode, recover.epoch) {
            let since = Position { offset: recover.offset, epoch };
            recover.offset = self.filter_tracks.advance(channel, filter, since).offset;
        }
    }

    /// Returns what has to be read of the history, if the subscription is to start from what is known now.
    pub(super) fn history_query(
        &self,
        key: SessionKey,
        channel: &Channel,
        requested: &Requested,
    ) -> Option<HistoryQuery> {
        let recover = requested.options.possible_recovery();
        let is_needed = recovery::needs_history(self.channel_position(channel), recover);
        self.full_history_query(key, channel, requested).filter(|_| is_needed)
    }

    /// Returns what has to be read of the history, if nothing is known. There is nothing to read in a channel without a
    /// history, or to which the session is subscribed.
    pub(super) fn full_history_query(
        &self,
        key: SessionKey,
        channel: &Channel,
        requested: &Requested,
    ) -> Option<HistoryQuery> {
        let retention = requested.options.retention?;
        if self.registry.channels_of(key).is_some_and(|channels| channels.contains(channel)) {
            return None;
        }
        let limit = self.limits.recovered_publications;
        let request = match requested.options.possible_recovery() {
            Some(RecoveryRequest { mode: RecoveryMode::Stream, offset, .. }) => {
                let since = Some(SincePosition { offset: *offset, epoch: None });
                HistoryRequest {
                    since,
                    limit,
                    max_bytes: self.page_bytes(&requested.options),
                    ..HistoryRequest::default()
                }
            }
            Some(RecoveryRequest { mode: RecoveryMode::Cache, .. }) => {
                HistoryRequest { limit: 1, is_reverse: true, ..HistoryRequest::default() }
            }
            None => HistoryRequest::default(),
        };
        let known = requested.options.possible_recovery().and_then(RecoveryRequest::position);
        Some(HistoryQuery { request, retention, known })
    }

    /// Returns the maximum size of a page that a recovery may need. `None`: the reply may be shorter than the page, by deltas or a
    /// filter.
    fn page_bytes(&self, options: &SubscriptionOptions) -> Option<usize> {
        (!options.has_deltas && options.filter.is_none()).then_some(self.limits.page_bytes)
    }

    /// Returns whether the broker has to be asked: for the channel, or for its history.
    pub(super) fn needs_broker(
        &self,
        key: SessionKey,
        Subscription { channel, stage, .. }: &Subscription<Requested>,
    ) -> bool {
        !self.registry.has_subscribers(channel) || self.history_query(key, channel, stage).is_some()
    }
}
