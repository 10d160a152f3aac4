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
pub(super) struct Wanted {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Why nothing can be subscribed to at the moment.
    down: Option<String>,
    channels: HashMap<Channel, Want>,
    /// Channels that Redis is to be told about; those whose `is_listed` is set, once each.
    changes: VecDeque<Channel>,
}

#[derive(Default)]
struct Want {
    is_wanted: bool,
    is_listed: bool,
    /// A subscriber was told that it has the channel: it stays through outages.
    is_promised: bool,
    at_redis: AtRedis,
    waiting: Vec<Waiting>,
}

type Waiting = oneshot::Sender<Result<(), BrokerError>>;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum AtRedis {
    #[default]
    Unknown,
    Asked,
    Confirmed,
}

/// What Redis is to be told next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// SUBSCRIBE to these, and [confirm](Wanted::confirm) them.
    pub(super) subscribe: Vec<Channel>,
    /// UNSUBSCRIBE from these, after that.
    pub(super) unsubscribe: Vec<Channel>,
}

impl State {
    fn list(&mut self, channel: &Channel) {
        if let Some(want) = self.channels.get_mut(channel)
            && !mem::replace(&mut want.is_listed, true)
        {
            self.changes.push_back(channel.clone());
        }
    }
}

impl Wanted {
    /// Wants a channel from now on. The answer comes when Redis has confirmed it, or when the attempt has failed; then
    /// it is not wanted any more, unless it was before.
    pub(super) fn subscribe(
        &self,
        channel: Channel,
    ) -> Result<oneshot::Receiver<Result<(), BrokerError>>, BrokerError> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.down {
            return Err(BrokerError::Unavailable(cause.clone()));
        }
        let (waiting, answer) = oneshot::channel();
        let want = state.channels.entry(channel.clone()).or_default();
        want.is_wanted = true;
        match want.at_redis {
            AtRedis::Confirmed => {
                want.is_promised = true;
                _ = waiting.send(Ok(()));
            }
            AtRedis::Asked => want.waiting.push(waiting),
            AtRedis::Unknown => {
                want.waiting.push(waiting);
                state.list(&channel);
                self.changed.notify_one();
            }
        }
        Ok(answer)
    }

    /// Does not want a channel any more.
    pub(super) fn unsubscribe(&self, channel: &Channel) {
        let mut state = self.state.lock();
        if let Some(want) = state.channels.get_mut(channel) {
            want.is_wanted = false;
            // They had what they asked for, until this call.
            want.waiting.drain(..).for_each(|waiting| _ = waiting.send(Ok(())));
            state.list(channel);
            self.changed.notify_one();
        }
    }

    /// Waits until there may be changes to take.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes changes for one command each, of at most `limit` channels; `None` when Redis agrees with everything.
    pub(super) fn take_changes(&self, limit: usize) -> Option<Changes> {
        let mut state = self.state.lock();
        let mut changes = Changes::default();
        while changes.subscribe.len() < limit
            && changes.unsubscribe.len() < limit
            && let Some(channel) = state.changes.pop_front()
        {
            let Some(want) = state.channels.get_mut(&channel) else { continue };
            want.is_listed = false;
            match (want.is_wanted, want.at_redis) {
                (true, AtRedis::Unknown) => {
                    want.at_redis = AtRedis::Asked;
                    changes.subscribe.push(channel);
                }
                (false, at_redis) => {
                    state.channels.remove(&channel);
                    if at_redis != AtRedis::Unknown {
                        changes.unsubscribe.push(channel);
                    }
                }
                (true, AtRedis::Asked | AtRedis::Confirmed) => (),
            }
        }
        (changes != Changes::default()).then_some(changes)
    }

    /// Redis has confirmed these; called before the next changes are taken.
    pub(super) fn confirm(&self, channels: &[Channel]) {
        let mut state = self.state.lock();
        for channel in channels {
            if let Some(want) = state.channels.get_mut(channel) {
                want.at_redis = AtRedis::Confirmed;
                want.is_promised |= want.is_wanted;
                want.waiting.drain(..).for_each(|waiting| _ = waiting.send(Ok(())));
            }
        }
    }

    /// The connection is gone and with it everything Redis knew; whoever waits goes on waiting for the next attempt.
    pub(super) fn lose(&self) {
        let state = &mut *self.state.lock();
        state.changes.clear();
        for (channel, want) in &mut state.channels {
            want.at_redis = AtRedis::Unknown;
            want.is_listed = true;
            state.changes.push_back(channel.clone());
        }
    }

    /// An attempt to connect has failed: whoever waits is told so, and asking anew fails at once until [`Self::rise`].
    pub(super) fn fail(&self, cause: &str) {
        self.lose();
        let state = &mut *self.state.lock();
        state.down = Some(cause.to_owned());
        let error = BrokerError::Unavailable(cause.to_owned());
        state.channels.retain(|_, want| {
            want.waiting.drain(..).for_each(|waiting| _ = waiting.send(Err(error.clone())));
            want.is_wanted && want.is_promised
        });
        state.changes.retain(|channel| state.channels.contains_key(channel));
    }

    /// Connected, and Redis agrees: how many channels there are.
    pub(super) fn rise(&self) -> usize {
        let mut state = self.state.lock();
        state.down = None;
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
    fn settle(wanted: &Wanted) -> Vec<Changes> {
        let mut all = Vec::new();
        while let Some(changes) = wanted.take_changes(500) {
            wanted.confirm(&changes.subscribe);
            all.push(changes);
        }
        all
    }

    fn subscribes(names: &[&str]) -> Changes {
        Changes { subscribe: names.iter().map(|name| channel(name)).collect(), unsubscribe: vec![] }
    }

    #[test]
    fn the_last_call_decides() {
        let wanted = Wanted::default();
        let mut answer = wanted.subscribe(channel("a")).unwrap();
        assert!(answer.try_recv().is_err());
        assert_eq!(settle(&wanted), [subscribes(&["a"])]);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        wanted.unsubscribe(&channel("a"));
        assert_eq!(wanted.subscribe(channel("a")).unwrap().try_recv(), Ok(Ok(())));
        assert_eq!(settle(&wanted), []);
        wanted.unsubscribe(&channel("a"));
        assert_eq!(settle(&wanted), [Changes { subscribe: vec![], unsubscribe: vec![channel("a")] }]);
        assert_eq!(wanted.rise(), 0);
    }

    #[test]
    fn unsubscribing_while_redis_is_asked_is_not_forgotten() {
        let wanted = Wanted::default();
        let _answer = wanted.subscribe(channel("a")).unwrap();
        let asked = wanted.take_changes(500).unwrap();
        wanted.unsubscribe(&channel("a"));
        wanted.confirm(&asked.subscribe);
        assert_eq!(settle(&wanted), [Changes { subscribe: vec![], unsubscribe: vec![channel("a")] }]);
    }

    #[test]
    fn subscribing_while_redis_is_told_to_stop_asks_it_again() {
        let wanted = Wanted::default();
        let _answer = wanted.subscribe(channel("a")).unwrap();
        settle(&wanted);
        wanted.unsubscribe(&channel("a"));
        let _in_flight = wanted.take_changes(500).unwrap();
        let mut answer = wanted.subscribe(channel("a")).unwrap();
        assert!(answer.try_recv().is_err());
        assert_eq!(settle(&wanted), [subscribes(&["a"])]);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn flapping_does_not_grow() {
        let wanted = Wanted::default();
        for _ in 0..1_000 {
            let _answer = wanted.subscribe(channel("a")).unwrap();
            wanted.unsubscribe(&channel("a"));
        }
        assert_eq!(wanted.state.lock().changes.len(), 1);
        assert_eq!(settle(&wanted), []);
        assert_eq!(wanted.rise(), 0);
    }

    #[test]
    fn an_outage_keeps_what_was_promised_and_nothing_else() {
        let wanted = Wanted::default();
        let _kept = wanted.subscribe(channel("kept")).unwrap();
        let _left = wanted.subscribe(channel("left")).unwrap();
        settle(&wanted);
        wanted.lose();
        let mut new = wanted.subscribe(channel("new")).unwrap();
        wanted.fail("connection refused");
        assert_eq!(new.try_recv(), Ok(Err(BrokerError::Unavailable("connection refused".to_owned()))));
        assert!(wanted.subscribe(channel("new")).is_err());
        wanted.unsubscribe(&channel("left"));
        assert_eq!(settle(&wanted), [subscribes(&["kept"])]);
        assert_eq!(wanted.rise(), 1);
        assert!(wanted.subscribe(channel("new")).is_ok());
    }

    #[test]
    fn batches_are_bounded() {
        let wanted = Wanted::default();
        let _answers: Vec<_> = (0..1_200).map(|n| wanted.subscribe(channel(&format!("c{n}"))).unwrap()).collect();
        let sizes: Vec<_> = settle(&wanted).iter().map(|changes| changes.subscribe.len()).collect();
        assert_eq!(sizes, [500, 500, 200]);
    }
}
