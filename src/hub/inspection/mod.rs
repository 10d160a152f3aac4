//! Answers of this node to inspections of the server API: each hub answers for its sessions, and the node joins the answers.

mod channel;
mod channels;
mod connections;
mod explain;
mod totals;

use std::sync::Arc;

use actix::Addr;
use serde::Serialize;

use super::{Hub, RefusedAttempts, traces::Traces};
use crate::broker::{Inspection, NodeIdentity};

pub(super) use self::totals::{NodeTotals, subscribers, totals};

/// Maximum sessions that a hub looks at in one turn: 0.3 ms or less.
const PAGE_SLOTS: usize = if cfg!(test) { 3 } else { 1024 };
/// Maximum channels that a hub names in one turn. The last session of a turn may have more.
const PAGE_CHANNELS: usize = if cfg!(test) { 4 } else { 2048 };

/// Returns the answer of this node as JSON.
pub(super) async fn answer(
    hubs: Vec<Addr<Hub>>,
    node: NodeIdentity,
    traces: Arc<Traces>,
    refused: Arc<RefusedAttempts>,
    inspection: Inspection,
) -> Vec<u8> {
    match inspection {
        Inspection::Connections(query) => to_json(connections::list(&hubs, &node, &query).await),
        Inspection::Channels(query) => to_json(channels::list(&hubs, query).await),
        Inspection::Channel(channel) => to_json(channel::describe(&hubs, &channel).await),
        Inspection::Explain(query) => to_json(explain::explain(&hubs, query, &refused).await),
        Inspection::Trace(query) => to_json(traces.collect(query, &node.uid)),
    }
}

/// Returns an answer as JSON. One that cannot be encoded, which none is, counts as no answer.
fn to_json(answer: impl Serialize) -> Vec<u8> {
    serde_json::to_vec(&answer).unwrap_or_default()
}
