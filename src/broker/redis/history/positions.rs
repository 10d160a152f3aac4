//! Positions of channels, without their publications: for many channels at once after an outage, and removed where acknowledged
//! publications are lost.

use std::sync::Arc;

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::{
    super::{RedisContext, scripts, server::RedisServer, store::expiry_millis},
    history_error, invalid_reply, parse_position, parse_time,
};
use crate::{
    broker::{BrokerError, ChannelTop, PositionResult, Retention},
    channel::Channel,
    position::{Epoch, Position},
};

/// Maximum number of channels of one round trip.
const BATCH_CHANNELS: usize = 500;

/// Reads the position of each channel. Creates none, and extends the lifetimes of those that exist.
pub(in crate::broker::redis) async fn read_positions(
    context: &RedisContext,
    channels: Vec<(Channel, Retention)>,
) -> Vec<PositionResult> {
    let mut results: Vec<PositionResult> = channels.iter().map(|_| Ok(None)).collect();
    // There are few servers.
    let mut by_server: Vec<(Arc<RedisServer>, Vec<usize>)> = Vec::new();
    for (index, (channel, _)) in channels.iter().enumerate() {
        match context.server_of(channel) {
            Ok(server) => match by_server.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &server)) {
                Some((_, indices)) => indices.push(index),
                None => by_server.push((server, vec![index])),
            },
            Err(error) => results[index] = Err(error),
        }
    }
    let channels = &channels;
    // All at once: a server that does not answer must not hold up the others.
    let reads = by_server.iter().flat_map(|(server, indices)| {
        indices.chunks(BATCH_CHANNELS).map(move |batch| async move {
            let channels: Vec<_> = batch.iter().map(|index| &channels[*index]).collect();
            batch.iter().copied().zip(read_batch(context, server, &channels).await).collect::<Vec<_>>()
        })
    });
    for (index, result) in join_all(reads).await.into_iter().flatten() {
        results[index] = result;
    }
    results
}

/// Reads the positions of channels of one server in one round trip, unless the server is known not to answer.
async fn read_batch(
    context: &RedisContext,
    server: &RedisServer,
    channels: &[&(Channel, Retention)],
) -> Vec<PositionResult> {
    let before: Vec<_> = channels.iter().map(|(channel, _)| context.shared_reads.top(channel)).collect();
    let commands = channels.iter().flat_map(|channel| position_commands(context, channel)).collect();
    let replies = match server.outage() {
        Some(outage) => Err(outage),
        None => server.query_many(commands, context.timeout).await,
    };
    let replies = match replies {
        Ok(replies) => replies,
        Err(error) => return vec![Err(history_error(error)); channels.len()],
    };
    let mut results = Vec::with_capacity(channels.len());
    // The second reply of each channel is that of PEXPIRE.
    for ((reply, (channel, _)), before) in replies.into_iter().step_by(2).zip(channels).zip(before) {
        let top = reply.wait().await.map_err(history_error).and_then(parse_top);
        if let Ok(top) = &top {
            context.shared_reads.compare(channel, before, top.map(|top| top.position));
        }
        results.push(top);
    }
    results
}

fn position_commands(context: &RedisContext, (channel, retention): &(Channel, Retention)) -> [Cmd; 2] {
    let key = context.names.history_meta_key(channel);
    let (mut read, mut extend) = (redis::cmd("HMGET"), redis::cmd("PEXPIRE"));
    read.arg(&key).arg("e").arg("o").arg("t");
    // As long as the scripts let it live: see `renewal` in history.lua.
    extend.arg(&key).arg(expiry_millis(retention.meta_ttl + retention.ttl / 16));
    [read, extend]
}

/// Removes the history of a channel whose epoch has `lost` publications, and tells the instances that may have pages of it. Returns the position of another history that it has.
pub(in crate::broker::redis) async fn renew_epoch(
    context: &RedisContext,
    channel: Channel,
    lost: Epoch,
) -> Result<Option<Position>, BrokerError> {
    let mut call =
        scripts::RENEW_EPOCH.call(&[context.names.history_key(&channel), context.names.history_meta_key(&channel)]);
    call.arg(lost.as_str());
    let reply: Value = context.server_of(&channel)?.query(&call, context.timeout).await.map_err(history_error)?;
    // The epoch is renewed in any case. An instance that this does not reach was interrupted, too, and has forgotten its pages.
    if let Err(error) = super::forget_pages(context, channel).await {
        log::debug!("could not tell other instances of a new epoch error={error:?}");
    }
    match reply {
        Value::BulkString(text) if text.is_empty() => Ok(None),
        reply => parse_position(&reply).map(Some),
    }
}

/// Parses the fields `e`, `o` and `t` of a meta hash. `None`: the channel has no position.
pub(super) fn parse_top(reply: Value) -> PositionResult {
    let Value::Array(fields) = reply.extract_error().map_err(|error| history_error(error.to_string()))? else {
        return Err(invalid_reply());
    };
    let [epoch, offset, time] = &fields[..] else { return Err(invalid_reply()) };
    let (Value::BulkString(epoch), Value::BulkString(offset)) = (epoch, offset) else { return Ok(None) };
    let position = parse_position(&Value::BulkString([epoch.as_slice(), offset].concat()))?;
    let time = match time {
        Value::BulkString(time) => parse_time(time),
        _ => None,
    };
    Ok(Some(ChannelTop { position, time }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;

    #[test]
    fn position_is_read_from_the_fields_of_its_hash() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let position = Position { offset: 7, epoch: Epoch::parse("abcdefgh").unwrap() };
        let top = |time: Option<i64>| Ok(Some(ChannelTop { position, time: time.map(WallTime::from_unix_millis) }));
        for (fields, expected) in [
            (vec![bulk("abcdefgh"), bulk("7"), bulk("-1")], top(Some(-1))),
            (vec![bulk("abcdefgh"), bulk("7"), Value::Nil], top(None)),
            (vec![Value::Nil, Value::Nil, Value::Nil], Ok(None)),
            (vec![Value::Nil, bulk("7"), Value::Nil], Ok(None)),
            (vec![bulk("abc"), bulk("7"), Value::Nil], Err(invalid_reply())),
            (vec![bulk("abcdefgh")], Err(invalid_reply())),
        ] {
            assert_eq!(parse_top(Value::Array(fields)), expected);
        }
        assert_eq!(parse_top(Value::Okay), Err(invalid_reply()));
    }
}
