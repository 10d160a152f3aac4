//! The list of the other live nodes, which this node knows from their heartbeats. A node is alive until it says goodbye, or
//! until it has been silent for [`SILENT_INTERVALS`] heartbeats while this node was listening: an outage of Redis or a pause of
//! this process says nothing about the other nodes.
//!
//! [`NodeList`] is the list without I/O; [`NodeRegistry`] shares it, logs its changes, and counts the nodes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::envelope::DropReason;
use crate::{broker::NodeIdentity, config, metrics::Metrics};

/// A node that has been silent for so many heartbeats is no longer alive: 15 s by default.
const SILENT_INTERVALS: u32 = 3;
/// A node whose heartbeat is late by half an interval may be frozen: a survey does not wait long for it.
const LATE_HALF_INTERVALS: u32 = 3;

/// The list of nodes, shared by the tasks of the broker.
pub(super) struct NodeRegistry {
    list: Mutex<NodeList>,
    metrics: Arc<Metrics>,
}

/// A live node, as a survey asks it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LiveNode {
    /// The node's id with the random part, as its messages carry it.
    pub(super) instance: String,
    pub(super) identity: NodeIdentity,
    /// Whether it has not answered the last survey, or its heartbeat is late.
    pub(super) is_suspect: bool,
}

impl NodeRegistry {
    /// Creates an empty list of at most `broker.redis.max_nodes` other nodes.
    pub(super) fn new(config: &config::RedisConfig, metrics: Arc<Metrics>) -> Self {
        metrics.nodes.set(1);
        Self { list: Mutex::new(NodeList::new(config.heartbeat_interval, config.max_nodes, Instant::now())), metrics }
    }

    /// Notes a heartbeat.
    ///
    /// # Errors
    /// The node is new, and the list is full.
    pub(super) fn record_heartbeat(&self, instance: &str, node: &NodeIdentity) -> Result<(), DropReason> {
        self.remove_silent();
        let mut list = self.list.lock();
        if list.record_heartbeat(instance, node, Instant::now())? {
            self.log_change(&list, "joined", node);
        }
        Ok(())
    }

    /// Notes whether a node looks for channels on other servers than this one.
    pub(super) fn record_layout(&self, instance: &str, is_other: bool) {
        let mut list = self.list.lock();
        let Some(node) = list.nodes.get_mut(instance) else { return };
        // Once for each node, or another program could fill the log.
        if is_other && !std::mem::replace(&mut node.has_other_layout, true) {
            log::error!(
                "node uses other redis servers for the same channels uid={:?} name={:?} \
                 error=\"broker.redis.url or broker.redis.urls differs; name the same servers, by the same hosts, on all nodes\"",
                node.identity.uid,
                node.identity.name
            );
        }
    }

    /// Notes an answer to a survey. Returns whether its sender is a live node.
    pub(super) fn record_answer(&self, instance: &str) -> bool {
        self.list.lock().record_answer(instance, Instant::now())
    }

    /// Removes a node that has said goodbye.
    pub(super) fn remove(&self, instance: &str) {
        let mut list = self.list.lock();
        if let Some(node) = list.nodes.remove(instance) {
            self.log_change(&list, "left", &node.identity);
        }
    }

    /// Removes the nodes that have been silent for too long. To be called at least once per heartbeat interval.
    pub(super) fn remove_silent(&self) {
        let mut list = self.list.lock();
        for node in list.remove_silent(Instant::now()) {
            self.metrics.nodes.set(list.count());
            log::warn!(
                "node lost uid={:?} name={:?} error=\"no heartbeat for {:?}\"",
                node.uid,
                node.name,
                list.lifetime()
            );
        }
    }

    /// Returns when the next node is removed, unless it is heard before.
    pub(super) fn next_removal(&self) -> Option<Instant> {
        self.list.lock().next_removal()
    }

    /// Reports that heartbeats arrive from now on.
    pub(super) fn start_listening(&self) {
        self.list.lock().start_listening(Instant::now());
    }

    /// Reports that no heartbeat can arrive.
    pub(super) fn stop_listening(&self) {
        self.list.lock().listening_since = None;
    }

    /// Returns whether heartbeats and answers can arrive.
    pub(super) fn is_listening(&self) -> bool {
        self.list.lock().listening_since.is_some()
    }

    /// Returns the other instances that are alive. `None`: this node cannot know it, because it has not listened for as long
    /// as a silent node counts as alive, or because its list is full.
    pub(super) fn live_instances(&self) -> Option<HashSet<String>> {
        self.remove_silent();
        self.list.lock().live_instances(Instant::now())
    }

    /// Returns how many instances receive what is sent to all, this one included. Nodes do not count that have not been heard since
    /// [nothing reached them](Self::record_unreached): they may have been killed. `None`: as [`Self::live_instances`].
    pub(super) fn expected_receivers(&self) -> Option<i64> {
        self.remove_silent();
        self.list.lock().expected_receivers(Instant::now())
    }

    /// Notes that a node does not receive what is sent to all.
    pub(super) fn record_unreached(&self, instance: &str) {
        if let Some(node) = self.list.lock().nodes.get_mut(instance) {
            node.unreached_since.get_or_insert_with(Instant::now);
        }
    }

    /// Notes that all nodes that are heard receive what is sent to all.
    pub(super) fn forget_unreached(&self) {
        let mut list = self.list.lock();
        list.nodes.values_mut().filter(|node| !node.may_be_gone()).for_each(|node| node.unreached_since = None);
    }

    /// Returns the other nodes that are alive.
    pub(super) fn live_nodes(&self) -> Vec<LiveNode> {
        self.remove_silent();
        self.list.lock().live_nodes(Instant::now())
    }

    /// Returns the instance of another node that is alive, by the id of the node.
    pub(super) fn instance_of(&self, uid: &str) -> Option<String> {
        let list = self.list.lock();
        list.nodes.iter().find(|(_, node)| node.identity.uid == uid).map(|(instance, _)| instance.clone())
    }

    /// Notes that these nodes have not answered a survey. Returns those of them that are still alive.
    pub(super) fn record_missed(&self, instances: impl IntoIterator<Item = String>) -> Vec<NodeIdentity> {
        let mut list = self.list.lock();
        instances.into_iter().filter_map(|instance| list.record_missed(&instance)).collect()
    }

    fn log_change(&self, list: &NodeList, change: &str, node: &NodeIdentity) {
        self.metrics.nodes.set(list.count());
        log::info!("node {change} uid={:?} name={:?} nodes={}", node.uid, node.name, list.count());
    }
}

/// The nodes by their instances. Time is given by the caller.
struct NodeList {
    interval: Duration,
    max_nodes: usize,
    nodes: HashMap<String, KnownNode>,
    /// Since when heartbeats arrive without a break; `None`: none can arrive.
    listening_since: Option<Instant>,
    checked_at: Instant,
}

struct KnownNode {
    identity: NodeIdentity,
    heard_at: Instant,
    has_missed_survey: bool,
    has_other_layout: bool,
    /// Since when nothing that is sent to all reaches it.
    unreached_since: Option<Instant>,
}

impl KnownNode {
    /// Returns whether it has not been heard since nothing reaches it.
    fn may_be_gone(&self) -> bool {
        self.unreached_since.is_some_and(|since| self.heard_at <= since)
    }
}

impl NodeList {
    fn new(interval: Duration, max_nodes: usize, now: Instant) -> Self {
        Self { interval, max_nodes, nodes: HashMap::new(), listening_since: None, checked_at: now }
    }

    fn lifetime(&self) -> Duration {
        self.interval * SILENT_INTERVALS
    }

    /// The number of live nodes, this one included.
    fn count(&self) -> i64 {
        i64::try_from(self.nodes.len() + 1).unwrap_or(i64::MAX)
    }

    /// Returns whether the node is new.
    fn record_heartbeat(&mut self, instance: &str, identity: &NodeIdentity, now: Instant) -> Result<bool, DropReason> {
        if let Some(node) = self.nodes.get_mut(instance) {
            node.heard_at = now;
            return Ok(false);
        }
        if self.nodes.len() >= self.max_nodes {
            return Err(DropReason("too_many_nodes"));
        }
        let identity = identity.clone();
        let (has_missed_survey, has_other_layout, unreached_since) = (false, false, None);
        let node = KnownNode { identity, heard_at: now, has_missed_survey, has_other_layout, unreached_since };
        self.nodes.insert(instance.to_owned(), node);
        Ok(true)
    }

    fn record_answer(&mut self, instance: &str, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(instance) else { return false };
        (node.heard_at, node.has_missed_survey) = (now, false);
        true
    }

    fn record_missed(&mut self, instance: &str) -> Option<NodeIdentity> {
        let node = self.nodes.get_mut(instance)?;
        node.has_missed_survey = true;
        Some(node.identity.clone())
    }

    fn start_listening(&mut self, now: Instant) {
        self.listening_since = Some(now);
        self.checked_at = now;
        self.nodes.values_mut().for_each(|node| node.heard_at = now);
    }

    fn remove_silent(&mut self, now: Instant) -> Vec<NodeIdentity> {
        if self.listening_since.is_none() {
            return Vec::new();
        }
        // This process has been paused, too: what the others have sent meanwhile is still in the socket.
        if now.duration_since(self.checked_at) >= self.late_after() {
            self.start_listening(now);
        }
        self.checked_at = now;
        let lifetime = self.lifetime();
        let silent = self.nodes.extract_if(|_, node| now.duration_since(node.heard_at) >= lifetime);
        silent.map(|(_, node)| node.identity).collect()
    }

    fn next_removal(&self) -> Option<Instant> {
        let oldest = self.nodes.values().map(|node| node.heard_at).min().filter(|_| self.listening_since.is_some());
        oldest.map(|heard_at| heard_at + self.lifetime())
    }

    fn late_after(&self) -> Duration {
        self.interval * LATE_HALF_INTERVALS / 2
    }

    fn live_instances(&self, now: Instant) -> Option<HashSet<String>> {
        let is_complete = self.listening_since.is_some_and(|since| now.duration_since(since) >= self.lifetime())
            && self.nodes.len() < self.max_nodes;
        is_complete.then(|| self.nodes.keys().cloned().collect())
    }

    fn expected_receivers(&self, now: Instant) -> Option<i64> {
        let gone = self.nodes.values().filter(|node| node.may_be_gone()).count();
        self.live_instances(now).map(|_| self.count() - i64::try_from(gone).unwrap_or(i64::MAX))
    }

    fn live_nodes(&self, now: Instant) -> Vec<LiveNode> {
        let live = self.nodes.iter().map(|(instance, node)| LiveNode {
            instance: instance.clone(),
            identity: node.identity.clone(),
            is_suspect: node.has_missed_survey || now.duration_since(node.heard_at) >= self.late_after(),
        });
        live.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);
    const SECOND: Duration = Duration::from_secs(1);

    fn node(uid: &str) -> NodeIdentity {
        NodeIdentity { uid: uid.to_owned(), name: "host".to_owned() }
    }

    /// A list that listens and knows "a" and "b", and the time.
    fn list_of_two() -> (NodeList, Instant) {
        let now = Instant::now();
        let mut list = NodeList::new(INTERVAL, 3, now);
        list.start_listening(now);
        for uid in ["a", "b"] {
            assert_eq!(list.record_heartbeat(uid, &node(uid), now), Ok(true));
        }
        (list, now)
    }

    /// Checks the list every second until so many seconds after `start`; returns the nodes that it has removed.
    fn removed_until(
        list: &mut NodeList,
        start: Instant,
        seconds: std::ops::RangeInclusive<u32>,
    ) -> Vec<(u32, String)> {
        let removed = seconds.flat_map(|second| {
            let silent = list.remove_silent(start + SECOND * second);
            silent.into_iter().map(move |node| (second, node.uid)).collect::<Vec<_>>()
        });
        removed.collect()
    }

    #[test]
    fn node_is_removed_after_three_silent_intervals() {
        let (mut list, start) = list_of_two();
        assert_eq!(removed_until(&mut list, start, 1..=10), []);
        assert_eq!(list.record_heartbeat("a", &node("a"), start + SECOND * 10), Ok(false));
        assert_eq!(list.next_removal(), Some(start + SECOND * 15));
        assert_eq!(removed_until(&mut list, start, 11..=24), [(15, "b".to_owned())]);
        assert!(list.record_answer("a", start + SECOND * 24), "an answer is a sign of life, too");
        assert_eq!(removed_until(&mut list, start, 25..=60), [(39, "a".to_owned())]);
        assert_eq!((list.count(), list.next_removal()), (1, None));
    }

    #[test]
    fn nodes_are_kept_while_this_node_cannot_hear_them() {
        let (mut list, start) = list_of_two();
        list.listening_since = None;
        assert_eq!(removed_until(&mut list, start, 1..=100), []);
        assert_eq!((list.count(), list.next_removal()), (3, None));
        list.start_listening(start + SECOND * 100);
        assert_eq!(removed_until(&mut list, start, 101..=114), []);
        assert_eq!(removed_until(&mut list, start, 115..=115).len(), 2);
    }

    #[test]
    fn pause_of_this_process_removes_no_node() {
        let (mut list, start) = list_of_two();
        assert_eq!(list.remove_silent(start + SECOND * 60), []);
        assert_eq!(removed_until(&mut list, start, 61..=74), []);
        assert_eq!(removed_until(&mut list, start, 75..=75).len(), 2);
    }

    #[test]
    fn node_that_missed_a_survey_or_a_heartbeat_is_suspect_until_it_is_heard() {
        let (mut list, start) = list_of_two();
        let suspects = |list: &NodeList, second| {
            let live = list.live_nodes(start + SECOND * second);
            let suspects = live.into_iter().filter(|node| node.is_suspect).map(|node| node.instance);
            suspects.collect::<Vec<_>>()
        };
        assert_eq!(suspects(&list, 7), Vec::<String>::new());
        assert_eq!(suspects(&list, 8).len(), 2);
        assert_eq!(list.record_missed("a"), Some(node("a")));
        assert_eq!(list.record_missed("unknown"), None);
        list.record_heartbeat("a", &node("a"), start + SECOND * 7).unwrap();
        list.record_heartbeat("b", &node("b"), start + SECOND * 7).unwrap();
        assert_eq!(suspects(&list, 8), ["a"], "its hubs may hang although its heartbeats arrive");
        assert!(list.record_answer("a", start + SECOND * 8));
        assert_eq!(suspects(&list, 8), Vec::<String>::new());
        assert!(!list.record_answer("unknown", start));
    }

    #[test]
    fn node_that_is_not_reached_counts_until_it_is_known_not_to_be_and_again_when_it_is_heard() {
        let (mut list, start) = list_of_two();
        let expected = |list: &NodeList, second| list.expected_receivers(start + SECOND * second);
        assert_eq!((expected(&list, 14), expected(&list, 15)), (None, Some(3)));
        list.nodes.get_mut("a").unwrap().unreached_since = Some(start + SECOND * 16);
        assert_eq!(expected(&list, 17), Some(2), "it may have been killed");
        list.record_heartbeat("a", &node("a"), start + SECOND * 18).unwrap();
        assert_eq!(expected(&list, 19), Some(3), "it is alive, and still not reached");
    }

    #[test]
    fn live_instances_are_known_once_a_silent_node_would_have_been_removed() {
        let (mut list, start) = list_of_two();
        let live = |list: &NodeList, second| {
            list.live_instances(start + SECOND * second).map(|live| {
                let mut live: Vec<String> = live.into_iter().collect();
                live.sort_unstable();
                live.join(" ")
            })
        };
        assert_eq!(live(&list, 14), None);
        assert_eq!(live(&list, 15).as_deref(), Some("a b"));
        list.nodes.remove("a");
        assert_eq!(live(&list, 15).as_deref(), Some("b"), "a node that has said goodbye");
        list.listening_since = None;
        assert_eq!(live(&list, 60), None, "an outage");
        list.start_listening(start + SECOND * 60);
        assert_eq!(live(&list, 74), None);
        assert_eq!(live(&list, 75).as_deref(), Some("b"));
        for uid in ["c", "d"] {
            assert_eq!(list.record_heartbeat(uid, &node(uid), start + SECOND * 75), Ok(true));
        }
        assert_eq!(live(&list, 75), None, "others may be alive that the full list does not have");
    }

    #[test]
    fn full_list_accepts_no_new_node_and_keeps_its_own() {
        let (mut list, now) = list_of_two();
        assert_eq!(list.record_heartbeat("c", &node("c"), now), Ok(true));
        for forged in 0..1000 {
            assert_eq!(list.record_heartbeat(&forged.to_string(), &node("x"), now), Err(DropReason("too_many_nodes")));
        }
        assert_eq!((list.count(), list.record_heartbeat("a", &node("a"), now)), (4, Ok(false)));
        list.nodes.remove("b");
        assert_eq!(list.record_heartbeat("d", &node("d"), now), Ok(true));
    }
}
