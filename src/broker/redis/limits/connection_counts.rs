//! Counts the connections of each user on this instance, and selects the counts that Redis does not have yet. Pure, apart from
//! oneshot channels.
//!
//! A *round* asks Redis for the new connections of many users at once, and stores the counts that have changed. There is one round
//! at a time, so the counts of a user are stored in their order. They are absolute, so one that is lost is made good by the next.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// Maximum users of one round.
const ROUND_USERS: usize = 512;

/// What became of a connection. Changed under the lock of the counts only.
const ASKED: u8 = 0;
const COUNTED: u8 = 1;
/// Refused, or ended.
const GONE: u8 = 2;

/// The connections of all users, shared by the task of the broker and by the handles of the connections.
#[derive(Default)]
pub(in crate::broker::redis) struct ConnectionCounts {
    state: Mutex<State>,
    /// Wakes the task when there is a round to run.
    due: Notify,
}

#[derive(Default)]
struct State {
    users: HashMap<Arc<str>, UserConnections>,
    /// The users of the next rounds, each once.
    queue: VecDeque<Arc<str>>,
    /// `limits.connections_per_user`.
    limit: usize,
    /// Redis does not answer: connections are counted and not asked for.
    is_away: bool,
}

#[derive(Default)]
struct UserConnections {
    counted: usize,
    asking: Vec<Request>,
    is_queued: bool,
    /// The server of the user does not answer: connections are counted and not asked for.
    is_away: bool,
    /// Redis may have a count of the user.
    is_stored: bool,
}

/// A connection that waits for its verdict.
pub(super) struct Request {
    state: Arc<AtomicU8>,
    verdict: oneshot::Sender<bool>,
}

/// One connection. It is counted until this is dropped.
pub(super) struct ConnectionHandle {
    counts: Arc<ConnectionCounts>,
    user: Arc<str>,
    state: Arc<AtomicU8>,
}

/// The connections of one user, as a round asks for them.
pub(super) struct RoundUser {
    pub(super) user: Arc<str>,
    /// The number of connections that is stored in Redis.
    pub(super) counted: usize,
    /// The connections that wait for an answer.
    pub(super) asking: Vec<Request>,
}

impl ConnectionCounts {
    /// Adds a connection of a user. Returns its handle, and its verdict; none: it is allowed without asking.
    pub(super) fn add(
        self: &Arc<Self>,
        user: &Arc<str>,
        limit: usize,
    ) -> (ConnectionHandle, Option<oneshot::Receiver<bool>>) {
        let mut state = self.state.lock();
        state.limit = limit;
        let is_away = state.is_away;
        let own = state.users.entry(user.clone()).or_default();
        let is_away = is_away || own.is_away;
        let shared = Arc::new(AtomicU8::new(if is_away { COUNTED } else { ASKED }));
        let handle = ConnectionHandle { counts: self.clone(), user: user.clone(), state: shared.clone() };
        if is_away {
            own.counted += 1;
            return (handle, None);
        }
        let (verdict, receiver) = oneshot::channel();
        own.asking.push(Request { state: shared, verdict });
        self.queue(&mut state, user);
        (handle, Some(receiver))
    }

    fn queue(&self, state: &mut State, user: &Arc<str>) {
        if state.is_away {
            return;
        }
        let Some(own) = state.users.get_mut(user).filter(|own| !own.is_away) else { return };
        if !std::mem::replace(&mut own.is_queued, true) {
            state.queue.push_back(user.clone());
            self.due.notify_one();
        }
    }

    /// Waits until there is a round to run.
    pub(super) async fn due(&self) {
        loop {
            let due = self.due.notified();
            if !self.state.lock().queue.is_empty() {
                return;
            }
            due.await;
        }
    }

    /// Returns the users of the next round, and the limit.
    pub(super) fn take_round(&self) -> (Vec<RoundUser>, usize) {
        let mut state = self.state.lock();
        let count = state.queue.len().min(ROUND_USERS);
        let queued: Vec<Arc<str>> = state.queue.drain(..count).collect();
        let users = queued.into_iter().filter_map(|user| {
            let own = state.users.get_mut(&user)?;
            (own.is_queued, own.is_stored) = (false, true);
            let mut asking = std::mem::take(&mut own.asking);
            asking.retain(|request| request.state.load(Ordering::Relaxed) == ASKED);
            let counted = own.counted;
            if counted == 0 && asking.is_empty() {
                state.users.remove(&user);
            }
            Some(RoundUser { user, counted, asking })
        });
        let users = users.collect();
        (users, state.limit)
    }

    /// Ends a round for a user: so many of the connections that were asked for, the first ones, are allowed.
    pub(super) fn finish(&self, RoundUser { user, asking, .. }: RoundUser, allowed: usize) {
        if asking.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        let mut has_changed = false;
        for (index, request) in asking.into_iter().enumerate() {
            let is_allowed = index < allowed;
            let becomes = if is_allowed { COUNTED } else { GONE };
            let is_alive = request.state.compare_exchange(ASKED, becomes, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if is_allowed && is_alive {
                state.users.entry(user.clone()).or_default().counted += 1;
            }
            // Redis counts one that has ended meanwhile.
            has_changed |= is_allowed && !is_alive;
            _ = request.verdict.send(is_allowed);
        }
        if has_changed {
            state.users.entry(user.clone()).or_default().is_stored = true;
            self.queue(&mut state, &user);
        } else if state.users.get(&user).is_some_and(|own| own.counted == 0 && own.asking.is_empty() && !own.is_queued)
        {
            state.users.remove(&user);
        }
    }

    /// Ends a round for a user whose server has not answered: allows what was asked for, and from now on every connection of
    /// the user without asking, until [`Self::retry_away`] or [`Self::recount`].
    pub(super) fn finish_without_answer(&self, RoundUser { user, asking, .. }: RoundUser) {
        let mut state = self.state.lock();
        let own = state.users.entry(user).or_default();
        (own.is_away, own.is_stored) = (true, true);
        asking.into_iter().chain(std::mem::take(&mut own.asking)).for_each(|request| own.allow(request));
    }

    /// Has the counts stored of the users whose server has not answered.
    pub(super) fn retry_away(&self) {
        let mut state = self.state.lock();
        let away = state.users.iter_mut().filter_map(|(user, own)| {
            let was_away = std::mem::take(&mut own.is_away);
            was_away.then(|| user.clone())
        });
        for user in away.collect::<Vec<_>>() {
            self.queue(&mut state, &user);
        }
    }

    /// Allows everything that waits, and from now on every connection without asking, until [`Self::recount`].
    pub(super) fn begin_outage(&self) {
        let mut state = self.state.lock();
        state.is_away = true;
        state.queue.clear();
        for own in state.users.values_mut() {
            own.is_queued = false;
            std::mem::take(&mut own.asking).into_iter().for_each(|request| own.allow(request));
        }
        // Users whose number is stored in Redis stay, so that their number is sent again when Redis is back, also if it is 0.
        state.users.retain(|_, own| own.counted > 0 || own.is_stored);
    }

    /// Has all counts stored again: Redis, or another instance, may have lost them.
    pub(in crate::broker::redis) fn recount(&self) {
        let mut state = self.state.lock();
        state.is_away = false;
        state.users.values_mut().for_each(|own| own.is_away = false);
        let users: Vec<Arc<str>> = state.users.keys().cloned().collect();
        for user in users {
            self.queue(&mut state, &user);
        }
    }

    /// Returns whether Redis did not answer the last time.
    pub(super) fn is_away(&self) -> bool {
        self.state.lock().is_away
    }
}

impl UserConnections {
    /// Allows a connection without an answer of Redis.
    fn allow(&mut self, request: Request) {
        if request.state.compare_exchange(ASKED, COUNTED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.counted += 1;
        }
        _ = request.verdict.send(true);
    }
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        let mut state = self.counts.state.lock();
        let was_counted = self.state.swap(GONE, Ordering::Relaxed) == COUNTED;
        let Some(own) = state.users.get_mut(&self.user).filter(|_| was_counted) else { return };
        own.counted -= 1;
        if own.counted == 0 && !own.is_stored {
            state.users.remove(&self.user);
        } else {
            self.counts.queue(&mut state, &self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 3;

    struct Ann(Arc<ConnectionCounts>);

    impl Ann {
        fn add(&self) -> (ConnectionHandle, Option<oneshot::Receiver<bool>>) {
            self.0.add(&"ann".into(), LIMIT)
        }

        /// Runs a round in which Redis allows this number; returns the numbers and questions that are sent to Redis.
        fn round(&self, allowed: usize) -> (usize, usize) {
            let (mut users, limit) = self.0.take_round();
            assert_eq!((users.len(), limit), (1, LIMIT));
            let user = users.remove(0);
            let asked = (user.counted, user.asking.len());
            self.0.finish(user, allowed);
            asked
        }

        fn is_idle(&self) -> bool {
            self.0.take_round().0.is_empty()
        }

        fn known_users(&self) -> usize {
            self.0.state.lock().users.len()
        }
    }

    fn verdict(receiver: Option<oneshot::Receiver<bool>>) -> bool {
        receiver.unwrap().try_recv().unwrap()
    }

    #[test]
    fn first_connections_of_a_round_are_allowed_and_counted_until_they_end() {
        let ann = Ann(Arc::default());
        let (one, other) = (ann.add(), ann.add());
        assert_eq!(ann.round(1), (0, 2));
        assert!(verdict(one.1) && !verdict(other.1));
        drop(other.0);
        assert!(ann.is_idle(), "one that was refused was never counted");
        let more = ann.add();
        assert_eq!(ann.round(1), (1, 1));
        drop(one.0);
        assert_eq!(ann.round(0), (1, 0));
        drop(more.0);
        assert_eq!(ann.round(0), (0, 0), "redis forgets the user");
        assert_eq!((ann.is_idle(), ann.known_users()), (true, 0));
    }

    #[test]
    fn connection_that_ends_before_its_verdict_is_not_counted() {
        let ann = Ann(Arc::default());
        drop(ann.add());
        assert_eq!(ann.round(0), (0, 0), "before the round");
        let (handle, receiver) = ann.add();
        let (mut users, _) = ann.0.take_round();
        drop((handle, receiver));
        ann.0.finish(users.remove(0), 1);
        assert_eq!(ann.round(0), (0, 0), "redis has counted it, and has to learn that it has ended");
        assert_eq!(ann.known_users(), 0);
    }

    #[test]
    fn outage_allows_what_waits_and_everything_is_stored_when_it_is_over() {
        let ann = Ann(Arc::default());
        let (waiting, second) = (ann.add(), ann.add());
        drop(second);
        ann.0.begin_outage();
        assert!(verdict(waiting.1) && ann.0.is_away() && ann.is_idle());
        let (during, receiver) = ann.add();
        assert!(receiver.is_none());
        drop(ann.add());
        assert!(ann.is_idle());
        ann.0.recount();
        assert_eq!(ann.round(0), (2, 0));
        drop((waiting.0, during));
        assert_eq!((ann.round(0), ann.known_users()), ((0, 0), 0));
    }

    #[test]
    fn connections_of_a_user_whose_server_does_not_answer_are_not_asked_for_until_it_does() {
        let ann = Ann(Arc::default());
        let (one, ended) = (ann.add(), ann.add());
        drop(ended);
        ann.0.finish_without_answer(ann.0.take_round().0.remove(0));
        assert!(verdict(one.1) && !ann.0.is_away());
        let (other, receiver) = ann.add();
        assert!(receiver.is_none() && ann.is_idle());
        let (_bob, receiver) = ann.0.add(&"bob".into(), LIMIT);
        assert!(receiver.is_some(), "a user of another server is asked for");
        ann.0.finish(ann.0.take_round().0.remove(0), 1);
        ann.0.retry_away();
        assert_eq!(ann.round(0), (2, 0));
        drop((one.0, other));
        assert_eq!(ann.round(0), (0, 0));
    }

    #[test]
    fn redis_learns_after_an_outage_which_of_its_users_have_left_meanwhile() {
        let ann = Ann(Arc::default());
        let one = ann.add();
        ann.round(1);
        ann.0.begin_outage();
        drop((one, ann.0.add(&"bob".into(), LIMIT)));
        assert_eq!(ann.known_users(), 1, "bob was never stored");
        ann.0.recount();
        assert_eq!((ann.round(0), ann.known_users()), ((0, 0), 0));
    }

    #[test]
    fn round_has_a_maximum_of_users() {
        let counts: Arc<ConnectionCounts> = Arc::default();
        let handles: Vec<_> = (0..ROUND_USERS + 1).map(|user| counts.add(&user.to_string().into(), LIMIT)).collect();
        assert_eq!((counts.take_round().0.len(), counts.take_round().0.len()), (ROUND_USERS, 1));
        drop(handles);
    }
}
