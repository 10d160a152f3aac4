//! Work for many sessions at once, such as closing them: a few at once, and many over half a second. The work itself is the
//! smaller part. Each session also wakes up, to read the answer of its client and to end for one, and as many tasks as there are
//! sessions would run before the next request and the next delivery.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use actix::prelude::*;
use tokio::{task::yield_now, time::sleep};

use super::Hub;

/// Time over which many sessions have their turn. The last one is closed within a second of the end of its token.
const SPREAD: Duration = Duration::from_millis(500);
/// How many sessions have their turn at once.
pub(super) const AT_ONCE: usize = 32;
/// How long the hub leaves the thread to others when no turn has come.
pub(super) const PACE_INTERVAL: Duration = Duration::from_millis(2);

/// Continues the work of a hub with `next` after the other tasks of the thread have run, or a little later if no turn has come.
pub(super) fn continue_after_others(
    ctx: &mut Context<Hub>,
    is_due: bool,
    next: impl FnOnce(&mut Hub, &mut Context<Hub>) + 'static,
) {
    let others = async move { if is_due { yield_now().await } else { sleep(PACE_INTERVAL).await } };
    ctx.spawn(actix::fut::wrap_future::<_, Hub>(others).map(|(), hub, ctx| next(hub, ctx)));
}

/// The entries that wait for their turn, first in, first out.
pub(super) struct PacedQueue<T> {
    waiting: VecDeque<T>,
    /// What was taken since `waiting` was empty.
    taken: usize,
    /// Since when `waiting` has not been empty.
    since: Option<Instant>,
}

impl<T> Default for PacedQueue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), taken: 0, since: None }
    }
}

impl<T> FromIterator<T> for PacedQueue<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self { waiting: items.into_iter().collect(), ..Self::default() }
    }
}

/// Everything that waits, whether its turn has come or not.
impl<T> IntoIterator for PacedQueue<T> {
    type Item = T;
    type IntoIter = std::collections::vec_deque::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.waiting.into_iter()
    }
}

impl<T> PacedQueue<T> {
    /// Adds an item at the end.
    pub(super) fn add(&mut self, item: T) {
        self.waiting.push_back(item);
    }

    /// Returns whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns how many items wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the next item, if its turn has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        if !self.is_due(now) {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.taken += 1;
        if self.waiting.is_empty() {
            (self.taken, self.since) = (0, None);
        }
        Some(next)
    }

    /// Returns whether the turn of the next item has come.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let elapsed = now.saturating_duration_since(*self.since.get_or_insert(now));
        let all = self.taken + self.waiting.len();
        let share = elapsed.as_secs_f64() / SPREAD.as_secs_f64();
        self.taken < AT_ONCE + (all as f64 * share) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(count: usize) -> PacedQueue<usize> {
        (0..count).collect()
    }

    fn take_all_due(queue: &mut PacedQueue<usize>, now: Instant) -> usize {
        std::iter::from_fn(|| queue.take_due(now)).count()
    }

    #[test]
    fn few_have_their_turn_at_once_and_many_over_half_a_second() {
        let start = Instant::now();
        assert_eq!(take_all_due(&mut with(AT_ONCE), start), AT_ONCE);
        let mut queue = with(10_000);
        let counts = [0, 1, 100, 250, 499, 500].map(|millis| {
            let now = start + Duration::from_millis(millis);
            take_all_due(&mut queue, now)
        });
        assert_eq!(counts[0], AT_ONCE);
        assert!(
            counts[1..5].iter().zip([20, 1980, 3000, 4968]).all(|(count, due)| count.abs_diff(due) < 2),
            "{counts:?}"
        );
        assert_eq!((counts.iter().sum::<usize>(), queue.is_empty()), (10_000, true));
        (0..100).for_each(|item| queue.add(item));
        assert_eq!(take_all_due(&mut queue, start + 4 * SPREAD), AT_ONCE, "the pace begins anew");
    }

    #[test]
    fn items_that_are_added_meanwhile_have_their_turn_in_order() {
        let (mut queue, start) = (with(1000), Instant::now());
        assert_eq!(take_all_due(&mut queue, start), AT_ONCE);
        (1000..2000).for_each(|item| queue.add(item));
        let half = start + SPREAD / 2;
        assert_eq!(take_all_due(&mut queue, half), 1000);
        assert!(queue.take_due(half).is_none());
        assert_eq!(queue.take_due(start + SPREAD), Some(1000 + AT_ONCE));
        assert_eq!(take_all_due(&mut queue, start + SPREAD), 1000 - AT_ONCE - 1);
        assert!(queue.is_empty());
    }
}
