//! The subscriptions that this instance should have in Redis, and how much of that is done. This is the desired state, not a
//! queue of operations: callers change it under a lock, so the last call for a channel decides, and it has at most one entry
//! per channel. The subscriber makes Redis agree with it, batch by batch. There is no I/O here.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{broker::BrokerError, channel::Channel};

/// The desired subscriptions of this instance.
#[derive(Default)]
pub(in super::super) struct DesiredSubscriptions {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Why subscribing fails at the moment; `None`: it works, or the first attempt to reconnect still runs.
    outage: Option<String>,
    channels: HashMap<Channel, DesiredChannel>,
    /// Channels that may have to be changed in Redis: exactly those with `is_queued`, once each.
    pending: VecDeque<Channel>,
    /// Channels that Redis has refused, to be requested again, and why it has refused the last one.
    refused: Vec<Channel>,
    refusal: String,
}

/// What is known of one channel.
#[derive(Default)]
pub(in super::super) struct DesiredChannel {
    is_desired: bool,
    is_queued: bool,
    /// A caller has received the confirmation of its subscription, so the channel survives outages.
    is_acknowledged: bool,
    redis_state: RedisState,
    waiters: Vec<SubscribeWaiter>,
}

type SubscribeWaiter = oneshot::Sender<Result<(), BrokerError>>;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum RedisState {
    #[default]
    NotRequested,
    Requested,
    Confirmed,
}

/// The next commands for Redis.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SubscriptionChanges {
    /// Channels for SUBSCRIBE, to be [confirmed](DesiredSubscriptions::confirm) afterwards.
    pub(super) subscribe: Vec<Channel>,
    /// Channels for UNSUBSCRIBE, after that.
    pub(super) unsubscribe: Vec<Channel>,
}

impl State {
    fn queue_change(&mut self, channel: &Channel) {
        if let Some(desired) = self.channels.get_mut(channel)
            && !mem::replace(&mut desired.is_queued, true)
        {
            self.pending.push_back(channel.clone());
        }
    }
}

impl DesiredSubscriptions {
    /// Makes a channel desired. The receiver gets the result when Redis has confirmed the subscription, or when the attempt
    /// has failed. After a failure the channel is not desired any more, unless its subscription had been acknowledged before.
    pub(in super::super) fn subscribe(
        &self,
        channel: Channel,
    ) -> Result<oneshot::Receiver<Result<(), BrokerError>>, BrokerError> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.outage {
            return Err(BrokerError::Unavailable(cause.clone()));
        }
        let (waiter, answer) = oneshot::channel();
        let desired = state.channels.entry(channel.clone()).or_default();
        desired.is_desired = true;
        match desired.redis_state {
            RedisState::Confirmed => {
                desired.is_acknowledged = true;
                _ = waiter.send(Ok(()));
            }
            RedisState::Requested => desired.waiters.push(waiter),
            RedisState::NotRequested => {
                desired.waiters.push(waiter);
                state.queue_change(&channel);
                self.changed.notify_one();
            }
        }
        Ok(answer)
    }

    /// Makes a channel not desired any more.
    pub(in super::super) fn unsubscribe(&self, channel: &Channel) {
        let mut state = self.state.lock();
        if let Some(desired) = state.channels.get_mut(channel) {
            desired.is_desired = false;
            // This call replaces theirs, so they succeed with what they asked for.
            desired.waiters.drain(..).for_each(|waiter| _ = waiter.send(Ok(())));
            state.queue_change(channel);
            self.changed.notify_one();
        }
    }

    /// Reports that a caller no longer waits for a channel: its deadline has passed. The channel is not desired any more,
    /// unless another caller waits for it or had received its confirmation.
    pub(in super::super) fn give_up(&self, channel: &Channel) {
        let mut state = self.state.lock();
        if let Some(desired) = state.channels.get_mut(channel) {
            desired.waiters.retain(|waiter| !waiter.is_closed());
            if desired.waiters.is_empty() && !desired.is_acknowledged {
                desired.is_desired = false;
                state.queue_change(channel);
                self.changed.notify_one();
            }
        }
    }

    /// Waits until there may be changes.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Takes the changes for one SUBSCRIBE and one UNSUBSCRIBE, each of at most `limit` channels. `None`: Redis agrees with
    /// everything.
    pub(super) fn take_changes(&self, limit: usize) -> Option<SubscriptionChanges> {
        let mut state = self.state.lock();
        let mut changes = SubscriptionChanges::default();
        while changes.subscribe.len() < limit
            && changes.unsubscribe.len() < limit
            && let Some(channel) = state.pending.pop_front()
        {
            let Some(desired) = state.channels.get_mut(&channel) else { continue };
            desired.is_queued = false;
            match (desired.is_desired, desired.redis_state) {
                (true, RedisState::NotRequested) => {
                    desired.redis_state = RedisState::Requested;
                    changes.subscribe.push(channel);
                }
                (false, redis_state) => {
                    state.channels.remove(&channel);
                    if redis_state != RedisState::NotRequested {
                        changes.unsubscribe.push(channel);
                    }
                }
                (true, RedisState::Requested | RedisState::Confirmed) => (),
            }
        }
        (changes != SubscriptionChanges::default()).then_some(changes)
    }

    /// Returns those of `channels` to which this instance was subscribed before.
    pub(super) fn acknowledged(&self, channels: &[Channel]) -> Vec<Channel> {
        let state = self.state.lock();
        let is_acknowledged =
            |channel: &&Channel| state.channels.get(*channel).is_some_and(|desired| desired.is_acknowledged);
        channels.iter().filter(is_acknowledged).cloned().collect()
    }

    /// Reports that Redis has confirmed these channels. Changes that unsubscribe channels have to be the last that are taken before
    /// it: a channel that is desired again after them would otherwise count as confirmed before its UNSUBSCRIBE.
    pub(super) fn confirm(&self, channels: &[Channel]) {
        let mut state = self.state.lock();
        for channel in channels {
            // A subscription that has ended meanwhile is no longer requested.
            if let Some(desired) = state.channels.get_mut(channel)
                && desired.redis_state == RedisState::Requested
            {
                desired.redis_state = RedisState::Confirmed;
                desired.is_acknowledged |= desired.is_desired;
                desired.waiters.drain(..).for_each(|waiter| _ = waiter.send(Ok(())));
            }
        }
    }

    /// Reports that the connection has closed, and with it every subscription in Redis. Waiting callers wait for the next
    /// attempt.
    pub(super) fn reset(&self) {
        let state = &mut *self.state.lock();
        state.pending.clear();
        state.refused.clear();
        for (channel, desired) in &mut state.channels {
            desired.redis_state = RedisState::NotRequested;
            desired.is_queued = true;
            state.pending.push_back(channel.clone());
        }
    }

    /// Reports that an attempt to connect has failed. Waiting callers fail, and new calls fail at once until
    /// [`Self::end_outage`].
    pub(in super::super) fn begin_outage(&self, cause: &str) {
        self.reset();
        let state = &mut *self.state.lock();
        state.outage = Some(cause.to_owned());
        let error = BrokerError::Unavailable(cause.to_owned());
        state.channels.retain(|_, desired| {
            desired.waiters.drain(..).for_each(|waiter| _ = waiter.send(Err(error.clone())));
            desired.is_desired && desired.is_acknowledged
        });
        state.pending.retain(|channel| state.channels.contains_key(channel));
    }

    /// Removes the channels for which `has_moved` returns true, for [`Self::adopt`] of another server.
    pub(in super::super) fn extract(&self, has_moved: impl Fn(&Channel) -> bool) -> Vec<(Channel, DesiredChannel)> {
        let state = &mut *self.state.lock();
        let extracted = state.channels.extract_if(|channel, _| has_moved(channel)).collect();
        state.pending.retain(|channel| state.channels.contains_key(channel));
        state.refused.retain(|channel| state.channels.contains_key(channel));
        extracted
    }

    /// Takes a channel over from another server. Its callers wait for the subscription here.
    pub(in super::super) fn adopt(&self, channel: Channel, mut desired: DesiredChannel) {
        let state = &mut *self.state.lock();
        if !desired.is_desired {
            return;
        }
        (desired.redis_state, desired.is_queued) = (RedisState::NotRequested, false);
        state.channels.insert(channel.clone(), desired);
        state.queue_change(&channel);
        self.changed.notify_one();
    }

    /// Reports that Redis has refused these channels, or has ended their subscriptions by itself: it does not have their slot.
    /// They are requested again by [`Self::retry_refused`], unless they move to another server before.
    pub(super) fn refuse(&self, channels: &[Channel], reason: &str) {
        let state = &mut *self.state.lock();
        for channel in channels {
            if let Some(desired) = state.channels.get_mut(channel)
                && desired.redis_state != RedisState::NotRequested
            {
                desired.redis_state = RedisState::NotRequested;
                state.refused.push(channel.clone());
            }
        }
        reason.clone_into(&mut state.refusal);
        self.changed.notify_one();
    }

    /// Returns why Redis has refused channels that are still to be requested again. `None`: there are none.
    pub(super) fn refusal(&self) -> Option<String> {
        let state = self.state.lock();
        state
            .refused
            .first()
            .map(|channel| format!("{} channels, such as {channel:?}: {}", state.refused.len(), state.refusal))
    }

    /// Requests the channels again that Redis has refused.
    pub(super) fn retry_refused(&self) {
        let mut state = self.state.lock();
        let refused = mem::take(&mut state.refused);
        refused.iter().for_each(|channel| state.queue_change(channel));
        self.changed.notify_one();
    }

    /// Reports that a new connection works, and that Redis agrees. Returns the number of channels.
    pub(super) fn end_outage(&self) -> usize {
        let mut state = self.state.lock();
        state.outage = None;
        state.channels.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::new(name).unwrap()
    }

    /// Takes and confirms all changes, as Redis would.
    fn apply_all(subscriptions: &DesiredSubscriptions) -> Vec<SubscriptionChanges> {
        let mut all = Vec::new();
        while let Some(changes) = subscriptions.take_changes(500) {
            subscriptions.confirm(&changes.subscribe);
            all.push(changes);
        }
        all
    }

    fn subscribes(names: &[&str]) -> SubscriptionChanges {
        SubscriptionChanges { subscribe: names.iter().map(|name| channel(name)).collect(), unsubscribe: vec![] }
    }

    #[test]
    fn last_call_decides() {
        let subscriptions = DesiredSubscriptions::default();
        let mut answer = subscriptions.subscribe(channel("a")).unwrap();
        assert!(answer.try_recv().is_err());
        assert_eq!(apply_all(&subscriptions), [subscribes(&["a"])]);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        subscriptions.unsubscribe(&channel("a"));
        assert_eq!(subscriptions.subscribe(channel("a")).unwrap().try_recv(), Ok(Ok(())));
        assert_eq!(apply_all(&subscriptions), []);
        subscriptions.unsubscribe(&channel("a"));
        assert_eq!(
            apply_all(&subscriptions),
            [SubscriptionChanges { subscribe: vec![], unsubscribe: vec![channel("a")] }]
        );
        assert_eq!(subscriptions.end_outage(), 0);
    }

    #[test]
    fn unsubscribe_during_a_subscribe_is_applied() {
        let subscriptions = DesiredSubscriptions::default();
        let _answer = subscriptions.subscribe(channel("a")).unwrap();
        let requested = subscriptions.take_changes(500).unwrap();
        subscriptions.unsubscribe(&channel("a"));
        subscriptions.confirm(&requested.subscribe);
        assert_eq!(
            apply_all(&subscriptions),
            [SubscriptionChanges { subscribe: vec![], unsubscribe: vec![channel("a")] }]
        );
    }

    #[test]
    fn subscribe_during_an_unsubscribe_subscribes_again() {
        let subscriptions = DesiredSubscriptions::default();
        let _answer = subscriptions.subscribe(channel("a")).unwrap();
        apply_all(&subscriptions);
        subscriptions.unsubscribe(&channel("a"));
        let _in_flight = subscriptions.take_changes(500).unwrap();
        let mut answer = subscriptions.subscribe(channel("a")).unwrap();
        assert!(answer.try_recv().is_err());
        assert_eq!(apply_all(&subscriptions), [subscribes(&["a"])]);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn alternating_subscribe_and_unsubscribe_does_not_grow_the_queue() {
        let subscriptions = DesiredSubscriptions::default();
        for _ in 0..1_000 {
            let _answer = subscriptions.subscribe(channel("a")).unwrap();
            subscriptions.unsubscribe(&channel("a"));
        }
        assert_eq!(subscriptions.state.lock().pending.len(), 1);
        assert_eq!(apply_all(&subscriptions), []);
        assert_eq!(subscriptions.end_outage(), 0);
    }

    #[test]
    fn outage_keeps_only_acknowledged_subscriptions() {
        let subscriptions = DesiredSubscriptions::default();
        let _kept = subscriptions.subscribe(channel("kept")).unwrap();
        let _left = subscriptions.subscribe(channel("left")).unwrap();
        apply_all(&subscriptions);
        subscriptions.reset();
        let mut new = subscriptions.subscribe(channel("new")).unwrap();
        subscriptions.begin_outage("connection refused");
        assert_eq!(new.try_recv(), Ok(Err(BrokerError::Unavailable("connection refused".to_owned()))));
        assert!(subscriptions.subscribe(channel("new")).is_err());
        subscriptions.unsubscribe(&channel("left"));
        assert_eq!(apply_all(&subscriptions), [subscribes(&["kept"])]);
        assert_eq!(subscriptions.end_outage(), 1);
        assert!(subscriptions.subscribe(channel("new")).is_ok());
    }

    #[test]
    fn caller_that_gives_up_ends_the_subscription_unless_another_needs_it() {
        let subscriptions = DesiredSubscriptions::default();
        let late = subscriptions.subscribe(channel("a")).unwrap();
        let mut other = subscriptions.subscribe(channel("a")).unwrap();
        drop(late);
        subscriptions.give_up(&channel("a"));
        assert_eq!(apply_all(&subscriptions), [subscribes(&["a"])]);
        assert_eq!(other.try_recv(), Ok(Ok(())));
        subscriptions.give_up(&channel("a"));
        assert_eq!(apply_all(&subscriptions), [], "its confirmation was received");

        drop(subscriptions.subscribe(channel("b")).unwrap());
        let requested = subscriptions.take_changes(500).unwrap();
        subscriptions.give_up(&channel("b"));
        subscriptions.confirm(&requested.subscribe);
        let unsubscribe_b = SubscriptionChanges { subscribe: vec![], unsubscribe: vec![channel("b")] };
        assert_eq!(apply_all(&subscriptions), [unsubscribe_b]);

        drop(subscriptions.subscribe(channel("c")).unwrap());
        subscriptions.give_up(&channel("c"));
        assert_eq!(apply_all(&subscriptions), [], "redis was not asked for it yet");
    }

    #[test]
    fn subscribe_batches_are_bounded() {
        let subscriptions = DesiredSubscriptions::default();
        let _answers: Vec<_> =
            (0..1_200).map(|n| subscriptions.subscribe(channel(&format!("c{n}"))).unwrap()).collect();
        let sizes: Vec<_> = apply_all(&subscriptions).iter().map(|changes| changes.subscribe.len()).collect();
        assert_eq!(sizes, [500, 500, 200]);
    }
}
