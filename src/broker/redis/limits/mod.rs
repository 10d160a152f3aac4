//! Limits that all instances share, in Redis. Each count is changed by a script, by the clock of Redis.

mod connection_counts;
mod connections;
mod login_failures;
mod rates;

use std::{sync::Arc, time::Duration};

use futures_util::future::{FutureExt, join_all};
use redis::{Cmd, FromRedisValue, Value};
use tokio::runtime::Handle;

pub(super) use self::{connection_counts::ConnectionCounts, connections::keep_counted};
use super::{RedisContext, calls::spawn_on, server::RedisServer, store::Store};
use crate::{
    broker::{
        BrokerError, BrokerFuture, CountedConnection, LoginDelayRule, LoginFailureNames, RateCharge, SharedLimits,
        SharedLoginAttempt, SharedLoginVerdict,
    },
    rate_limit::Gcra,
};

const STORE: Store = Store("shared limits");
/// Maximum number of keys of one call of a script. Redis is busy with it for a fraction of a millisecond.
const CALL_KEYS: usize = 64;

/// The limits in one Redis.
pub(super) struct RedisLimits {
    pub(super) context: Arc<RedisContext>,
    /// The runtime of the broker's thread.
    pub(super) runtime: Handle,
}

impl SharedLimits for RedisLimits {
    fn begin_login(&self, names: LoginFailureNames, rule: LoginDelayRule) -> BrokerFuture<SharedLoginVerdict> {
        let context = self.context.clone();
        spawn_on(&self.runtime, async move { login_failures::begin(&context, &names, rule).await })
    }

    fn forgive_login(&self, names: LoginFailureNames, attempt: SharedLoginAttempt) -> BrokerFuture<()> {
        let context = self.context.clone();
        spawn_on(&self.runtime, async move { login_failures::forgive(&context, &names, attempt).await })
    }

    fn count_connection(&self, user: &Arc<str>, limit: usize) -> CountedConnection {
        let (handle, verdict) = self.context.connections.add(user, limit);
        // Without a verdict the broker has stopped.
        let is_allowed = async move {
            match verdict {
                Some(verdict) => verdict.await.unwrap_or(true),
                None => true,
            }
        };
        CountedConnection { handle: Box::new(handle), is_allowed: is_allowed.boxed() }
    }

    fn charge_rates(&self, charges: Vec<RateCharge>, rate: Gcra) -> BrokerFuture<Vec<Result<Duration, BrokerError>>> {
        let context = self.context.clone();
        spawn_on(&self.runtime, async move { Ok(rates::charge(&context, charges, rate).await) })
    }
}

/// Calls a script for many keys, in one round trip for each server, and returns its answer for each key: if a server does not
/// answer, those of the others are known all the same. `build` makes the call for some of the keys, by their numbers.
async fn query_keys<T: FromRedisValue>(
    context: &RedisContext,
    keys: &[String],
    limit: Duration,
    build: impl Fn(&[&String], &[usize]) -> Cmd,
) -> Vec<Result<T, BrokerError>> {
    let mut answers: Vec<Result<T, BrokerError>> = keys.iter().map(|_| Err(STORE.unexpected("reply"))).collect();
    let mut by_server: Vec<(Arc<RedisServer>, Vec<usize>)> = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        match context.server_of_name(key) {
            Ok(server) => match by_server.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &server)) {
                Some((_, numbers)) => numbers.push(number),
                None => by_server.push((server, vec![number])),
            },
            Err(error) => answers[number] = Err(error),
        }
    }
    // Keys of one call have to be in one slot.
    let call_keys = if context.names.is_sharded() { 1 } else { CALL_KEYS };
    let asked = by_server.iter().map(async |(server, numbers)| {
        let calls = numbers.chunks(call_keys).map(|numbers| {
            let keys: Vec<&String> = numbers.iter().map(|number| &keys[*number]).collect();
            build(&keys, numbers)
        });
        let replies = match server.outage() {
            Some(outage) => Err(outage),
            None => server.query_many(calls.collect(), limit).await,
        };
        let mut answers = Vec::with_capacity(numbers.len());
        match replies {
            Ok(replies) => {
                for (reply, numbers) in replies.into_iter().zip(numbers.chunks(call_keys)) {
                    answers.extend(numbers.iter().copied().zip(parse_answers(reply.wait().await, numbers.len())));
                }
            }
            Err(error) => answers.extend(numbers.iter().map(|number| (*number, Err(STORE.unavailable(&error))))),
        }
        answers
    });
    for (number, answer) in join_all(asked).await.into_iter().flatten() {
        answers[number] = answer;
    }
    answers
}

/// Reads the reply to a call, which has an answer for each of its `count` keys.
fn parse_answers<T: FromRedisValue>(reply: Result<Value, String>, count: usize) -> Vec<Result<T, BrokerError>> {
    let answers = reply.and_then(|reply| redis::from_redis_value::<Vec<T>>(reply).map_err(|error| error.to_string()));
    match answers {
        Ok(answers) if answers.len() == count => answers.into_iter().map(Ok).collect(),
        Ok(_) => (0..count).map(|_| Err(STORE.unexpected("reply"))).collect(),
        Err(error) => (0..count).map(|_| Err(STORE.unavailable(&error))).collect(),
    }
}
