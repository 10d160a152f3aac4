//! What this instance wants from Redis, and how far it has come: desired state, not a queue of operations. Callers change
//! it under a lock, so that the last call on a channel decides, and it never holds more than the channels there are; the
//! subscriber makes Redis agree with it, batch by batch. No I/O here.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{broker::BrokerError, channel::Channel};

/// The channels of this instance.
#[derive(Default)]
pub(super) struct DesiredSubscriptions {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Why nothing can be subscribed to at the moment.
    outage: Option<String>,
    channels: HashMap<Channel, DesiredChannel>,
    /// Channels that Redis is to be told about; those whose `is_queued` is set, once each.
    pending: VecDeque<Channel>,
}

#[derive(Default)]
struct DesiredChannel {
    is_desired: bool,
    is_queued: bool,
    /// A subscriber was told that it has the channel: it stays through outages.
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

/// What Redis is to be told next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SubscriptionChanges {
    /// SUBSCRIBE to these, and [confirm](DesiredSubscriptions::confirm) them.
    pub(super) subscribe: Vec<Channel>,
    /// UNSUBSCRIBE from these, after that.
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
    /// Wants a channel from now on. The answer comes when Redis has confirmed it, or when the attempt has failed; then
    /// it is not wanted any more, unless it was before.
    pub(super) fn subscribe(
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

    /// Does not want a channel any more.
    pub(super) fn unsubscribe(&self, channel: &Channel) {
        let mut state = self.state.lock();
        if let Some(desired) = state.channels.get_mut(channel) {
            desired.is_desired = false;
            // They had what they asked for, until this call.
            desired.waiters.drain(..).for_each(|waiter| _ = waiter.send(Ok(())));
            state.queue_change(channel);
            self.changed.notify_one();
        }
    }

    /// Waits until there may be changes to take.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Takes changes for one command each, of at most `limit` channels; `None` when Redis agrees with everything.
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

    /// Redis has confirmed these; called before the next changes are taken.
    pub(super) fn confirm(&self, channels: &[Channel]) {
        let mut state = self.state.lock();
        for channel in channels {
            if let Some(desired) = state.channels.get_mut(channel) {
                desired.redis_state = RedisState::Confirmed;
                desired.is_acknowledged |= desired.is_desired;
                desired.waiters.drain(..).for_each(|waiter| _ = waiter.send(Ok(())));
            }
        }
    }

    /// The connection is gone and with it everything Redis knew; whoever waits goes on waiting for the next attempt.
    pub(super) fn reset(&self) {
        let state = &mut *self.state.lock();
        state.pending.clear();
        for (channel, desired) in &mut state.channels {
            desired.redis_state = RedisState::NotRequested;
            desired.is_queued = true;
            state.pending.push_back(channel.clone());
        }
    }

    /// An attempt to connect has failed: whoever waits is told so, and asking anew fails at once until [`Self::end_outage`].
    pub(super) fn begin_outage(&self, cause: &str) {
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

    /// Connected, and Redis agrees: how many channels there are.
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

    /// Answers of Redis to everything there is to take.
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
        let asked = subscriptions.take_changes(500).unwrap();
        subscriptions.unsubscribe(&channel("a"));
        subscriptions.confirm(&asked.subscribe);
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
    fn subscribe_batches_are_bounded() {
        let subscriptions = DesiredSubscriptions::default();
        let _answers: Vec<_> =
            (0..1_200).map(|n| subscriptions.subscribe(channel(&format!("c{n}"))).unwrap()).collect();
        let sizes: Vec<_> = apply_all(&subscriptions).iter().map(|changes| changes.subscribe.len()).collect();
        assert_eq!(sizes, [500, 500, 200]);
    }
}
