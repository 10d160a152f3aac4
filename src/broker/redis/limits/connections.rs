//! The connections of users in Redis: for each user a hash with the number that each instance has. An instance stores its numbers
//! again from time to time, and whenever it may have been taken for gone.
//!
//! What a killed instance had stays there. It is looked at only when a user has reached the limit: then the instances that have
//! some of the connections are checked, and those that are gone are removed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    super::{RedisContext, controls::has_receiver, scripts, store::millis},
    connection_counts::RoundUser,
    query_keys,
};
use crate::broker::BrokerError;

/// Lifetime of a user's numbers, and how often an instance stores its own again.
const LIFETIME: Duration = Duration::from_secs(3 * 3600);
const RENEW_EVERY: Duration = Duration::from_secs(3600);
/// Pause after a round that has failed. Meanwhile each instance has its own limit, for the users of the server that has not answered.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Pause after a round in which no connection was asked for, so that a recount does not keep Redis busy.
const PAUSE: Duration = Duration::from_millis(5);
/// Maximum time for which a handshake waits for Redis, within `broker.redis.timeout`.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);

/// What a call says about a user: how many of the connections asked for are allowed, and which other instances have some, if
/// those are not all.
struct Answer {
    allowed: usize,
    others: Vec<String>,
}

/// Stores the counts of this instance, and asks for its new connections, forever.
pub(in crate::broker::redis) async fn keep_counted(context: Arc<RedisContext>) {
    let counts = &context.connections;
    let mut renewal = Instant::now() + RENEW_EVERY;
    // When the users are counted again whose server has not answered.
    let mut retry: Option<Instant> = None;
    loop {
        if retry.is_some_and(|retry| Instant::now() >= retry) {
            retry = None;
            counts.retry_away();
        }
        if counts.is_away() {
            // A new connection to Redis recounts sooner.
            let back = async {
                while counts.is_away() {
                    sleep(RETRY_DELAY / 10).await;
                }
            };
            if timeout(RETRY_DELAY, back).await.is_err() {
                counts.recount();
            }
        }
        let wake = retry.map_or(renewal, |retry| retry.min(renewal));
        if timeout_at(wake, counts.due()).await.is_err() {
            if Instant::now() < renewal {
                continue;
            }
            renewal = Instant::now() + RENEW_EVERY;
            counts.recount();
        }
        let (users, limit) = counts.take_round();
        let is_asked = users.iter().any(|user| !user.asking.is_empty());
        if let Err(error) = run_round(&context, users, limit).await {
            if retry.is_none() {
                log::warn!("each instance limits the connections of users by itself error={:?}", error.to_string());
            }
            retry = retry.or(Some(Instant::now() + RETRY_DELAY));
            if context.router.routes().servers().len() <= 1 {
                // There is no other server: nothing more is asked for.
                counts.begin_outage();
            }
        }
        if !is_asked {
            sleep(PAUSE).await;
        }
    }
}

/// Runs a round.
///
/// # Errors
/// A server does not answer. Then everything that was asked for its users is allowed.
async fn run_round(context: &RedisContext, users: Vec<RoundUser>, limit: usize) -> Result<(), BrokerError> {
    let mut answers = call(context, &users, limit, &[]).await;
    let others: HashSet<&String> = answers.iter().flatten().flat_map(|answer| &answer.others).collect();
    let gone = if others.is_empty() { Vec::new() } else { gone_instances(context, others).await };
    if !gone.is_empty() {
        // As if it was the first call: what that one has allowed is not counted for the instance yet.
        answers = call(context, &users, limit, &gone).await;
    }
    let mut failed = None;
    for (user, answer) in users.into_iter().zip(answers) {
        match answer {
            Ok(answer) => context.connections.finish(user, answer.allowed),
            Err(error) => {
                context.connections.finish_without_answer(user);
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Calls the script for all users.
async fn call(
    context: &RedisContext,
    users: &[RoundUser],
    limit: usize,
    gone: &[String],
) -> Vec<Result<Answer, BrokerError>> {
    let keys: Vec<String> = users.iter().map(|user| context.names.connections_key(&user.user)).collect();
    let build = |keys: &[&String], numbers: &[usize]| {
        let mut call = scripts::CONNECTIONS.call(keys);
        call.arg(&context.instance).arg(millis(LIFETIME)).arg(limit).arg(gone.len()).arg(gone);
        numbers.iter().for_each(|number| _ = call.arg(users[*number].counted).arg(users[*number].asking.len()));
        call
    };
    let replies = query_keys::<Vec<String>>(context, &keys, context.timeout.min(ROUND_TIMEOUT), build).await;
    let answer = |reply: Vec<String>| {
        let mut reply = reply.into_iter();
        let allowed = reply.next().and_then(|allowed| allowed.parse().ok()).unwrap_or_default();
        Answer { allowed, others: reply.collect() }
    };
    replies.into_iter().map(|reply| reply.map(answer)).collect()
}

/// Returns which of these instances are gone: they have not been heard for several heartbeats, or no connection to Redis receives
/// what is sent to them, which is so at once when a process ends. A frozen one is not gone.
async fn gone_instances(context: &RedisContext, instances: HashSet<&String>) -> Vec<String> {
    let live = context.nodes.live_instances();
    let checked = instances.into_iter().map(async |instance| {
        let is_silent = live.as_ref().is_some_and(|live| !live.contains(instance));
        (is_silent || !has_receiver(context, instance).await).then(|| instance.clone())
    });
    join_all(checked).await.into_iter().flatten().collect()
}
