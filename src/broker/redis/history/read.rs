//! Reads a page of a history, in several parts if it is longer than a reply may be.
//!
//! Other clients of this Redis may trim a stream, or write to it. A page has no hole: what is older than one counts as trimmed.

use bytes::Bytes;
use redis::Value;

use super::{
    super::{RedisContext, envelope, scripts, server::RedisServer},
    history_error, invalid_reply, millis, new_epoch,
};
use crate::{
    broker::{BrokerError, HistoryPage, HistoryRequest, Retention},
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
    is_reverse: bool,
    epoch: Option<Epoch>,
}

/// A reply of the script.
struct HistoryPart {
    top: Position,
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
    let top = part.top;
    remaining.last = remaining.last.min(top.offset);
    let end = if request.is_reverse { remaining.last + 1 } else { remaining.last };
    let mut page = PageBuilder { end, is_reverse: request.is_reverse, publications: Vec::new() };
    loop {
        if part.top.epoch != top.epoch {
            return Ok(None);
        }
        remaining.limit = remaining.limit.saturating_sub(part.records.len());
        for (offset, record) in part.records {
            match envelope::decode_record(channel.clone(), record, &context.signer) {
                Ok(publication) => {
                    let position = Some(Position { offset, epoch: top.epoch });
                    page.add(offset, Publication { position, ..publication });
                }
                Err(reason) => context.refused.count(reason),
            }
        }
        let Some(next) = part.next.filter(|_| remaining.limit > 0) else { break };
        remaining.skip_to(next, top.epoch);
        part = read_part(context, server, channel, remaining, retention).await?;
    }
    Ok(Some(HistoryPage { publications: page.finish(remaining.limit == 0), top }))
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
    call.arg(retention.size).arg(millis(retention.ttl)).arg(millis(retention.meta_ttl)).arg(new_epoch()?.as_str());
    call.arg(remaining.epoch.as_ref().map_or("", Epoch::as_str)).arg(remaining.first).arg(remaining.last);
    call.arg(u8::from(remaining.is_reverse)).arg(remaining.limit.min(i32::MAX as usize)).arg(PART_BYTES);
    let reply = server.query(&call, context.timeout).await.map_err(history_error)?;
    parse_part(reply).ok_or_else(invalid_reply)
}

impl Remaining {
    fn of(HistoryRequest { since, limit, is_reverse }: HistoryRequest) -> Self {
        let offset = since.map(|since| since.offset);
        let (first, last) = match offset {
            None => (1, MAX_OFFSET),
            Some(offset) if is_reverse => (1, offset.saturating_sub(1).min(MAX_OFFSET)),
            Some(offset) => (offset.saturating_add(1).min(MAX_OFFSET), MAX_OFFSET),
        };
        Self { first, last, limit, is_reverse, epoch: since.and_then(|since| since.epoch) }
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

/// Parses epoch, top, next offset, and then each offset and record.
fn parse_part(reply: Value) -> Option<HistoryPart> {
    let Value::Array(values) = reply else { return None };
    let mut texts = values.into_iter().map(|value| match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    });
    let mut next_text = || texts.next().flatten();
    let parse_offset = |text: Vec<u8>| std::str::from_utf8(&text).ok()?.parse::<u64>().ok();
    let epoch = Epoch::parse(std::str::from_utf8(&next_text()?).ok()?)?;
    let top = Position { offset: parse_offset(next_text()?)?, epoch };
    let next = Some(parse_offset(next_text()?)?).filter(|next| *next > 0);
    let mut records = Vec::new();
    while let Some(offset) = next_text() {
        records.push((parse_offset(offset)?, Bytes::from(next_text()?)));
    }
    Some(HistoryPart { top, next, records })
}
