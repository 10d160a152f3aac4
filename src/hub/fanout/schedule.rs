//! The order of a hub's fan-out. Pure: it knows no clock and no socket.
//!
//! Deliveries are put into *flows*, one per channel. The flows take turns by deficit round robin: in each turn a flow
//! may do work worth one [`QUANTUM`], so that a channel with few subscribers waits for a part of the round of a channel
//! with many, never for all of it. A flow that becomes active is served before the others, once (RFC 8290 §4.2): when it
//! is empty it stays at the end of the others until its next turn, so that it does not gain by being empty.
//!
//! Within a flow, sessions wait for their flush first in, first out. A delivery is queued to the outboxes of all
//! subscribers at once; one flush writes everything that waits in an outbox. So each waiting session is flushed once
//! before any is flushed twice, and the more is published, the more a flush writes.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
};

use hashbrown::HashMap;
use slab::Slab;

use crate::hub::registry::Slot;

/// Maximum deliveries of a flow's round, and their bytes: what is queued while the sessions that waited at its start
/// are flushed. Larger rounds would save system calls and cost latency. The limit also bounds what a flow adds to an
/// outbox between two flushes.
const ROUND_DELIVERIES: usize = 64;
const ROUND_BYTES: usize = 256 * 1024;
/// Maximum new flows whose deliveries are queued before the first of them is flushed. A session that is subscribed to
/// all of them gets their deliveries with one flush.
const QUEUED_AHEAD: usize = 64;

/// Maximum pieces of work of new flows while an old one waits. Without a limit, publications to ever new channels that
/// take all of the hub's time would starve all busy channels, and finished flows would never be removed.
const NEW_TURNS: usize = 64;

/// The cost of a flush, most of which is a system call, in the cost of queueing a frame to an outbox.
const FLUSH_COST: i64 = 16;
/// The cost of a delivery, however many subscribers it has: to find them and to encode the frame.
const DELIVERY_COST: i64 = 4;
/// Bytes that cost a flush as much as queueing a frame.
const BYTES_PER_COST: usize = 1024;
/// The work of a flow's turn: 16 flushes of small frames, about 0.1 ms.
const QUANTUM: i64 = 16 * FLUSH_COST;

/// Capacity above which the memory of flows is freed when the last of them is removed.
const KEPT_CAPACITY: usize = 1024;

type Hasher = foldhash::fast::RandomState;

/// Number of a flow among the active ones.
pub(super) type FlowId = u32;

/// Stands for no flow.
const NO_FLOW: FlowId = FlowId::MAX;

/// The next piece of work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<D> {
    /// Queue the delivery to its subscribers, and call [`Schedule::await_flush`] for each.
    Queue(FlowId, D),
    /// Flush so many sessions, which [`Schedule::take_waiting`] returns.
    Flush(FlowId, usize),
}

/// Deliveries of type `D` in flows, which are known by a `K`, and the sessions that wait for a flush.
pub(super) struct Schedule<K, D> {
    flows: Slab<Flow<K, D>>,
    by_key: HashMap<K, FlowId, Hasher>,
    lists: Lists,
    waiting: WaitingSessions,
}

/// The order of the flows' turns. Each active flow is in one of the lists.
#[derive(Default)]
struct Lists {
    /// Flows that became active and have deliveries to queue.
    new: VecDeque<FlowId>,
    /// New flows whose deliveries are queued.
    queued: VecDeque<FlowId>,
    old: VecDeque<FlowId>,
    /// Pieces of work of the other two lists for which those of `old` have waited.
    new_turns: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    New,
    Queued,
    Old,
}

/// An active channel.
struct Flow<K, D> {
    key: K,
    deliveries: VecDeque<(D, usize)>,
    /// The sessions that wait for a flush, each once.
    waiting: VecDeque<Slot>,
    round: Round,
    /// The work that the flow may still do in this turn. Negative if it has done more, because a delivery is queued to
    /// all subscribers at once.
    deficit: i64,
}

/// The sessions that waited when it began are flushed, and a bounded number of deliveries is queued meanwhile.
#[derive(Default)]
struct Round {
    deliveries: usize,
    bytes: usize,
    /// Bytes of the round before, some of which the first sessions still wait for.
    previous_bytes: usize,
    /// Sessions to flush in this round; 0 before the first flush.
    flushes: usize,
}

/// In which flows each session waits: rarely in more than one.
#[derive(Default)]
struct WaitingSessions {
    /// One of the session's flows, by its slot.
    first: Vec<FlowId>,
    /// All others.
    further: HashSet<(Slot, FlowId), Hasher>,
}

enum Work {
    Queue,
    Flush,
}

impl<K: Clone + Eq + Hash, D> Default for Schedule<K, D> {
    fn default() -> Self {
        Self {
            flows: Slab::new(),
            by_key: HashMap::default(),
            lists: Lists::default(),
            waiting: WaitingSessions::default(),
        }
    }
}

impl<K: Clone + Eq + Hash, D> Schedule<K, D> {
    /// Adds a delivery of `bytes` to a flow.
    pub(super) fn add(&mut self, key: &K, delivery: D, bytes: usize) {
        let flow = match self.by_key.get(key) {
            Some(id) => *id,
            None => self.activate(key.clone()),
        };
        self.flows[flow as usize].deliveries.push_back((delivery, bytes));
    }

    /// Adds a delivery of `bytes` in front of those that wait in a flow.
    pub(super) fn add_front(&mut self, key: &K, delivery: D, bytes: usize) {
        let flow = match self.by_key.get(key) {
            Some(id) => *id,
            None => self.activate(key.clone()),
        };
        self.flows[flow as usize].deliveries.push_front((delivery, bytes));
    }

    fn activate(&mut self, key: K) -> FlowId {
        let flow = Flow {
            key: key.clone(),
            deliveries: VecDeque::new(),
            waiting: VecDeque::new(),
            round: Round::default(),
            deficit: QUANTUM,
        };
        // 2^32 flows would need more memory than there is.
        let id = self.flows.insert(flow) as FlowId;
        self.by_key.insert(key, id);
        self.lists.new.push_back(id);
        id
    }

    /// Returns the next piece of work; `None` if no delivery and no session waits.
    pub(super) fn next_step(&mut self) -> Option<Step<D>> {
        loop {
            let Some((list, id)) = self.lists.front() else {
                self.free_memory();
                return None;
            };
            let flow = &mut self.flows[id as usize];
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                self.lists.move_front(list, List::Old);
                continue;
            }
            match flow.next_work() {
                Some(Work::Queue) => {
                    if let Some(delivery) = flow.take_delivery() {
                        self.lists.note_work(list);
                        return Some(Step::Queue(id, delivery));
                    }
                }
                Some(Work::Flush) if list == List::New => self.lists.move_front(list, List::Queued),
                Some(Work::Flush) => {
                    let count = flow.begin_flushes();
                    self.lists.note_work(list);
                    return Some(Step::Flush(id, count));
                }
                None if list == List::Old => self.remove_front_of_old(),
                None => self.lists.move_front(list, List::Old),
            }
        }
    }

    /// Notes that a delivery of a flow was queued to a session: it waits for a flush, at the end unless it waits
    /// already.
    pub(super) fn await_flush(&mut self, flow: FlowId, session: Slot) {
        let of_flow = &mut self.flows[flow as usize];
        of_flow.deficit -= 1;
        if self.waiting.insert(session, flow) {
            of_flow.waiting.push_back(session);
        }
    }

    /// Takes the session that waits first for a flush in a flow. It may have ended; its slot may be that of another one.
    pub(super) fn take_waiting(&mut self, flow: FlowId) -> Option<Slot> {
        let session = self.flows.get_mut(flow as usize)?.waiting.pop_front()?;
        self.waiting.remove(session, flow);
        Some(session)
    }

    fn remove_front_of_old(&mut self) {
        if let Some(id) = self.lists.old.pop_front() {
            let flow = self.flows.remove(id as usize);
            self.by_key.remove(&flow.key);
        }
    }

    /// Frees what many flows at once have needed. Only for a schedule without flows.
    fn free_memory(&mut self) {
        if self.flows.capacity() > KEPT_CAPACITY {
            let waiting = std::mem::take(&mut self.waiting);
            *self = Self { waiting, ..Self::default() };
        }
        if self.waiting.further.capacity() > KEPT_CAPACITY {
            self.waiting.further = HashSet::default();
        }
    }
}

impl Lists {
    /// The flow whose turn it is.
    fn front(&self) -> Option<(List, FlowId)> {
        let old = self.old.front().map(|id| (List::Old, *id));
        if self.new_turns >= NEW_TURNS && old.is_some() {
            return old;
        }
        let new = if self.queued.len() < QUEUED_AHEAD { self.new.front() } else { None };
        let first = new.map(|id| (List::New, *id)).or_else(|| self.queued.front().map(|id| (List::Queued, *id)));
        first.or(old)
    }

    /// Notes that a flow of a list does a piece of work, for which those of `old`, if there are any, wait.
    fn note_work(&mut self, list: List) {
        let is_turn_of_old = list == List::Old || self.old.is_empty();
        self.new_turns = if is_turn_of_old { 0 } else { self.new_turns + 1 };
    }

    fn list(&mut self, list: List) -> &mut VecDeque<FlowId> {
        match list {
            List::New => &mut self.new,
            List::Queued => &mut self.queued,
            List::Old => &mut self.old,
        }
    }

    /// Moves the first flow of a list to the end of a list.
    fn move_front(&mut self, from: List, to: List) {
        if let Some(id) = self.list(from).pop_front() {
            self.list(to).push_back(id);
        }
    }
}

impl<K, D> Flow<K, D> {
    fn next_work(&mut self) -> Option<Work> {
        if self.waiting.is_empty() {
            self.round = Round::default();
        }
        let may_queue = self.round.deliveries < ROUND_DELIVERIES && self.round.bytes < ROUND_BYTES;
        if may_queue && !self.deliveries.is_empty() {
            return Some(Work::Queue);
        }
        (!self.waiting.is_empty()).then_some(Work::Flush)
    }

    fn take_delivery(&mut self) -> Option<D> {
        let (delivery, bytes) = self.deliveries.pop_front()?;
        self.deficit -= DELIVERY_COST;
        self.round.deliveries += 1;
        self.round.bytes += bytes;
        Some(delivery)
    }

    /// Returns how many of the waiting sessions to flush now: of this round, and as many as the deficit allows.
    fn begin_flushes(&mut self) -> usize {
        if self.round.flushes == 0 {
            self.round.flushes = self.waiting.len();
        }
        let cost = FLUSH_COST + ((self.round.previous_bytes + self.round.bytes) / BYTES_PER_COST) as i64;
        let affordable = usize::try_from((self.deficit + cost - 1) / cost).unwrap_or(1);
        let count = affordable.min(self.round.flushes);
        self.deficit -= cost * count as i64;
        self.round.flushes -= count;
        if self.round.flushes == 0 {
            self.round = Round { previous_bytes: self.round.bytes, ..Round::default() };
        }
        count
    }
}

impl WaitingSessions {
    /// Returns whether the session did not wait in this flow.
    fn insert(&mut self, session: Slot, flow: FlowId) -> bool {
        let index = session as usize;
        if index >= self.first.len() {
            self.first.resize(index + 1, NO_FLOW);
        }
        let first = &mut self.first[index];
        if *first == flow || (!self.further.is_empty() && self.further.contains(&(session, flow))) {
            return false;
        }
        if *first == NO_FLOW {
            *first = flow;
        } else {
            self.further.insert((session, flow));
        }
        true
    }

    fn remove(&mut self, session: Slot, flow: FlowId) {
        match self.first.get_mut(session as usize) {
            Some(first) if *first == flow => *first = NO_FLOW,
            _ => drop(self.further.remove(&(session, flow))),
        }
    }
}

#[cfg(test)]
mod tests;
