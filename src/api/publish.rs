//! `publish` and `broadcast`: the same data to one channel, or to many.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Answer, Fault, Shared, denied, failed,
    request::{present, read_object},
};
use crate::{
    broker::{PublishOptions, Published, Retention, Version},
    channel::Channel,
    position::Epoch,
    protocol::{self, ErrorCode},
    publication::{ClientInfo, Publication},
    tags::Tags,
};

/// Longest idempotency key: the broker remembers many.
pub(super) const KEY_BYTES: usize = 255;
/// Longest name of a row of versions: every channel may remember one.
const VERSION_EPOCH_BYTES: usize = 64;

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(default)]
    channel: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(default)]
    channels: Vec<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// What both may say beside the data. Some clients write what was not set as 0 and "".
#[derive(Deserialize)]
struct Options<'a> {
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
pub(super) struct Message {
    data: Bytes,
    tags: Tags,
    is_delta: bool,
    exclude: Option<Uuid>,
    skips_history: bool,
    idempotency_key: Option<Arc<str>>,
    version: Option<Version>,
}

/// What came of a publication: where it stands, if the channel has a history.
#[derive(Serialize)]
pub(super) struct Sent {
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
}

/// What came of a broadcast.
#[derive(Serialize)]
pub(super) struct Responses {
    responses: Vec<Answer<Sent>>,
}

/// One publication.
pub(super) async fn publish(body: &Bytes, shared: &Shared) -> Result<Sent, Fault> {
    let request: Publish<'_> = read_object(body)?;
    let message = message_of(body, request.data)?;
    Ok(send(&request.channel, message, None, shared).await?)
}

/// The same to many; an answer per channel, in their order.
pub(super) async fn broadcast(body: &Bytes, shared: &Shared) -> Result<Responses, Fault> {
    let request: Broadcast<'_> = read_object(body)?;
    let message = message_of(body, request.data)?;
    if request.channels.is_empty() {
        return Err(ErrorCode::BadRequest.into());
    }
    if request.channels.len() > shared.config.limits.broadcast_channels {
        return Err(ErrorCode::LimitExceeded.into());
    }
    let sent = request.channels.iter().map(|channel| send(channel, message.clone(), None, shared));
    let responses = join_all(sent).await.into_iter().map(|result| Answer::new(result, &shared.metrics)).collect();
    Ok(Responses { responses })
}

impl Message {
    /// Data, and nothing else wanted.
    pub(super) fn plain(data: Bytes) -> Self {
        let (tags, exclude, idempotency_key, version) = (Tags::default(), None, None, None);
        Self { data, tags, is_delta: false, exclude, skips_history: false, idempotency_key, version }
    }

    /// To be published once under this key.
    pub(super) fn once(self, idempotency_key: Option<Arc<str>>) -> Self {
        Self { idempotency_key, ..self }
    }
}

/// Publishes for the API, which may publish to every channel of this configuration.
pub(super) async fn send(
    channel: &str,
    message: Message,
    info: Option<ClientInfo>,
    shared: &Shared,
) -> Result<Sent, ErrorCode> {
    let channel = Channel::new(channel).map_err(|_| ErrorCode::BadRequest)?;
    let options = shared.permissions.known(&channel).map_err(denied)?;
    let Message { data, tags, is_delta, exclude, skips_history, idempotency_key, version } = message;
    if data.len() > shared.config.limits.publication_bytes {
        return Err(ErrorCode::LimitExceeded);
    }
    let retention = Retention::of(options).filter(|_| !skips_history);
    if version.is_some() && retention.is_none() {
        // Nobody would remember which was the newest.
        return Err(ErrorCode::NotAvailable);
    }
    shared.metrics.publications.inc();
    let info = info.map(Arc::new);
    let publication = Publication { info, tags, is_delta, exclude, ..Publication::new(channel, data) };
    let wanted = PublishOptions { retention, idempotency_key, version };
    let Published { position, .. } = shared.broker.publish(publication, wanted).await.map_err(|error| {
        log::debug!("publish: {error}");
        failed(&error)
    })?;
    Ok(Sent { offset: position.map(|position| position.offset), epoch: position.map(|position| position.epoch) })
}

/// The data of a request and its options, which stand beside it.
fn message_of(body: &Bytes, data: Option<&RawValue>) -> Result<Message, Fault> {
    let data = protocol::one_line(body, data.ok_or(ErrorCode::BadRequest)?);
    let Options { skip_history, tags, idempotency_key, version, version_epoch, delta, exclude } = read_object(body)?;
    let text = |text: Option<String>, most: usize| match text.filter(|text| !text.is_empty()) {
        Some(text) if text.len() > most => Err(ErrorCode::BadRequest),
        text => Ok(text.map(Arc::from)),
    };
    let epoch = text(version_epoch, VERSION_EPOCH_BYTES)?.unwrap_or_else(|| "".into());
    Ok(Message {
        data,
        tags: tags_of(tags)?,
        is_delta: delta.unwrap_or_default(),
        exclude: client_of(exclude)?,
        skips_history: skip_history.unwrap_or_default(),
        idempotency_key: text(idempotency_key, KEY_BYTES)?,
        version: version.filter(|number| *number != 0).map(|number| Version { number, epoch }),
    })
}

fn tags_of(tags: Option<&RawValue>) -> Result<Tags, ErrorCode> {
    let read = tags.map(|tags| serde_json::from_str(tags.get())).transpose();
    read.map(Option::unwrap_or_default).map_err(|_| ErrorCode::BadRequest)
}

/// The id of a connection, as clients are told it.
fn client_of(text: Option<String>) -> Result<Option<Uuid>, ErrorCode> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let is_plain = text.len() == uuid::fmt::Hyphenated::LENGTH;
    Uuid::try_parse(&text).ok().filter(|_| is_plain).map(Some).ok_or(ErrorCode::BadRequest)
}
