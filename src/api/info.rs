//! `info`: which instances there are, and how each is.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Fault, Shared, channels::ask, request::read_optional};
use crate::{
    broker::{Node, Question},
    protocol::ErrorCode,
};

#[derive(Default, Deserialize)]
struct Request {}

/// All live instances, by name and id.
#[derive(Serialize)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
}

/// Asks all instances.
pub(super) async fn info(body: &Bytes, shared: &Shared) -> Result<Nodes, Fault> {
    let Request {} = read_optional(body)?;
    let answers = ask(Question::Info, shared).await?;
    let nodes = answers.iter().map(|answer| serde_json::from_slice(answer)).collect::<Result<Vec<Node>, _>>();
    let mut nodes = nodes.map_err(|_| ErrorCode::Internal)?;
    nodes.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
    Ok(Nodes { nodes })
}
