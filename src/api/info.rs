//! `info`: lists the nodes and their load.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext,
    description::{Access, ApiMethod, ApiResult, BROKER_BUSY, Example, Field, Handler, JsonType, request_fields},
    request::{parse_optional_object, to_result},
    survey::{NO_ANSWER, NODE_NAME, NODE_UID, UNREACHABLE, sort_nodes, survey_nodes},
};
use crate::broker::{NodeIdentity, NodeInfo, SurveyQuestion};

/// `info`.
pub(super) const INFO: ApiMethod = ApiMethod {
    name: "info",
    access: Access::ReadOnly,
    summary: "Lists the nodes with their number of clients, users, subscriptions and channels.",
    details: "The body may be empty.",
    request: &[InfoRequest::FIELDS],
    result: &[
        Field::always(
            "nodes",
            JsonType::Array(&JsonType::Object(NODE)),
            "The live nodes that have answered, sorted by name and id.",
        ),
        UNREACHABLE,
    ],
    errors: &[NO_ANSWER, BROKER_BUSY],
    example: Example {
        request: "{}",
        answer: r#"{"result":{
  "nodes":[
    {"uid":"5f9b7d5e-6a0e-4c5e-8d0f-2f3b1a7c9e10","name":"hub-1","version":"wardcast 0.1.0","num_clients":1,
     "num_users":1,"num_subs":1,"num_channels":1,"uptime":3,"num_publications":1,"num_deliveries":1,
     "cpu_ms":40,"memory_bytes":14680064}
  ]
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(info(body, api))),
};

const NODE: &[Field] = &[
    NODE_UID,
    NODE_NAME,
    Field::always("version", JsonType::String, "Version of its program."),
    Field::always("num_clients", JsonType::Integer, "Number of authenticated connections."),
    Field::always("num_users", JsonType::Integer, "Number of different users of these connections."),
    Field::always("num_subs", JsonType::Integer, "Number of subscriptions of these connections."),
    Field::always("num_channels", JsonType::Integer, "Number of different channels that have subscribers on the node."),
    Field::always("uptime", JsonType::Integer, "Seconds since its start."),
    Field::always("num_publications", JsonType::Integer, "Publications that it has accepted since its start."),
    Field::always(
        "num_deliveries",
        JsonType::Integer,
        "Publications, joins and leaves that it has sent to its connections since its start.",
    ),
    Field::always("cpu_ms", JsonType::Integer, "Processor time that it has used, in milliseconds."),
    Field::always("memory_bytes", JsonType::Integer, "Memory that it uses (resident set size)."),
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable: Vec<NodeIdentity>,
}

async fn info(body: &Bytes, api: &ApiContext) -> ApiResult {
    let InfoRequest {} = parse_optional_object(body)?;
    let (nodes, unreachable) = survey_nodes::<NodeInfo>(SurveyQuestion::Info, api).await?;
    let mut nodes: Vec<NodeInfo> = nodes.into_iter().map(|(_, info)| info).collect();
    sort_nodes(&mut nodes, |info| &info.node);
    to_result(InfoResult { nodes, unreachable })
}
