//! A publication on its way into the history of its channel, and the call of the script that stores several of them: half of what
//! a call for a single one costs Redis is the call itself.

use redis::{Cmd, Value};

use super::super::{envelope, names::RedisNames, scripts, store::expiry_millis};
use crate::{
    broker::{IDEMPOTENCY_TTL, Retention, Version},
    clock::WallTime,
    position::Epoch,
    publication::Publication,
};

/// Bytes that the script adds to a record when it announces it: the prefix, the offset and the epoch.
const ANNOUNCEMENT_BYTES: usize = envelope::STORED_PREFIX.len() + size_of::<u64>() + Epoch::BYTES;

/// A publication that Redis has to store and to announce.
pub(in crate::broker::redis) struct StoredPublication {
    /// The slot of the channel in a Cluster. One call has channels of one slot only.
    slot: u16,
    stream: String,
    meta: String,
    channel: String,
    idempotency_key: Option<String>,
    record: Vec<u8>,
    time: WallTime,
    /// For a channel without one.
    epoch: Epoch,
    settings: StoreSettings,
}

/// What all publications of a call have in common.
#[derive(Debug, PartialEq, Eq)]
struct StoreSettings {
    retention: Retention,
    version: Option<Version>,
    has_idempotency_key: bool,
    publish_command: &'static str,
}

impl StoredPublication {
    /// `record` is the message of the publication, and `epoch` is for a channel that has none.
    pub(in crate::broker::redis) fn new(
        names: &RedisNames,
        Publication { channel, time, .. }: &Publication,
        record: Vec<u8>,
        retention: Retention,
        idempotency_key: Option<&str>,
        version: Option<Version>,
        epoch: Epoch,
    ) -> Self {
        let (publish_command, has_idempotency_key) = (names.publish_command(), idempotency_key.is_some());
        Self {
            slot: names.slot_of(channel),
            stream: names.history_key(channel),
            meta: names.history_meta_key(channel),
            channel: names.publication_channel(channel),
            idempotency_key: idempotency_key.map(|key| names.idempotency_key(channel, key)),
            record,
            time: *time,
            epoch,
            settings: StoreSettings { retention, version, has_idempotency_key, publish_command },
        }
    }

    /// Returns the slot of the channel in a Cluster.
    pub(in crate::broker::redis) fn slot(&self) -> u16 {
        self.slot
    }

    /// Returns whether one call can store both.
    pub(in crate::broker::redis) fn fits_into_call_with(&self, other: &Self) -> bool {
        self.slot == other.slot && self.settings == other.settings
    }

    /// Returns what the history stores.
    #[cfg(test)]
    pub(in crate::broker::redis) fn record(&self) -> &[u8] {
        &self.record
    }

    /// Returns the length of the announcement.
    pub(in crate::broker::redis) fn message_bytes(&self) -> usize {
        self.record.len() + ANNOUNCEMENT_BYTES
    }
}

/// Returns the call that stores publications of which each fits into a call with the first.
pub(in crate::broker::redis) fn store_call(publications: &[&StoredPublication]) -> Cmd {
    let Some(StoredPublication { epoch, settings, .. }) = publications.first() else { return Cmd::new() };
    let StoreSettings { retention, version, has_idempotency_key, publish_command } = settings;
    let keys = publications.iter().flat_map(|publication| {
        let StoredPublication { stream, meta, idempotency_key, .. } = publication;
        [Some(stream), Some(meta), idempotency_key.as_ref()].into_iter().flatten()
    });
    let mut call = scripts::PUBLISH.call(&keys.collect::<Vec<_>>());
    call.arg(publish_command).arg(&envelope::STORED_PREFIX);
    call.arg(retention.size)
        .arg(expiry_millis(retention.ttl))
        .arg(expiry_millis(retention.meta_ttl))
        .arg(epoch.as_str());
    call.arg(has_idempotency_key.then(|| expiry_millis(IDEMPOTENCY_TTL).to_string()).unwrap_or_default());
    // With 20 digits each, which is what the largest number has, texts compare as their numbers do.
    let number = version.as_ref().map(|version| format!("{:020}", version.number));
    call.arg(number.unwrap_or_default()).arg(version.as_ref().map_or("", |version| &*version.epoch));
    for StoredPublication { channel, record, time, .. } in publications {
        call.arg(channel).arg(record.as_slice()).arg(time.unix_millis());
    }
    call
}

/// Splits the reply to a call into those for each of its `count` publications. An error of the call is one of all of them.
pub(in crate::broker::redis) fn split_reply(reply: Value, count: usize) -> Vec<Value> {
    match reply {
        Value::Array(replies) if replies.len() == count => replies,
        reply => vec![reply; count],
    }
}
