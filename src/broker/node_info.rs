//! What an instance says of itself when all are asked: written by the hubs, read by the API.

use serde::{Deserialize, Serialize};

/// One instance, as its answer to [`SurveyQuestion::Info`](super::SurveyQuestion::Info).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id, of this run.
    pub uid: String,
    /// Its machine's name, which several instances may share.
    pub name: String,
    /// What it runs.
    pub version: String,
    /// Connections that are somebody.
    pub num_clients: u64,
    /// Users of these connections, each counted once.
    pub num_users: u64,
    /// Subscriptions of these connections.
    pub num_subs: u64,
    /// Channels that have subscribers here, each counted once.
    pub num_channels: u64,
    /// Seconds since it started.
    pub uptime: u64,
}
