//! The commands that wait because a server has refused one of their slot. They keep their order, and so does everything of the slot
//! that comes after them: a client that is added to the presence and removed again must not be added last. Pure.

use std::collections::{HashMap, VecDeque};

/// Maximum number of commands that wait. Above it they fail.
const MAX_WAITING: usize = 16_384;

/// The queues of the slots that have one.
pub(super) struct SlotQueues<Job> {
    queues: HashMap<u16, SlotQueue<Job>>,
    waiting: usize,
    /// Slots whose queues a task has to empty from now on.
    begun: Vec<u16>,
}

struct SlotQueue<Job> {
    jobs: VecDeque<Job>,
    /// While servers may still have commands that came before the slot moved: what waited then, and what came of each of those servers
    /// since, in the order in which the slot has left them. All of it precedes `jobs`.
    earlier: Vec<(String, VecDeque<Job>)>,
    /// How many servers may still have commands.
    holds: usize,
    is_emptied: bool,
}

impl<Job> Default for SlotQueues<Job> {
    fn default() -> Self {
        Self { queues: HashMap::new(), waiting: 0, begun: Vec::new() }
    }
}

impl<Job> Default for SlotQueue<Job> {
    fn default() -> Self {
        Self { jobs: VecDeque::new(), earlier: Vec::new(), holds: 0, is_emptied: false }
    }
}

impl<Job> SlotQueues<Job> {
    /// Returns whether no slot has a queue.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Returns whether a slot has a queue: everything has to go through it.
    pub(super) fn has_queue(&self, slot: u16) -> bool {
        self.queues.contains_key(&slot)
    }

    /// Adds a command of a server at the end of the queue of its slot.
    ///
    /// # Errors
    /// Too many commands wait.
    pub(super) fn push(&mut self, slot: u16, server: &str, job: Job) -> Result<(), Job> {
        if self.waiting >= MAX_WAITING {
            return Err(job);
        }
        self.waiting += 1;
        let queue = self.queues.entry(slot).or_default();
        match queue.earlier.iter_mut().find(|(holder, _)| holder == server && !server.is_empty()) {
            Some((_, jobs)) => jobs.push_back(job),
            None => queue.jobs.push_back(job),
        }
        self.begin_if_ready(slot);
        Ok(())
    }

    /// Lets what comes for a slot wait until [`Self::release`], because this server may still have commands of it.
    pub(super) fn hold(&mut self, slot: u16, server: &str) {
        let queue = self.queues.entry(slot).or_default();
        queue.holds += 1;
        let waiting = std::mem::take(&mut queue.jobs);
        queue.earlier.extend([(String::new(), waiting), (server.to_owned(), VecDeque::new())]);
    }

    /// Ends a hold. Without another one, what waits is sent.
    pub(super) fn release(&mut self, slot: u16) {
        if let Some(queue) = self.queues.get_mut(&slot) {
            queue.holds = queue.holds.saturating_sub(1);
            if queue.holds == 0 {
                let later = std::mem::take(&mut queue.jobs);
                queue.jobs = queue.earlier.drain(..).flat_map(|(_, jobs)| jobs).chain(later).collect();
            }
            if queue.holds == 0 && queue.jobs.is_empty() && !queue.is_emptied {
                self.queues.remove(&slot);
            } else {
                self.begin_if_ready(slot);
            }
        }
    }

    fn begin_if_ready(&mut self, slot: u16) {
        if let Some(queue) = self.queues.get_mut(&slot)
            && queue.holds == 0
            && !queue.jobs.is_empty()
            && !std::mem::replace(&mut queue.is_emptied, true)
        {
            self.begun.push(slot);
        }
    }

    /// Takes the slots whose queues are to be emptied from now on, each with [`Self::take`] until that returns `None`.
    pub(super) fn take_begun(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.begun)
    }

    /// Takes the first commands of a queue; none if nothing waits and the slot is to `keep` its queue. `None`: it has none any more, or
    /// is held.
    pub(super) fn take(&mut self, slot: u16, max: usize, keep: bool) -> Option<Vec<Job>> {
        let queue = self.queues.get_mut(&slot)?;
        if queue.holds > 0 || (queue.jobs.is_empty() && !keep) {
            queue.is_emptied = false;
            if queue.holds == 0 {
                self.queues.remove(&slot);
            }
            return None;
        }
        let count = max.min(queue.jobs.len());
        self.waiting -= count;
        Some(queue.jobs.drain(..count).collect())
    }

    /// Puts commands back that were taken, before all others.
    pub(super) fn put_back(&mut self, slot: u16, jobs: Vec<Job>) {
        self.waiting += jobs.len();
        let queue = self.queues.entry(slot).or_default();
        let first = queue.earlier.first_mut().map_or(&mut queue.jobs, |(_, jobs)| jobs);
        jobs.into_iter().rev().for_each(|job| first.push_front(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_a_slot_keep_their_order_until_none_waits() {
        let mut queues = SlotQueues::default();
        for job in [1, 2, 3] {
            queues.push(7, "a", job).unwrap();
        }
        assert_eq!(queues.take_begun(), [7]);
        assert_eq!(queues.take(7, 2, false), Some(vec![1, 2]));
        queues.push(7, "a", 4).unwrap();
        assert!(queues.take_begun().is_empty(), "its queue is being emptied");
        queues.put_back(7, vec![2]);
        assert_eq!(queues.take(7, 9, false), Some(vec![2, 3, 4]));
        assert!(queues.has_queue(7), "the commands are on their way");
        assert_eq!(queues.take(7, 9, true), Some(vec![]));
        assert!(queues.has_queue(7), "it is kept");
        assert_eq!(queues.take(7, 9, false), None);
        assert!(queues.is_empty() && queues.waiting == 0);
        queues.push(7, "a", 5).unwrap();
        assert_eq!(queues.take_begun(), [7]);
    }

    #[test]
    fn what_comes_for_a_held_slot_waits_until_every_hold_has_ended() {
        let mut queues = SlotQueues::default();
        queues.push(7, "b", 1).unwrap();
        queues.push(7, "b", 2).unwrap();
        assert_eq!((queues.take_begun(), queues.take(7, 1, false)), (vec![7], Some(vec![1])));
        // The slot moves from "a" to "b" and then to "c", while a command is on its way.
        queues.hold(7, "a");
        queues.push(7, "b", 5).unwrap();
        queues.push(7, "a", 3).unwrap();
        queues.hold(7, "b");
        queues.push(7, "c", 7).unwrap();
        queues.push(7, "b", 6).unwrap();
        queues.push(7, "a", 4).unwrap();
        queues.put_back(7, vec![1]);
        assert_eq!(queues.take(7, 9, false), None);
        queues.release(7);
        assert!(queues.take_begun().is_empty());
        queues.release(7);
        assert_eq!((queues.take_begun(), queues.take(7, 9, false)), (vec![7], Some(vec![1, 2, 3, 4, 5, 6, 7])));
        assert_eq!(queues.take(7, 9, false), None);
        queues.hold(8, "a");
        queues.release(8);
        assert!(queues.is_empty());
    }

    #[test]
    fn no_more_commands_wait_than_the_limit_allows() {
        let mut queues = SlotQueues::default();
        for job in 0..MAX_WAITING {
            queues.push((job % 3) as u16, "a", job).unwrap();
        }
        assert_eq!(queues.push(9, "a", 7), Err(7));
        queues.take(0, 1, false).unwrap();
        queues.push(9, "a", 7).unwrap();
    }
}
