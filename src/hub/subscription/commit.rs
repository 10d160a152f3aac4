//! Makes the subscriptions of a request live: all of them in one turn of the hub, or none. The client gets its reply before
//! anything else that they deliver.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    CatchingUp, Ready, ReplyBuilder, Requested, SubscribeError, SubscribeOutcome, Subscription, SubscriptionStart,
    filter_tracks::{FilterTrack, TrackedFilter},
    outcome::Recovery,
    recovery::StartPosition,
};
use crate::{
    broker::TraceEventKind,
    channel::Channel,
    filter::Filter,
    hub::{Hub, SessionKey, liveness::HubSession},
    position::Position,
    protocol::{Disconnect, ErrorCode, ExceededLimit, Format},
    publication::Publication,
};

/// What the length fields of a frame and of the message in it grow by, at most, when the message grows.
const LENGTH_FIELDS_BYTES: usize = 16;

impl Subscription<Requested> {
    /// Makes a subscription ready that needs nothing from the broker: its channel is at `here` on this hub.
    pub(super) fn into_ready(self, here: Option<Position>) -> Subscription<Ready> {
        let start = self.stage.options.start_without_history(here);
        let outcome = SubscribeOutcome::new(self.channel.clone(), &self.stage.options, start.as_ref(), Vec::new());
        self.next_stage(|requested| Ready {
            requested,
            hold: None,
            start,
            stored: None,
            interruption: None,
            outcome,
            is_new: true,
        })
    }
}

impl Subscription<CatchingUp> {
    /// Ends the catch-up: collects the publications that `client` has missed and did not exclude itself from.
    pub(super) fn into_ready(self, client: Uuid) -> Subscription<Ready> {
        let channel = self.channel.clone();
        self.next_stage(|CatchingUp { requested, catch_up, hold, history, start, stored, .. }| {
            let mut missed = Vec::new();
            if let Some(StartPosition { from_history, from_buffer, .. }) = &start {
                let read = history.map(|history| history.publications).unwrap_or_default();
                missed.extend(read.into_iter().take(from_history.end).skip(from_history.start));
                catch_up.read(|deliveries, _| {
                    let stored = &deliveries[from_buffer.clone()];
                    missed.extend(stored.iter().filter_map(|delivery| delivery.publication().cloned()));
                });
            }
            let is_excluded = |publication: &Publication| publication.exclude == Some(client);
            let excluded = missed.iter().filter(|publication| is_excluded(publication));
            let excluded_up_to =
                excluded.filter_map(|publication| publication.position).map(|position| position.offset).max();
            missed.retain(|publication| !is_excluded(publication));
            let mut outcome = SubscribeOutcome::new(channel, &requested.options, start.as_ref(), missed);
            outcome.excluded_up_to = excluded_up_to.unwrap_or(0);
            let interruption = catch_up.interruption();
            Ready { requested, hold: Some(hold), start, stored, interruption, outcome, is_new: true }
        })
    }
}

impl Ready {
    fn lacks_required_recovery(&self) -> bool {
        self.requested.options.recover.is_some_and(|recover| recover.required) && !self.outcome.is_recovered()
    }
}

impl Hub {
    /// Checks that a session may have these subscriptions.
    pub(super) fn check_request<Stage>(
        &self,
        key: SessionKey,
        subscriptions: &[Subscription<Stage>],
    ) -> Result<&HubSession, SubscribeError> {
        let session = self.registry.session(key).filter(|session| !session.is_closing());
        let (Some(session), Some(held)) = (session, self.registry.channels_of(key)) else {
            return Err(SubscribeError::Closing);
        };
        let (known, new): (Vec<_>, Vec<_>) =
            subscriptions.iter().partition(|subscription| held.contains(&subscription.channel));
        if known.iter().any(|subscription| !subscription.source.is_server_side()) {
            return Err(SubscribeError::AlreadySubscribed);
        }
        let (limit, channels) = (self.limits.channels_per_session, held.len() + new.len());
        ExceededLimit::check("limits.channels_per_session", limit, channels)?;
        Ok(session)
    }

    /// Checks that a new subscription may start now: it may have expired while the broker was slow, and other subscriptions
    /// may have used up the limit of its channel.
    fn check_start(
        &self,
        key: SessionKey,
        Subscription { channel, source, stage }: &Subscription<Ready>,
    ) -> Result<(), SubscribeError> {
        let is_server_side = source.is_server_side();
        // A client that may not receive live publications may not receive the missed ones.
        if source.expires_at() <= self.clock.now() {
            return Err(if is_server_side { SubscribeError::Closing } else { SubscribeError::TokenExpired });
        }
        if self.is_start_revoked(key, channel, source) {
            let denied = SubscribeError::Refused(ErrorCode::PermissionDenied.into());
            return Err(if is_server_side { SubscribeError::Closing } else { denied });
        }
        let Some(filter) = &stage.requested.options.filter else { return Ok(()) };
        let filters = || self.registry.groups(channel).filter_map(|(_, options, _)| options.filter.as_ref());
        let nodes: usize = filters().map(|held| held.filter().nodes()).sum();
        let limit = self.limits.filter_nodes_per_channel;
        let checked = ExceededLimit::check("limits.filter_nodes_per_channel", limit, nodes + filter.nodes());
        if checked.is_err() && filters().any(|held| held.filter() == &**filter) {
            return Ok(());
        }
        Ok(checked?)
    }

    /// Makes the subscriptions live and queues the client's reply; the caller flushes. What was allowed when they were requested is checked
    /// again: the broker may have been slow.
    pub(super) fn commit(
        &mut self,
        key: SessionKey,
        mut subscriptions: Vec<Subscription<Ready>>,
        reply: Option<ReplyBuilder>,
    ) -> Result<(), SubscribeError> {
        let session = self.check_request(key, &subscriptions)?;
        let (now, outbox, format) = (self.clock.now(), session.outbox.clone(), session.format);
        if let Some(held) = self.registry.channels_of(key) {
            let new = subscriptions.iter_mut().filter(|subscription| held.contains(&subscription.channel));
            new.for_each(|subscription| subscription.stage.is_new = false);
        }
        for subscription in subscriptions.iter().filter(|subscription| subscription.stage.is_new) {
            if let Err(error) = self.check_start(key, subscription) {
                if error == SubscribeError::Closing {
                    self.close(key, &Disconnect::SUBSCRIPTION_EXPIRED);
                }
                return Err(error);
            }
        }
        let frames = self.reply_frames(&mut subscriptions, reply.as_ref());
        if subscriptions.iter().any(|subscription| subscription.stage.lacks_required_recovery()) {
            return Err(SubscribeError::Unrecoverable);
        }
        for frame in frames {
            if let Err(refused) = outbox.push_reply(now, format.compress(frame)) {
                self.handle_push_error(key, refused);
                return Err(SubscribeError::Closing);
            }
        }
        subscriptions.into_iter().for_each(|subscription| self.make_live(key, format, subscription));
        Ok(())
    }

    /// Builds the frames that report the subscriptions to the client. If they are longer than a reply may be, those
    /// recoveries succeed that fit into it, in the order of the request. A client knows how to go on from the others.
    fn reply_frames(&self, subscriptions: &mut [Subscription<Ready>], reply: Option<&ReplyBuilder>) -> Vec<Bytes> {
        let max_bytes = self.limits.reply_bytes;
        let min_bytes = |subscription: &Subscription<Ready>| subscription.stage.outcome.min_bytes();
        if subscriptions.iter().map(min_bytes).sum::<usize>() <= max_bytes {
            let frames = build_frames(subscriptions, reply);
            if total_bytes(&frames) <= max_bytes {
                return frames;
            }
        }
        keep_recoveries_that_fit(max_bytes, subscriptions, reply);
        build_frames(subscriptions, reply)
    }

    /// Returns the track of a filter for a subscription that starts at a position, and whose filter matches nothing between an
    /// offset and that position: the track of another subscriber of the channel, or a new one.
    fn track_filter(
        &self,
        channel: &Channel,
        filter: &Arc<Filter>,
        at: Position,
        unmatched_since: Option<u64>,
    ) -> Arc<FilterTrack> {
        let unmatched_since = unmatched_since.unwrap_or(at.offset);
        let held = self.registry.groups(channel).filter_map(|(_, options, _)| options.filter.as_ref());
        match held.filter(|held| held.filter() == &**filter).find_map(TrackedFilter::track) {
            Some(track) => {
                track.extend_back(unmatched_since);
                track.clone()
            }
            None => self.filter_tracks.start(channel, filter, at, unmatched_since, self.limits.filter_positions),
        }
    }

    fn make_live(&mut self, key: SessionKey, format: Format, subscription: Subscription<Ready>) {
        let Subscription { channel, source, stage } = subscription;
        let Ready { requested, hold, start, stored, interruption, outcome, is_new } = stage;
        if !is_new {
            self.replace_source(key, &channel, source);
            return self.update_subscription_expiry(key);
        }
        self.advance_subscription_expiry(key, &source);
        let options = requested.options;
        let filter = options.filter.as_ref().map(|filter| {
            let start = start.as_ref().filter(|_| options.is_positioned);
            let track = start.map(|start| self.track_filter(&channel, filter, start.at, outcome.unmatched_since()));
            TrackedFilter::new(filter.clone(), track)
        });
        let received = SubscriptionStart { at: self.clock.now(), after: outcome.received_after(start.as_ref()) };
        let skip_up_to = start.as_ref().map_or(0, |start| start.skip_up_to);
        let delivery_options = options.delivery_options(format, filter, skip_up_to);
        let visibility = options.visibility.map(Box::new);
        self.announce_join(&channel, visibility.as_deref());
        self.report_subscribed(key, &channel);
        let is_first = self.registry.channel_state(&channel).is_none();
        self.registry.subscribe(key, channel.clone(), source, &delivery_options, visibility);
        self.registry.set_start(key, &channel, received);
        self.trace_session(key, TraceEventKind::Subscribed, Some(&channel), |event| {
            event.offset = received.after.map(|after| after.offset);
        });
        if is_first {
            self.set_pace(&channel);
        }
        let Some(state) = self.registry.channel_state_mut(&channel) else { return };
        // One hold for each channel is enough: another is dropped here, and with it released.
        state.hold = state.hold.take().or(hold);
        if let Some(start) = start {
            state.start(start.at, stored);
            state.retention = state.retention.or(options.retention);
            state.is_relied_on |= options.is_positioned;
        }
        if is_first && let Some(interruption) = interruption {
            self.catch_up_with_interruption(&channel, interruption);
        }
    }

    /// Sets the pace of a channel that has its first subscriber. It keeps this pace while it has subscribers: after a change, a
    /// publication that is sent at once would overtake those that wait.
    fn set_pace(&mut self, channel: &Channel) {
        let pace = self.paces.of(channel).cloned();
        if pace.is_none() {
            // What waits for subscribers that have left comes first. The timer of their pace fans it out at the latest.
            let waiting = self.fanout.take_paced(channel);
            self.fanout.prepend(channel, waiting);
        }
        if let Some(state) = self.registry.channel_state_mut(channel) {
            state.pace = pace;
        }
    }
}

/// Fails the recoveries for which frames of at most `max_bytes` together have no room. Each recovery is measured in frames
/// of its subscription alone: in those of all, the cost would grow with the square of the subscriptions.
fn keep_recoveries_that_fit(max_bytes: usize, subscriptions: &mut [Subscription<Ready>], reply: Option<&ReplyBuilder>) {
    let recoveries: Vec<Option<Recovery>> =
        subscriptions.iter_mut().map(|subscription| subscription.stage.outcome.recovery.take()).collect();
    let base_bytes = total_bytes(&build_frames(subscriptions, reply));
    let mut left_bytes = max_bytes.saturating_sub(base_bytes + LENGTH_FIELDS_BYTES);
    for (index, recovery) in recoveries.into_iter().enumerate() {
        let Some(recovery) = recovery.filter(|recovery| recovery.min_bytes() <= left_bytes) else { continue };
        let alone = &mut subscriptions[index..=index];
        let bytes_without = total_bytes(&build_frames(alone, reply));
        alone[0].stage.outcome.recovery = Some(recovery);
        let bytes = total_bytes(&build_frames(alone, reply)).saturating_sub(bytes_without);
        match left_bytes.checked_sub(bytes) {
            Some(left) => left_bytes = left,
            None => alone[0].stage.outcome.recovery = None,
        }
    }
}

fn total_bytes(frames: &[Bytes]) -> usize {
    frames.iter().map(Bytes::len).sum()
}

fn build_frames(subscriptions: &[Subscription<Ready>], reply: Option<&ReplyBuilder>) -> Vec<Bytes> {
    let stages = || subscriptions.iter().map(|subscription| &subscription.stage);
    let announcement = |stage: &Ready| {
        let announcement = stage.requested.announcement.as_ref().filter(|_| stage.is_new)?;
        Some(announcement(&[&stage.outcome]))
    };
    let outcomes: Vec<&SubscribeOutcome> = stages().map(|stage| &stage.outcome).collect();
    stages().filter_map(announcement).chain(reply.map(|reply| reply(&outcomes))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        channel::Channel,
        config::RecoveryMode,
        hub::{RecoveryRequest, RequestedEpoch, SubscriptionOptions, SubscriptionSource},
        position::Epoch,
    };

    const MISSED_BYTES: usize = 100;

    fn recovered(number: usize) -> Subscription<Ready> {
        let channel = Channel::new(&format!("news:{number}")).unwrap();
        let epoch = RequestedEpoch::parse("");
        let recover = RecoveryRequest { offset: 0, epoch, mode: RecoveryMode::Stream, required: false };
        let options = SubscriptionOptions { recover: Some(recover), ..SubscriptionOptions::default() };
        let start = StartPosition::recovered(Position { offset: 1, epoch: Epoch::parse("AAAAAAAA").unwrap() });
        let missed = vec![Publication::new(channel.clone(), Bytes::from(vec![b'1'; MISSED_BYTES]))];
        let outcome = SubscribeOutcome::new(channel.clone(), &options, Some(&start), missed);
        Subscription::new(channel, SubscriptionSource::Client, options).next_stage(|requested| Ready {
            requested,
            hold: None,
            start: Some(start),
            stored: None,
            interruption: None,
            outcome,
            is_new: true,
        })
    }

    #[test]
    fn cost_of_a_reply_that_is_too_long_grows_with_its_subscriptions_and_not_with_their_square() {
        const COUNT: usize = 1000;
        let encoded = Arc::new(AtomicUsize::new(0));
        let counted = encoded.clone();
        let reply: ReplyBuilder = Box::new(move |outcomes| {
            counted.fetch_add(outcomes.len(), Ordering::Relaxed);
            let data = |outcome: &&SubscribeOutcome| if outcome.is_recovered() { MISSED_BYTES } else { 0 };
            Bytes::from(vec![b'1'; outcomes.iter().map(data).sum()])
        });
        let mut subscriptions: Vec<_> = (0..COUNT).map(recovered).collect();
        let max_bytes = LENGTH_FIELDS_BYTES + MISSED_BYTES * COUNT / 2 + 1;
        keep_recoveries_that_fit(max_bytes, &mut subscriptions, Some(&reply));
        let is_recovered = |subscription: &Subscription<Ready>| subscription.stage.outcome.is_recovered();
        assert!(subscriptions[..COUNT / 2].iter().all(is_recovered));
        assert!(!subscriptions[COUNT / 2..].iter().any(is_recovered));
        let encoded = encoded.load(Ordering::Relaxed);
        assert!(encoded <= 3 * COUNT, "{encoded} outcomes encoded");
    }
}
