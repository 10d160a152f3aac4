//! The connections of users in Redis: for each user a hash with the number that each instance has. An instance stores its numbers
//! again from time to time, and whenever it may have been taken for gone.
//!
//! What a killed instance had stays there. It is looked at only when a user has reached the limit: then the instances that have
//! some of the connections are checked, and those that are gone are removed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    super::{RedisContext, envelope, scripts, store::millis},
    connection_counts::RoundUser,
    query_keys,
};
use crate::broker::BrokerError;

/// Lifetime of a user's numbers, and how often an instance stores its own again.
const LIFETIME: Duration = Duration::from_secs(3 * 3600);
const RENEW_EVERY: Duration = Duration::from_secs(3600);
/// Pause after a round that has failed. Meanwhile each instance has its own limit.
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
    loop {
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
        if timeout_at(renewal, counts.due()).await.is_err() {
            renewal = Instant::now() + RENEW_EVERY;
            counts.recount();
        }
        let (users, limit) = counts.take_round();
        let is_asked = users.iter().any(|user| !user.asking.is_empty());
        if let Err(error) = run_round(&context, users, limit).await {
            log::warn!("each instance limits the connections of users by itself error={:?}", error.to_string());
            counts.begin_outage();
        }
        if !is_asked {
            sleep(PAUSE).await;
        }
    }
}

/// Runs a round.
///
/// # Errors
/// Redis does not answer. Then everything that was asked for is allowed.
async fn run_round(context: &RedisContext, users: Vec<RoundUser>, limit: usize) -> Result<(), BrokerError> {
    let answers = match call(context, &users, limit, &[]).await {
        Ok(answers) => answers,
        Err(error) => {
            finish(context, users, |user, _| user.asking.len());
            return Err(error);
        }
    };
    let others: HashSet<&String> = answers.iter().flat_map(|answer| &answer.others).collect();
    let gone = if others.is_empty() { Vec::new() } else { gone_instances(context, others).await };
    if gone.is_empty() {
        finish(context, users, |_, index| answers[index].allowed);
        return Ok(());
    }
    // As if it was the first call: what that one has allowed is not counted for the instance yet.
    let again = call(context, &users, limit, &gone).await;
    finish(context, users, |user, index| again.as_ref().map_or(user.asking.len(), |answers| answers[index].allowed));
    again.map(drop)
}

fn finish(context: &RedisContext, users: Vec<RoundUser>, allowed: impl Fn(&RoundUser, usize) -> usize) {
    for (index, user) in users.into_iter().enumerate() {
        let allowed = allowed(&user, index);
        context.connections.finish(user, allowed);
    }
}

/// Calls the script for all users.
async fn call(
    context: &RedisContext,
    users: &[RoundUser],
    limit: usize,
    gone: &[String],
) -> Result<Vec<Answer>, BrokerError> {
    let keys: Vec<String> = users.iter().map(|user| context.names.connections_key(&user.user)).collect();
    let build = |keys: &[&String], numbers: &[usize]| {
        let mut call = scripts::CONNECTIONS.call(keys);
        call.arg(&context.instance).arg(millis(LIFETIME)).arg(limit).arg(gone.len()).arg(gone);
        numbers.iter().for_each(|number| _ = call.arg(users[*number].counted).arg(users[*number].asking.len()));
        call
    };
    let replies: Vec<Vec<String>> = query_keys(context, &keys, context.timeout.min(ROUND_TIMEOUT), build).await?;
    let answers = replies.into_iter().map(|reply| {
        let mut reply = reply.into_iter();
        let allowed = reply.next().and_then(|allowed| allowed.parse().ok()).unwrap_or_default();
        Answer { allowed, others: reply.collect() }
    });
    Ok(answers.collect())
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

/// Returns whether an instance receives what is sent to it. Its probe has no other effect there.
async fn has_receiver(context: &RedisContext, instance: &str) -> bool {
    let name = context.names.replies_channel_of(instance);
    let Ok(server) = context.router.server_for_message(&name, instance) else { return true };
    let probe = context.signer.sign(envelope::encode_probe(0));
    server.publish(&name, &probe).await.map_or(true, |receivers| receivers > 0)
}
