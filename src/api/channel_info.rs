//! `channel_info`: describes one channel from what the nodes and the broker know of it.

use bytes::Bytes;
use serde::Serialize;

use super::{
    ApiContext,
    description::{
        Access, ApiMethod, ApiResult, BROKER_BUSY, BROKER_UNAVAILABLE, Example, Field, Handler, INVALID_CHANNEL,
        JsonType, UNKNOWN_NAMESPACE,
    },
    request::{ChannelRequest, find_channel, parse_object, to_result},
    survey::{NODE_NAME, NODE_UID, UNREACHABLE, sort_nodes, survey_nodes},
};
use crate::{
    broker::{
        BrokerError, HistoryRequest, Inspection, NodeChannel, NodeIdentity, Retention, SharedBroker, SurveyQuestion,
    },
    channel::Channel,
    config::ChannelOptions,
    protocol::ErrorCode,
};

/// `channel_info`.
pub(super) const CHANNEL_INFO: ApiMethod = ApiMethod {
    name: "channel_info",
    access: Access::ReadOnly,
    summary: "Describes a channel: its options, its history, and its subscribers on each node.",
    details: "A node whose `position` is behind that of the history has not received the last publications yet.",
    request: &[ChannelRequest::FIELDS],
    result: &[
        Field::always("channel", JsonType::String, "Its name."),
        Field::left_out("namespace", JsonType::String, "without a namespace", "Its namespace."),
        Field::left_out(
            "users",
            JsonType::Array(&JsonType::String),
            "if the name has no `#`",
            "The users to whom the name limits the channel.",
        ),
        Field::always(
            "requires_token",
            JsonType::Boolean,
            "Whether subscribing needs a subscription token, because the name begins with `$`.",
        ),
        Field::always(
            "options",
            JsonType::Map(&JsonType::Any),
            "The options of its namespace, as in `[channels]` of the configuration: who may do what, and whether presence and \
             history are kept. Durations are in milliseconds.",
        ),
        Field::always(
            "hooks",
            JsonType::Array(&JsonType::String),
            "The hooks of the backend that decide about the channel: `subscribe`, `publish`.",
        ),
        Field::left_out("history", JsonType::Object(HISTORY), "if the channel keeps none", "Its history."),
        Field::always("num_clients", JsonType::Integer, "Number of its subscribers on the nodes that have answered."),
        Field::always(
            "nodes",
            JsonType::Array(&JsonType::Object(NODE)),
            "The nodes that have subscribers, sorted by name and id.",
        ),
        UNREACHABLE,
    ],
    errors: &[BROKER_UNAVAILABLE, BROKER_BUSY, UNKNOWN_NAMESPACE, INVALID_CHANNEL],
    example: Example {
        request: r#"{"channel":"news"}"#,
        answer: r#"{"result":{
  "channel":"news","requires_token":false,
  "options":{"allow_subscribe":"user","subscribe_hook":false,"subscribe_to_personal":false,"allow_publish":"user",
    "publish_hook":false,"channel_regex":"","history_size":100,"history_ttl":300000,"history_meta_ttl":2592000000,
    "allow_history":"none","force_positioning":false,"force_recovery":false,"force_recovery_mode":"stream",
    "presence":true,"allow_presence":"none","join_leave":false,"force_push_join_leave":false,
    "allowed_delta_types":[],"delta_publish":false,"delivery_interval":0,"conflate":false,"conflate_by_tag":"","data_format":"json"},
  "hooks":[],
  "history":{"offset":2,"epoch":"xyzw","num_publications":0},
  "num_clients":1,
  "nodes":[
    {"uid":"5f9b7d5e-6a0e-4c5e-8d0f-2f3b1a7c9e10","name":"hub-1","num_clients":1,"num_users":1,"num_filtered":0,
     "position":{"offset":2,"epoch":"xyzw"},"is_filling_gap":false}
  ]
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(channel_info(body, api))),
};

const HISTORY: &[Field] = &[
    Field::left_out(
        "offset",
        JsonType::Integer,
        "if there is no history yet",
        "Offset of the newest publication that it ever had.",
    ),
    Field::left_out("epoch", JsonType::String, "if there is no history yet", "Epoch of the offset."),
    Field::always("num_publications", JsonType::Integer, "Number of publications that are stored now."),
    Field::left_out(
        "oldest_offset",
        JsonType::Integer,
        "if none is stored",
        "Offset of the oldest one that is stored.",
    ),
    Field::left_out(
        "oldest_time",
        JsonType::Integer,
        "if none is stored",
        "When the oldest one entered the history, in milliseconds since 1970.",
    ),
    Field::left_out(
        "newest_time",
        JsonType::Integer,
        "if none is stored",
        "When the newest one entered the history, in milliseconds since 1970.",
    ),
];

const NODE: &[Field] = &[
    NODE_UID,
    NODE_NAME,
    Field::always("num_clients", JsonType::Integer, "Number of subscribers on the node."),
    Field::always("num_users", JsonType::Integer, "Number of their different users."),
    Field::always("num_filtered", JsonType::Integer, "Number of subscribers with a tag filter."),
    Field::left_out(
        "position",
        JsonType::Object(POSITION),
        "if no subscriber has a position there",
        "All subscribers on the node have received everything up to this position.",
    ),
    Field::always(
        "is_filling_gap",
        JsonType::Boolean,
        "Whether the node holds deliveries back until it has read the publications before them from the history.",
    ),
];

const POSITION: &[Field] = &[
    Field::always("offset", JsonType::Integer, "The offset."),
    Field::always("epoch", JsonType::String, "The epoch."),
];

/// The result of `channel_info`.
#[derive(Serialize)]
struct ChannelInfoResult<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Vec<&'a str>>,
    requires_token: bool,
    options: &'a ChannelOptions,
    hooks: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryInfo>,
    num_clients: u64,
    nodes: Vec<ChannelNode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable: Vec<NodeIdentity>,
}

#[derive(Serialize)]
struct ChannelNode {
    #[serde(flatten)]
    node: NodeIdentity,
    #[serde(flatten)]
    channel: NodeChannel,
}

/// The stored history of a channel.
#[derive(Default, Serialize)]
pub(super) struct HistoryInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<String>,
    num_publications: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_time: Option<i64>,
}

async fn channel_info(body: &Bytes, api: &ApiContext) -> ApiResult {
    let ChannelRequest { channel } = parse_object(body)?;
    let (channel, options) = find_channel(channel, api)?;
    let question = SurveyQuestion::Inspect(Inspection::Channel(channel.as_str().to_owned()));
    let retention = Retention::from_options(&options);
    let history = async {
        match retention {
            Some(retention) => describe_history(&api.broker, &channel, retention).await.map(Some),
            None => Ok(None),
        }
    };
    let (answers, history) = tokio::join!(survey_nodes::<NodeChannel>(question, api), history);
    let ((answers, unreachable), history) = (answers?, history.map_err(ErrorCode::from)?);
    let nodes = answers.into_iter().filter(|(_, channel)| channel.num_clients > 0);
    let mut nodes: Vec<_> = nodes.map(|(node, channel)| ChannelNode { node, channel }).collect();
    sort_nodes(&mut nodes, |node| &node.node);
    let hooks = [("subscribe", options.subscribe_hook && !channel.is_reserved()), ("publish", options.publish_hook)];
    to_result(ChannelInfoResult {
        channel: channel.as_str(),
        namespace: channel.namespace(),
        users: channel.users().map(Iterator::collect),
        requires_token: channel.is_private(),
        options: &options,
        hooks: hooks.into_iter().filter(|(_, applies)| *applies).map(|(name, _)| name).collect(),
        history,
        num_clients: nodes.iter().map(|node| node.channel.num_clients).sum(),
        nodes,
        unreachable,
    })
}

/// Reads what is stored of a channel. Creates no history.
pub(super) async fn describe_history(
    broker: &SharedBroker,
    channel: &Channel,
    retention: Retention,
) -> Result<HistoryInfo, BrokerError> {
    let mut positions = broker.read_positions(vec![(channel.clone(), retention)]).await;
    if positions.pop().transpose()?.flatten().is_none() {
        return Ok(HistoryInfo::default());
    }
    let read = |is_reverse| {
        let request = HistoryRequest { since: None, limit: 1, is_reverse, max_bytes: None };
        broker.read_history(channel.clone(), request, retention)
    };
    let (oldest, newest) = tokio::try_join!(read(false), read(true))?;
    let position = newest.top;
    let (oldest, newest) = (oldest.publications.first(), newest.publications.first());
    let oldest_offset = oldest.and_then(|oldest| oldest.position).map(|position| position.offset);
    Ok(HistoryInfo {
        offset: Some(position.offset),
        epoch: Some(position.epoch.as_str().to_owned()),
        num_publications: oldest_offset.map_or(0, |oldest| (position.offset + 1).saturating_sub(oldest)),
        oldest_offset,
        oldest_time: oldest.map(|oldest| oldest.time.unix_millis()),
        newest_time: newest.map(|newest| newest.time.unix_millis()),
    })
}
