//! Follows a Redis Cluster: asks its nodes for the topology, keeps a [server](super::server) for each master that has slots, and
//! gives each of them the channels of its slots. It asks at regular intervals, and at once when a server refuses a slot, ends a
//! subscription, or is lost.

mod nodes;
mod topology;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use self::{
    nodes::NodeConnections,
    topology::{NodeAddress, Topology},
};
use super::{
    RedisConfigError, RedisContext,
    inbox::BusInbox,
    partition::SLOTS,
    router::Routes,
    server::{Redirects, RedisServer, ServerAvailability, ServerQueue},
};
use crate::{
    broker::BrokerError,
    config::{RedisConfig, Secret},
};

/// Minimum time between two questions for the topology.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum time between two questions while a master is missing or down, so that a failover is followed soon.
const URGENT_INTERVAL: Duration = Duration::from_millis(250);

/// Why the Cluster as a whole cannot be used. It is logged once per change.
pub(super) struct ClusterHealth {
    availability: Arc<ServerAvailability>,
    fault: Mutex<Option<String>>,
}

/// The name of the Cluster among the addresses of its servers.
const AVAILABILITY_NAME: &str = "cluster";

impl ClusterHealth {
    /// Starts without a topology, if there is a Cluster.
    pub(super) fn new(availability: Arc<ServerAvailability>, is_cluster: bool) -> Self {
        if is_cluster {
            availability.note_down(AVAILABILITY_NAME);
        }
        Self { availability, fault: Mutex::new(is_cluster.then(|| "no node has been asked yet".to_owned())) }
    }

    /// Returns why the Cluster cannot be used.
    pub(super) fn fault(&self) -> Option<BrokerError> {
        let detail = self.fault.lock().as_ref().map(|fault| format!("redis cluster: {fault}"))?;
        Some(BrokerError::NotReady { problem: "the cluster does not work", detail })
    }

    fn report(&self, fault: Option<String>) {
        let mut before = self.fault.lock();
        if *before == fault {
            return;
        }
        match &fault {
            Some(error) => {
                log::warn!("redis cluster unavailable error={error:?}");
                self.availability.note_down(AVAILABILITY_NAME);
            }
            None => {
                log::info!("redis cluster works");
                self.availability.clear(AVAILABILITY_NAME);
            }
        }
        *before = fault;
    }
}

/// The task that follows the Cluster.
pub(super) struct ClusterFollower {
    context: Arc<RedisContext>,
    config: RedisConfig,
    queue_bytes: usize,
    inbox: Arc<BusInbox>,
    redirects: Arc<Redirects>,
    nodes: NodeConnections,
    /// The server of each master. The address of a server may be written in another way than that of its master.
    masters: HashMap<NodeAddress, Master>,
    topology: Option<Topology>,
}

struct Master {
    server: Arc<RedisServer>,
    tasks: JoinHandle<()>,
}

impl ClusterFollower {
    /// Creates the task.
    pub(super) fn new(
        context: Arc<RedisContext>,
        config: RedisConfig,
        queue_bytes: usize,
        inbox: Arc<BusInbox>,
        redirects: Arc<Redirects>,
    ) -> Self {
        let nodes = NodeConnections::new(&config);
        Self { context, config, queue_bytes, inbox, redirects, nodes, masters: HashMap::new(), topology: None }
    }

    /// Follows the Cluster, forever.
    pub(super) async fn run(mut self) {
        loop {
            let asked = Instant::now();
            self.ask().await;
            self.context.router.note_asked();
            let routes = self.context.router.routes();
            let is_urgent = self.context.cluster_health.fault().is_some()
                || routes.servers().iter().any(|server| server.fault().is_some());
            let interval = if is_urgent { URGENT_INTERVAL } else { self.context.probe_interval };
            _ = timeout(interval, self.redirects.topology_requested()).await;
            sleep_until(asked + MIN_INTERVAL).await;
        }
    }

    /// Asks the nodes, and follows what they say.
    async fn ask(&mut self) {
        let known = self.topology.iter().flat_map(|topology| topology.nodes.clone()).collect::<BTreeSet<_>>();
        let (views, problem) = self.nodes.ask_all(&known).await;
        let Some(topology) = Topology::newest(views) else {
            self.context.cluster_health.report(Some(problem.unwrap_or_else(|| "no node answers".to_owned())));
            return;
        };
        let fault = if topology.served_slots() < SLOTS {
            let served = topology.served_slots();
            Some(format!("masters serve only {served} of {SLOTS} slots; complete it with redis-cli --cluster fix"))
        } else if !topology.is_ok {
            Some("its nodes say that it is down (cluster_state:fail)".to_owned())
        } else {
            problem.filter(|problem| problem.contains(nodes::TOO_OLD))
        };
        let mut fault = fault;
        if self.topology.as_ref() != Some(&topology) {
            match self.follow(&topology) {
                Ok(()) => {
                    let masters: Vec<_> = topology.masters().iter().map(ToString::to_string).collect();
                    log::info!("following redis cluster masters={masters:?}");
                    self.topology = Some(topology);
                }
                // The slots of a master that cannot be used have no server until it can.
                Err(error) => fault = Some(error),
            }
        }
        self.context.cluster_health.report(fault);
    }

    /// Starts and ends servers, and moves channels to the servers that have them now.
    ///
    /// # Errors
    /// A master cannot be used, such as when a file with a certificate is not valid any more. The others are followed.
    fn follow(&mut self, topology: &Topology) -> Result<(), String> {
        let context = self.context.clone();
        let (mut addresses, mut servers, mut started) = (Vec::new(), Vec::new(), Vec::new());
        let mut followed = Ok(());
        for address in topology.masters() {
            if let Some(Master { server, .. }) = self.masters.get(&address) {
                servers.push(server.clone());
                addresses.push(address);
                continue;
            }
            match self.new_server(&address) {
                Ok((server, queue)) => {
                    servers.push(server.clone());
                    addresses.push(address.clone());
                    started.push((address, server, queue));
                }
                Err(error) => followed = Err(format!("cannot use the master at {address}: {error}")),
            }
        }
        let routes = Routes::to_masters(servers, topology.owners(&addresses));
        self.hold_moved_slots(&routes);
        context.router.replace(&context.names, routes);
        for (address, server, queue) in started {
            let tasks = tokio::spawn(server.clone().run(context.clone(), queue, self.inbox.clone()));
            self.masters.insert(address, Master { server, tasks });
        }
        self.end_unused(&addresses);
        followed
    }

    /// Lets what comes for a slot that has moved wait until its old server has sent what it had queued.
    fn hold_moved_slots(&self, routes: &Routes) {
        for (server, slots) in self.context.router.routes().slots_lost_in(routes) {
            self.redirects.hold(&slots, server.address());
            let (done, redirects) = (server.publishing_done(), self.redirects.clone());
            tokio::spawn(async move {
                done.await;
                redirects.release(&slots);
            });
        }
    }

    fn new_server(&self, address: &NodeAddress) -> Result<(Arc<RedisServer>, ServerQueue), RedisConfigError> {
        let url = self.config.cluster.urls.first().map(|seed| at_address(seed.expose(), address));
        let config = RedisConfig { url: Secret::new(url.unwrap_or_default()), ..self.config.clone() };
        let (names, availability) = (&self.context.names, &self.context.cluster_health.availability);
        RedisServer::new(&config, names, self.queue_bytes, availability, Some(self.redirects.clone()))
    }

    /// Ends the tasks of servers that have no slots any more.
    fn end_unused(&mut self, used: &[NodeAddress]) {
        for (_, Master { server, tasks }) in self.masters.extract_if(|address, _| !used.contains(address)) {
            tasks.abort();
            self.context.cluster_health.availability.clear(server.address());
            self.context.metrics.forget_server(server.address());
            self.context.set_subscribed(&server, false);
            // Its last messages may have been controls.
            self.context.deliver.note_lost_controls();
        }
    }
}

impl Drop for ClusterFollower {
    fn drop(&mut self) {
        self.masters.values().for_each(|master| master.tasks.abort());
    }
}

/// Returns the URL with another host and port. User, password, and what follows the host stay.
fn at_address(url: &str, address: &NodeAddress) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let login = authority.rfind('@').map_or("", |at| &authority[..=at]);
    format!("{scheme}://{login}{address}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_a_master_has_the_login_and_the_scheme_of_the_first_node() {
        for (url, expected) in [
            ("redis://localhost:6379", "redis://[::1]:7"),
            ("rediss://hub:p%40ss@a", "rediss://hub:p%40ss@[::1]:7"),
            ("redis://:pass@a:1/0?protocol=resp3", "redis://:pass@[::1]:7/0?protocol=resp3"),
        ] {
            assert_eq!(at_address(url, &NodeAddress { host: "::1".to_owned(), port: 7 }), expected);
        }
    }
}
