//! Shared code of the methods that ask all nodes: the survey, its error, and the nodes that have not answered.

use std::time::{Duration, Instant};

use actix_web::web;
use serde::de::DeserializeOwned;

use super::{
    ApiContext,
    description::{Field, JsonType},
};
use crate::{
    broker::{NodeIdentity, SurveyQuestion},
    log_throttle::LogThrottle,
    protocol::ErrorCode,
};

/// How long the nodes have to answer.
const SURVEY_DEADLINE: Duration = Duration::from_secs(2);

/// Answers up to this length are decoded on the worker, in 0.2 ms or less.
const MAX_DECODED_BYTES: usize = 32 * 1024;

/// The error of all methods that ask the nodes.
pub(super) const NO_ANSWER: (ErrorCode, &str) = (ErrorCode::Internal, "no node has answered within 2 s");

/// The field `uid` of a node.
pub(super) const NODE_UID: Field = Field::always("uid", JsonType::String, "Id of the node, new at each start.");
/// The field `name` of a node.
pub(super) const NODE_NAME: Field =
    Field::always("name", JsonType::String, "Name of its machine; several nodes may share it.");

/// The field `unreachable` in the results of all methods that ask the nodes.
pub(super) const UNREACHABLE: Field = Field::left_out(
    "unreachable",
    JsonType::Array(&JsonType::Object(&[NODE_UID, NODE_NAME])),
    "if all have answered",
    "Live nodes that have not answered, sorted by name and id. The result lacks what they would have added.",
);

/// How often a line about surveys is logged at most: the admin page and live traces ask every few seconds, or more often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Limits the log lines about surveys.
pub struct SurveyLog {
    /// Of surveys without an answer.
    failed: LogThrottle,
    /// Of those that some nodes have not answered.
    unanswered: LogThrottle,
}

impl Default for SurveyLog {
    fn default() -> Self {
        Self { failed: LogThrottle::new(LOG_INTERVAL), unanswered: LogThrottle::new(LOG_INTERVAL) }
    }
}

/// Asks all live nodes. Returns the answers, each with its node, and the nodes without a valid answer.
pub(super) async fn survey_nodes<T: DeserializeOwned + Send + 'static>(
    question: SurveyQuestion,
    api: &ApiContext,
) -> Result<(Vec<(NodeIdentity, T)>, Vec<NodeIdentity>), ErrorCode> {
    survey_nodes_within(question, SURVEY_DEADLINE, api).await
}

/// The same for nodes that have another time to answer.
pub(super) async fn survey_nodes_within<T: DeserializeOwned + Send + 'static>(
    question: SurveyQuestion,
    deadline: Duration,
    api: &ApiContext,
) -> Result<(Vec<(NodeIdentity, T)>, Vec<NodeIdentity>), ErrorCode> {
    let result = api.broker.survey(question.clone(), deadline).await;
    let result = result.inspect_err(|error| {
        if let Some(count) = api.survey_log.failed.count(Instant::now()) {
            log::warn!("could not survey nodes count={count} question={question:?} error={:?}", error.to_string());
        }
    })?;
    let is_long = result.answers.iter().map(|answer| answer.answer.len()).sum::<usize>() > MAX_DECODED_BYTES;
    let decode = move || {
        let mut unreachable = result.unreachable;
        let mut answers = Vec::with_capacity(result.answers.len());
        for answer in result.answers {
            match serde_json::from_slice(&answer.answer) {
                Ok(valid) => answers.push((answer.node, valid)),
                Err(_) => unreachable.push(answer.node),
            }
        }
        (answers, unreachable)
    };
    let (answers, mut unreachable) = run_outside_if(is_long, decode).await?;
    sort_nodes(&mut unreachable, |node| node);
    if let Some(NodeIdentity { uid, name }) = unreachable.first()
        && let Some(count) = api.survey_log.unanswered.count(Instant::now())
    {
        log::warn!("nodes did not answer survey count={count} nodes={} uid={uid:?} name={name:?}", unreachable.len());
    }
    Ok((answers, unreachable))
}

/// Runs work on the answers of nodes: if there is much of it, outside of the workers, so that their deliveries do not wait.
pub(super) async fn run_outside_if<T: Send + 'static>(
    is_much: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    if is_much { web::block(work).await.map_err(|_| ErrorCode::Internal) } else { Ok(work()) }
}

/// Sorts by name and id.
pub(super) fn sort_nodes<T>(nodes: &mut [T], identity: impl Fn(&T) -> &NodeIdentity) {
    nodes.sort_by(|one, other| {
        let (one, other) = (identity(one), identity(other));
        (&one.name, &one.uid).cmp(&(&other.name, &other.uid))
    });
}
