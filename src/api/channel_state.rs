//! `history`, `history_remove`, `presence` and `presence_stats`: what channels remember, and who is there.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ApiContext, ApiError, EmptyResult,
    request::{ApiPosition, parse_object},
};
use crate::{
    broker::{HistoryRequest, Retention, SincePosition, read_history_page},
    channel::Channel,
    config::ChannelOptions,
    protocol::{self, ErrorCode, HistoryResult, PresenceStats},
    publication::ClientInfo,
};

#[derive(Deserialize)]
struct ChannelRequest {
    channel: Option<String>,
}

#[derive(Deserialize)]
struct ReadHistoryRequest {
    channel: Option<String>,
    limit: Option<i64>,
    since: Option<ApiPosition>,
    reverse: Option<bool>,
}

/// What a channel has kept.
pub(super) async fn history(body: &Bytes, api: &ApiContext) -> Result<Box<RawValue>, ApiError> {
    let ReadHistoryRequest { channel, limit, since, reverse } = parse_object(body)?;
    let (channel, options) = resolve_channel(channel, api)?;
    let retention = Retention::from_options(options).ok_or(ErrorCode::NotAvailable)?;
    let limit = usize::try_from(limit.unwrap_or_default()).map_err(|_| ErrorCode::BadRequest)?;
    let since = since.map(|since| SincePosition::parse(since.offset, &since.epoch)).transpose()?;
    let limit = limit.min(api.config.limits.history_publications);
    let request = HistoryRequest { since, limit, is_reverse: reverse.unwrap_or_default() };
    let max_bytes = api.config.limits.reply_bytes;
    let page = read_history_page(&*api.broker, channel, request, retention, max_bytes).await?;
    let publications = page.publications.iter().map(Into::into).collect();
    to_raw_json(protocol::encode_history_result(&HistoryResult { publications, position: page.top }))
}

/// Makes a channel forget what it has kept, not where it stands.
pub(super) async fn history_remove(body: &Bytes, api: &ApiContext) -> Result<EmptyResult, ApiError> {
    let ChannelRequest { channel } = parse_object(body)?;
    let (channel, options) = resolve_channel(channel, api)?;
    if !options.has_history() {
        return Err(ErrorCode::NotAvailable.into());
    }
    api.broker.remove_history(channel).await?;
    Ok(EmptyResult {})
}

/// Who is in a channel.
pub(super) async fn presence(body: &Bytes, api: &ApiContext) -> Result<Box<RawValue>, ApiError> {
    let result = protocol::encode_presence_result(&read_members(body, api).await?);
    // Half of those who are there would look like all of them.
    if result.len() > api.config.limits.reply_bytes {
        return Err(ErrorCode::LimitExceeded.into());
    }
    to_raw_json(result)
}

/// How many are in a channel.
pub(super) async fn presence_stats(body: &Bytes, api: &ApiContext) -> Result<PresenceStats, ApiError> {
    Ok(PresenceStats::count(&read_members(body, api).await?))
}

async fn read_members(body: &Bytes, api: &ApiContext) -> Result<Vec<Arc<ClientInfo>>, ApiError> {
    let ChannelRequest { channel } = parse_object(body)?;
    let (channel, options) = resolve_channel(channel, api)?;
    if !options.presence {
        return Err(ErrorCode::NotAvailable.into());
    }
    Ok(api.broker.presence(channel).await?)
}

fn resolve_channel(channel: Option<String>, api: &ApiContext) -> Result<(Channel, &ChannelOptions), ErrorCode> {
    let channel = Channel::new(&channel.unwrap_or_default())?;
    let options = api.permissions.channel_options(&channel)?;
    Ok((channel, options))
}

fn to_raw_json(json: Vec<u8>) -> Result<Box<RawValue>, ApiError> {
    let json = String::from_utf8(json).map_err(|_| ErrorCode::Internal)?;
    Ok(RawValue::from_string(json).map_err(|_| ErrorCode::Internal)?)
}
