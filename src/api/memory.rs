//! `history`, `history_remove`, `presence` and `presence_stats`: what channels remember, and who is there.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Fault, Nothing, Shared, denied, failed, request::read_object};
use crate::{
    broker::{HistoryRequest, Retention, Since},
    channel::Channel,
    config::Channels,
    protocol::{self, ErrorCode, HistoryResult, PresenceStats},
    publication::ClientInfo,
};

#[derive(Deserialize)]
struct Request {
    channel: Option<String>,
}

#[derive(Deserialize)]
struct History {
    channel: Option<String>,
    limit: Option<i64>,
    since: Option<Place>,
    reverse: Option<bool>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

/// What a channel has kept.
pub(super) async fn history(body: &Bytes, shared: &Shared) -> Result<Box<RawValue>, Fault> {
    let History { channel, limit, since, reverse } = read_object(body)?;
    let (channel, options) = known(channel, shared)?;
    let retention = Retention::of(options).ok_or(ErrorCode::NotAvailable)?;
    let limit = usize::try_from(limit.unwrap_or_default()).map_err(|_| ErrorCode::BadRequest)?;
    let since = since.map(|place| Since::read(place.offset, &place.epoch).ok_or(ErrorCode::UnrecoverablePosition));
    let request = HistoryRequest {
        since: since.transpose()?,
        limit: limit.min(shared.config.limits.history_publications),
        is_reverse: reverse.unwrap_or_default(),
    };
    let read = shared.broker.history(channel, request, retention).await;
    let mut history = read.map_err(|error| failed(&error))?;
    if !history.knows(&request) {
        return Err(ErrorCode::UnrecoverablePosition.into());
    }
    history.cut(shared.config.limits.reply_bytes);
    let publications = history.publications.iter().map(Into::into).collect();
    raw(protocol::history_result(&HistoryResult { publications, position: history.top }))
}

/// Makes a channel forget what it has kept, not where it stands.
pub(super) async fn history_remove(body: &Bytes, shared: &Shared) -> Result<Nothing, Fault> {
    let Request { channel } = read_object(body)?;
    let (channel, options) = known(channel, shared)?;
    if !options.has_history() {
        return Err(ErrorCode::NotAvailable.into());
    }
    shared.broker.remove_history(channel).await.map_err(|error| failed(&error))?;
    Ok(Nothing {})
}

/// Who is in a channel.
pub(super) async fn presence(body: &Bytes, shared: &Shared) -> Result<Box<RawValue>, Fault> {
    let result = protocol::presence_result(&members(body, shared).await?);
    // Half of those who are there would look like all of them.
    if result.len() > shared.config.limits.reply_bytes {
        return Err(ErrorCode::LimitExceeded.into());
    }
    raw(result)
}

/// How many are in a channel.
pub(super) async fn presence_stats(body: &Bytes, shared: &Shared) -> Result<PresenceStats, Fault> {
    Ok(PresenceStats::of(&members(body, shared).await?))
}

async fn members(body: &Bytes, shared: &Shared) -> Result<Vec<Arc<ClientInfo>>, Fault> {
    let Request { channel } = read_object(body)?;
    let (channel, options) = known(channel, shared)?;
    if !options.presence {
        return Err(ErrorCode::NotAvailable.into());
    }
    Ok(shared.broker.members(channel).await.map_err(|error| failed(&error))?)
}

fn known(channel: Option<String>, shared: &Shared) -> Result<(Channel, &Channels), ErrorCode> {
    let channel = Channel::new(&channel.unwrap_or_default()).map_err(|_| ErrorCode::BadRequest)?;
    let options = shared.permissions.known(&channel).map_err(denied)?;
    Ok((channel, options))
}

fn raw(json: Vec<u8>) -> Result<Box<RawValue>, Fault> {
    let json = String::from_utf8(json).map_err(|_| ErrorCode::Internal)?;
    Ok(RawValue::from_string(json).map_err(|_| ErrorCode::Internal)?)
}
