//! Revocations that are requested at about the same time share a round: one call of Redis that stores them, and one survey that
//! has all live nodes obey them. So a burst of them neither floods the nodes with surveys nor is refused. Rounds overlap, because
//! a round waits for a node that does not answer; the more of them wait, the later the next begins, so that it has more in it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{
    RedisContext,
    revocations::{self, STORE},
};
use crate::{
    broker::{BrokerError, NodeIdentity},
    revocation::Revocation,
};

/// Maximum number of requests that wait for a round. Above it: [`BrokerError::Busy`].
const MAX_WAITING: usize = 4096;
/// Maximum number of rounds that wait for their nodes.
const MAX_ROUNDS: usize = 16;
/// How much later a round begins for each round that is not finished: as many as there may be begin within the time that one
/// waits for a frozen node.
const DELAY_PER_ROUND: Duration = Duration::from_millis(15);

type Confirmation = Result<Vec<NodeIdentity>, BrokerError>;

/// A request to revoke tokens.
pub(super) struct RevocationRequest {
    revocations: Vec<Revocation>,
    /// When its caller wants to know which nodes have not confirmed.
    deadline: Instant,
    done: oneshot::Sender<Confirmation>,
}

/// The requests of this instance.
pub(super) struct RevocationRequests(mpsc::Sender<RevocationRequest>);

impl RevocationRequests {
    /// Creates the queue of requests.
    pub(super) fn new() -> (Self, mpsc::Receiver<RevocationRequest>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), receiver)
    }

    async fn revoke(&self, revocations: Vec<Revocation>, limit: Duration) -> Confirmation {
        let (done, confirmed) = oneshot::channel();
        let request = RevocationRequest { revocations, deadline: Instant::now() + limit, done };
        self.0.try_send(request).map_err(|_| BrokerError::Busy)?;
        // The broker ends, and its tasks with it.
        confirmed.await.unwrap_or_else(|_| Err(STORE.unavailable("the broker has stopped")))
    }
}

/// Has all live nodes obey revocations, in a round with others. Returns the nodes that have not confirmed within `limit`. If Redis does
/// not store them, they are in force on this instance at once, and on the others when it has put them back.
pub(super) async fn revoke(context: &RedisContext, revocations: Vec<Revocation>, limit: Duration) -> Confirmation {
    let confirmed = context.revocation_requests.revoke(revocations.clone(), limit).await;
    if confirmed.as_ref().is_err_and(|error| !matches!(error, BrokerError::RevocationsFull(_))) {
        context.deliver.add_revocations_or_none(revocations.clone())?;
        // Redis may have stored them without an answer, so that they would not be missing there.
        context.revocations.announce_later(&revocations, context.deliver.revocations().now());
        context.revocations.request();
    }
    confirmed
}

/// Carries out rounds, forever.
pub(super) async fn carry_out(context: Arc<RedisContext>, mut requests: mpsc::Receiver<RevocationRequest>) {
    let rounds = Arc::new(Semaphore::new(MAX_ROUNDS));
    while let Some(first) = requests.recv().await {
        // The semaphore is never closed.
        let Ok(permit) = rounds.clone().acquire_owned().await else { return };
        let unfinished = u32::try_from(MAX_ROUNDS - 1 - rounds.available_permits()).unwrap_or_default();
        sleep(DELAY_PER_ROUND * unfinished).await;
        let mut round = vec![first];
        let mut count = round[0].revocations.len();
        while count < revocations::BATCH
            && let Ok(next) = requests.try_recv()
        {
            count += next.revocations.len();
            round.push(next);
        }
        // Stored one round after the other; only the answers of the nodes are waited for at the same time.
        let round = store(&context, round).await;
        if round.is_empty() {
            continue;
        }
        let context = context.clone();
        tokio::spawn(async move {
            confirm(&context, round).await;
            drop(permit);
        });
    }
}

/// Stores the revocations of a round and adds them to the list of this instance. Returns the requests for which that succeeded;
/// the others are answered.
async fn store(context: &RedisContext, round: Vec<RevocationRequest>) -> Vec<RevocationRequest> {
    let revocations: Vec<Revocation> = round.iter().flat_map(|request| request.revocations.iter().cloned()).collect();
    match store_before(context, &revocations, deadline_of(&round)).await {
        Ok(()) => return round,
        // Some of them may have room.
        Err(BrokerError::RevocationsFull(_)) if round.len() > 1 => {}
        Err(error) => {
            round.into_iter().for_each(|request| _ = request.done.send(Err(error.clone())));
            return Vec::new();
        }
    }
    let mut stored = Vec::new();
    for request in round {
        match store_before(context, &request.revocations, request.deadline).await {
            Ok(()) => stored.push(request),
            Err(error) => _ = request.done.send(Err(error)),
        }
    }
    stored
}

/// The answers of the nodes need a part of the time, too: half of what is left.
async fn store_before(
    context: &RedisContext,
    revocations: &[Revocation],
    deadline: Instant,
) -> Result<(), BrokerError> {
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let stored = timeout_at(half, revocations::store(context, revocations)).await;
    stored.unwrap_or_else(|_| Err(STORE.unavailable("redis has not stored them in time")))?;
    Ok(context.deliver.add_revocations(revocations.to_vec())?)
}

/// Has all live nodes obey the revocations of a round, and answers its requests.
async fn confirm(context: &RedisContext, round: Vec<RevocationRequest>) {
    let revocations = round.iter().flat_map(|request| request.revocations.iter().cloned()).collect();
    let unconfirmed = revocations::confirm(context, revocations, deadline_of(&round)).await;
    // An error means that the caller has stopped waiting.
    round.into_iter().for_each(|request| _ = request.done.send(Ok(unconfirmed.clone())));
}

fn deadline_of(round: &[RevocationRequest]) -> Instant {
    round.iter().map(|request| request.deadline).min().unwrap_or_else(Instant::now)
}
