//! Surveys: questions to all nodes that are alive by the list of [`nodes`](super::nodes). Each of the others publishes its
//! answer to the replies channel of the asking node; the asking node asks its own hubs directly. A long answer is sent in
//! parts. A survey ends when all have answered, or after its timeout; it waits only briefly for a node that has missed the last
//! one. Everything is limited: concurrent surveys of this node and of others, the size of an answer, and the size of all
//! answers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};

use super::{
    RedisContext,
    envelope::{self, AnswerPart, DropReason, SIGNED_HEAD_BYTES, SurveyId},
    inbox::ReceivedQuestion,
    nodes::LiveNode,
};
use crate::{
    broker::{BrokerError, NodeAnswer, SurveyQuestion, SurveyResult},
    log_throttle::LogThrottle,
    metrics::{MAX_SURVEYS, Queue, QueueDepth},
};

/// Maximum number of questions that are answered at the same time. Above it they wait in the inbox's queue, which holds as
/// many, and above that they are dropped.
pub(super) const MAX_ANSWERING: usize = 16;
/// How long a survey waits for nodes that have missed the last one, or whose heartbeat is late. A live node answers within
/// milliseconds, and its answer, even a late one, ends the suspicion.
const SUSPECT_TIMEOUT: Duration = Duration::from_millis(250);
/// The same for revocations: a node that has not answered for so long knows by itself that it was frozen (its hubs hold their
/// deliveries after a second without a tick), and so obeys before it delivers anything.
const SUSPECT_TIMEOUT_OF_REVOCATIONS: Duration = Duration::from_millis(1200);
/// Maximum time to answer a question, so that a hub that hangs does not hold its permit forever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of parts of one survey that wait for its task. Their bytes are limited, too.
const PART_QUEUE: usize = 1024;
/// Maximum size of all answers to one survey. Parts above it are dropped, and the survey stays incomplete.
const MAX_ANSWERS_BYTES: usize = 64 << 20;
/// What a part costs besides its bytes, so that an endless sequence of empty parts reaches the limit, too.
const PART_OVERHEAD_BYTES: usize = 128;
/// Maximum size of a message with a part, unless `broker.redis.message_bytes` is less. Publications are sent between parts.
const MAX_PART_BYTES: usize = 256 * 1024;

/// How often a line about questions that could not be sent is logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The surveys of this instance that wait for answers.
pub(super) struct SurveyRegistry {
    pending: Mutex<HashMap<SurveyId, PendingSurvey>>,
    permits: Semaphore,
    /// Limits the log lines about questions that could not be sent: a live trace asks four times a second.
    unsent: LogThrottle,
}

struct PendingSurvey {
    parts: mpsc::Sender<AnswerPart>,
    /// What the parts received so far have cost.
    cost_bytes: usize,
}

impl SurveyRegistry {
    /// Creates an empty registry.
    pub(super) fn new() -> Self {
        Self { pending: Mutex::default(), permits: Semaphore::new(MAX_SURVEYS), unsent: LogThrottle::new(LOG_INTERVAL) }
    }

    /// Returns how many surveys of this instance run.
    pub(super) fn depth(&self) -> QueueDepth {
        let running = MAX_SURVEYS.saturating_sub(self.permits.available_permits());
        QueueDepth::of_entries(Queue::Surveys, running, MAX_SURVEYS)
    }

    /// Passes a received part of an answer to its survey, unless the survey has ended.
    pub(super) fn add_part(&self, id: &SurveyId, part: AnswerPart) -> Result<(), DropReason> {
        let mut pending = self.pending.lock();
        let Some(survey) = pending.get_mut(id) else { return Ok(()) };
        survey.cost_bytes = survey.cost_bytes.saturating_add(part.bytes.len() + PART_OVERHEAD_BYTES);
        if survey.cost_bytes > MAX_ANSWERS_BYTES {
            return Err(DropReason("too_long_answers"));
        }
        survey.parts.try_send(part).map_err(|_| DropReason("too_many_answers"))
    }

    fn register(&self) -> SurveyHandle<'_> {
        let id = uuid::Uuid::new_v4().into_bytes();
        let (sender, parts) = mpsc::channel(PART_QUEUE);
        self.pending.lock().insert(id, PendingSurvey { parts: sender, cost_bytes: 0 });
        SurveyHandle { id, parts, surveys: self }
    }
}

/// A registered survey. Dropping it removes it from the registry.
struct SurveyHandle<'a> {
    id: SurveyId,
    parts: mpsc::Receiver<AnswerPart>,
    surveys: &'a SurveyRegistry,
}

impl Drop for SurveyHandle<'_> {
    fn drop(&mut self) {
        self.surveys.pending.lock().remove(&self.id);
    }
}

impl SurveyHandle<'_> {
    /// Collects answers until every node has answered, or until `deadline`. Once only suspect nodes are missing, it waits no
    /// longer than `for_suspects` after now.
    async fn collect_answers(&mut self, answers: &mut AnswerAssembler, deadline: Instant, for_suspects: Duration) {
        let suspect_deadline = deadline.min(Instant::now() + for_suspects);
        while !answers.missing.is_empty() {
            let waits_for_suspects = answers.missing.values().all(|partial| partial.node.is_suspect);
            let until = if waits_for_suspects { suspect_deadline } else { deadline };
            let Ok(Some(part)) = timeout_at(until, self.parts.recv()).await else { return };
            answers.add(part);
        }
    }
}

/// Joins the parts of the answers to one survey.
struct AnswerAssembler {
    complete: Vec<NodeAnswer>,
    /// The nodes that have not answered completely, by their instances.
    missing: HashMap<String, PartialAnswer>,
}

struct PartialAnswer {
    node: LiveNode,
    bytes: Vec<u8>,
    /// The number of the next part.
    next_part: u32,
}

impl AnswerAssembler {
    fn new(asked: Vec<LiveNode>) -> Self {
        let partial = |node: LiveNode| PartialAnswer { node, bytes: Vec::new(), next_part: 0 };
        let missing = asked.into_iter().map(|node| (node.instance.clone(), partial(node)));
        Self { complete: Vec::new(), missing: missing.collect() }
    }

    /// Adds a part. Parts arrive in their order, because they are sent one after the other and Redis keeps the order. Any
    /// other part is ignored: it is forged, or a part before it is missing. So are the parts of nodes that were not asked.
    fn add(&mut self, AnswerPart { instance, number, is_last, bytes }: AnswerPart) {
        let Some(partial) = self.missing.get_mut(&instance).filter(|partial| partial.next_part == number) else {
            return;
        };
        partial.next_part = partial.next_part.saturating_add(1);
        partial.bytes.extend_from_slice(&bytes);
        if is_last {
            let completed = self.missing.remove(&instance);
            self.complete
                .extend(completed.map(|partial| NodeAnswer { node: partial.node.identity, answer: partial.bytes }));
        }
    }
}

/// Asks every live node, and collects the answers. This node answers without Redis.
pub(super) async fn run_survey(
    context: &RedisContext,
    question: SurveyQuestion,
    limit: Duration,
) -> Result<SurveyResult, BrokerError> {
    let deadline = Instant::now() + limit;
    let _permit = match question {
        // Their rounds have a limit of their own, so that no flood of other questions holds them up.
        SurveyQuestion::Revoked(_) => None,
        SurveyQuestion::Channels | SurveyQuestion::Info | SurveyQuestion::Inspect(_) => {
            Some(context.surveys.permits.try_acquire().map_err(|_| BrokerError::Busy)?)
        }
    };
    let own = SurveyResult::ask_own_hubs(&*context.deliver, question.clone(), limit);
    let (mut result, others) = tokio::join!(own, ask_other_nodes(context, question, deadline));
    result.answers.extend(others.answers);
    result.unreachable.extend(others.unreachable);
    result.with_an_answer()
}

/// Asks the other nodes that are alive. Without Redis, none of them can be reached.
async fn ask_other_nodes(context: &RedisContext, question: SurveyQuestion, deadline: Instant) -> SurveyResult {
    let mut answers = AnswerAssembler::new(context.nodes.live_nodes());
    if !answers.missing.is_empty() {
        let mut survey = context.surveys.register();
        match send_question(context, &survey.id, &question, deadline).await {
            Ok(_) => {
                let for_suspects = match question {
                    SurveyQuestion::Revoked(_) => SUSPECT_TIMEOUT_OF_REVOCATIONS,
                    SurveyQuestion::Channels | SurveyQuestion::Info | SurveyQuestion::Inspect(_) => SUSPECT_TIMEOUT,
                };
                survey.collect_answers(&mut answers, deadline, for_suspects).await;
            }
            Err(error) => {
                if let Some(count) = context.surveys.unsent.count(Instant::now().into_std()) {
                    log::warn!("survey question not sent count={count} error={error:?}");
                }
                let unreachable = answers.missing.into_values().map(|partial| partial.node.identity).collect();
                return SurveyResult { answers: Vec::new(), unreachable };
            }
        }
    }
    // A node that has said goodbye meanwhile is not missed.
    let unreachable = context.nodes.record_missed(answers.missing.into_keys());
    SurveyResult { answers: answers.complete, unreachable }
}

/// Asks the other nodes, without waiting for their answers. Returns how many instances receive the question, this one included.
pub(super) async fn announce(
    context: &RedisContext,
    question: &SurveyQuestion,
    limit: Duration,
) -> Result<usize, String> {
    send_question(context, &uuid::Uuid::new_v4().into_bytes(), question, Instant::now() + limit).await
}

/// Returns how many instances receive the question.
async fn send_question(
    context: &RedisContext,
    id: &SurveyId,
    question: &SurveyQuestion,
    deadline: Instant,
) -> Result<usize, String> {
    if !context.nodes.is_listening() {
        return Err("the subscriptions to redis are not connected".to_owned());
    }
    let mut publish = redis::cmd(context.names.publish_command());
    let name = context.names.control_channel();
    publish.arg(name).arg(context.signer.sign(envelope::encode_question(id, &context.instance, question)));
    let server = context.router.server_for_message(name, &context.instance).map_err(|error| error.to_string())?;
    server.query(&publish, deadline.saturating_duration_since(Instant::now())).await
}

/// Answers questions, forever, each in its own task.
pub(super) async fn answer_questions(context: Arc<RedisContext>, mut questions: mpsc::Receiver<ReceivedQuestion>) {
    let permits = Arc::new(Semaphore::new(MAX_ANSWERING));
    while let Some(question) = questions.recv().await {
        // Nodes that do not know this one expect no answer.
        if !context.announcer.is_announced() {
            continue;
        }
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let context = context.clone();
        tokio::spawn(async move {
            let asker = question.asker.clone();
            if let Err(error) = answer_question(&context, question).await {
                log::warn!("survey question not answered asker={asker:?} error={error:?}");
            }
            drop(permit);
        });
    }
}

async fn answer_question(
    context: &RedisContext,
    ReceivedQuestion { id, asker, question }: ReceivedQuestion,
) -> Result<(), String> {
    let answer = timeout(ANSWER_TIMEOUT, context.deliver.answer_survey(question)).await;
    let answer = answer.map_err(|_| format!("the hubs did not answer within {ANSWER_TIMEOUT:?}"))?;
    if answer.len() > MAX_ANSWERS_BYTES {
        return Err(format!("the answer has {} bytes; the limit is {MAX_ANSWERS_BYTES}", answer.len()));
    }
    let replies = context.names.replies_channel_of(&asker);
    let server = context.router.server_for_message(&replies, &asker).map_err(|error| error.to_string())?;
    let max_part_bytes = MAX_PART_BYTES.min(context.message_bytes).saturating_sub(SIGNED_HEAD_BYTES);
    for part in envelope::encode_answer(&id, &context.instance, &answer, max_part_bytes) {
        server.publish(&replies, &context.signer.sign(part)).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::NodeIdentity;

    fn part(instance: &'static str, number: u32, is_last: bool, bytes: &'static str) -> AnswerPart {
        AnswerPart { instance: instance.to_owned(), number, is_last, bytes: bytes.into() }
    }

    fn assembler_for(instances: &[&str]) -> AnswerAssembler {
        let node = |instance: &&str| LiveNode {
            instance: (*instance).to_owned(),
            identity: NodeIdentity { uid: (*instance).to_owned(), name: String::new() },
            is_suspect: false,
        };
        AnswerAssembler::new(instances.iter().map(node).collect())
    }

    fn complete(assembler: &AnswerAssembler) -> Vec<(&str, &[u8])> {
        assembler.complete.iter().map(|answer| (answer.node.uid.as_str(), answer.answer.as_slice())).collect()
    }

    #[test]
    fn answer_parts_of_several_instances_are_joined() {
        let mut assembler = assembler_for(&["a", "b", "c"]);
        for part in
            [part("a", 0, false, "1"), part("b", 0, true, "x"), part("a", 1, false, "2"), part("a", 2, true, "3")]
        {
            assembler.add(part);
        }
        assert_eq!(complete(&assembler), [("b", &b"x"[..]), ("a", b"123")]);
        assert_eq!(assembler.missing.into_keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn repeated_out_of_order_and_foreign_answer_parts_are_ignored() {
        let mut assembler = assembler_for(&["a"]);
        for part in [
            part("b", 0, true, "not asked"),
            part("a", 1, true, "early"),
            part("a", 0, false, "1"),
            part("a", 0, true, "twice"),
            part("a", u32::MAX, true, "far"),
            part("a", 1, true, "2"),
            part("a", 2, true, "late"),
            part("a", 0, true, "again"),
        ] {
            assembler.add(part);
        }
        assert_eq!(complete(&assembler), [("a", &b"12"[..])]);
    }

    #[test]
    fn empty_and_endless_answer_parts_are_bounded() {
        let surveys = SurveyRegistry::new();
        let mut survey = surveys.register();
        let mut accepted = 0_usize;
        let dropped = loop {
            match surveys.add_part(&survey.id, part("a", 0, false, "")) {
                Ok(()) => accepted += 1,
                Err(dropped) => break dropped,
            }
            assert!(survey.parts.try_recv().is_ok());
        };
        assert_eq!((accepted, dropped), (MAX_ANSWERS_BYTES / PART_OVERHEAD_BYTES, DropReason("too_long_answers")));
        let waiting = surveys.register();
        let dropped = (0..).find_map(|_| surveys.add_part(&waiting.id, part("a", 0, false, "")).err());
        assert_eq!(dropped, Some(DropReason("too_many_answers")));
    }
}
