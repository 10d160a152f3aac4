//! Tickets in Redis: any instance can take, once, what another one has stored. GETDEL is atomic, so exactly one of several
//! simultaneous callers gets the value. Redis removes tickets that are not taken.

use std::time::Duration;

use bytes::Bytes;

use super::{
    RedisContext,
    store::{Store, expiry_millis},
};
use crate::broker::{BrokerError, invalid_ticket_id, is_valid_ticket_id};

const STORE: Store = Store("tickets");

/// Stores `value` for `ttl`.
pub(super) async fn put(context: &RedisContext, id: &str, value: &Bytes, ttl: Duration) -> Result<(), BrokerError> {
    if !is_valid_ticket_id(id) {
        return Err(invalid_ticket_id());
    }
    let mut set = redis::cmd("SET");
    let key = context.names.ticket_key(id);
    set.arg(&key).arg(value.as_ref()).arg("PX").arg(expiry_millis(ttl));
    STORE.query(context, &key, &set).await
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
    let value: Option<Vec<u8>> = STORE.query(context, &key, &call).await?;
    Ok(value.map(Bytes::from))
}
