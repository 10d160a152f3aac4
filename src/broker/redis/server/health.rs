//! The state of the two connections: whether each works, and why not. Subscriber and publisher report it; readiness, the
//! gauge `wardcast_broker_up` and the log show it. A connection works when a publication has passed it, not when it is open. An
//! outage is logged once as a warning, and once when it has ended, however many attempts fail in between.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;

use super::board::ServerBoard;
use crate::broker::BrokerError;

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisLink {
    /// Receives publications.
    Subscriptions,
    /// Sends publications.
    Publishing,
}

/// The state of both connections.
pub(super) struct RedisHealth {
    /// Host and port for the log. Never the URL, which may contain a password.
    address: String,
    board: Arc<ServerBoard>,
    state: Mutex<State>,
}

struct State {
    /// Why each connection does not work; `None`: it works.
    faults: [Option<String>; 2],
    channels: usize,
    down_since: Option<Instant>,
}

impl RedisHealth {
    /// Starts with both connections missing.
    pub(super) fn new(address: String, board: Arc<ServerBoard>) -> Self {
        let not_connected = || Some("not connected yet".to_owned());
        board.note_down(&address);
        let state = State { faults: [not_connected(), not_connected()], channels: 0, down_since: None };
        Self { address, board, state: Mutex::new(state) }
    }

    /// Reports that a connection works; the one for subscriptions also reports its number of channels.
    pub(super) fn report_up(&self, link: RedisLink, channels: Option<usize>) {
        let mut state = self.state.lock();
        if state.faults[link as usize].take().is_none() {
            return;
        }
        state.channels = channels.unwrap_or(state.channels);
        if state.faults.iter().all(Option::is_none) {
            self.board.clear(&self.address);
            let (address, channels) = (&self.address, state.channels);
            match state.down_since.take() {
                Some(since) => {
                    log::info!(
                        "redis recovered address={address:?} outage={:.1?} channels={channels}",
                        since.elapsed()
                    );
                }
                None => log::info!("redis connected address={address:?} channels={channels}"),
            }
        }
    }

    /// Reports that a connection does not work.
    pub(super) fn report_down(&self, link: RedisLink, error: &str) {
        let mut state = self.state.lock();
        state.faults[link as usize] = Some(error.to_owned());
        self.board.note_down(&self.address);
        let address = &self.address;
        let connection = match link {
            RedisLink::Subscriptions => "subscriptions",
            RedisLink::Publishing => "publishing",
        };
        if state.down_since.is_none() {
            state.down_since = Some(Instant::now());
            log::warn!("redis unavailable, reconnecting address={address:?} connection={connection} error={error:?}");
        } else {
            log::debug!("redis still unavailable address={address:?} connection={connection} error={error:?}");
        }
    }

    /// Returns why a connection does not work, as a text for the operator.
    pub(super) fn fault_of(&self, link: RedisLink) -> Option<String> {
        let error = self.state.lock().faults[link as usize].clone()?;
        let effect = match link {
            RedisLink::Subscriptions => "receives no publications from",
            RedisLink::Publishing => "cannot publish to",
        };
        Some(format!("{effect} redis at {}: {error}", self.address))
    }

    /// Returns why the broker cannot be used.
    pub(super) fn fault(&self) -> Option<BrokerError> {
        let (problem, detail) = match (self.fault_of(RedisLink::Subscriptions), self.fault_of(RedisLink::Publishing)) {
            (None, None) => return None,
            (Some(fault), None) => ("receives no publications", fault),
            (None, Some(fault)) => ("cannot publish", fault),
            (Some(one), Some(other)) => ("cannot publish and receives no publications", format!("{one}; {other}")),
        };
        Some(BrokerError::NotReady { problem, detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn redis_is_up_when_both_connections_are() {
        let metrics = Arc::new(Metrics::default());
        let health = RedisHealth::new("localhost:6379".to_owned(), Arc::new(ServerBoard::new(metrics.clone())));
        let problem = || match health.fault() {
            Some(BrokerError::NotReady { problem, .. }) => problem,
            other => panic!("{other:?}"),
        };
        assert_eq!(problem(), "cannot publish and receives no publications");
        health.report_up(RedisLink::Publishing, None);
        assert_eq!(problem(), "receives no publications");
        assert_eq!(metrics.broker_up.get(), 0);
        health.report_up(RedisLink::Subscriptions, Some(3));
        assert_eq!((health.fault(), metrics.broker_up.get()), (None, 1));
        health.report_down(RedisLink::Publishing, "connection refused");
        let error = health.fault().unwrap().to_string();
        assert_eq!(error, "broker not ready: cannot publish to redis at localhost:6379: connection refused");
        assert_eq!(problem(), "cannot publish");
        assert_eq!((health.fault_of(RedisLink::Subscriptions), metrics.broker_up.get()), (None, 0));
    }
}
