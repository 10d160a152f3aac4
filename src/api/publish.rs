//! `publish` and `broadcast`: the same data to one channel, or to many.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    ApiContext, ApiError, ApiResponse,
    request::{deserialize_present, parse_object},
};
use crate::{
    broker::{PublishOptions, PublishReceipt, Retention, Version},
    channel::Channel,
    position::Epoch,
    protocol::{self, ErrorCode},
    publication::{ClientInfo, Publication},
    tags::Tags,
};

/// Longest idempotency key: the broker remembers many.
pub(super) const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;
/// Longest name of a row of versions: every channel may remember one.
const MAX_VERSION_EPOCH_BYTES: usize = 64;

#[derive(Deserialize)]
struct PublishRequest<'a> {
    #[serde(default)]
    channel: String,
    #[serde(borrow, default, deserialize_with = "deserialize_present")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BroadcastRequest<'a> {
    #[serde(default)]
    channels: Vec<String>,
    #[serde(borrow, default, deserialize_with = "deserialize_present")]
    data: Option<&'a RawValue>,
}

/// What both may say beside the data. Some clients write what was not set as 0 and "".
#[derive(Deserialize)]
struct PublishFields<'a> {
    skip_history: Option<bool>,
    #[serde(borrow)]
    tags: Option<&'a RawValue>,
    idempotency_key: Option<String>,
    version: Option<u64>,
    version_epoch: Option<String>,
    delta: Option<bool>,
    exclude: Option<String>,
}

/// A publication but for its channel, and what is wanted of it.
#[derive(Clone)]
pub(super) struct PendingPublication {
    data: Bytes,
    tags: Tags,
    use_delta: bool,
    exclude: Option<Uuid>,
    skip_history: bool,
    idempotency_key: Option<Arc<str>>,
    version: Option<Version>,
}

/// What came of a publication: where it stands, if the channel has a history.
#[derive(Serialize)]
pub(super) struct PublishResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
}

/// What came of a broadcast.
#[derive(Serialize)]
pub(super) struct BroadcastResult {
    responses: Vec<ApiResponse<PublishResult>>,
}

/// One publication.
pub(super) async fn publish(body: &Bytes, api: &ApiContext) -> Result<PublishResult, ApiError> {
    let request: PublishRequest<'_> = parse_object(body)?;
    let message = read_publication(body, request.data)?;
    Ok(publish_to_channel(&request.channel, message, None, api).await?)
}

/// The same to many; an answer per channel, in their order.
pub(super) async fn broadcast(body: &Bytes, api: &ApiContext) -> Result<BroadcastResult, ApiError> {
    let request: BroadcastRequest<'_> = parse_object(body)?;
    let message = read_publication(body, request.data)?;
    if request.channels.is_empty() {
        return Err(ErrorCode::BadRequest.into());
    }
    if request.channels.len() > api.config.limits.broadcast_channels {
        return Err(ErrorCode::LimitExceeded.into());
    }
    let sent = request.channels.iter().map(|channel| publish_to_channel(channel, message.clone(), None, api));
    let responses = join_all(sent).await.into_iter().map(|result| ApiResponse::new(result, &api.metrics)).collect();
    Ok(BroadcastResult { responses })
}

impl PendingPublication {
    /// Data, and nothing else wanted.
    pub(super) fn new(data: Bytes) -> Self {
        let (tags, exclude, idempotency_key, version) = (Tags::default(), None, None, None);
        Self { data, tags, use_delta: false, exclude, skip_history: false, idempotency_key, version }
    }

    /// To be published once under this key.
    pub(super) fn with_idempotency_key(self, idempotency_key: Option<Arc<str>>) -> Self {
        Self { idempotency_key, ..self }
    }
}

/// Publishes for the API, which may publish to every channel of this configuration.
pub(super) async fn publish_to_channel(
    channel: &str,
    message: PendingPublication,
    info: Option<ClientInfo>,
    api: &ApiContext,
) -> Result<PublishResult, ErrorCode> {
    let channel = Channel::new(channel)?;
    let options = api.permissions.channel_options(&channel)?;
    let PendingPublication { data, tags, use_delta, exclude, skip_history, idempotency_key, version } = message;
    if data.len() > api.config.limits.publication_bytes {
        return Err(ErrorCode::LimitExceeded);
    }
    let retention = Retention::from_options(options).filter(|_| !skip_history);
    if version.is_some() && retention.is_none() {
        // Nobody would remember which was the newest.
        return Err(ErrorCode::NotAvailable);
    }
    api.metrics.publications.inc();
    let info = info.map(Arc::new);
    let publication = Publication { info, tags, use_delta, exclude, ..Publication::new(channel, data) };
    let wanted = PublishOptions { retention, idempotency_key, version };
    let PublishReceipt { position, .. } =
        api.broker.publish(publication, wanted).await.inspect_err(|error| log::debug!("publish: {error}"))?;
    Ok(PublishResult {
        offset: position.map(|position| position.offset),
        epoch: position.map(|position| position.epoch),
    })
}

/// The data of a request and its options, which stand beside it.
fn read_publication(body: &Bytes, data: Option<&RawValue>) -> Result<PendingPublication, ApiError> {
    let data = protocol::to_single_line(body, data.ok_or(ErrorCode::BadRequest)?);
    let PublishFields { skip_history, tags, idempotency_key, version, version_epoch, delta, exclude } =
        parse_object(body)?;
    let text = |text: Option<String>, max_bytes: usize| match text.filter(|text| !text.is_empty()) {
        Some(text) if text.len() > max_bytes => Err(ErrorCode::BadRequest),
        text => Ok(text.map(Arc::from)),
    };
    let epoch = text(version_epoch, MAX_VERSION_EPOCH_BYTES)?.unwrap_or_else(|| "".into());
    Ok(PendingPublication {
        data,
        tags: parse_tags(tags)?,
        use_delta: delta.unwrap_or_default(),
        exclude: parse_client_id(exclude)?,
        skip_history: skip_history.unwrap_or_default(),
        idempotency_key: text(idempotency_key, MAX_IDEMPOTENCY_KEY_BYTES)?,
        version: version.filter(|number| *number != 0).map(|number| Version { number, epoch }),
    })
}

fn parse_tags(tags: Option<&RawValue>) -> Result<Tags, ErrorCode> {
    let read = tags.map(|tags| serde_json::from_str(tags.get())).transpose();
    read.map(Option::unwrap_or_default).map_err(|_| ErrorCode::BadRequest)
}

/// The id of a connection, as clients are told it.
fn parse_client_id(text: Option<String>) -> Result<Option<Uuid>, ErrorCode> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let is_plain = text.len() == uuid::fmt::Hyphenated::LENGTH;
    Uuid::try_parse(&text).ok().filter(|_| is_plain).map(Some).ok_or(ErrorCode::BadRequest)
}
