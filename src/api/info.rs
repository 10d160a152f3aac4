//! `info`: which instances there are, and how each is.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ApiContext, ApiError, channels::survey_nodes, request::parse_optional_object};
use crate::{
    broker::{NodeInfo, SurveyQuestion},
    protocol::ErrorCode,
};

#[derive(Default, Deserialize)]
struct InfoRequest {}

/// All live instances, by name and id.
#[derive(Serialize)]
pub(super) struct InfoResult {
    nodes: Vec<NodeInfo>,
}

/// Asks all instances.
pub(super) async fn info(body: &Bytes, api: &ApiContext) -> Result<InfoResult, ApiError> {
    let InfoRequest {} = parse_optional_object(body)?;
    let answers = survey_nodes(SurveyQuestion::Info, api).await?;
    let nodes = answers.iter().map(|answer| serde_json::from_slice(answer)).collect::<Result<Vec<NodeInfo>, _>>();
    let mut nodes = nodes.map_err(|_| ErrorCode::Internal)?;
    nodes.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
    Ok(InfoResult { nodes })
}
