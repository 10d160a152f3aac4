//! `history` and `history_remove`: read and delete the publications that a channel keeps.

use bytes::Bytes;
use serde::Deserialize;

use super::{
    ApiContext,
    description::{
        Access, ApiMethod, ApiResult, BROKER_BUSY, BROKER_UNAVAILABLE, Example, Field, Handler, INVALID_CHANNEL,
        JsonType, UNKNOWN_NAMESPACE, request_fields,
    },
    request::{
        ApiPosition, ChannelRequest, deserialize_object, empty_result, find_channel, parse_object, to_raw_result,
    },
};
use crate::{
    broker::{HistoryRequest, Retention, SincePosition, page_limit, read_history_page},
    protocol::{self, DisabledOption, ErrorCode, HistoryResult},
};

const NO_HISTORY: (ErrorCode, &str) = (ErrorCode::NotAvailable, "the channel has no history (`channels.history_size`)");

/// `history`.
pub(super) const HISTORY: ApiMethod = ApiMethod {
    name: "history",
    access: Access::ReadOnly,
    summary: "Reads publications from the history of a channel, and the position of its newest one.",
    details: "Without `limit` the answer has only the position. To page through a history, pass the offset of the last \
        publication and the epoch as `since` of the next call. A page ends early if it would be larger than \
        `limits.reply_bytes`.",
    request: &[ReadHistoryRequest::FIELDS],
    result: &[
        Field::always(
            "publications",
            JsonType::Array(&JsonType::Object(PUBLICATION)),
            "The publications, the oldest first, or the newest first with `reverse`.",
        ),
        Field::always("epoch", JsonType::String, "Epoch of the history."),
        Field::always(
            "offset",
            JsonType::Integer,
            "Offset of the newest publication that the channel ever had; 0 if it never had one.",
        ),
    ],
    errors: &[
        BROKER_UNAVAILABLE,
        BROKER_BUSY,
        UNKNOWN_NAMESPACE,
        INVALID_CHANNEL,
        NO_HISTORY,
        (ErrorCode::UnrecoverablePosition, "the history has another epoch than `since`"),
    ],
    example: Example {
        request: r#"{"channel":"news","limit":2,"reverse":true}"#,
        answer: r#"{"result":{
  "publications":[
    {"data":{"hello":"all"},"offset":2,"time":1767225600000},
    {"data":{"hello":"world"},"offset":1,"time":1767225590000}
  ],
  "epoch":"xyzw",
  "offset":2
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(history(body, api))),
};

/// `history_remove`.
pub(super) const HISTORY_REMOVE: ApiMethod = ApiMethod {
    name: "history_remove",
    access: Access::Write,
    summary: "Deletes all publications from the history of a channel. Epoch and offset stay.",
    details: "",
    request: &[ChannelRequest::FIELDS],
    result: &[],
    errors: &[BROKER_UNAVAILABLE, BROKER_BUSY, UNKNOWN_NAMESPACE, INVALID_CHANNEL, NO_HISTORY],
    example: Example { request: r#"{"channel":"news"}"#, answer: r#"{"result":{}}"# },
    handler: Handler::Single(|body, api| Box::pin(history_remove(body, api))),
};

/// A publication in the result of `history`.
const PUBLICATION: &[Field] = &[
    Field::left_out("data", JsonType::Any, "if it is binary (`data_format`)", "Its data."),
    Field::left_out("b64data", JsonType::String, "if it is JSON", "Its data in Base64, if it is binary."),
    Field::left_out(
        "info",
        JsonType::Object(super::presence::CLIENT_INFO),
        "if it was published with the API key",
        "The client that published it.",
    ),
    Field::always("offset", JsonType::Integer, "Its offset in the history."),
    Field::left_out("tags", JsonType::Map(&JsonType::String), "if it has none", "Its tags."),
    Field::always("time", JsonType::Integer, "When it entered the history, in milliseconds since 1970."),
];

request_fields! {
    /// A request of `history`.
    struct ReadHistoryRequest {
        /// Channel whose history is read.
        channel: Option<String> = (JsonType::String, None),
        /// Maximum publications, at most `limits.history_publications`. Negative: that many.
        limit: Option<i64> = (JsonType::Integer, Some("`0`: only the position")),
        /// Position after which to read, or before which with `reverse`.
        #[serde(default, deserialize_with = "deserialize_object")]
        since: Option<ApiPosition> =
            (JsonType::Object(ApiPosition::FIELDS), Some("the oldest publication, or the newest with `reverse`")),
        /// Reads from new to old.
        reverse: Option<bool> = (JsonType::Boolean, Some("`false`")),
    }
}

async fn history(body: &Bytes, api: &ApiContext) -> ApiResult {
    let ReadHistoryRequest { channel, limit, since, reverse } = parse_object(body)?;
    let (channel, options) = find_channel(channel, api)?;
    let retention =
        Retention::from_options(&options).ok_or(DisabledOption { channel: &channel, name: "history_size" })?;
    let since = since.map(|since| SincePosition::parse(since.offset, &since.epoch)).transpose()?;
    let limit = page_limit(limit.unwrap_or_default(), api.config.current().limits.history_publications);
    let max_bytes = Some(api.config.current().limits.reply_bytes);
    let request = HistoryRequest { since, limit, is_reverse: reverse.unwrap_or_default(), max_bytes };
    let page = read_history_page(&*api.broker, channel, request, retention).await?;
    let publications = page.publications.iter().map(Into::into).collect();
    to_raw_result(protocol::encode_history_result(&HistoryResult { publications, position: page.top }))
}

async fn history_remove(body: &Bytes, api: &ApiContext) -> ApiResult {
    let ChannelRequest { channel } = parse_object(body)?;
    let (channel, options) = find_channel(channel, api)?;
    if !options.has_history() {
        return Err(DisabledOption { channel: &channel, name: "history_size" }.into());
    }
    api.broker.remove_history(channel).await?;
    empty_result()
}
