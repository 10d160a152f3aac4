//! Questions to all instances. PUBLISH says how many instances were asked, this one among them; each publishes its answer
//! to the asker's own channel, in parts if it is long; the asker counts. Everything about it is bounded: surveys at a
//! time, here and for others, the size of an answer and of all answers.

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

/// Surveys of ours at a time; over it they are refused with Busy.
const MAX_OWN_SURVEYS: usize = 16;
/// Questions answered at a time; over it they wait in the inbox's queue, and then they are dropped.
pub(super) const MAX_ANSWERING: usize = 16;
/// What answering may take, so that a hub that hangs does not hold its place for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Parts of answers to one survey that wait for its task; their bytes are bounded too.
const PART_QUEUE: usize = 1024;
/// Bytes of all answers to one survey; what goes over it is dropped, and the survey incomplete.
const ANSWERS_BYTES: usize = 64 << 20;
/// What keeping a part costs beside its bytes: nothing may come in parts of nothing.
const PART_OVERHEAD: usize = 128;
/// Longest message with a part, if `broker.redis.message_bytes` is not less: publications go in between.
const PART_BYTES: usize = 256 * 1024;

/// The surveys of this instance that wait for answers.
pub(super) struct SurveyRegistry {
    pending: Mutex<HashMap<SurveyId, PendingSurvey>>,
    permits: Semaphore,
}

struct PendingSurvey {
    parts: mpsc::Sender<AnswerPart>,
    /// What came so far.
    cost: usize,
}

impl SurveyRegistry {
    /// None yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { pending: Mutex::default(), permits: Semaphore::new(MAX_OWN_SURVEYS) })
    }

    /// A part of an answer came in.
    pub(super) fn add_part(&self, id: &SurveyId, part: AnswerPart) -> Result<(), DropReason> {
        let mut pending = self.pending.lock();
        let survey = pending.get_mut(id).ok_or(DropReason("stray_answer"))?;
        survey.cost = survey.cost.saturating_add(part.bytes.len() + PART_OVERHEAD);
        if survey.cost > ANSWERS_BYTES {
            return Err(DropReason("too_long_answers"));
        }
        survey.parts.try_send(part).map_err(|_| DropReason("too_many_answers"))
    }

    fn register(&self) -> SurveyHandle<'_> {
        let id = uuid::Uuid::new_v4().into_bytes();
        let (sender, parts) = mpsc::channel(PART_QUEUE);
        self.pending.lock().insert(id, PendingSurvey { parts: sender, cost: 0 });
        SurveyHandle { id, parts, surveys: self }
    }
}

/// A survey that waits; closed when dropped.
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

/// What has come of one survey.
#[derive(Default)]
struct AnswerAssembler {
    answers: Vec<Vec<u8>>,
    /// Of each instance: what there is of its answer, and which part comes next; `None` when the answer is whole.
    partial: HashMap<Bytes, Option<(Vec<u8>, u32)>>,
}

impl AnswerAssembler {
    /// Parts come in their order, because they are sent one after the other and Redis keeps the order. One that does not
    /// come next is a stranger's, or there is a hole before it: either way it is not taken.
    fn add(&mut self, AnswerPart { instance, number, is_last, bytes }: AnswerPart) {
        let begun = self.partial.entry(instance).or_insert_with(|| Some((Vec::new(), 0)));
        let Some((answer, next)) = begun else { return };
        if number != *next {
            return;
        }
        *next = next.saturating_add(1);
        answer.extend_from_slice(&bytes);
        if is_last {
            self.answers.extend(begun.take().map(|(answer, _)| answer));
        }
    }
}

/// Asks every instance.
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
    let message = envelope::encode_question(&survey.id, &context.instance, question);
    let asked: usize = match timeout_at(deadline, publish_question(context, &message)).await {
        Ok(asked) => asked.map_err(BrokerError::Unavailable)?,
        Err(_) => return Err(BrokerError::Unavailable(format!("redis took no question within {limit:?}"))),
    };
    if asked == 0 {
        return Err(BrokerError::Unavailable("no instance listens, not even this one".to_owned()));
    }
    survey.collect_answers(asked, deadline).await
}

async fn publish_question(context: &RedisContext, question: &[u8]) -> Result<usize, String> {
    let mut connection = context.pool.get().await.map_err(|error| error.to_string())?;
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(context.names.control_channel()).arg(question);
    publish.query_async(&mut connection).await.map_err(|error| error.to_string())
}

/// Answers questions, for ever, each in a task of its own.
pub(super) async fn answer_questions(context: Arc<RedisContext>, mut questions: mpsc::Receiver<ReceivedQuestion>) {
    let permits = Arc::new(Semaphore::new(MAX_ANSWERING));
    while let Some(asked) = questions.recv().await {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let context = context.clone();
        tokio::spawn(async move {
            if let Err(reason) = answer_question(&context, asked).await {
                log::warn!("another instance's question stays without an answer: {reason}");
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
    let answer = answer.map_err(|_| format!("the hubs said nothing within {ANSWER_TIMEOUT:?}"))?;
    if answer.len() > ANSWERS_BYTES {
        return Err(format!("it has {} bytes, nobody takes over {ANSWERS_BYTES}", answer.len()));
    }
    let replies = context.names.replies_channel_of(&asker);
    for part in envelope::encode_answer(&id, &context.instance, &answer, PART_BYTES.min(context.message_bytes)) {
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
        let mut taken = 0_usize;
        let refused = loop {
            match surveys.add_part(&survey.id, part("a", 0, false, "")) {
                Ok(()) => taken += 1,
                Err(refused) => break refused,
            }
            assert!(survey.parts.try_recv().is_ok());
        };
        assert_eq!((taken, refused), (ANSWERS_BYTES / PART_OVERHEAD, DropReason("too_long_answers")));
        let waiting = surveys.register();
        let refused = (0..).find_map(|_| surveys.add_part(&waiting.id, part("a", 0, false, "")).err());
        assert_eq!(refused, Some(DropReason("too_many_answers")));
    }
}
