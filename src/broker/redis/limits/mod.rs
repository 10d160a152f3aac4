//! Limits that all instances share, in Redis. Each count is changed by a script, by the clock of Redis.

mod connection_counts;
mod connections;
mod login_failures;
mod rates;

use std::{sync::Arc, time::Duration};

use futures_util::future::{FutureExt, try_join_all};
use redis::{Cmd, FromRedisValue};
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

    fn charge_rates(&self, charges: Vec<RateCharge>, rate: Gcra) -> BrokerFuture<Vec<Duration>> {
        let context = self.context.clone();
        spawn_on(&self.runtime, async move { rates::charge(&context, charges, rate).await })
    }
}

/// Calls a script for many keys, in one round trip for each server, and returns its answer for each key. `build` makes the call for
/// some of the keys, by their numbers.
async fn query_keys<T: FromRedisValue>(
    context: &RedisContext,
    keys: &[String],
    limit: Duration,
    build: impl Fn(&[&String], &[usize]) -> Cmd,
) -> Result<Vec<T>, BrokerError> {
    let mut by_server: Vec<(Arc<RedisServer>, Vec<usize>)> = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let server = context.server_of_name(key)?;
        match by_server.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &server)) {
            Some((_, numbers)) => numbers.push(number),
            None => by_server.push((server, vec![number])),
        }
    }
    // Keys of one call have to be in one slot.
    let call_keys = if context.names.is_sharded() { 1 } else { CALL_KEYS };
    let asked = by_server.iter().map(async |(server, numbers)| {
        let calls = numbers.chunks(call_keys).map(|numbers| {
            let keys: Vec<&String> = numbers.iter().map(|number| &keys[*number]).collect();
            build(&keys, numbers)
        });
        let replies = server.query_many(calls.collect(), limit).await.map_err(|error| STORE.unavailable(&error))?;
        let answers = replies.into_iter().map(redis::from_redis_value::<Vec<T>>).collect::<Result<Vec<_>, _>>();
        let answers: Vec<T> =
            answers.map_err(|error| STORE.unavailable(&error.to_string()))?.into_iter().flatten().collect();
        Ok::<_, BrokerError>(numbers.iter().copied().zip(answers).collect::<Vec<_>>())
    });
    let mut answers: Vec<(usize, T)> = try_join_all(asked).await?.into_iter().flatten().collect();
    if answers.len() != keys.len() {
        return Err(STORE.unexpected("reply"));
    }
    answers.sort_unstable_by_key(|(number, _)| *number);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
