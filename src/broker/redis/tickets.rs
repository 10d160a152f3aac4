//! Tickets in Redis: any instance can take, once, what another one has stored. GETDEL is atomic, so exactly one of several
//! simultaneous callers gets the value. Redis removes tickets that are not taken.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue};

use super::RedisContext;
use crate::broker::{BrokerError, invalid_ticket_id, is_valid_ticket_id};

/// Stores `value` for `ttl`.
pub(super) async fn put(context: &RedisContext, id: &str, value: &Bytes, ttl: Duration) -> Result<(), BrokerError> {
    if !is_valid_ticket_id(id) {
        return Err(invalid_ticket_id());
    }
    // Redis refuses an expiry of 0.
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut set = redis::cmd("SET");
    let key = context.names.ticket_key(id);
    set.arg(&key).arg(value.as_ref()).arg("PX").arg(millis);
    query(context, &key, &set).await
}

/// Returns the value that is stored under `id`.
pub(super) async fn read(context: &RedisContext, id: &str) -> Result<Option<Bytes>, BrokerError> {
    query_value(context, id, "GET").await
}

/// Takes the value that is stored under `id`.
pub(super) async fn take(context: &RedisContext, id: &str) -> Result<Option<Bytes>, BrokerError> {
    query_value(context, id, "GETDEL").await
}

async fn query_value(context: &RedisContext, id: &str, command: &str) -> Result<Option<Bytes>, BrokerError> {
    if !is_valid_ticket_id(id) {
        return Ok(None);
    }
    let key = context.names.ticket_key(id);
    let mut call = redis::cmd(command);
    call.arg(&key);
    let value: Option<Vec<u8>> = query(context, &key, &call).await?;
    Ok(value.map(Bytes::from))
}

async fn query<T: FromRedisValue>(context: &RedisContext, key: &str, command: &Cmd) -> Result<T, BrokerError> {
    let reply = context.server_of_name(key)?.query(command, context.timeout).await;
    reply.map_err(|error| BrokerError::Unavailable(format!("tickets: {error}")))
}
