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
    Bus,
    envelope::{self, Part, Refused, SurveyId},
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
/// Parts of answers to one survey that wait for its task; their bytes are bounded too.
const QUEUE: usize = 1024;
/// Bytes of all answers to one survey; what goes over it is dropped, and the survey incomplete.
const ANSWERS_BYTES: usize = 64 << 20;
/// What keeping a part costs beside its bytes: nothing may come in parts of nothing.
const PART_COST: usize = 128;
/// Longest message with a part, if `broker.redis.message_bytes` is not less: publications go in between.
const PART_BYTES: usize = 256 * 1024;

/// The surveys of this instance that wait for answers.
pub(super) struct Surveys {
    open: Mutex<HashMap<SurveyId, Open>>,
    permits: Semaphore,
}

struct Open {
    parts: mpsc::Sender<Part>,
    /// What came so far.
    cost: usize,
}

impl Surveys {
    /// None yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), permits: Semaphore::new(ASKING) })
    }

    /// A part of an answer came in.
    pub(super) fn take(&self, id: &SurveyId, part: Part) -> Result<(), Refused> {
        let mut open = self.open.lock();
        let survey = open.get_mut(id).ok_or(Refused("stray_answer"))?;
        survey.cost = survey.cost.saturating_add(part.bytes.len() + PART_COST);
        if survey.cost > ANSWERS_BYTES {
            return Err(Refused("too_long_answers"));
        }
        survey.parts.try_send(part).map_err(|_| Refused("too_many_answers"))
    }

    fn begin(&self) -> Survey<'_> {
        let id = uuid::Uuid::new_v4().into_bytes();
        let (sender, parts) = mpsc::channel(QUEUE);
        self.open.lock().insert(id, Open { parts: sender, cost: 0 });
        Survey { id, parts, surveys: self }
    }
}

/// A survey that waits; closed when dropped.
struct Survey<'a> {
    id: SurveyId,
    parts: mpsc::Receiver<Part>,
    surveys: &'a Surveys,
}

impl Drop for Survey<'_> {
    fn drop(&mut self) {
        self.surveys.open.lock().remove(&self.id);
    }
}

impl Survey<'_> {
    async fn gather(&mut self, asked: usize, deadline: Instant) -> Result<Vec<Vec<u8>>, BrokerError> {
        let mut gathered = Gathered::default();
        while gathered.whole.len() < asked {
            let Ok(Some(part)) = timeout_at(deadline, self.parts.recv()).await else {
                return Err(BrokerError::Incomplete { answered: gathered.whole.len(), asked });
            };
            gathered.add(part);
        }
        Ok(gathered.whole)
    }
}

/// What has come of one survey.
#[derive(Default)]
struct Gathered {
    whole: Vec<Vec<u8>>,
    /// Of each instance: what there is of its answer, and which part comes next; `None` when the answer is whole.
    instances: HashMap<Bytes, Option<(Vec<u8>, u32)>>,
}

impl Gathered {
    /// Parts come in their order, because they are sent one after the other and Redis keeps the order. One that does not
    /// come next is a stranger's, or there is a hole before it: either way it is not taken.
    fn add(&mut self, Part { instance, number, is_last, bytes }: Part) {
        let begun = self.instances.entry(instance).or_insert_with(|| Some((Vec::new(), 0)));
        let Some((answer, next)) = begun else { return };
        if number != *next {
            return;
        }
        *next = next.saturating_add(1);
        answer.extend_from_slice(&bytes);
        if is_last {
            self.whole.extend(begun.take().map(|(answer, _)| answer));
        }
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
    if answer.len() > ANSWERS_BYTES {
        return Err(format!("it has {} bytes, nobody takes over {ANSWERS_BYTES}", answer.len()));
    }
    let replies = bus.keys.replies_of(&asker);
    for part in envelope::answer(&id, &bus.instance, &answer, PART_BYTES.min(bus.message_bytes)) {
        bus.publisher.publish(&replies, &part).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(instance: &'static str, number: u32, is_last: bool, bytes: &'static str) -> Part {
        Part { instance: instance.into(), number, is_last, bytes: bytes.into() }
    }

    #[test]
    fn parts_of_several_instances_are_put_together() {
        let mut gathered = Gathered::default();
        for part in
            [part("a", 0, false, "1"), part("b", 0, true, "x"), part("a", 1, false, "2"), part("a", 2, true, "3")]
        {
            gathered.add(part);
        }
        assert_eq!(gathered.whole, [b"x".to_vec(), b"123".to_vec()]);
    }

    #[test]
    fn what_comes_twice_or_out_of_order_or_behind_the_end_is_not_taken() {
        let mut gathered = Gathered::default();
        for part in [
            part("a", 1, true, "early"),
            part("a", 0, false, "1"),
            part("a", 0, true, "twice"),
            part("a", u32::MAX, true, "far"),
            part("a", 1, true, "2"),
            part("a", 2, true, "late"),
            part("a", 0, true, "again"),
        ] {
            gathered.add(part);
        }
        assert_eq!(gathered.whole, [b"12".to_vec()]);
    }

    #[test]
    fn parts_of_nothing_and_parts_without_end_are_bounded() {
        let surveys = Surveys::new();
        let mut survey = surveys.begin();
        let mut taken = 0_usize;
        let refused = loop {
            match surveys.take(&survey.id, part("a", 0, false, "")) {
                Ok(()) => taken += 1,
                Err(refused) => break refused,
            }
            assert!(survey.parts.try_recv().is_ok());
        };
        assert_eq!((taken, refused), (ANSWERS_BYTES / PART_COST, Refused("too_long_answers")));
        let waiting = surveys.begin();
        let refused = (0..).find_map(|_| surveys.take(&waiting.id, part("a", 0, false, "")).err());
        assert_eq!(refused, Some(Refused("too_many_answers")));
    }
}
