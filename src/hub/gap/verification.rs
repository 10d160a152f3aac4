//! Verifies that the history still has the newest publication from before an interruption, where the position of the channel
//! alone does not show it: the broker may have lost that publication, and stored others since.

use std::collections::{HashSet, VecDeque};

use actix::prelude::*;

use super::{PageVerdict, examine};
use crate::{
    broker::{BrokerError, ChannelTop, HistoryPage, HistoryRequest, SincePosition},
    channel::Channel,
    hub::Hub,
};

/// Maximum histories that a hub reads at the same time for this.
const MAX_IN_FLIGHT: usize = 16;

/// The publications that are still to be verified.
#[derive(Default)]
pub(in crate::hub) struct Verifications {
    waiting: VecDeque<(Channel, ChannelTop)>,
    /// The channels of `waiting`, each of which is there once.
    queued: HashSet<Channel>,
    in_flight: usize,
}

impl Hub {
    /// Has the newest publication from before an interruption verified; without an interruption the `newest` one that was
    /// known here. The broker's one, which was `found`, does not contradict `newest`.
    pub(super) fn verify(&mut self, channel: &Channel, newest: ChannelTop, found: Option<ChannelTop>) {
        let Some(state) = self.registry.channel_state(channel) else { return };
        let top = state.unverified.first().copied().unwrap_or(newest);
        let is_verified = found.is_some_and(|found| found.position == top.position);
        // Without its time another publication at the same offset is not recognised.
        if is_verified || top.time.is_none() || top.position.offset == 0 {
            return self.end_verification(channel);
        }
        if self.verifications.queued.insert(channel.clone()) {
            self.verifications.waiting.push_back((channel.clone(), top));
        }
    }

    /// Notes that a channel has lost nothing in an interruption. If there was another one meanwhile, that is verified next.
    pub(super) fn end_verification(&mut self, channel: &Channel) {
        let Some(state) = self.registry.channel_state_mut(channel) else { return };
        state.unverified.drain(..state.unverified.len().min(1));
        if !state.unverified.is_empty() {
            self.queue_check(channel);
        }
    }

    /// Starts to read the publications that wait for it.
    pub(super) fn start_verifications(&mut self, ctx: &mut <Self as Actor>::Context) {
        while self.verifications.in_flight < MAX_IN_FLIGHT
            && let Some((channel, top)) = self.verifications.waiting.pop_front()
        {
            self.verifications.queued.remove(&channel);
            let state = self.registry.channel_state(&channel);
            let Some(retention) = state.and_then(|state| state.retention) else { continue };
            let since = SincePosition { offset: top.position.offset.saturating_sub(1), epoch: None };
            let request = HistoryRequest { since: Some(since), limit: 1, is_reverse: false, max_bytes: None };
            let page = self.broker_subscriptions.broker().read_history(channel.clone(), request, retention);
            self.verifications.in_flight += 1;
            ctx.spawn(page.into_actor(self).map(move |page, hub, ctx| {
                hub.verifications.in_flight -= 1;
                hub.handle_verification(&channel, top, page, ctx);
                hub.start_verifications(ctx);
            }));
        }
    }

    fn handle_verification(
        &mut self,
        channel: &Channel,
        top: ChannelTop,
        page: Result<HistoryPage, BrokerError>,
        ctx: &mut <Self as Actor>::Context,
    ) {
        let first = self.registry.channel_state(channel).and_then(|state| state.unverified.first().copied());
        match page.map(|page| examine(top, 0, &page)) {
            Ok(PageVerdict::LostWrites) => self.renew_lost_epoch(channel.clone(), top.position, ctx),
            // It was asked before another interruption.
            Ok(_) if first.is_some_and(|first| first != top) => self.queue_check(channel),
            Ok(_) => self.end_verification(channel),
            Err(error) => {
                log::debug!("cannot verify the newest publication channel={channel:?} error={error:?}");
                self.recheck_at_next_tick(channel);
            }
        }
    }
}
