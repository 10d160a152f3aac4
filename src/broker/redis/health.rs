//! Whether the two connections work, and since when they do not. Subscriber and publisher report here; `ready`, the
//! gauge and the log read it. One outage is one warning and one word of relief, however often it is tried in between.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;

use crate::metrics::Metrics;

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisLink {
    /// Receives publications.
    Subscriptions,
    /// Sends them.
    Publishing,
}

/// Both connections.
pub(super) struct RedisHealth {
    /// For the log: host and port, never the URL, which may carry a password.
    address: String,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    /// Why it does not work, for each link.
    faults: [Option<String>; 2],
    channels: usize,
    down_since: Option<Instant>,
}

impl RedisHealth {
    /// Not connected yet.
    pub(super) fn new(address: String, metrics: Arc<Metrics>) -> Self {
        let not_yet = || Some("not connected yet".to_owned());
        metrics.broker_up.set(0);
        let state = State { faults: [not_yet(), not_yet()], channels: 0, down_since: None };
        Self { address, metrics, state: Mutex::new(state) }
    }

    /// A link works; with how many channels, if it is the one that has any.
    pub(super) fn report_up(&self, link: RedisLink, channels: Option<usize>) {
        let mut state = self.state.lock();
        if state.faults[link as usize].take().is_none() {
            return;
        }
        state.channels = channels.unwrap_or(state.channels);
        if state.faults.iter().all(Option::is_none) {
            self.metrics.broker_up.set(1);
            let (address, channels) = (&self.address, state.channels);
            match state.down_since.take() {
                Some(since) => {
                    log::info!("redis at {address} is back after {:.1?} with {channels} channels", since.elapsed());
                }
                None => log::info!("redis at {address} is connected"),
            }
        }
    }

    /// A link does not work, because of `cause`.
    pub(super) fn report_down(&self, link: RedisLink, cause: &str) {
        let mut state = self.state.lock();
        state.faults[link as usize] = Some(cause.to_owned());
        self.metrics.broker_up.set(0);
        let what = match link {
            RedisLink::Subscriptions => "subscriptions",
            RedisLink::Publishing => "publishing",
        };
        if state.down_since.is_none() {
            state.down_since = Some(Instant::now());
            log::warn!("redis at {} is down for {what}, trying again until it is back: {cause}", self.address);
        } else {
            log::debug!("redis at {} is still down for {what}: {cause}", self.address);
        }
    }

    /// Why one link does not work, in the operator's words.
    pub(super) fn fault_of(&self, link: RedisLink) -> Option<String> {
        let state = self.state.lock();
        let what = match link {
            RedisLink::Subscriptions => "receives no publications from",
            RedisLink::Publishing => "cannot publish to",
        };
        state.faults[link as usize].as_ref().map(|cause| format!("{what} redis at {}: {cause}", self.address))
    }

    /// Why the broker is not usable, in the operator's words.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault_of(RedisLink::Subscriptions).or_else(|| self.fault_of(RedisLink::Publishing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_up_when_both_connections_are() {
        let metrics = Arc::new(Metrics::default());
        let health = RedisHealth::new("localhost:6379".to_owned(), metrics.clone());
        assert!(health.fault().is_some());
        health.report_up(RedisLink::Publishing, None);
        assert!(health.fault().unwrap().contains("receives no publications"));
        assert_eq!(metrics.broker_up.get(), 0);
        health.report_up(RedisLink::Subscriptions, Some(3));
        assert_eq!((health.fault(), metrics.broker_up.get()), (None, 1));
        health.report_down(RedisLink::Publishing, "connection refused");
        assert_eq!(health.fault().unwrap(), "cannot publish to redis at localhost:6379: connection refused");
        assert_eq!((health.fault_of(RedisLink::Subscriptions), metrics.broker_up.get()), (None, 0));
    }
}
