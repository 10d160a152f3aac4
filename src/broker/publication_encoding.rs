//! What a publication carries beside its channel and its place, as bytes: in a history and on the bus. They are written here for
//! both. Each reads for itself: a history believes what it has put, and whoever reads the bus believes nothing.

use bytes::{BufMut, Bytes};
use uuid::Uuid;

use crate::publication::{ClientInfo, Publication};

pub(super) const HAS_INFO: u8 = 1;
pub(super) const HAS_CONN_INFO: u8 = 2;
pub(super) const HAS_CHAN_INFO: u8 = 4;
/// From here on flags that the first instances on a bus did not know: they drop what has one of them, and count it.
pub(super) const HAS_TAGS: u8 = 8;
pub(super) const IS_DELTA: u8 = 16;
pub(super) const HAS_EXCLUDE: u8 = 32;

/// Bytes of a length.
const LENGTH: usize = size_of::<u32>();

/// Which parts there are.
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
    parts.into_iter().filter(|(_, is_there)| *is_there).fold(0, |flags, (flag, _)| flags | flag)
}

/// How many bytes [`write`] writes.
pub(super) fn length(Publication { info, exclude, data, .. }: &Publication, tags: Option<&[u8]>) -> usize {
    let raw = |raw: &Option<Bytes>| raw.as_ref().map_or(0, |raw| LENGTH + raw.len());
    let info = info.as_ref().map_or(0, |info| {
        2 * LENGTH + info.user.len() + info.client.len() + raw(&info.conn_info) + raw(&info.chan_info)
    });
    info + tags.map_or(0, |tags| LENGTH + tags.len()) + exclude.map_or(0, |_| size_of::<Uuid>()) + data.len()
}

/// The parts that the flags tell, each behind its length, and then the data. `tags` as the reader wants them, if there are any.
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

/// Bytes behind their length.
pub(super) fn write_field(into: &mut Vec<u8>, bytes: &[u8]) {
    // Names, JSON and orders, all of them bounded far below.
    into.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    into.extend_from_slice(bytes);
}
