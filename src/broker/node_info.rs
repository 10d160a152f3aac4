//! The identity of a node, and its state as it answers a survey. Written by the hubs, read by the server API.

use serde::{Deserialize, Serialize};

/// Which node: one run of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Id of this run of the instance.
    pub uid: String,
    /// Host name, which several instances may share.
    pub name: String,
}

/// One node, as its answer to [`SurveyQuestion::Info`](super::SurveyQuestion::Info).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Which node it is.
    #[serde(flatten)]
    pub node: NodeIdentity,
    /// Version of Wardcast.
    pub version: String,
    /// Authenticated connections.
    pub num_clients: u64,
    /// Users of these connections, each counted once.
    pub num_users: u64,
    /// Subscriptions of these connections.
    pub num_subs: u64,
    /// Channels with subscribers on this instance, each counted once.
    pub num_channels: u64,
    /// Seconds since the instance started.
    pub uptime: u64,
    /// Publications that the instance has accepted since its start.
    #[serde(default)]
    pub num_publications: u64,
    /// Publications, joins and leaves that it has queued to its connections since its start.
    #[serde(default)]
    pub num_deliveries: u64,
    /// Processor time that it has used, in milliseconds.
    #[serde(default)]
    pub cpu_ms: u64,
    /// Memory that it has in use, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
}
