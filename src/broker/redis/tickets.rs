//! Tickets at Redis: put by one instance, taken by any, once. GETDEL is one act, so that of two who ask at the same
//! moment one gets it; Redis forgets what nobody takes.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue};
use tokio::time::timeout;

use super::RedisContext;
use crate::broker::BrokerError;

/// Keeps `value` for as long as `ttl`.
pub(super) async fn put(context: &RedisContext, id: &str, value: &Bytes, ttl: Duration) -> Result<(), BrokerError> {
    // Redis refuses a time of nothing.
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut set = redis::cmd("SET");
    set.arg(context.names.ticket_key(id)).arg(value.as_ref()).arg("PX").arg(millis);
    run(context, set).await
}

/// What waits under `id`, and does so no longer.
pub(super) async fn take(context: &RedisContext, id: &str) -> Result<Option<Bytes>, BrokerError> {
    let mut take = redis::cmd("GETDEL");
    take.arg(context.names.ticket_key(id));
    let value: Option<Vec<u8>> = run(context, take).await?;
    Ok(value.map(Bytes::from))
}

async fn run<T: FromRedisValue>(context: &RedisContext, command: Cmd) -> Result<T, BrokerError> {
    let done = timeout(context.timeout, async {
        let mut connection = context.pool.get().await.map_err(|error| error.to_string())?;
        command.query_async(&mut connection).await.map_err(|error| error.to_string())
    });
    let done = done.await.unwrap_or_else(|_| Err(format!("no answer within {:?}", context.timeout)));
    done.map_err(|cause| BrokerError::Unavailable(format!("tickets: {cause}")))
}
