//! Writes a publication's content, which is everything but its channel and its position, as bytes. Histories and the bus use
//! the same layout, and each has its own reader: a history trusts what it has stored, a reader of the bus trusts nothing.

use bytes::{BufMut, Bytes};
use uuid::Uuid;

use crate::publication::{ClientInfo, Publication};

pub(super) const HAS_INFO: u8 = 1;
pub(super) const HAS_CONN_INFO: u8 = 2;
pub(super) const HAS_CHAN_INFO: u8 = 4;
/// This flag and the following ones are unknown to the first version of Wardcast, which drops and counts a message that has
/// one of them.
pub(super) const HAS_TAGS: u8 = 8;
pub(super) const IS_DELTA: u8 = 16;
pub(super) const HAS_EXCLUDE: u8 = 32;
/// Only on the bus, for a publication that is stored in a history: a record of the memory broker has a field for its time.
pub(super) const HAS_TIME: u8 = 64;
/// The data is any bytes.
pub(super) const IS_BINARY: u8 = 128;

/// Bytes of a length.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Returns which parts a publication has.
pub(super) fn flags(Publication { info, tags, exclude, use_delta, is_binary, .. }: &Publication) -> u8 {
    let parts = [
        (HAS_TAGS, !tags.is_empty()),
        (IS_DELTA, *use_delta),
        (HAS_EXCLUDE, exclude.is_some()),
        (IS_BINARY, *is_binary),
    ];
    let info = info.as_ref().map_or(0, |info| HAS_INFO | info_flags(info));
    join_flags(parts) | info
}

/// Returns which optional parts the description of a client has.
pub(super) fn info_flags(ClientInfo { conn_info, chan_info, .. }: &ClientInfo) -> u8 {
    join_flags([(HAS_CONN_INFO, conn_info.is_some()), (HAS_CHAN_INFO, chan_info.is_some())])
}

fn join_flags<const COUNT: usize>(parts: [(u8, bool); COUNT]) -> u8 {
    parts.into_iter().filter(|(_, is_present)| *is_present).fold(0, |flags, (flag, _)| flags | flag)
}

/// Returns how many bytes [`write`] writes.
pub(super) fn length(Publication { info, exclude, data, .. }: &Publication, tags: Option<&[u8]>) -> usize {
    let info = info.as_ref().map_or(0, |info| info_length(info));
    info + tags.map_or(0, |tags| LENGTH_BYTES + tags.len()) + exclude.map_or(0, |_| size_of::<Uuid>()) + data.len()
}

/// Returns how many bytes [`write_info`] writes.
pub(super) fn info_length(ClientInfo { user, client, conn_info, chan_info }: &ClientInfo) -> usize {
    let raw = |raw: &Option<Bytes>| raw.as_ref().map_or(0, |raw| LENGTH_BYTES + raw.len());
    2 * LENGTH_BYTES + user.len() + client.len() + raw(conn_info) + raw(chan_info)
}

/// Writes the parts that the flags announce, each after its length, then the data. The caller encodes the tags for its
/// reader; `None`: there are no tags.
pub(super) fn write(into: &mut Vec<u8>, Publication { info, exclude, data, .. }: &Publication, tags: Option<&[u8]>) {
    info.iter().for_each(|info| write_info(into, info));
    tags.iter().for_each(|tags| write_field(into, tags));
    exclude.iter().for_each(|client| into.extend_from_slice(client.as_bytes()));
    into.extend_from_slice(data);
}

/// Writes the description of a client, whose optional parts [`info_flags`] announces.
pub(super) fn write_info(into: &mut Vec<u8>, ClientInfo { user, client, conn_info, chan_info }: &ClientInfo) {
    write_field(into, user.as_bytes());
    write_field(into, client.as_bytes());
    conn_info.iter().chain(chan_info).for_each(|raw| write_field(into, raw));
}

/// Writes bytes after their length.
pub(super) fn write_field(into: &mut Vec<u8>, bytes: &[u8]) {
    // Never saturates: names, JSON and ids have limits far below.
    into.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    into.extend_from_slice(bytes);
}
