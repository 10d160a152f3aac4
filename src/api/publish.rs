//! `publish` and `broadcast`: publish data to one channel, or the same data to many.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{sync::Semaphore, task::yield_now};
use uuid::Uuid;

use super::{
    ApiContext, ApiError, ApiResponse,
    description::{
        Access, ApiMethod, ApiResult, BROKER_UNAVAILABLE, Example, Field, Handler, JsonType, UNKNOWN_NAMESPACE,
        request_fields,
    },
    request::{decode_base64, deserialize_present, json_line, not_json_in_base64, parse_object, to_result},
};
use crate::{
    broker::{PublishOptions, PublishReceipt, Retention, Version},
    channel::Channel,
    hooks::{ApprovedOptions, PublishApproval},
    position::Epoch,
    protocol::{self, DisabledOption, ErrorCode, ExceededLimit, WireError},
    publication::{ClientInfo, MAX_IDEMPOTENCY_KEY_BYTES, Publication},
    tags::Tags,
};

/// Name of the limit on the channels of a broadcast and on the commands of a batch.
pub(super) const BROADCAST_CHANNELS: &str = "limits.broadcast_channels";
/// Maximum length of a version's epoch. Each channel may remember one.
const MAX_VERSION_EPOCH_BYTES: usize = 64;

/// Bytes that a broadcast publishes in one turn: the broker copies the data for each channel, and with Redis queues it.
const BROADCAST_TURN_BYTES: usize = 2 << 20;
/// Turns of all broadcasts at the same time. Together they take half of the queue for publishing to Redis, so that broadcasts
/// wait for each other, and leave room for others, instead of filling it.
const BROADCAST_TURNS: usize = 4;
/// Turns of one broadcast at the same time, so that the broker has work while replies are read.
const TURNS_PER_BROADCAST: usize = 2;
/// Cost of a channel of a broadcast beyond the data.
const CHANNEL_COST_BYTES: usize = 1024;

const TOO_LARGE: (ErrorCode, &str) = (ErrorCode::LimitExceeded, "`data` is larger than `api.publication_bytes`");
const NOT_AVAILABLE: (ErrorCode, &str) =
    (ErrorCode::NotAvailable, "`version` is given, but the channel has no history or `skip_history` is set");
const QUEUE_FULL: (ErrorCode, &str) = (
    ErrorCode::TooManyRequests,
    "a delivery queue (`limits.hub_queue_bytes`) or that of the broker is full; nothing was published",
);

/// `publish`.
pub(super) const PUBLISH: ApiMethod = ApiMethod {
    name: "publish",
    access: Access::Write,
    summary: "Publishes data to a channel.",
    details: "The answer comes when the broker has the publication, before subscribers have it.",
    request: &[PublishRequest::FIELDS, PublishFields::FIELDS],
    result: POSITION,
    errors: &[
        BROKER_UNAVAILABLE,
        UNKNOWN_NAMESPACE,
        TOO_LARGE,
        (
            ErrorCode::BadRequest,
            "`channel` or `data` is missing, or `channel`, `b64data`, `tags`, `idempotency_key`, `version_epoch` or `exclude` is invalid",
        ),
        NOT_AVAILABLE,
        QUEUE_FULL,
    ],
    example: Example {
        request: r#"{"channel":"news","data":{"hello":"world"}}"#,
        answer: r#"{"result":{"offset":1,"epoch":"xyzw"}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(publish(body, api))),
};

/// `broadcast`.
pub(super) const BROADCAST: ApiMethod = ApiMethod {
    name: "broadcast",
    access: Access::Write,
    summary: "Publishes the same data to many channels.",
    details: "An error in one channel does not affect the others.",
    request: &[BroadcastRequest::FIELDS, PublishFields::FIELDS],
    result: &[Field::always(
        "responses",
        JsonType::Array(&JsonType::Object(&[
            Field::left_out("result", JsonType::Object(POSITION), "if it failed", "As of `publish`."),
            Field::left_out("error", JsonType::Object(ERROR), "if it succeeded", "As of `publish`."),
        ])),
        "One answer for each channel, in the order of `channels`.",
    )],
    errors: &[
        (ErrorCode::LimitExceeded, "there are more than `limits.broadcast_channels` channels; nothing was published"),
        (
            ErrorCode::BadRequest,
            "`channels` or `data` is missing or empty, or `b64data`, `tags`, `idempotency_key`, `version_epoch` or `exclude` is invalid",
        ),
    ],
    example: Example {
        request: r#"{"channels":["news","unknown:1"],"data":{"hello":"all"}}"#,
        answer: r#"{"result":{
  "responses":[
    {"result":{"offset":2,"epoch":"xyzw"}},
    {"error":{"code":102,"message":"unknown channel"}}
  ]
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(broadcast(body, api))),
};

const POSITION: &[Field] = &[
    Field::left_out(
        "offset",
        JsonType::Integer,
        "if the channel has no history",
        "Offset of the publication in the history. If its `version` is not new: the offset of the newest publication.",
    ),
    Field::left_out("epoch", JsonType::String, "if the channel has no history", "Epoch of the history."),
];

/// An error, as answers contain it.
pub(super) const ERROR: &[Field] = &[
    Field::always("code", JsonType::Integer, "Its code."),
    Field::always("message", JsonType::String, "Its text."),
    Field::left_out("temporary", JsonType::Boolean, "if it is `false`", "Whether the same call may succeed later."),
];

request_fields! {
    /// A request of `publish`, without the fields that `broadcast` has, too.
    struct PublishRequest<'a> {
        /// Channel to publish to.
        #[serde(default)]
        channel: String = (JsonType::String, None),
        /// Data of the publication. `null` is data, too. Not needed with `b64data`.
        #[serde(borrow, default, deserialize_with = "deserialize_present")]
        data: Option<&'a RawValue> = (JsonType::Any, None),
    }
}

request_fields! {
    /// A request of `broadcast`, without the fields that `publish` has, too.
    struct BroadcastRequest<'a> {
        /// Channels to publish to, at most `limits.broadcast_channels`.
        #[serde(default)]
        channels: Vec<String> = (JsonType::Array(&JsonType::String), None),
        /// Data of the publications. `null` is data, too. Not needed with `b64data`.
        #[serde(borrow, default, deserialize_with = "deserialize_present")]
        data: Option<&'a RawValue> = (JsonType::Any, None),
    }
}

request_fields! {
    /// The options of `publish` and `broadcast`. Some clients of the API write unset fields as `0` and `""`.
    struct PublishFields<'a> {
        /// Data in Base64, instead of `data`: any bytes in channels with `data_format = "binary"`, which need it, and JSON in others.
        b64data: Option<String> = (JsonType::String, Some("none")),
        /// Keeps the publication out of the history; it gets no offset.
        skip_history: Option<bool> = (JsonType::Boolean, Some("`false`")),
        /// Names and values that subscribers can filter by: at most 32 tags and 4,096 bytes.
        #[serde(borrow)]
        tags: Option<&'a RawValue> = (JsonType::Map(&JsonType::String), Some("none")),
        /// Key under which a channel accepts one publication in five minutes, at most 255 bytes. A repetition gets the first
        /// answer and is not published.
        idempotency_key: Option<String> = (JsonType::String, Some("none")),
        /// Version of the state that the publication carries. One that is not newer than the newest of its epoch is not
        /// published.
        version: Option<u64> = (JsonType::Integer, Some("`0`: no version")),
        /// Epoch of the version, at most 64 bytes. Versions of different epochs are not compared.
        version_epoch: Option<String> = (JsonType::String, Some("empty")),
        /// Sends the publication as a delta to subscribers who use deltas.
        delta: Option<bool> = (JsonType::Boolean, Some("as the channel's `delta_publish`; `false` does not switch that off")),
        /// Client id of a connection that does not get the publication.
        exclude: Option<String> = (JsonType::String, Some("none")),
    }
}

/// The turns in which all broadcasts of this instance publish: first come, first served.
pub struct BroadcastTurns(Semaphore);

impl Default for BroadcastTurns {
    fn default() -> Self {
        Self(Semaphore::new(BROADCAST_TURNS))
    }
}

/// The data of a publication. What it must be depends on the channel.
#[derive(Clone)]
enum PendingData {
    /// JSON on one line.
    Json(Bytes),
    /// Any bytes, and the same as JSON on one line, if they are known to be JSON.
    Bytes { bytes: Bytes, json: Option<Bytes> },
}

impl PendingData {
    fn bytes(&self) -> &Bytes {
        let (Self::Json(bytes) | Self::Bytes { bytes, .. }) = self;
        bytes
    }

    /// Returns what is published in a channel.
    fn in_channel(self, has_binary_data: bool) -> Result<Bytes, WireError> {
        match (self, has_binary_data) {
            (Self::Json(json) | Self::Bytes { json: Some(json), .. }, false) => Ok(json),
            (Self::Bytes { bytes, .. }, true) => Ok(bytes),
            (Self::Bytes { json: None, .. }, false) => Err(not_json_in_base64()),
            (Self::Json(_), true) => {
                Err(ErrorCode::BadRequest
                    .with_detail("the channel has binary data (data_format): publish it as b64data"))
            }
        }
    }
}

/// A publication without its channel, and the options of the call.
#[derive(Clone)]
pub(super) struct PendingPublication {
    data: PendingData,
    tags: Tags,
    use_delta: bool,
    exclude: Option<Uuid>,
    skip_history: bool,
    idempotency_key: Option<Arc<str>>,
    version: Option<Version>,
}

/// The result of a publication: its position, if the channel has a history.
#[derive(Serialize)]
pub(super) struct PublishResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
}

/// The result of `broadcast`.
#[derive(Serialize)]
struct BroadcastResult {
    responses: Vec<ApiResponse<PublishResult>>,
}

async fn publish(body: &Bytes, api: &ApiContext) -> ApiResult {
    let PublishRequest { channel, data } = parse_object(body)?;
    let publication = read_publication(body, data)?;
    to_result(publish_to_channel(&channel, publication, None, api).await?)
}

async fn broadcast(body: &Bytes, api: &ApiContext) -> ApiResult {
    let request: BroadcastRequest<'_> = parse_object(body)?;
    let publication = read_publication(body, request.data)?;
    if request.channels.is_empty() {
        return Err(ErrorCode::BadRequest.into());
    }
    ExceededLimit::check(BROADCAST_CHANNELS, api.config.current().limits.broadcast_channels, request.channels.len())?;
    let turns = request.channels.chunks(channels_per_turn(&publication));
    let turns = turns.map(|channels| publish_turn(channels, &publication, api));
    let responses = stream::iter(turns).buffered(TURNS_PER_BROADCAST).concat().await;
    to_result(BroadcastResult { responses })
}

/// Publishes to the channels of one turn, when it is due.
async fn publish_turn(
    channels: &[String],
    publication: &PendingPublication,
    api: &ApiContext,
) -> Vec<ApiResponse<PublishResult>> {
    // The semaphore is never closed.
    let _turn = api.broadcast_turns.0.acquire().await;
    yield_now().await;
    let sent = channels.iter().map(|channel| publish_to_channel(channel, publication.clone(), None, api));
    let results = join_all(sent).await;
    results.into_iter().map(|result| ApiResponse::new(result, &api.metrics)).collect()
}

/// Returns to how many channels a broadcast publishes before it waits for the broker and lets other tasks of the worker run.
fn channels_per_turn(publication: &PendingPublication) -> usize {
    (BROADCAST_TURN_BYTES / (publication.data.bytes().len() + CHANNEL_COST_BYTES)).max(1)
}

impl PendingPublication {
    /// A publication of JSON on one line, without options.
    pub(super) fn of_json(data: Bytes) -> Self {
        Self::without_options(PendingData::Json(data))
    }

    /// A publication of any bytes for a channel with binary data, without options.
    pub(super) fn of_bytes(bytes: Bytes) -> Self {
        Self::without_options(PendingData::Bytes { bytes, json: None })
    }

    fn without_options(data: PendingData) -> Self {
        let (tags, exclude, idempotency_key, version) = (Tags::default(), None, None, None);
        Self { data, tags, use_delta: false, exclude, skip_history: false, idempotency_key, version }
    }

    /// The same, which the channel accepts once under this key, if there is one, unless the publish hook has chosen another key.
    pub(super) fn with_idempotency_key(self, idempotency_key: Option<Arc<str>>) -> Self {
        Self { idempotency_key: self.idempotency_key.or(idempotency_key), ..self }
    }

    /// Returns the data.
    pub(super) fn data(&self) -> &Bytes {
        self.data.bytes()
    }

    /// Returns whether the data is any bytes.
    pub(super) fn is_binary(&self) -> bool {
        matches!(self.data, PendingData::Bytes { .. })
    }

    /// The same, as the publish hook wants it.
    pub(super) fn approved(self, approval: PublishApproval) -> Result<Self, ErrorCode> {
        let is_binary = self.is_binary();
        let (data, options) = approval.apply_to(self.data.bytes().clone(), is_binary)?;
        let data = if is_binary { PendingData::Bytes { bytes: data, json: None } } else { PendingData::Json(data) };
        let ApprovedOptions { skip_history, tags, use_delta, idempotency_key } = options;
        // A user's request has none of these options.
        Ok(Self { data, skip_history, tags, use_delta, idempotency_key, ..self })
    }
}

/// Publishes to any channel whose namespace is configured, for the user of `info` or with the API key. Permissions of users are
/// the business of the caller.
pub(super) async fn publish_to_channel(
    channel: &str,
    pending: PendingPublication,
    info: Option<ClientInfo>,
    api: &ApiContext,
) -> Result<PublishResult, WireError> {
    let channel = Channel::new(channel)?;
    let options = api.permissions.channel_options(&channel)?;
    let PendingPublication { data, tags, use_delta, exclude, skip_history, idempotency_key, version } = pending;
    let is_binary = options.has_binary_data();
    let data = data.in_channel(is_binary)?;
    let (limit, max_bytes) = if info.is_some() {
        ("limits.publication_bytes", api.config.current().limits.publication_bytes)
    } else {
        ("api.publication_bytes", api.config.current().api.publication_bytes)
    };
    ExceededLimit::check(limit, max_bytes, data.len())?;
    let retention = Retention::from_options(&options).filter(|_| !skip_history);
    if version.is_some() && retention.is_none() {
        // Without a history the broker does not remember the newest version.
        return Err(DisabledOption { channel: &channel, name: "history_size" }.into());
    }
    api.metrics.publications.inc();
    let (info, use_delta) = (info.map(Arc::new), use_delta || options.delta_publish);
    let publication = Publication { info, tags, use_delta, is_binary, exclude, ..Publication::new(channel, data) };
    let options = PublishOptions { retention, idempotency_key, version };
    let PublishReceipt { position, .. } = api
        .broker
        .publish(publication, options)
        .await
        .inspect_err(|error| log::debug!("could not publish error={:?}", error.to_string()))?;
    Ok(PublishResult {
        offset: position.map(|position| position.offset),
        epoch: position.map(|position| position.epoch),
    })
}

/// Reads the options of a request, which are beside its data.
fn read_publication(body: &Bytes, data: Option<&RawValue>) -> Result<PendingPublication, ApiError> {
    let PublishFields { b64data, skip_history, tags, idempotency_key, version, version_epoch, delta, exclude } =
        parse_object(body)?;
    let data = match b64data.filter(|encoded| !encoded.is_empty()) {
        Some(encoded) => {
            let bytes = Bytes::from(decode_base64(&encoded)?);
            Some(PendingData::Bytes { json: json_line(&bytes), bytes })
        }
        None => data.map(|json| PendingData::Json(protocol::to_single_line(body, json))),
    };
    let data = data.ok_or_else(|| ErrorCode::BadRequest.with_detail("data is missing"))?;
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
    let parsed = tags.map(|tags| serde_json::from_str(tags.get())).transpose();
    parsed.map(Option::unwrap_or_default).map_err(|_| ErrorCode::BadRequest)
}

/// Parses the id of a connection in the form that clients know: with hyphens.
fn parse_client_id(text: Option<String>) -> Result<Option<Uuid>, ErrorCode> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let is_hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    Uuid::try_parse(&text).ok().filter(|_| is_hyphenated).map(Some).ok_or(ErrorCode::BadRequest)
}
