//! Decides when a worker verifies the tokens of clients that connect. A verification takes up to a third of a millisecond
//! (ES384), so a storm of them would hold up deliveries and commands. A worker verifies for `limits.verification_turn` at a
//! time, then does its other work. Clients that have to wait take turns by address; too many, or for too long, and they are
//! refused before they cost a verification. So a storm takes what the rest of the work leaves, however large it is.
//!
//! Refused tokens are wasted work. An address that has sent many of them lately waits until all others had their turn, and all
//! such addresses together have `limits.refused_token_share` of the worker's time.

mod waiting_clients;

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{sleep, timeout},
};

use self::waiting_clients::WaitingClients;
use super::TokenError;
use crate::{
    address::ClientAddress,
    config::Limits,
    metrics::{Metrics, Queue, QueueDepth},
    rate_limit::KeyedRateLimiter,
};

/// Refused tokens of an address for which it is not suspected, at once.
const REFUSED_AT_ONCE: u32 = 20;
/// Time after which an address may send another refused token.
const REFUSED_INTERVAL: Duration = Duration::from_millis(100);
/// How long the worker leaves suspected addresses alone when their share is used up.
const SUSPECT_PAUSE: Duration = Duration::from_millis(1);
/// A verification that took longer was interrupted by the system.
const MAX_VERIFICATION: Duration = Duration::from_millis(2);

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::new(Worker::default());
}

/// The limits of verifications, on each worker.
struct QueueLimits {
    /// `limits.verification_turn`; zero: no limit.
    turn: Duration,
    max_waiting: usize,
    max_wait: Duration,
    /// How long suspected addresses wait after a verification of theirs, as a multiple of its duration.
    suspect_factor: u32,
}

impl From<&Limits> for QueueLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            turn: limits.verification_turn,
            max_waiting: limits.verification_queue,
            max_wait: limits.verification_wait,
            suspect_factor: 100 / limits.refused_token_share.clamp(1, 100),
        }
    }
}

/// The verifications of all workers. What is counted belongs to the worker of the thread that calls.
pub struct VerificationQueue {
    /// A reload replaces them.
    limits: ArcSwap<QueueLimits>,
    refused_tokens: KeyedRateLimiter,
    /// Clients that wait, on all workers.
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// More clients connect than the worker can verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overloaded;

/// The turn of a client, whose token is to be verified now.
#[must_use]
pub struct VerificationTurn {
    queue: Arc<VerificationQueue>,
    address: ClientAddress,
    started: Instant,
    /// `None` without a limit.
    grant: Option<Grant>,
}

/// Counts a client whose turn it is, until this is dropped: also if the client has left.
struct Grant;

impl Drop for Grant {
    fn drop(&mut self) {
        // Fails when the thread ends.
        _ = WORKER.try_with(|worker| worker.borrow_mut().granted -= 1);
    }
}

/// Counts a client that waits, until this is dropped.
struct WaitingClient<'a>(&'a AtomicUsize);

impl<'a> WaitingClient<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for WaitingClient<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Worker {
    waiting: WaitingClients<oneshot::Sender<Grant>>,
    /// Clients whose turn it is.
    granted: u32,
    /// Time that was spent since the other work of the thread had its turn.
    spent: Duration,
    /// Average duration of a verification.
    average: Duration,
    /// When suspected addresses may have the next verification.
    suspects_at: Option<Instant>,
    /// A task lets the other work of the thread have its turn, and then the clients that wait.
    is_running: bool,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            waiting: WaitingClients::default(),
            granted: 0,
            spent: Duration::ZERO,
            average: Duration::from_micros(50),
            suspects_at: None,
            is_running: false,
        }
    }
}

impl VerificationQueue {
    /// Creates the queue with these limits.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            limits: ArcSwap::from_pointee(QueueLimits::from(limits)),
            refused_tokens: KeyedRateLimiter::with_interval(REFUSED_INTERVAL, REFUSED_AT_ONCE),
            waiting: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Returns how many clients wait, of those that may wait on `workers` workers.
    pub fn depth(&self, workers: usize) -> QueueDepth {
        let limit = self.limits.load().max_waiting.saturating_mul(workers);
        QueueDepth::of_entries(Queue::Verifications, self.waiting.load(Ordering::Relaxed), limit)
    }

    /// Changes the limits. Clients that wait already wait by the old ones.
    pub fn set_limits(&self, limits: &Limits) {
        self.limits.store(Arc::new(limits.into()));
    }

    /// Returns the turn of a client that does not have to wait.
    pub fn try_turn(self: &Arc<Self>, address: ClientAddress) -> Option<VerificationTurn> {
        let turn = self.limits.load().turn;
        if turn.is_zero() {
            return Some(self.begin_turn(address, None));
        }
        let is_free = WORKER.with_borrow_mut(|worker| {
            let is_free = worker.waiting.is_empty()
                && worker.has_time(turn)
                && (worker.may_take_suspects(Instant::now()) || !self.is_suspected(&address));
            if is_free {
                worker.granted += 1;
                self.run(worker);
            }
            is_free
        });
        is_free.then(|| {
            self.metrics.count_verification("immediate");
            self.begin_turn(address, Some(Grant))
        })
    }

    /// Waits for the turn of a client.
    ///
    /// # Errors
    /// [`Overloaded`]: too many wait, or it would take longer than `limits.verification_wait`.
    pub async fn wait_for_turn(self: &Arc<Self>, address: ClientAddress) -> Result<VerificationTurn, Overloaded> {
        if let Some(turn) = self.try_turn(address) {
            return Ok(turn);
        }
        let (sender, granted) = oneshot::channel();
        let (max_waiting, max_wait) = {
            let limits = self.limits.load();
            (limits.max_waiting, limits.max_wait)
        };
        let has_room = WORKER.with_borrow_mut(|worker| {
            let is_suspected = |address: &ClientAddress| self.is_suspected(address);
            let has_room = worker.waiting.add(address, sender, max_waiting, oneshot::Sender::is_closed, is_suspected);
            self.run(worker);
            has_room
        });
        let grant = match has_room {
            true => {
                let _waiting = WaitingClient::new(&self.waiting);
                timeout(max_wait, granted).await.ok().and_then(Result::ok)
            }
            false => None,
        };
        self.metrics.count_verification(if grant.is_some() { "waited" } else { "refused" });
        grant.map(|grant| self.begin_turn(address, Some(grant))).ok_or(Overloaded)
    }

    /// Verifies the token of a client in its turn.
    ///
    /// # Errors
    /// As [`Self::wait_for_turn`]; inside, those of `verify`.
    pub async fn verify<T>(
        self: &Arc<Self>,
        address: ClientAddress,
        verify: impl FnOnce() -> Result<T, TokenError>,
    ) -> Result<Result<T, TokenError>, Overloaded> {
        let turn = self.wait_for_turn(address).await?;
        let verified = verify();
        turn.finish(verified.as_ref().is_err_and(|error| !error.may_be_honest()));
        Ok(verified)
    }

    fn begin_turn(self: &Arc<Self>, address: ClientAddress, grant: Option<Grant>) -> VerificationTurn {
        VerificationTurn { queue: self.clone(), address, started: Instant::now(), grant }
    }

    fn is_suspected(&self, address: &ClientAddress) -> bool {
        self.refused_tokens.check(address).is_err()
    }

    /// Starts the task of the worker, unless it runs.
    fn run(self: &Arc<Self>, worker: &mut Worker) {
        if !std::mem::replace(&mut worker.is_running, true) {
            actix_rt::spawn(self.clone().grant_turns());
        }
    }

    /// Grants turns to the clients that wait, after the other work of the thread, until none waits.
    async fn grant_turns(self: Arc<Self>) {
        loop {
            yield_now().await;
            match self.grant_next_turns() {
                NextTurns::Granted => {}
                NextTurns::SuspectsWait => sleep(SUSPECT_PAUSE).await,
                NextTurns::NobodyWaits => return,
            }
        }
    }

    fn grant_next_turns(&self) -> NextTurns {
        let (mut turns, turn) = (Vec::new(), self.limits.load().turn);
        let state = WORKER.with_borrow_mut(|worker| {
            worker.spent = Duration::ZERO;
            let now = Instant::now();
            while worker.has_time(turn) {
                let takes_suspects = worker.may_take_suspects(now);
                let Some(client) = worker.waiting.take(takes_suspects, |address| self.is_suspected(address)) else {
                    break;
                };
                if client.is_closed() {
                    continue;
                }
                worker.granted += 1;
                turns.push(client);
            }
            if worker.granted > 0 {
                NextTurns::Granted
            } else if worker.waiting.is_empty() {
                worker.is_running = false;
                NextTurns::NobodyWaits
            } else {
                NextTurns::SuspectsWait
            }
        });
        // Those that have left give their turn back.
        turns.into_iter().for_each(|client| drop(client.send(Grant)));
        state
    }
}

/// The outcome of a round of turns.
enum NextTurns {
    /// Clients have their turn.
    Granted,
    /// Only suspected addresses wait, whose share is used up.
    SuspectsWait,
    NobodyWaits,
}

impl Worker {
    /// Returns whether another client may have its turn before the other work of the thread: at least one may.
    fn has_time(&self, turn: Duration) -> bool {
        let expected = self.spent + self.average * self.granted;
        expected.is_zero() || expected + self.average <= turn
    }

    fn may_take_suspects(&self, now: Instant) -> bool {
        self.suspects_at.is_none_or(|at| now >= at)
    }
}

impl VerificationTurn {
    /// Ends the turn. `is_refused`: the token was refused, and not for being expired or the like, which happens to honest clients.
    pub fn finish(self, is_refused: bool) {
        let Self { queue, address, started, grant } = self;
        if grant.is_none() {
            return;
        }
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(started).min(MAX_VERIFICATION);
        // Above the rate, the address stays suspected for as long as before.
        let was_suspected = is_refused && queue.refused_tokens.charge(&address).is_err();
        WORKER.with_borrow_mut(|worker| {
            worker.spent += elapsed;
            worker.average = (worker.average * 7 + elapsed) / 8;
            if was_suspected {
                let free_at = worker.suspects_at.map_or(now, |at| at.max(now));
                worker.suspects_at = Some(free_at + elapsed * queue.limits.load().suspect_factor);
            }
        });
        drop(grant);
    }
}

#[cfg(test)]
mod tests;
