//! The topology that a node of a Cluster reports: which master has which slots. Nodes do not learn of a change at the same
//! moment, so the view with the highest epoch counts. There is no I/O here.

use std::{collections::HashMap, fmt};

use redis::{FromRedisValue, Value};

use super::super::partition::SLOTS;

/// Maximum number of masters. Each has connections and tasks of its own. Redis recommends at most 1,000 nodes.
const MAX_MASTERS: usize = 1000;

/// The address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The view of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    /// Rises with each failover and each slot that moves.
    epoch: u64,
    /// First and last slot, and their master. Sorted.
    ranges: Vec<(u16, u16, NodeAddress)>,
    /// All nodes with slots, masters and replicas.
    pub(super) nodes: Vec<NodeAddress>,
    /// Whether the node says that the Cluster works.
    pub(super) is_ok: bool,
}

impl Topology {
    /// Reads the replies to CLUSTER INFO and CLUSTER SLOTS of the node at `host`.
    ///
    /// # Errors
    /// A text for the operator.
    pub(super) fn parse(host: &str, info: &str, slots: Vec<Value>) -> Result<Self, String> {
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.parse().ok());
        let epoch = epoch.ok_or("the reply to CLUSTER INFO has no cluster_current_epoch")?;
        let mut topology =
            Self { epoch, ranges: Vec::new(), nodes: Vec::new(), is_ok: field("cluster_state") == Some("ok") };
        for range in slots {
            topology.add_range(host, range).ok_or("the reply to CLUSTER SLOTS has another form than expected")?;
        }
        topology.ranges.sort();
        let masters = topology.masters().len();
        if masters > MAX_MASTERS {
            return Err(format!("it has {masters} masters; at most {MAX_MASTERS} can be used"));
        }
        topology.nodes.sort();
        topology.nodes.dedup();
        Ok(topology)
    }

    /// Adds `FIRST LAST (HOST PORT ID …) …`: the master, and then its replicas.
    fn add_range(&mut self, asked: &str, range: Value) -> Option<()> {
        let Value::Array(range) = range else { return None };
        let mut parts = range.into_iter();
        let first = u16::from_redis_value(parts.next()?).ok()?;
        let last = u16::from_redis_value(parts.next()?).ok();
        let last = last.filter(|last| (usize::from(first)..SLOTS).contains(&usize::from(*last)))?;
        let mut nodes = parts.map(|node| read_node(asked, node));
        let master = nodes.next()??;
        self.nodes.extend(nodes.flatten().flatten());
        self.nodes.extend(master.clone());
        // A master without a known address: its slots are not served for us.
        self.ranges.extend(master.map(|master| (first, last, master)));
        Some(())
    }

    /// Returns the view that counts: of a node for which the Cluster works, if there is one, that with the highest epoch, of these
    /// the one that most nodes have, and of these the one with most slots. A node that is cut off from the others knows nothing
    /// new, and raises the epoch each time it asks in vain to become a master.
    pub(super) fn newest(views: Vec<Self>) -> Option<Self> {
        let mut votes = HashMap::<&[(u16, u16, NodeAddress)], usize>::new();
        views.iter().for_each(|view| *votes.entry(&view.ranges).or_default() += 1);
        let rank =
            |view: &&Self| (view.is_ok, view.epoch, votes.get(view.ranges.as_slice()).copied(), view.served_slots());
        views.iter().max_by_key(rank).cloned()
    }

    /// Returns the masters, sorted.
    pub(super) fn masters(&self) -> Vec<NodeAddress> {
        let mut masters: Vec<_> = self.ranges.iter().map(|(_, _, master)| master.clone()).collect();
        masters.sort();
        masters.dedup();
        masters
    }

    /// Returns for each slot the index of its master in `masters`.
    pub(super) fn owners(&self, masters: &[NodeAddress]) -> Vec<Option<usize>> {
        let mut owners = vec![None; SLOTS];
        for (first, last, master) in &self.ranges {
            let index = masters.iter().position(|other| other == master);
            (*first..=*last).for_each(|slot| owners[usize::from(slot)] = index);
        }
        owners
    }

    /// Returns the number of slots that have a master.
    pub(super) fn served_slots(&self) -> usize {
        self.ranges.iter().map(|(first, last, _)| usize::from(last.saturating_sub(*first)) + 1).sum()
    }
}

/// Reads `HOST PORT ID …`. An empty host or none is that of the node that was asked; `?` is unknown: `Some(None)`.
fn read_node(asked: &str, node: Value) -> Option<Option<NodeAddress>> {
    let Value::Array(node) = node else { return None };
    let mut parts = node.into_iter();
    let host = match parts.next()? {
        Value::Nil => asked.to_owned(),
        host => Some(String::from_redis_value(host).ok()?).filter(|host| !host.is_empty()).unwrap_or(asked.to_owned()),
    };
    let port = u16::from_redis_value(parts.next()?).ok()?;
    Some((host != "?").then_some(NodeAddress { host, port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: Value, port: u16) -> Value {
        Value::Array(vec![host, Value::Int(port.into()), text("id"), Value::Array(vec![])])
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    fn address(host: &str, port: u16) -> NodeAddress {
        NodeAddress { host: host.to_owned(), port }
    }

    fn view(epoch: u64, masters: &[(i64, i64, u16)]) -> Topology {
        let slots = masters.iter().map(|(first, last, port)| range(*first, *last, vec![node(text("a"), *port)]));
        let info = format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n");
        Topology::parse("asked", &info, slots.collect()).unwrap()
    }

    #[test]
    fn masters_and_replicas_are_read_with_the_host_that_was_asked_in_place_of_none() {
        let slots = vec![
            range(100, 200, vec![node(text(""), 1), node(text("b"), 2)]),
            range(0, 99, vec![node(text("::1"), 3)]),
            range(201, 16_383, vec![node(Value::Nil, 4), node(text("?"), 5)]),
        ];
        let topology = Topology::parse("asked", "cluster_state:fail\r\ncluster_current_epoch:7\r\n", slots).unwrap();
        let masters = topology.masters();
        assert_eq!(masters, [address("::1", 3), address("asked", 1), address("asked", 4)]);
        assert_eq!(masters[0].to_string(), "[::1]:3");
        assert_eq!(topology.nodes, [address("::1", 3), address("asked", 1), address("asked", 4), address("b", 2)]);
        let owners = topology.owners(&masters);
        assert_eq!([owners[0], owners[99], owners[100], owners[16_383]], [0, 0, 1, 2].map(Some));
        assert!(!topology.is_ok && topology.served_slots() == SLOTS);
    }

    #[test]
    fn slots_without_a_master_or_with_an_unknown_host_are_not_served() {
        let slots = vec![range(5, 9, vec![node(text("?"), 1)]), range(10, 19, vec![node(text("a"), 2)])];
        let topology = Topology::parse("asked", "cluster_current_epoch:1\r\n", slots).unwrap();
        assert_eq!((topology.served_slots(), topology.masters()), (10, vec![address("a", 2)]));
        assert_eq!(topology.owners(&topology.masters())[9], None);
    }

    #[test]
    fn view_with_the_highest_epoch_counts_and_then_that_of_most_nodes() {
        let (old, new) = (view(3, &[(0, 16_383, 1)]), view(4, &[(0, 16_383, 2)]));
        let behind = view(4, &[(0, 16_383, 1)]);
        assert_eq!(Topology::newest(vec![new.clone(), old.clone(), old.clone()]), Some(new.clone()));
        assert_eq!(Topology::newest(vec![behind.clone(), new.clone(), new.clone()]), Some(new.clone()));
        let partly = view(4, &[(0, 99, 3)]);
        assert_eq!(Topology::newest(vec![partly, new.clone()]), Some(new));
        assert_eq!(Topology::newest(vec![]), None);
    }

    #[test]
    fn node_that_is_cut_off_does_not_count_although_its_epoch_rises() {
        let works = view(4, &[(0, 16_383, 2)]);
        let cut_off = Topology { is_ok: false, ..view(9, &[(0, 16_383, 1)]) };
        assert_eq!(Topology::newest(vec![cut_off.clone(), works.clone()]), Some(works));
        assert_eq!(Topology::newest(vec![cut_off.clone()]), Some(cut_off));
    }

    #[test]
    fn masters_are_limited() {
        let slots = |masters: u16| {
            let range = |slot: u16| range(slot.into(), slot.into(), vec![node(text("a"), slot + 1)]);
            Topology::parse("asked", "cluster_current_epoch:1", (0..masters).map(range).collect())
        };
        assert_eq!(slots(1000).unwrap().masters().len(), 1000);
        assert!(slots(16_384).unwrap_err().contains("16384 masters"));
    }

    #[test]
    fn other_replies_are_errors() {
        for (info, slots) in [
            ("", vec![]),
            ("cluster_current_epoch:x", vec![]),
            ("cluster_current_epoch:1", vec![Value::Nil]),
            ("cluster_current_epoch:1", vec![range(0, 16_384, vec![node(text("a"), 1)])]),
            ("cluster_current_epoch:1", vec![range(0, 1, vec![])]),
            ("cluster_current_epoch:1", vec![range(2, 1, vec![node(text("a"), 1)])]),
            ("cluster_current_epoch:1", vec![range(0, 1, vec![Value::Int(1)])]),
        ] {
            assert!(Topology::parse("asked", info, slots).is_err(), "{info}");
        }
    }
}
