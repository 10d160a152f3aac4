//! Positions of channels, without their publications: for many channels at once after an outage, and replaced where
//! acknowledged publications are lost.

use redis::Value;

use super::{
    super::{RedisContext, scripts},
    history_error, invalid_reply, millis, new_epoch, parse_position,
};
use crate::{
    broker::{BrokerError, Retention},
    channel::Channel,
    position::{Epoch, Position},
};

/// Maximum number of channels of one round trip.
const BATCH: usize = 500;

/// Reads the position of each channel; `None` if it has none. Creates none, and extends no lifetime.
pub(in crate::broker::redis) async fn read_positions(
    context: &RedisContext,
    channels: &[Channel],
) -> Result<Vec<Option<Position>>, BrokerError> {
    let mut positions = vec![None; channels.len()];
    for (server, indices) in context.group_by_server(channels)? {
        for batch in indices.chunks(BATCH) {
            let commands = batch.iter().map(|index| {
                let mut read = redis::cmd("HMGET");
                read.arg(context.names.history_meta_key(&channels[*index])).arg("e").arg("o");
                read
            });
            let replies = server.query_many(commands.collect(), context.timeout).await.map_err(history_error)?;
            for (index, reply) in batch.iter().zip(replies) {
                positions[*index] = parse_fields(reply)?;
            }
        }
    }
    Ok(positions)
}

/// Gives a channel a new epoch if it still has the one that has `lost` publications. Returns its position after that; `None` if
/// it has none.
pub(in crate::broker::redis) async fn renew_epoch(
    context: &RedisContext,
    channel: Channel,
    lost: Epoch,
    retention: Retention,
) -> Result<Option<Position>, BrokerError> {
    let mut call = scripts::RENEW_EPOCH
        .call(&[context.names.history_key(&channel), context.names.history_meta_key(&channel)]);
    call.arg(lost.as_str()).arg(new_epoch()?.as_str()).arg(millis(retention.meta_ttl));
    let reply: Value = context.server_of(&channel)?.query(&call, context.timeout).await.map_err(history_error)?;
    match reply {
        Value::BulkString(text) if text.is_empty() => Ok(None),
        reply => parse_position(&reply).map(Some),
    }
}

/// Parses the fields `e` and `o` of a meta hash.
fn parse_fields(reply: Value) -> Result<Option<Position>, BrokerError> {
    match reply.extract_error().map_err(|error| history_error(error.to_string()))? {
        Value::Array(fields) => match &fields[..] {
            [Value::BulkString(epoch), Value::BulkString(offset)] => {
                parse_position(&Value::BulkString([epoch.as_slice(), offset].concat())).map(Some)
            }
            [_, _] => Ok(None),
            _ => Err(invalid_reply()),
        },
        _ => Err(invalid_reply()),
    }
}
