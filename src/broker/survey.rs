//! Surveys: a question to every live node, its answers, and the nodes that did not answer.

use std::time::Duration;

use tokio::time::timeout;

use super::{BrokerError, Deliver, Inspection, NodeIdentity};
use crate::revocation::Revocation;

/// What one node can ask all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SurveyQuestion {
    /// Which channels have subscribers, and how many. The answer is a JSON object of numbers.
    Channels,
    /// The state of the node. The answer is a [`NodeInfo`](super::NodeInfo) as JSON.
    Info,
    /// What the node knows of sessions or a channel. The answer is JSON.
    Inspect(Inspection),
    /// Whether the node obeys these revocations, which are added to its list before its hubs are asked. The answer is empty,
    /// and given when the sessions that they mean are closed.
    Revoked(Vec<Revocation>),
}

/// The result of a survey. Each live node is in one of the two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurveyResult {
    /// The answers, in any order.
    pub answers: Vec<NodeAnswer>,
    /// The live nodes that have not answered in time, in any order.
    pub unreachable: Vec<NodeIdentity>,
}

/// The answer of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAnswer {
    /// The node that has answered.
    pub node: NodeIdentity,
    /// Its answer.
    pub answer: Vec<u8>,
}

impl SurveyResult {
    /// Asks the hubs of this node, without any other service. If they do not answer within `limit`, the node is unreachable.
    pub(super) async fn ask_own_hubs(deliver: &dyn Deliver, question: SurveyQuestion, limit: Duration) -> Self {
        let node = deliver.node();
        match timeout(limit, deliver.answer_survey(question)).await {
            Ok(answer) => Self { answers: vec![NodeAnswer { node, answer }], unreachable: Vec::new() },
            Err(_) => Self { answers: Vec::new(), unreachable: vec![node] },
        }
    }

    /// Returns the result if there is at least one answer.
    ///
    /// # Errors
    /// [`BrokerError::NoAnswer`].
    pub(super) fn with_an_answer(self) -> Result<Self, BrokerError> {
        if self.answers.is_empty() { Err(BrokerError::NoAnswer) } else { Ok(self) }
    }
}
