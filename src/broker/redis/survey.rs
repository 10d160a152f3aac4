//! Questions to all instances. PUBLISH says how many instances were asked, this one among them; each publishes its answer
//! to the asker's own channel; the asker counts. Everything about it is bounded: surveys at a time, here and for others,
//! the size of an answer and of all answers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Bus,
    envelope::{self, Refused, SurveyId},
    health::Link,
    inbox::Asked,
};
use crate::broker::{BrokerError, Question};

/// Surveys of ours at a time; over it they are refused with Busy.
const ASKING: usize = 16;
/// Questions answered at a time; over it they wait in the inbox's queue, and then they are dropped.
pub(super) const ANSWERING: usize = 16;
/// What answering may take, so that a hub that hangs does not hold its place for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers to one survey that wait for its task.
const QUEUE: usize = 256;
/// Bytes of all answers to one survey; what goes over it is dropped, and the survey incomplete.
const ANSWERS_BYTES: usize = 64 << 20;

/// One instance's answer.
pub(super) struct Answer {
    pub(super) instance: Bytes,
    pub(super) answer: Bytes,
}

/// The surveys of this instance that wait for answers.
pub(super) struct Surveys {
    open: Mutex<HashMap<SurveyId, mpsc::Sender<Answer>>>,
    permits: Semaphore,
}

impl Surveys {
    /// None yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), permits: Semaphore::new(ASKING) })
    }

    /// An answer came in.
    pub(super) fn take(&self, id: &SurveyId, answer: Answer) -> Result<(), Refused> {
        let open = self.open.lock();
        let survey = open.get(id).ok_or(Refused("stray_answer"))?;
        survey.try_send(answer).map_err(|_| Refused("too_many_answers"))
    }

    fn begin(&self) -> Survey<'_> {
        let id = uuid::Uuid::new_v4().into_bytes();
        let (sender, answers) = mpsc::channel(QUEUE);
        self.open.lock().insert(id, sender);
        Survey { id, answers, surveys: self }
    }
}

/// A survey that waits; closed when dropped.
struct Survey<'a> {
    id: SurveyId,
    answers: mpsc::Receiver<Answer>,
    surveys: &'a Surveys,
}

impl Drop for Survey<'_> {
    fn drop(&mut self) {
        self.surveys.open.lock().remove(&self.id);
    }
}

impl Survey<'_> {
    async fn gather(&mut self, asked: usize, deadline: Instant) -> Result<Vec<Vec<u8>>, BrokerError> {
        let (mut answers, mut heard, mut bytes) = (Vec::new(), HashSet::new(), 0);
        while answers.len() < asked {
            let Ok(Some(Answer { instance, answer })) = timeout_at(deadline, self.answers.recv()).await else {
                return Err(BrokerError::Incomplete { answered: answers.len(), asked });
            };
            bytes += answer.len();
            if bytes <= ANSWERS_BYTES && heard.insert(instance) {
                answers.push(answer.into());
            }
        }
        Ok(answers)
    }
}

/// Asks every instance.
pub(super) async fn ask(bus: &Bus, question: Question, limit: Duration) -> Result<Vec<Vec<u8>>, BrokerError> {
    let deadline = Instant::now() + limit;
    let _permit = bus.surveys.permits.try_acquire().map_err(|_| BrokerError::Busy)?;
    if let Some(fault) = bus.health.fault_of(Link::Subscriptions) {
        return Err(BrokerError::Unavailable(fault));
    }
    let mut survey = bus.surveys.begin();
    let message = envelope::question(&survey.id, &bus.instance, question);
    let asked: usize = match timeout_at(deadline, publish(bus, &message)).await {
        Ok(asked) => asked.map_err(BrokerError::Unavailable)?,
        Err(_) => return Err(BrokerError::Unavailable(format!("redis took no question within {limit:?}"))),
    };
    if asked == 0 {
        return Err(BrokerError::Unavailable("no instance listens, not even this one".to_owned()));
    }
    survey.gather(asked, deadline).await
}

async fn publish(bus: &Bus, question: &[u8]) -> Result<usize, String> {
    let mut connection = bus.pool.get().await.map_err(|error| error.to_string())?;
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(bus.keys.control()).arg(question);
    publish.query_async(&mut connection).await.map_err(|error| error.to_string())
}

/// Answers questions, for ever, each in a task of its own.
pub(super) async fn answer_all(bus: Arc<Bus>, mut questions: mpsc::Receiver<Asked>) {
    let permits = Arc::new(Semaphore::new(ANSWERING));
    while let Some(asked) = questions.recv().await {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let bus = bus.clone();
        tokio::spawn(async move {
            if let Err(reason) = answer(&bus, asked).await {
                log::warn!("another instance's question stays without an answer: {reason}");
            }
            drop(permit);
        });
    }
}

async fn answer(bus: &Bus, Asked { id, asker, question }: Asked) -> Result<(), String> {
    let answer = timeout(ANSWER_TIMEOUT, bus.deliver.answer(question)).await;
    let answer = answer.map_err(|_| format!("the hubs said nothing within {ANSWER_TIMEOUT:?}"))?;
    let message = envelope::answer(&id, &bus.instance, &answer);
    let sent = bus.publisher.publish(&bus.keys.replies_of(&asker), &message).await;
    sent.map(|_| ()).map_err(|error| error.to_string())
}
