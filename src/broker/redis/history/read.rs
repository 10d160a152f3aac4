//! Reads a page of a history, in several parts if it is longer than a reply may be.
//!
//! Other clients of this Redis may trim a stream, or write to it. A page has no hole: what is older than one counts as trimmed.

use bytes::Bytes;
use redis::Value;

use super::{
    super::{RedisContext, envelope, scripts, server::RedisServer, store::expiry_millis},
    history_error, invalid_reply, new_epoch, parse_time,
};
use crate::{
    broker::{BrokerError, ChannelTop, HistoryPage, HistoryRequest, Retention},
    channel::Channel,
    position::{Epoch, Position},
    publication::Publication,
};

/// Maximum bytes of the records in one reply, unless a single one is larger.
const PART_BYTES: usize = 1 << 20;
/// How often a page is read from its beginning. It is read again if the channel gets a new epoch meanwhile.
const MAX_ATTEMPTS: u32 = 3;
/// Numbers above it are not exact in a script. No history has so many publications.
const MAX_OFFSET: u64 = 1 << 53;

/// What is still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remaining {
    /// Offsets, both included. It is empty if the first is larger.
    first: u64,
    last: u64,
    limit: usize,
    max_bytes: usize,
    is_reverse: bool,
    epoch: Option<Epoch>,
}

/// A reply of the script.
struct HistoryPart {
    newest: ChannelTop,
    /// The offset where the next part begins.
    next: Option<u64>,
    records: Vec<(u64, Bytes)>,
}

/// Reads a page. Creates the position of a channel that has none.
pub(in crate::broker::redis) async fn read_page(
    context: &RedisContext,
    channel: Channel,
    request: HistoryRequest,
    retention: Retention,
) -> Result<HistoryPage, BrokerError> {
    let server = context.server_of(&channel)?;
    for _ in 0..MAX_ATTEMPTS {
        if let Some(page) = read_parts(context, &server, &channel, request, retention).await? {
            return Ok(page);
        }
    }
    Err(history_error("the channel has got a new epoch at each attempt to read it".to_owned()))
}

/// Reads all parts; `None` if the epoch has changed meanwhile.
async fn read_parts(
    context: &RedisContext,
    server: &RedisServer,
    channel: &Channel,
    request: HistoryRequest,
    retention: Retention,
) -> Result<Option<HistoryPage>, BrokerError> {
    let mut remaining = Remaining::of(request);
    let mut part = read_part(context, server, channel, remaining, retention).await?;
    let ChannelTop { position: top, time: top_time } = part.newest;
    remaining.last = remaining.last.min(top.offset);
    let end = if request.is_reverse { remaining.last + 1 } else { remaining.last };
    let mut page = PageBuilder { end, is_reverse: request.is_reverse, publications: Vec::new() };
    loop {
        if part.newest.position.epoch != top.epoch {
            return Ok(None);
        }
        remaining.limit = remaining.limit.saturating_sub(part.records.len());
        for (offset, record) in part.records {
            match envelope::decode_record(channel.clone(), record, &context.signer) {
                Ok(publication) => {
                    remaining.max_bytes = remaining.max_bytes.saturating_sub(publication.cost_bytes());
                    let position = Some(Position { offset, epoch: top.epoch });
                    page.add(offset, Publication { position, ..publication });
                }
                Err(reason) => context.refused.count(reason),
            }
        }
        let Some(next) = part.next.filter(|_| !remaining.is_limit_reached()) else { break };
        remaining.skip_to(next, top.epoch);
        part = read_part(context, server, channel, remaining, retention).await?;
    }
    Ok(Some(HistoryPage { publications: page.finish(remaining.is_limit_reached()), top, top_time }))
}

async fn read_part(
    context: &RedisContext,
    server: &RedisServer,
    channel: &Channel,
    remaining: Remaining,
    retention: Retention,
) -> Result<HistoryPart, BrokerError> {
    let mut call =
        scripts::READ_HISTORY.call(&[context.names.history_key(channel), context.names.history_meta_key(channel)]);
    call.arg(retention.size)
        .arg(expiry_millis(retention.ttl))
        .arg(expiry_millis(retention.meta_ttl))
        .arg(new_epoch()?.as_str());
    call.arg(remaining.epoch.as_ref().map_or("", Epoch::as_str)).arg(remaining.first).arg(remaining.last);
    call.arg(u8::from(remaining.is_reverse))
        .arg(remaining.limit.min(i32::MAX as usize))
        .arg(PART_BYTES.min(remaining.max_bytes))
        .arg(context.message_bytes);
    let reply = server.query(&call, context.timeout).await.map_err(history_error)?;
    parse_part(reply).ok_or_else(invalid_reply)
}

impl Remaining {
    fn of(HistoryRequest { since, limit, is_reverse, max_bytes }: HistoryRequest) -> Self {
        let offset = since.map(|since| since.offset);
        let (first, last) = match offset {
            None => (1, MAX_OFFSET),
            Some(offset) if is_reverse => (1, offset.saturating_sub(1).min(MAX_OFFSET)),
            Some(offset) => (offset.saturating_add(1).min(MAX_OFFSET), MAX_OFFSET),
        };
        let (epoch, max_bytes) = (since.and_then(|since| since.epoch), max_bytes.unwrap_or(usize::MAX));
        Self { first, last, limit, max_bytes, is_reverse, epoch }
    }

    /// Returns whether enough has been read.
    fn is_limit_reached(&self) -> bool {
        self.limit == 0 || self.max_bytes == 0
    }

    fn skip_to(&mut self, next: u64, epoch: Epoch) {
        *(if self.is_reverse { &mut self.last } else { &mut self.first }) = next;
        self.epoch = Some(epoch);
    }
}

/// Collects publications that follow each other.
struct PageBuilder {
    /// Forwards: the offset of the last one that there should be. Backwards: the one behind the first.
    end: u64,
    is_reverse: bool,
    publications: Vec<(u64, Publication)>,
}

impl PageBuilder {
    fn add(&mut self, offset: u64, publication: Publication) {
        let before = self.publications.last().map(|(offset, _)| *offset);
        if self.is_reverse {
            // Behind a hole everything is older.
            if before.unwrap_or(self.end).checked_sub(1) != Some(offset) {
                return;
            }
        } else if before.is_some_and(|before| before + 1 != offset) {
            self.publications.clear();
        }
        self.publications.push((offset, publication));
    }

    /// Returns the publications. Unless the limit was reached, forwards the last one has to be there.
    fn finish(mut self, is_limit_reached: bool) -> Vec<Publication> {
        let last = self.publications.last().map(|(offset, _)| *offset);
        if !self.is_reverse && !is_limit_reached && last != Some(self.end) {
            self.publications.clear();
        }
        self.publications.into_iter().map(|(_, publication)| publication).collect()
    }
}

/// Parses epoch, offset and time of the newest publication, next offset, and then each offset and record.
fn parse_part(reply: Value) -> Option<HistoryPart> {
    let Value::Array(values) = reply else { return None };
    let mut texts = values.into_iter().map(|value| match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    });
    let mut next_text = || texts.next().flatten();
    let parse_offset = |text: Vec<u8>| std::str::from_utf8(&text).ok()?.parse::<u64>().ok();
    let epoch = Epoch::parse(std::str::from_utf8(&next_text()?).ok()?)?;
    let position = Position { offset: parse_offset(next_text()?)?, epoch };
    let newest = ChannelTop { position, time: parse_time(&next_text()?) };
    let next = Some(parse_offset(next_text()?)?).filter(|next| *next > 0);
    let mut records = Vec::new();
    while let Some(offset) = next_text() {
        records.push((parse_offset(offset)?, Bytes::from(next_text()?)));
    }
    Some(HistoryPart { newest, next, records })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::WallTime;

    fn page(end: u64, is_reverse: bool, is_limit_reached: bool, offsets: &[u64]) -> Vec<u64> {
        let epoch = Epoch::parse("abcdefgh").unwrap();
        let mut page = PageBuilder { end, is_reverse, publications: Vec::new() };
        for offset in offsets {
            let position = Some(Position { offset: *offset, epoch });
            page.add(*offset, Publication { position, ..Publication::new(Channel::new("a").unwrap(), Bytes::new()) });
        }
        let offset = |publication: Publication| publication.position.map_or(0, |position| position.offset);
        page.finish(is_limit_reached).into_iter().map(offset).collect()
    }

    #[test]
    fn page_forwards_keeps_what_follows_its_last_hole() {
        assert_eq!(page(4, false, false, &[1, 2, 3, 4]), [1, 2, 3, 4]);
        assert_eq!(page(5, false, false, &[1, 2, 4, 5]), [4, 5]);
        assert_eq!(page(5, false, false, &[2, 2, 3, 4, 5]), [2, 3, 4, 5]);
        assert!(page(5, false, false, &[1, 2, 3, 4]).is_empty(), "the last one is missing");
        assert_eq!(page(5, false, true, &[1, 2, 3, 4]), [1, 2, 3, 4]);
        assert!(page(0, false, false, &[]).is_empty());
    }

    #[test]
    fn page_backwards_ends_before_its_first_hole() {
        assert_eq!(page(5, true, false, &[4, 3, 2]), [4, 3, 2]);
        assert_eq!(page(5, true, false, &[4, 2, 1]), [4]);
        assert_eq!(page(5, true, false, &[4, 4, 3]), [4, 3]);
        assert!(page(5, true, true, &[3, 2]).is_empty(), "the first one is missing");
        assert!(page(0, true, false, &[0]).is_empty());
    }

    proptest! {
        #[test]
        fn pages_never_have_a_hole(
            end in 0..20_u64,
            is_reverse in any::<bool>(),
            is_limit_reached in any::<bool>(),
            offsets in proptest::collection::vec(any::<u64>().prop_map(|offset| offset % 20), 0..30),
        ) {
            let page = page(end, is_reverse, is_limit_reached, &offsets);
            let follows = |pair: &[u64]| if is_reverse { pair[0] == pair[1] + 1 } else { pair[0] + 1 == pair[1] };
            prop_assert!(page.windows(2).all(follows), "{page:?}");
        }
    }

    #[test]
    fn reply_of_another_form_is_refused() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let head = || vec![bulk("abcdefgh"), bulk("7"), bulk("5"), bulk("0")];
        let newest = ChannelTop {
            position: Position { offset: 7, epoch: Epoch::parse("abcdefgh").unwrap() },
            time: Some(WallTime::from_unix_millis(5)),
        };
        assert!(parse_part(Value::Array(head())).is_some_and(|part| part.newest == newest && part.next.is_none()));
        for length in 0..4 {
            assert!(parse_part(Value::Array(head()[..length].to_vec())).is_none());
        }
        for more in [vec![bulk("1")], vec![bulk("-1"), bulk("")], vec![bulk("1"), Value::Nil]] {
            assert!(parse_part(Value::Array([head(), more].concat())).is_none());
        }
        assert!(parse_part(Value::Nil).is_none());
    }

    #[test]
    fn largest_offsets_of_a_request_are_exact_in_a_script() {
        let remaining = |offset: u64, is_reverse: bool| {
            let since = Some(crate::broker::SincePosition { offset, epoch: None });
            let remaining = Remaining::of(HistoryRequest { since, is_reverse, ..HistoryRequest::default() });
            (remaining.first, remaining.last)
        };
        assert_eq!(remaining(u64::MAX, false), (MAX_OFFSET, MAX_OFFSET));
        assert_eq!(remaining(u64::MAX, true), (1, MAX_OFFSET));
        assert_eq!((remaining(0, false), remaining(0, true)), ((1, MAX_OFFSET), (1, 0)));
        assert_eq!((remaining(7, false), remaining(7, true)), ((8, MAX_OFFSET), (1, 6)));
    }
}
