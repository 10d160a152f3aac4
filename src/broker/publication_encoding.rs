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

/// Bytes of a length.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Returns which parts a publication has.
pub(super) fn flags(Publication { info, tags, exclude, use_delta, .. }: &Publication) -> u8 {
    let has = |raw: fn(&ClientInfo) -> &Option<Bytes>| info.as_ref().is_some_and(|info| raw(info).is_some());
    let parts = [
        (HAS_INFO, info.is_some()),
        (HAS_CONN_INFO, has(|info| &info.conn_info)),
        (HAS_CHAN_INFO, has(|info| &info.chan_info)),
        (HAS_TAGS, !tags.is_empty()),
        (IS_DELTA, *use_delta),
        (HAS_EXCLUDE, exclude.is_some()),
    ];
    parts.into_iter().filter(|(_, is_present)| *is_present).fold(0, |flags, (flag, _)| flags | flag)
}

/// Returns how many bytes [`write`] writes.
pub(super) fn length(Publication { info, exclude, data, .. }: &Publication, tags: Option<&[u8]>) -> usize {
    let raw = |raw: &Option<Bytes>| raw.as_ref().map_or(0, |raw| LENGTH_BYTES + raw.len());
    let info = info.as_ref().map_or(0, |info| {
        2 * LENGTH_BYTES + info.user.len() + info.client.len() + raw(&info.conn_info) + raw(&info.chan_info)
    });
    info + tags.map_or(0, |tags| LENGTH_BYTES + tags.len()) + exclude.map_or(0, |_| size_of::<Uuid>()) + data.len()
}

/// Writes the parts that the flags announce, each after its length, then the data. The caller encodes the tags for its
/// reader; `None`: there are no tags.
pub(super) fn write(into: &mut Vec<u8>, Publication { info, exclude, data, .. }: &Publication, tags: Option<&[u8]>) {
    if let Some(info) = info {
        write_field(into, info.user.as_bytes());
        write_field(into, info.client.as_bytes());
        info.conn_info.iter().chain(&info.chan_info).for_each(|raw| write_field(into, raw));
    }
    tags.iter().for_each(|tags| write_field(into, tags));
    exclude.iter().for_each(|client| into.extend_from_slice(client.as_bytes()));
    into.extend_from_slice(data);
}

/// Writes bytes after their length.
pub(super) fn write_field(into: &mut Vec<u8>, bytes: &[u8]) {
    // Never saturates: names, JSON and ids have limits far below.
    into.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    into.extend_from_slice(bytes);
}
