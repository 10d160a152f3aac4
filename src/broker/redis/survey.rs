//! Surveys: questions to all instances. The reply to PUBLISH says how many instances received the question, this one included.
//! Each of them publishes its answer to the replies channel of the asking instance, which counts the answers. A long answer is
//! sent in parts. Everything is limited: concurrent surveys of this instance and of others, the size of an answer, and the size
//! of all answers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};

use super::{
    RedisContext,
    envelope::{self, AnswerPart, DropReason, SurveyId},
    health::RedisLink,
    inbox::ReceivedQuestion,
};
use crate::broker::{BrokerError, SurveyQuestion};

/// Maximum number of concurrent surveys of this instance. Above it: [`BrokerError::Busy`].
const MAX_OWN_SURVEYS: usize = 16;
/// Maximum number of questions that are answered at the same time. Above it they wait in the inbox's queue, which holds as
/// many, and above that they are dropped.
pub(super) const MAX_ANSWERING: usize = 16;
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

/// The surveys of this instance that wait for answers.
pub(super) struct SurveyRegistry {
    pending: Mutex<HashMap<SurveyId, PendingSurvey>>,
    permits: Semaphore,
}

struct PendingSurvey {
    parts: mpsc::Sender<AnswerPart>,
    /// What the parts received so far have cost.
    cost_bytes: usize,
}

impl SurveyRegistry {
    /// Creates an empty registry.
    pub(super) fn new() -> Self {
        Self { pending: Mutex::default(), permits: Semaphore::new(MAX_OWN_SURVEYS) }
    }

    /// Passes a received part of an answer to its survey.
    pub(super) fn add_part(&self, id: &SurveyId, part: AnswerPart) -> Result<(), DropReason> {
        let mut pending = self.pending.lock();
        let survey = pending.get_mut(id).ok_or(DropReason("stray_answer"))?;
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
    async fn collect_answers(&mut self, asked: usize, deadline: Instant) -> Result<Vec<Vec<u8>>, BrokerError> {
        let mut assembler = AnswerAssembler::default();
        while assembler.answers.len() < asked {
            let Ok(Some(part)) = timeout_at(deadline, self.parts.recv()).await else {
                return Err(BrokerError::Incomplete { answered: assembler.answers.len(), asked });
            };
            assembler.add(part);
        }
        Ok(assembler.answers)
    }
}

/// Joins the parts of answers to one survey.
#[derive(Default)]
struct AnswerAssembler {
    answers: Vec<Vec<u8>>,
    /// For each instance the bytes of its answer so far, and the number of the next part; `None` once the answer is complete.
    partial: HashMap<Bytes, Option<(Vec<u8>, u32)>>,
}

impl AnswerAssembler {
    /// Adds a part. Parts arrive in their order, because they are sent one after the other and Redis keeps the order. Any
    /// other part is ignored: it is forged, or a part before it is missing.
    fn add(&mut self, AnswerPart { instance, number, is_last, bytes }: AnswerPart) {
        let partial = self.partial.entry(instance).or_insert_with(|| Some((Vec::new(), 0)));
        let Some((answer, next)) = partial else { return };
        if number != *next {
            return;
        }
        *next = next.saturating_add(1);
        answer.extend_from_slice(&bytes);
        if is_last {
            self.answers.extend(partial.take().map(|(answer, _)| answer));
        }
    }
}

/// Asks every instance, and collects the answers.
pub(super) async fn run_survey(
    context: &RedisContext,
    question: SurveyQuestion,
    limit: Duration,
) -> Result<Vec<Vec<u8>>, BrokerError> {
    let deadline = Instant::now() + limit;
    let _permit = context.surveys.permits.try_acquire().map_err(|_| BrokerError::Busy)?;
    if let Some(fault) = context.health.fault_of(RedisLink::Subscriptions) {
        return Err(BrokerError::Unavailable(fault));
    }
    let mut survey = context.surveys.register();
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(context.names.control_channel()).arg(envelope::encode_question(
        &survey.id,
        &context.instance,
        question,
    ));
    let asked = context.connector.query(&publish, limit).await;
    match asked.map_err(|error| BrokerError::Unavailable(format!("survey: {error}")))? {
        0 => Err(super::no_receiver_error()),
        asked => survey.collect_answers(asked, deadline).await,
    }
}

/// Answers questions, forever, each in its own task.
pub(super) async fn answer_questions(context: Arc<RedisContext>, mut questions: mpsc::Receiver<ReceivedQuestion>) {
    let permits = Arc::new(Semaphore::new(MAX_ANSWERING));
    while let Some(question) = questions.recv().await {
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
    let max_part_bytes = MAX_PART_BYTES.min(context.message_bytes);
    for part in envelope::encode_answer(&id, &context.instance, &answer, max_part_bytes) {
        context.publisher.publish(&replies, &part).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(instance: &'static str, number: u32, is_last: bool, bytes: &'static str) -> AnswerPart {
        AnswerPart { instance: instance.into(), number, is_last, bytes: bytes.into() }
    }

    #[test]
    fn answer_parts_of_several_instances_are_joined() {
        let mut assembler = AnswerAssembler::default();
        for part in
            [part("a", 0, false, "1"), part("b", 0, true, "x"), part("a", 1, false, "2"), part("a", 2, true, "3")]
        {
            assembler.add(part);
        }
        assert_eq!(assembler.answers, [b"x".to_vec(), b"123".to_vec()]);
    }

    #[test]
    fn repeated_and_out_of_order_answer_parts_are_ignored() {
        let mut assembler = AnswerAssembler::default();
        for part in [
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
        assert_eq!(assembler.answers, [b"12".to_vec()]);
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
