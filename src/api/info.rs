//! `info`: the nodes and their state.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext,
    channels::{NO_ANSWER, survey_nodes},
    description::{Access, ApiMethod, ApiResult, Example, Field, Handler, JsonType, request_fields},
    request::{parse_optional_object, to_result},
};
use crate::{
    broker::{NodeInfo, SurveyQuestion},
    protocol::ErrorCode,
};

/// `info`.
pub(super) const INFO: ApiMethod = ApiMethod {
    name: "info",
    access: Access::ReadOnly,
    summary: "Lists the nodes with their number of clients, users, subscriptions and channels.",
    details: "The body may be empty.",
    request: &[InfoRequest::FIELDS],
    result: &[Field {
        name: "nodes",
        kind: JsonType::Array(&JsonType::Object(NODE)),
        when_absent: None,
        meaning: "The live nodes, sorted by name and id.",
    }],
    errors: &[NO_ANSWER],
    example: Example {
        request: "{}",
        answer: r#"{"result":{
  "nodes":[
    {"uid":"5f9b7d5e-6a0e-4c5e-8d0f-2f3b1a7c9e10","name":"hub-1","version":"wardcast 0.1.0","num_clients":1,
     "num_users":1,"num_subs":1,"num_channels":1,"uptime":3}
  ]
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(info(body, api))),
};

const NODE: &[Field] = &[
    Field { name: "uid", kind: JsonType::String, when_absent: None, meaning: "Id of the node, new at each start." },
    Field {
        name: "name",
        kind: JsonType::String,
        when_absent: None,
        meaning: "Name of its machine; several nodes may share it.",
    },
    Field { name: "version", kind: JsonType::String, when_absent: None, meaning: "Version of its program." },
    Field {
        name: "num_clients",
        kind: JsonType::Integer,
        when_absent: None,
        meaning: "Number of authenticated connections.",
    },
    Field {
        name: "num_users",
        kind: JsonType::Integer,
        when_absent: None,
        meaning: "Number of different users of these connections.",
    },
    Field {
        name: "num_subs",
        kind: JsonType::Integer,
        when_absent: None,
        meaning: "Number of subscriptions of these connections.",
    },
    Field {
        name: "num_channels",
        kind: JsonType::Integer,
        when_absent: None,
        meaning: "Number of different channels that have subscribers on the node.",
    },
    Field { name: "uptime", kind: JsonType::Integer, when_absent: None, meaning: "Seconds since its start." },
];

request_fields! {
    /// A request of `info`.
    #[derive(Default)]
    struct InfoRequest {}
}

/// The result of `info`.
#[derive(Serialize)]
struct InfoResult {
    nodes: Vec<NodeInfo>,
}

async fn info(body: &Bytes, api: &ApiContext) -> ApiResult {
    let InfoRequest {} = parse_optional_object(body)?;
    let answers = survey_nodes(SurveyQuestion::Info, api).await?;
    let nodes = answers.iter().map(|answer| serde_json::from_slice(answer)).collect::<Result<Vec<NodeInfo>, _>>();
    let mut nodes = nodes.map_err(|_| ErrorCode::Internal)?;
    nodes.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
    to_result(InfoResult { nodes })
}
