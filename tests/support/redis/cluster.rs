//! A cluster of six nodes: three masters and a replica of each. The nodes know each other and their slots from the start, so
//! that it works after about two seconds, which is how long Redis makes a restarted master wait. It agrees on an outage
//! within about one.

use std::{fmt::Write, fs, ops::RangeInclusive, thread};

use redis::Value;

use super::{Place, RedisServer, free_ports, owned, retry, tls_arguments};
use crate::support::{poll_until, proxy::Proxy, tls::Authority};

const MASTERS: usize = 3;
const NODES: usize = 2 * MASTERS;
/// Maximum number of keys of a slot that can be moved.
const MOVED_KEYS: usize = 10_000;

/// How a node of the cluster is configured.
const ARGUMENTS: [&str; 12] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1000",
    "--cluster-replica-validity-factor",
    "0",
    "--cluster-allow-replica-migration",
    "no",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-ping-replica-period",
    "1",
];

pub struct RedisCluster {
    /// At the start the first three are masters, and each of the others is the replica of the node three before it.
    pub nodes: Vec<RedisServer>,
    /// One in front of each node, if asked for: clients learn the addresses of the proxies only. Replicas use them, too.
    pub proxies: Vec<Proxy>,
    /// The ports at which the nodes listen for TLS, if asked for: clients learn only these.
    tls_ports: Vec<u16>,
    bus_ports: Vec<u16>,
}

pub struct ClusterOptions<'a> {
    /// The slots of each master. If they are not all, the cluster is down.
    pub slots: [RangeInclusive<u16>; MASTERS],
    pub has_proxies: bool,
    /// The nodes speak TLS, also among themselves. Their commands for tests use ports without it.
    pub tls: Option<&'a Authority>,
    /// Further arguments of the nodes.
    pub arguments: &'a [&'a str],
}

impl Default for ClusterOptions<'_> {
    fn default() -> Self {
        Self { slots: [0..=5460, 5461..=10_922, 10_923..=16_383], has_proxies: false, tls: None, arguments: &[] }
    }
}

impl RedisCluster {
    /// The number of slots.
    pub const SLOTS: u16 = 16_384;

    pub async fn start() -> Self {
        Self::start_with(&ClusterOptions::default()).await
    }

    pub async fn start_with(options: &ClusterOptions<'_>) -> Self {
        let mut proxies = Vec::new();
        while options.has_proxies && proxies.len() < NODES {
            proxies.push(Proxy::start(0).await);
        }
        let announced: Vec<u16> = proxies.iter().map(Proxy::port).collect();
        let (nodes, tls_ports, bus_ports) = retry(|| start_nodes(options, &announced));
        proxies.iter().zip(&nodes).for_each(|(proxy, node)| proxy.lead_to(node.port));
        let cluster = Self { nodes, proxies, tls_ports, bus_ports };
        let has_all_slots = options.slots.iter().map(ExactSizeIterator::len).sum::<usize>() == usize::from(Self::SLOTS);
        if has_all_slots {
            cluster.wait_until_ok().await;
            cluster.wait_for_replicas(&[3, 4, 5]).await;
        }
        cluster
    }

    /// Hosts and ports of the nodes, or of their proxies.
    pub fn addresses(&self) -> Vec<String> {
        let address = |node| format!("127.0.0.1:{}", self.own_port(node));
        (0..NODES).map(address).collect()
    }

    pub async fn slot_of(&self, key: &str) -> u16 {
        self.nodes[self.alive().await[0]].run(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// The node that serves a slot, by the newest view that a living node has; `None` if no node serves it.
    pub async fn master_of(&self, slot: u16) -> Option<usize> {
        let mut newest = (0, None);
        for node in self.alive().await {
            let epoch = self.nodes[node].info(&["CLUSTER", "INFO"], "cluster_current_epoch").await;
            let epoch = epoch.and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
            if epoch > newest.0 {
                newest = (epoch, self.master_seen_by(node, slot).await);
            }
        }
        newest.1
    }

    /// A replica of this master that receives its writes.
    pub async fn replica_of(&self, master: usize) -> usize {
        self.find_replica(master).await.unwrap_or_else(|| panic!("node {master} has no replica"))
    }

    /// Makes a replica the master of its shard, with the old one alive, and waits until all nodes know it; returns the replica.
    pub async fn fail_over(&self, master: usize) -> usize {
        let replica = self.replica_of(master).await;
        self.nodes[replica].run::<()>(&["CLUSTER", "FAILOVER"]).await;
        self.wait_for_new_master(master).await
    }

    /// Waits until no living node takes this one, which may be dead, for a master with slots; returns the node that has its
    /// place.
    pub async fn wait_for_new_master(&self, old: usize) -> usize {
        let replicas = [old, (old + MASTERS) % NODES];
        let mut new = None;
        poll_until("a new master", async || {
            let mut masters = Vec::new();
            for node in self.alive().await {
                masters.push(self.masters_seen_by(node).await);
            }
            new = replicas.into_iter().find(|node| *node != old && masters.iter().all(|seen| seen.contains(node)));
            new.is_some() && !masters.iter().any(|seen| seen.contains(&old))
        })
        .await;
        self.wait_until_ok().await;
        new.unwrap()
    }

    /// Makes a node, which has no slots, a replica of another one.
    pub async fn replicate(&self, node: usize, master: usize) {
        // It may not know yet that its slots were moved.
        poll_until("the node becomes a replica", async || {
            self.nodes[node].try_run::<()>(&["FLUSHALL"]).await.is_ok()
                && self.nodes[node].try_run::<()>(&["CLUSTER", "REPLICATE", &self.id(master).await]).await.is_ok()
        })
        .await;
        self.wait_for_replicas(&[node]).await;
    }

    /// Makes a replica a master without slots again, which all nodes know.
    pub async fn make_empty_master(&self, node: usize) {
        let other = (node + 1) % NODES;
        self.nodes[node].run::<()>(&["CLUSTER", "RESET", "SOFT"]).await;
        let (port, bus) = (self.port(other).to_string(), self.bus_ports[other].to_string());
        self.nodes[node].run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        let is_known = format!("{} ", self.id(node).await);
        poll_until("all nodes know the empty master", async || {
            let mut is_master = true;
            for other in self.alive().await {
                let nodes: String = self.nodes[other].run(&["CLUSTER", "NODES"]).await;
                let lines: Vec<_> = nodes.lines().filter(|line| !line.contains("handshake")).collect();
                let is_listed = lines.iter().any(|line| line.starts_with(&is_known) && line.contains("master"));
                is_master &= is_listed && lines.len() == NODES;
            }
            is_master
        })
        .await;
        self.wait_until_ok().await;
    }

    /// Whether a replica receives the writes of this master.
    pub async fn has_replica(&self, master: usize) -> bool {
        self.find_replica(master).await.is_some()
    }

    async fn find_replica(&self, master: usize) -> Option<usize> {
        let port = self.own_port(master).to_string();
        for node in self.alive().await {
            let of = self.nodes[node].info(&["INFO", "replication"], "master_port").await;
            if of.as_ref() == Some(&port) && self.nodes[node].is_replicating().await {
                return Some(node);
            }
        }
        None
    }

    /// Moves slots with their keys to another master, and waits until all nodes know it.
    pub async fn move_slots(&self, slots: RangeInclusive<u16>, to: usize) {
        let from = self.master_of(*slots.start()).await.expect("a master of the slots");
        self.begin_move(slots.clone(), from, to).await;
        self.move_keys(slots.clone(), from, to).await;
        self.end_move(slots, from, to).await;
    }

    /// Begins to move slots: from now on the old master answers ASK for keys that it does not have.
    pub async fn begin_move(&self, slots: RangeInclusive<u16>, from: usize, to: usize) {
        self.set_slots(to, slots.clone(), "IMPORTING", &self.id(from).await).await;
        self.set_slots(from, slots, "MIGRATING", &self.id(to).await).await;
    }

    /// Moves the keys of slots whose move has begun.
    pub async fn move_keys(&self, slots: RangeInclusive<u16>, from: usize, to: usize) {
        let mut connection = self.nodes[from].connection().await.unwrap();
        let mut pipe = redis::pipe();
        for slot in slots {
            pipe.cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(MOVED_KEYS);
        }
        let keys: Vec<Vec<String>> = pipe.query_async(&mut connection).await.unwrap();
        for keys in keys.into_iter().filter(|keys| !keys.is_empty()) {
            let mut command = redis::cmd("MIGRATE");
            let port = self.tls_ports.get(to).unwrap_or(&self.nodes[to].port);
            command.arg("127.0.0.1").arg(*port).arg("").arg(0).arg(5_000).arg("KEYS").arg(keys);
            command.query_async::<()>(&mut connection).await.unwrap();
        }
    }

    /// Ends the move of slots, and waits until all nodes know it.
    pub async fn end_move(&self, slots: RangeInclusive<u16>, from: usize, to: usize) {
        let id = self.id(to).await;
        for node in [to, from] {
            self.set_slots(node, slots.clone(), "NODE", &id).await;
        }
        poll_until("all nodes know the move", async || {
            let mut is_known = true;
            for node in self.alive().await {
                is_known &= self.master_seen_by(node, *slots.end()).await == Some(to);
            }
            is_known
        })
        .await;
    }

    /// Waits until all living nodes say that the cluster works.
    pub async fn wait_until_ok(&self) {
        poll_until("the cluster works", async || self.is_ok().await).await;
    }

    /// Whether all living nodes say that the cluster works.
    pub async fn is_ok(&self) -> bool {
        let mut is_ok = true;
        for node in self.alive().await {
            is_ok &= self.nodes[node].info(&["CLUSTER", "INFO"], "cluster_state").await.as_deref() == Some("ok");
        }
        is_ok
    }

    async fn wait_for_replicas(&self, replicas: &[usize]) {
        for replica in replicas {
            poll_until("the replica is complete", async || self.nodes[*replica].is_replicating().await).await;
        }
    }

    /// The nodes that answer.
    async fn alive(&self) -> Vec<usize> {
        let mut alive = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            if node.try_run::<Value>(&["PING"]).await.is_ok() {
                alive.push(number);
            }
        }
        alive
    }

    async fn master_seen_by(&self, node: usize, slot: u16) -> Option<usize> {
        let ranges = self.slots_seen_by(node).await;
        ranges.into_iter().find(|(slots, _)| slots.contains(&slot)).map(|(_, master)| master)
    }

    async fn masters_seen_by(&self, node: usize) -> Vec<usize> {
        self.slots_seen_by(node).await.into_iter().map(|(_, master)| master).collect()
    }

    async fn slots_seen_by(&self, node: usize) -> Vec<(RangeInclusive<u16>, usize)> {
        let ranges: Vec<Vec<Value>> = self.nodes[node].try_run(&["CLUSTER", "SLOTS"]).await.unwrap_or_default();
        let ranges = ranges.iter().map(|range| {
            let number = |value: &Value| redis::from_redis_value_ref::<u16>(value).unwrap();
            let Value::Array(master) = &range[2] else { panic!("{range:?}") };
            let port = number(&master[1]);
            let master = (0..NODES).find(|node| self.port(*node) == port).expect("a node of this cluster");
            (number(&range[0])..=number(&range[1]), master)
        });
        ranges.collect()
    }

    async fn set_slots(&self, node: usize, slots: RangeInclusive<u16>, state: &str, id: &str) {
        let mut connection = self.nodes[node].connection().await.unwrap();
        let mut pipe = redis::pipe();
        for slot in slots {
            pipe.cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(state).arg(id).ignore();
        }
        pipe.query_async::<()>(&mut connection).await.unwrap();
    }

    async fn id(&self, node: usize) -> String {
        self.nodes[node].run(&["CLUSTER", "MYID"]).await
    }

    /// The port by which clients with TLS and nodes know a node.
    fn own_port(&self, node: usize) -> u16 {
        self.tls_ports.get(node).copied().unwrap_or(self.port(node))
    }

    /// The port by which clients without TLS know a node.
    fn port(&self, node: usize) -> u16 {
        self.proxies.get(node).map_or(self.nodes[node].port, Proxy::port)
    }
}

/// Starts all nodes at once, with their ports for TLS and for the bus; `None` if another process has taken a port.
fn start_nodes(options: &ClusterOptions<'_>, announced: &[u16]) -> Option<(Vec<RedisServer>, Vec<u16>, Vec<u16>)> {
    let places = [(); NODES].map(|()| Place::free());
    let tls_ports = options.tls.map_or_else(Vec::new, |_| free_ports::<NODES>().to_vec());
    let started = thread::scope(|scope| {
        let (places, tls_ports) = (&places, &tls_ports);
        let start = |number: usize| {
            let place = &places[number];
            let port = announced.get(number).copied().unwrap_or(place.port);
            let known = if tls_ports.is_empty() { announced } else { tls_ports };
            fs::write(place.directory.path().join("nodes.conf"), nodes_file(number, places, known, options)).unwrap();
            let (bus, port) = (place.second_port.to_string(), port.to_string());
            let mut arguments = [owned(&ARGUMENTS), owned(&["--cluster-port", &bus])].concat();
            match (options.tls, tls_ports.get(number)) {
                (Some(authority), Some(port)) => {
                    arguments.extend(owned(&["--tls-cluster", "yes", "--tls-replication", "yes"]));
                    arguments.extend(tls_arguments(*port, authority, &["127.0.0.1"], false));
                }
                _ => arguments.extend(owned(&["--cluster-announce-port", &port])),
            }
            arguments.extend(owned(options.arguments));
            scope.spawn(move || RedisServer::start_at(place, &arguments))
        };
        let starting: Vec<_> = (0..NODES).map(start).collect();
        starting.into_iter().map(|node| node.join().unwrap()).collect::<Vec<_>>()
    });
    let started = started.into_iter().collect::<Option<Vec<_>>>()?;
    Some((started, tls_ports, places.iter().map(|place| place.second_port).collect()))
}

/// The file in which a node keeps what it knows about the cluster.
fn nodes_file(own: usize, places: &[Place], announced: &[u16], options: &ClusterOptions<'_>) -> String {
    let id = |node: usize| format!("{:040x}", node + 1);
    let mut file = String::new();
    for (node, place) in places.iter().enumerate() {
        let port = announced.get(node).copied().unwrap_or(place.port);
        let myself = if node == own { "myself," } else { "" };
        let (role, master, epoch, slots) = match node.checked_sub(MASTERS) {
            None => ("master", "-".to_owned(), node + 1, &options.slots[node]),
            #[allow(clippy::reversed_empty_ranges, reason = "a replica has no slots")]
            Some(master) => ("slave", id(master), master + 1, &(1..=0)),
        };
        let slots = if slots.is_empty() { String::new() } else { format!(" {}-{}", slots.start(), slots.end()) };
        let address = format!("127.0.0.1:{port}@{}", place.second_port);
        writeln!(file, "{} {address} {myself}{role} {master} 0 0 {epoch} connected{slots}", id(node)).unwrap();
    }
    writeln!(file, "vars currentEpoch {MASTERS} lastVoteEpoch 0").unwrap();
    file
}
