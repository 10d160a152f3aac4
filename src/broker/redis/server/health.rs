//! The state of a server: whether each of its connections works, and whether it stores what it is given, and why not. Subscriber,
//! publisher and storage check report it; readiness, the gauge `wardcast_broker_up` and the log show it. A connection works when
//! a publication has passed it, not when it is open. Each cause of an outage is logged once as a warning, however many attempts
//! fail in between, and so is the end of the outage.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;

use super::availability::ServerAvailability;
use crate::broker::BrokerError;

/// Maximum causes of one outage that are remembered, so that each is logged once.
const MAX_LOGGED_CAUSES: usize = 16;

/// What has to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisLink {
    /// The connection that receives publications.
    Subscriptions,
    /// The connection that sends publications.
    Publishing,
    /// The connections of the pool, and what they read and write.
    Storage,
}

/// The state of a server.
pub(super) struct RedisHealth {
    /// Host and port for the log. Never the URL, which may contain a password.
    address: String,
    availability: Arc<ServerAvailability>,
    state: Mutex<State>,
}

struct State {
    /// Why each link does not work; `None`: it works.
    faults: [Option<String>; 3],
    channels: usize,
    outage: Option<Outage>,
}

struct Outage {
    since: Instant,
    logged_causes: Vec<String>,
}

impl Outage {
    fn begin() -> Self {
        Self { since: Instant::now(), logged_causes: Vec::new() }
    }

    /// Returns whether to log this cause as a warning, and remembers it.
    fn is_new_cause(&mut self, cause: &str) -> bool {
        let is_new = self.logged_causes.len() < MAX_LOGGED_CAUSES && self.logged_causes.iter().all(|old| old != cause);
        if is_new {
            self.logged_causes.push(cause.to_owned());
        }
        is_new
    }
}

impl RedisHealth {
    /// Starts without connections.
    pub(super) fn new(address: String, availability: Arc<ServerAvailability>) -> Self {
        let not_connected = || Some("not connected yet".to_owned());
        availability.note_down(&address);
        let state = State { faults: [(); 3].map(|()| not_connected()), channels: 0, outage: None };
        Self { address, availability, state: Mutex::new(state) }
    }

    /// Reports that a link works; the one for subscriptions also reports its number of channels.
    pub(super) fn report_up(&self, link: RedisLink, channels: Option<usize>) {
        let mut state = self.state.lock();
        if state.faults[link as usize].take().is_none() {
            return;
        }
        state.channels = channels.unwrap_or(state.channels);
        if state.faults.iter().all(Option::is_none) {
            self.availability.clear(&self.address);
            let (address, channels) = (&self.address, state.channels);
            match state.outage.take() {
                Some(Outage { since, .. }) => {
                    log::info!(
                        "redis recovered address={address:?} outage={:.1?} channels={channels}",
                        since.elapsed()
                    );
                }
                None => log::info!("redis connected address={address:?} channels={channels}"),
            }
        }
    }

    /// Reports that a link does not work.
    pub(super) fn report_down(&self, link: RedisLink, error: &str) {
        let mut state = self.state.lock();
        state.faults[link as usize] = Some(error.to_owned());
        self.availability.note_down(&self.address);
        let address = &self.address;
        let connection = match link {
            RedisLink::Subscriptions => "subscriptions",
            RedisLink::Publishing => "publishing",
            RedisLink::Storage => "storage",
        };
        let phrase = if state.outage.is_none() { "redis unavailable, reconnecting" } else { "redis still unavailable" };
        if state.outage.get_or_insert_with(Outage::begin).is_new_cause(error) {
            log::warn!("{phrase} address={address:?} connection={connection} error={error:?}");
        } else {
            log::debug!("{phrase} address={address:?} connection={connection} error={error:?}");
        }
    }

    /// Returns why a link does not work, as a text for the operator.
    pub(super) fn fault_of(&self, link: RedisLink) -> Option<String> {
        let error = self.state.lock().faults[link as usize].clone()?;
        let effect = match link {
            RedisLink::Subscriptions => "receives no publications from",
            RedisLink::Publishing => "cannot publish to",
            RedisLink::Storage => "cannot store anything in",
        };
        Some(format!("{effect} redis at {}: {error}", self.address))
    }

    /// Returns why the broker cannot be used.
    pub(super) fn fault(&self) -> Option<BrokerError> {
        let fault_of = |link| self.fault_of(link);
        let (problem, detail) = match (fault_of(RedisLink::Subscriptions), fault_of(RedisLink::Publishing)) {
            (None, None) => ("cannot store anything", fault_of(RedisLink::Storage)?),
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
    fn redis_is_up_when_both_connections_and_the_storage_are() {
        let metrics = Arc::new(Metrics::default());
        let health = RedisHealth::new("localhost:6379".to_owned(), Arc::new(ServerAvailability::new(metrics.clone())));
        let problem = || match health.fault() {
            Some(BrokerError::NotReady { problem, .. }) => problem,
            other => panic!("{other:?}"),
        };
        assert_eq!(problem(), "cannot publish and receives no publications");
        health.report_up(RedisLink::Publishing, None);
        assert_eq!(problem(), "receives no publications");
        assert_eq!(metrics.broker_up.get(), 0);
        health.report_up(RedisLink::Subscriptions, Some(3));
        assert_eq!((problem(), metrics.broker_up.get()), ("cannot store anything", 0));
        health.report_up(RedisLink::Storage, None);
        assert_eq!((health.fault(), metrics.broker_up.get()), (None, 1));
        health.report_down(RedisLink::Publishing, "connection refused");
        let error = health.fault().unwrap().to_string();
        assert_eq!(error, "broker not ready: cannot publish to redis at localhost:6379: connection refused");
        assert_eq!(problem(), "cannot publish");
        assert_eq!((health.fault_of(RedisLink::Subscriptions), metrics.broker_up.get()), (None, 0));
    }

    #[test]
    fn each_cause_of_an_outage_is_logged_once_and_their_number_is_limited() {
        let mut outage = Outage::begin();
        let logged = ["closed", "refused", "refused", "closed", "WRONGPASS"].map(|cause| outage.is_new_cause(cause));
        assert_eq!(logged, [true, true, false, false, true]);
        let more = (0..100).filter(|number| outage.is_new_cause(&number.to_string())).count();
        assert_eq!(more, MAX_LOGGED_CAUSES - 3);
    }
}
