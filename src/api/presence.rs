//! `presence` and `presence_stats`: list and count the clients that are subscribed to a channel.

use bytes::Bytes;

use super::{
    ApiContext, ApiError,
    description::{
        Access, ApiMethod, ApiResult, BROKER_BUSY, BROKER_UNAVAILABLE, Example, Field, Handler, INVALID_CHANNEL,
        JsonType, UNKNOWN_NAMESPACE,
    },
    request::{ChannelRequest, find_channel, parse_object, to_raw_result, to_result},
};
use crate::{
    broker::PresenceCount,
    channel::Channel,
    protocol::{self, DisabledOption, ErrorCode, ExceededLimit, PresenceStats},
};

const NO_PRESENCE: (ErrorCode, &str) = (ErrorCode::NotAvailable, "the channel has no presence (`channels.presence`)");

/// `presence`.
pub(super) const PRESENCE: ApiMethod = ApiMethod {
    name: "presence",
    access: Access::ReadOnly,
    summary: "Lists the clients that are subscribed to a channel, on all nodes.",
    details: "",
    request: &[ChannelRequest::FIELDS],
    result: &[Field::always("presence", JsonType::Map(&JsonType::Object(CLIENT_INFO)), "The clients by their ids.")],
    errors: &[
        BROKER_UNAVAILABLE,
        BROKER_BUSY,
        UNKNOWN_NAMESPACE,
        (
            ErrorCode::LimitExceeded,
            "the answer would be larger than `limits.reply_bytes`; the hub sends no partial answer, because it would look complete",
        ),
        INVALID_CHANNEL,
        NO_PRESENCE,
    ],
    example: Example {
        request: r#"{"channel":"news"}"#,
        answer: r#"{"result":{
  "presence":{
    "c1f7e6a4-1b5b-4d55-9a2e-0a4b6f1c2d3e":{"user":"ann","client":"c1f7e6a4-1b5b-4d55-9a2e-0a4b6f1c2d3e"}
  }
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(presence(body, api))),
};

/// `presence_stats`.
pub(super) const PRESENCE_STATS: ApiMethod = ApiMethod {
    name: "presence_stats",
    access: Access::ReadOnly,
    summary: "Counts the clients and the users that are subscribed to a channel, on all nodes.",
    details: "",
    request: &[ChannelRequest::FIELDS],
    result: &[
        Field::always("num_clients", JsonType::Integer, "Number of connections."),
        Field::always("num_users", JsonType::Integer, "Number of different users of these connections."),
    ],
    errors: &[BROKER_UNAVAILABLE, BROKER_BUSY, UNKNOWN_NAMESPACE, INVALID_CHANNEL, NO_PRESENCE],
    example: Example { request: r#"{"channel":"news"}"#, answer: r#"{"result":{"num_clients":1,"num_users":1}}"# },
    handler: Handler::Single(|body, api| Box::pin(presence_stats(body, api))),
};

/// The fields that describe a client to others.
pub(super) const CLIENT_INFO: &[Field] = &[
    Field::always("user", JsonType::String, "Its user."),
    Field::left_out(
        "client",
        JsonType::String,
        "if it has no connection, as a publisher over REST",
        "Id of its connection.",
    ),
    Field::left_out("conn_info", JsonType::Any, "if the token has none", "`info` of its token."),
    Field::left_out("chan_info", JsonType::Any, "if the subscription has none", "`info` of its subscription."),
];

async fn presence(body: &Bytes, api: &ApiContext) -> ApiResult {
    let max_bytes = api.config.current().limits.reply_bytes;
    let clients = api.broker.presence(find_channel_with_presence(body, api)?, max_bytes).await?;
    let result = protocol::encode_presence_result(&clients);
    ExceededLimit::check("limits.reply_bytes", max_bytes, result.len())?;
    to_raw_result(result)
}

async fn presence_stats(body: &Bytes, api: &ApiContext) -> ApiResult {
    let PresenceCount { clients, users } = api.broker.count_presence(find_channel_with_presence(body, api)?).await?;
    to_result(PresenceStats::new(clients, users))
}

/// Returns the channel of a request, if it has presence.
fn find_channel_with_presence(body: &Bytes, api: &ApiContext) -> Result<Channel, ApiError> {
    let ChannelRequest { channel } = parse_object(body)?;
    let (channel, options) = find_channel(channel, api)?;
    if !options.presence {
        return Err(DisabledOption { channel: &channel, name: "presence" }.into());
    }
    Ok(channel)
}
