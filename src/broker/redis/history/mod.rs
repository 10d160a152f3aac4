//! Histories in Redis: a stream per channel whose ids are the offsets, and a hash with what outlives the publications: epoch,
//! newest offset, newest version. What changes them is a script ([`scripts`]), so that a publication is stored and announced,
//! or neither. The stored record is the message of the publication ([`envelope`]).

mod missed;
mod position_reads;
mod positions;
mod read;
mod shared_pages;
mod stored_publication;

use futures_util::future::FutureExt;
use redis::Value;

pub(super) use self::{
    missed::{SharedReads, read_missed},
    position_reads::{PositionReads, run as run_position_reads},
    positions::{read_positions, renew_epoch},
    read::read_page,
    stored_publication::{StoredPublication, split_reply, store_call},
};
use super::{RedisContext, envelope, scripts, store::expiry_millis};
use crate::{
    broker::{BrokerError, BrokerFuture, IDEMPOTENCY_TTL, PublishOptions, PublishReceipt, completed},
    channel::Channel,
    clock::WallTime,
    position::{Epoch, Position},
    publication::Publication,
};

/// Queues a publication during the call. The future completes when Redis has stored and announced it.
pub(super) fn publish(
    context: &RedisContext,
    mut publication: Publication,
    PublishOptions { retention, idempotency_key, version }: PublishOptions,
) -> BrokerFuture<PublishReceipt> {
    let server = match context.server_of(&publication.channel) {
        Ok(server) => server,
        Err(error) => return completed(Err(error)),
    };
    if let Some(retention) = retention {
        let epoch = match new_epoch() {
            Ok(epoch) => epoch,
            Err(error) => return completed(Err(error)),
        };
        publication.time = context.clock.now();
        let record = context.signer.sign(envelope::encode_publication(&publication));
        let key = idempotency_key.as_deref();
        let stored = StoredPublication::new(&context.names, &publication, record, retention, key, version, epoch);
        let reply = server.store(stored);
        return async move { parse_receipt(reply.await?) }.boxed();
    }
    let name = context.names.publication_channel(&publication.channel);
    let message = context.signer.sign(envelope::encode_publication(&publication));
    let Some(key) = idempotency_key else {
        let published = server.publish(&name, &message);
        return published.map(|receivers| receivers.map(|_| PublishReceipt::default())).boxed();
    };
    let key = context.names.idempotency_key(&publication.channel, &key);
    let mut call = scripts::PUBLISH_ONCE.call(&[key]);
    call.arg(context.names.publish_command()).arg(name).arg(message.as_slice()).arg(expiry_millis(IDEMPOTENCY_TTL));
    let reply = server.run_script(call, message.len());
    async move { parse_receipt(reply.await?) }.boxed()
}

/// Removes the publications of a channel, and tells the instances that may have pages of them. The channel keeps its position.
pub(super) async fn remove(context: &RedisContext, channel: Channel) -> Result<(), BrokerError> {
    let server = context.server_of(&channel)?;
    let mut remove = redis::cmd("UNLINK");
    remove.arg(context.names.history_key(&channel));
    server.query::<i64>(&remove, context.timeout).await.map_err(history_error)?;
    forget_pages(context, channel).await
}

/// Has all instances forget their pages of a channel.
async fn forget_pages(context: &RedisContext, channel: Channel) -> Result<(), BrokerError> {
    context.shared_reads.forget(std::slice::from_ref(&channel));
    let message = context.signer.sign(envelope::encode_history_removed(&channel));
    context.server_of(&channel)?.publish(&context.names.publication_channel(&channel), &message).await.map(drop)
}

/// Generates the epoch for a channel that has none.
fn new_epoch() -> Result<Epoch, BrokerError> {
    Epoch::random().map_err(BrokerError::no_epoch)
}

/// Parses the receipt of a publish; empty if the publication was not stored.
fn parse_receipt(reply: Value) -> Result<PublishReceipt, BrokerError> {
    match reply {
        Value::BulkString(text) if text.is_empty() => Ok(PublishReceipt::default()),
        reply => Ok(PublishReceipt { position: Some(parse_position(&reply)?) }),
    }
}

/// Parses an epoch and, behind its 8 characters, an offset.
fn parse_position(reply: &Value) -> Result<Position, BrokerError> {
    let parse = || {
        let Value::BulkString(text) = reply else { return None };
        let (epoch, offset) = std::str::from_utf8(text).ok()?.split_at_checked(Epoch::BYTES)?;
        Some(Position { offset: offset.parse().ok()?, epoch: Epoch::parse(epoch)? })
    };
    parse().ok_or_else(invalid_reply)
}

/// Parses the time of a publication; `None` if it is unknown, as an empty text says.
fn parse_time(text: &[u8]) -> Option<WallTime> {
    std::str::from_utf8(text).ok()?.parse().ok().map(WallTime::from_unix_millis)
}

fn invalid_reply() -> BrokerError {
    history_error("a key has been changed by another client: it contains no position".to_owned())
}

fn history_error(error: String) -> BrokerError {
    BrokerError::Unavailable(format!("history: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_position_is_a_receipt() {
        let receipt = |text: &str| parse_receipt(Value::BulkString(text.as_bytes().to_vec()));
        let position = Position { offset: u64::MAX, epoch: Epoch::parse("abcdefgh").unwrap() };
        assert_eq!(receipt("abcdefgh18446744073709551615"), Ok(PublishReceipt { position: Some(position) }));
        assert_eq!(receipt(""), Ok(PublishReceipt::default()));
        for text in ["abcdefgh", "abcdefgh-1", "abc efgh1", "abcdefg", "abcdefgé1", "abcdefgh18446744073709551616"] {
            assert_eq!(receipt(text), Err(invalid_reply()), "{text:?}");
        }
        assert_eq!(parse_receipt(Value::Nil), Err(invalid_reply()));
    }
}
