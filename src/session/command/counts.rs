//! Counts the commands of clients by method and result (`wardcast_commands_total`).

use prometheus_client::metrics::counter::Counter;

use super::{CommandReply, CommandResult};
use crate::{metrics::Metrics, protocol::MethodName, session::Session};

/// What has become of a command, as the metric names it.
#[derive(Clone, Copy)]
pub(super) enum CountedResult {
    /// It has succeeded.
    Ok,
    /// Its client has got an error reply.
    Error,
    /// It has ended the connection.
    Closed,
}

/// The names of [`CountedResult`], in its order.
const RESULTS: [&str; 3] = ["ok", "error", "closed"];

/// A counter for each method and result, in the order of their indexes: a command looks nothing up.
pub struct CommandCounters([[Counter; RESULTS.len()]; MethodName::ALL.len()]);

impl CommandCounters {
    /// Returns the counters of these metrics, which all workers share. From then on all of them are exposed.
    pub fn new(metrics: &Metrics) -> Self {
        Self(MethodName::ALL.map(|method| RESULTS.map(|result| metrics.command_counter(method.as_str(), result))))
    }

    /// Counts commands.
    pub(super) fn add(&self, method: MethodName, result: CountedResult, count: usize) {
        if count > 0 {
            self.0[method as usize][result as usize].inc_by(count as u64);
        }
    }
}

impl CountedResult {
    /// Returns what has become of a command; `None`: it is handled again later.
    pub(super) fn of(result: &CommandResult) -> Option<Self> {
        match result {
            Ok(CommandReply::Postponed(_)) => None,
            Ok(CommandReply::Frame(_) | CommandReply::SentByHub | CommandReply::Nothing) => Some(Self::Ok),
            Err(super::CommandFailure::Error(_)) => Some(Self::Error),
            Err(super::CommandFailure::Close(_)) => Some(Self::Closed),
        }
    }
}

impl Session {
    /// Counts the command that is being handled, unless it is counted already. `None`: it is counted when it is handled again,
    /// or is not handled at all.
    pub(super) fn count_command(&mut self, result: Option<CountedResult>) {
        if let (Some(method), Some(result)) = (self.handled_method.take(), result) {
            self.services.command_counters.add(method, result, 1);
        }
    }
}
