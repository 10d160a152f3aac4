//! Answers of this node to inspections of the server API: each hub answers for its sessions, and the node joins the answers.

mod channel;
mod connections;
mod explain;
mod totals;

use std::sync::Arc;

use actix::Addr;
use serde::Serialize;

use super::{Hub, traces::Traces};
use crate::broker::{Inspection, NodeIdentity};

/// Returns the answer of this node as JSON.
pub(super) async fn answer(
    hubs: Vec<Addr<Hub>>,
    node: NodeIdentity,
    traces: Arc<Traces>,
    inspection: Inspection,
) -> Vec<u8> {
    match inspection {
        Inspection::Connections(query) => to_json(connections::list(&hubs, &node, &query).await),
        Inspection::Channel(channel) => to_json(channel::describe(&hubs, &channel).await),
        Inspection::Explain(query) => to_json(explain::explain(&hubs, query).await),
        Inspection::Trace(query) => to_json(traces.collect(query, &node.uid)),
    }
}

/// Returns an answer as JSON. One that cannot be encoded, which none is, counts as no answer.
fn to_json(answer: impl Serialize) -> Vec<u8> {
    serde_json::to_vec(&answer).unwrap_or_default()
}
