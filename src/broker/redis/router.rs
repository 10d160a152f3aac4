//! Finds the server of a channel, of a key, and of this instance's own PUB/SUB channels. One server has all of them. Of several
//! independent servers each has a share ([`placement`](super::placement)); a Redis Cluster says which master has which
//! slot ([`cluster`](super::cluster)), so there the servers and their channels change while the broker runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::{
    names::RedisNames,
    partition::{SLOTS, slot_of},
    placement::Placement,
    server::{DesiredSubscriptions, RedisServer},
};
use crate::{broker::BrokerError, channel::Channel};

/// The servers in use, and what each of them has.
pub(super) struct Router {
    routes: ArcSwap<Routes>,
    /// Held for writing while channels move to other servers, and for reading while a subscription changes, so that each
    /// change reaches the server that then has the channel.
    subscriptions_turn: RwLock<()>,
    /// Subscriptions of channels that no server has at the moment.
    unrouted: DesiredSubscriptions,
    /// Whether this is a Cluster that has not been asked for its masters yet. Until then calls wait.
    is_starting: AtomicBool,
    started: Notify,
}

/// Which server has what.
pub(super) struct Routes {
    servers: Vec<Arc<RedisServer>>,
    map: RouteMap,
}

enum RouteMap {
    Placement(Placement),
    /// For each slot the index of its master.
    Slots(Vec<Option<usize>>),
}

impl Routes {
    /// Creates the routes to independent servers.
    pub(super) fn to_independent(servers: Vec<Arc<RedisServer>>) -> Self {
        let placement = Placement::new(servers.iter().map(|server| server.address()));
        Self { servers, map: RouteMap::Placement(placement) }
    }

    /// Creates the routes to the masters of a Cluster. `owners` has the index of the master of each slot.
    pub(super) fn to_masters(servers: Vec<Arc<RedisServer>>, mut owners: Vec<Option<usize>>) -> Self {
        owners.resize(SLOTS, None);
        Self { servers, map: RouteMap::Slots(owners) }
    }

    /// Returns all servers.
    pub(super) fn servers(&self) -> &[Arc<RedisServer>] {
        &self.servers
    }

    /// Returns the server at this address, as [`RedisServer::address`] writes it.
    pub(super) fn at(&self, address: &str) -> Option<&Arc<RedisServer>> {
        self.servers.iter().find(|server| server.address() == address)
    }

    /// Returns whether a server has what is in a slot. Independent servers have no slots, but each its own of everything.
    fn has_slot(&self, server: usize, slot: u16) -> bool {
        match &self.map {
            RouteMap::Placement(_) => true,
            RouteMap::Slots(owners) => owners.get(usize::from(slot)) == Some(&Some(server)),
        }
    }

    /// Returns a number that is the same on all nodes that find every channel on the same server.
    pub(super) fn fingerprint(&self) -> u64 {
        match &self.map {
            RouteMap::Placement(placement) => placement.fingerprint(),
            // All nodes learn from the Cluster where channels are.
            RouteMap::Slots(_) => 0,
        }
    }

    /// Returns the servers whose slots are partly another server's in `next`, each with those slots.
    pub(super) fn slots_lost_in(&self, next: &Self) -> Vec<(Arc<RedisServer>, Vec<u16>)> {
        let mut lost: Vec<_> = self.servers.iter().map(|server| (server.clone(), Vec::new())).collect();
        for slot in 0..SLOTS as u16 {
            let Some(before) = self.of_slot(slot) else { continue };
            if next.of_slot(slot).is_none_or(|after| !Arc::ptr_eq(before, after))
                && let Some((_, slots)) = lost.iter_mut().find(|(server, _)| Arc::ptr_eq(server, before))
            {
                slots.push(slot);
            }
        }
        lost.retain(|(_, slots)| !slots.is_empty());
        lost
    }

    fn of_channel(&self, names: &RedisNames, channel: &Channel) -> Option<&Arc<RedisServer>> {
        match &self.map {
            RouteMap::Placement(placement) => self.servers.get(placement.server_of(channel.as_str())?),
            RouteMap::Slots(_) => self.of_slot(names.slot_of(channel)),
        }
    }

    fn of_name(&self, name: &str) -> Option<&Arc<RedisServer>> {
        match &self.map {
            RouteMap::Placement(placement) => self.servers.get(placement.server_of(name)?),
            RouteMap::Slots(_) => self.of_slot(slot_of(name.as_bytes())),
        }
    }

    /// Returns the master of a slot.
    pub(super) fn of_slot(&self, slot: u16) -> Option<&Arc<RedisServer>> {
        match &self.map {
            RouteMap::Placement(_) => None,
            RouteMap::Slots(owners) => self.servers.get((*owners.get(usize::from(slot))?)?),
        }
    }
}

impl Router {
    /// Creates the router. The servers get the names that this instance uses on them.
    pub(super) fn new(routes: Routes, names: &RedisNames) -> Self {
        assign_own_names(&routes, names);
        Self {
            is_starting: AtomicBool::new(matches!(routes.map, RouteMap::Slots(_))),
            started: Notify::new(),
            routes: ArcSwap::from_pointee(routes),
            subscriptions_turn: RwLock::default(),
            unrouted: DesiredSubscriptions::default(),
        }
    }

    /// Returns whether this is a Cluster that has not been asked for its masters yet, so that a call has to wait for
    /// [`Self::started`].
    pub(super) fn is_starting(&self) -> bool {
        self.is_starting.load(Ordering::Relaxed)
    }

    /// Waits until the Cluster has been asked for its masters.
    pub(super) async fn started(&self) {
        loop {
            let started = self.started.notified();
            if !self.is_starting() {
                return;
            }
            started.await;
        }
    }

    /// Reports that the Cluster has been asked. From now on, calls fail whose slot no master has.
    pub(super) fn note_asked(&self) {
        if self.is_starting.swap(false, Ordering::Relaxed) {
            self.unrouted.begin_outage(UNROUTED);
            self.started.notify_waiters();
        }
    }

    /// Returns the routes at this moment.
    pub(super) fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Returns the server of a channel: its publications, its history and its presence are there.
    ///
    /// # Errors
    /// No server has it at the moment.
    pub(super) fn server_of(&self, names: &RedisNames, channel: &Channel) -> Result<Arc<RedisServer>, BrokerError> {
        self.routes.load().of_channel(names, channel).cloned().ok_or_else(no_server_error)
    }

    /// Returns the server of a key, of a PUB/SUB channel that is not a Wardcast channel's, or of another text that has to be
    /// spread over the servers.
    /// Independent servers are chosen by the whole text, also if it has a hash tag: keys that belong together have to be looked for
    /// by one text.
    ///
    /// # Errors
    /// No server has it at the moment.
    pub(super) fn server_of_name(&self, name: &str) -> Result<Arc<RedisServer>, BrokerError> {
        self.routes.load().of_name(name).cloned().ok_or_else(no_server_error)
    }

    /// Returns the server over which to send a message to instances that listen on every independent server. `text` spreads
    /// messages over them; one that works is preferred.
    ///
    /// # Errors
    /// No server has `name` at the moment.
    pub(super) fn server_for_message(&self, name: &str, text: &str) -> Result<Arc<RedisServer>, BrokerError> {
        let routes = self.routes.load();
        match &routes.map {
            RouteMap::Slots(_) => routes.of_name(name).cloned().ok_or_else(no_server_error),
            RouteMap::Placement(_) => {
                let preferred = routes.of_name(text).filter(|server| server.fault().is_none());
                let working = || routes.servers.iter().find(|server| server.fault().is_none());
                preferred.or_else(working).or(routes.servers.first()).cloned().ok_or_else(no_server_error)
            }
        }
    }

    /// Returns the servers over which this instance hears `name`, one of its own PUB/SUB channels.
    pub(super) fn servers_with(&self, name: &str) -> Vec<Arc<RedisServer>> {
        let routes = self.routes.load();
        routes.servers.iter().filter(|server| server.has_own_name(name)).cloned().collect()
    }

    /// Calls `change` with the subscriptions of the server that has the channel. Until it returns, the channel moves to no
    /// other server.
    pub(super) fn with_subscriptions<T>(
        &self,
        names: &RedisNames,
        channel: &Channel,
        change: impl FnOnce(&DesiredSubscriptions) -> T,
    ) -> T {
        let _turn = self.subscriptions_turn.read();
        match self.routes.load().of_channel(names, channel) {
            Some(server) => change(server.subscriptions()),
            None => change(&self.unrouted),
        }
    }

    /// Replaces the routes, and moves the subscriptions to the servers that have their channels now. Servers that are no longer
    /// in the routes have none afterwards.
    pub(super) fn replace(&self, names: &RedisNames, routes: Routes) {
        let _turn = self.subscriptions_turn.write();
        let before = self.routes.swap(Arc::new(routes));
        let routes = self.routes.load();
        let places = before.servers.iter().map(|server| (Some(server), server.subscriptions()));
        for (old, subscriptions) in places.chain([(None, &self.unrouted)]) {
            let has_moved = |channel: &Channel| {
                let new = routes.of_channel(names, channel);
                new.map(Arc::as_ptr) != old.map(Arc::as_ptr)
            };
            for (channel, desired) in subscriptions.extract(has_moved) {
                let new = routes.of_channel(names, &channel);
                new.map_or(&self.unrouted, |server| server.subscriptions()).adopt(channel, desired);
            }
        }
        assign_own_names(&routes, names);
    }
}

/// Tells each server which names this instance uses there.
fn assign_own_names(routes: &Routes, names: &RedisNames) {
    for (index, server) in routes.servers.iter().enumerate() {
        server.set_own_names(names.own_names(|slot| routes.has_slot(index, slot)));
    }
}

const UNROUTED: &str = "no redis master serves its slot at the moment";

/// The error of a call that no server can take.
pub(super) fn no_server_error() -> BrokerError {
    BrokerError::Unavailable(UNROUTED.to_owned())
}
