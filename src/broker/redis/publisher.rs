//! Sends publications, answers and probes: one connection of its own, which never subscribes, and a bounded queue before
//! it. The order of the calls is the order at Redis, because a batch goes out when the one before it is answered; what
//! comes in the meantime is the next batch, so that a busy hub pays a round trip and a system call for hundreds.
//!
//! Nothing is sent twice: what was under way when the connection broke is an error to whoever published it, though it may
//! have arrived.

use std::{
    future::Future,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    connect::{Backoff, Connection, Connector},
    health::{Health, Link},
};
use crate::broker::BrokerError;

/// Commands that wait; their bytes are bounded too, see [`Publisher::new`].
const QUEUE: usize = 16_384;
/// A batch ends with the command that goes over one of these: a long one would not be answered in time on a slow link.
const BATCH_COMMANDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// The door to the connection, for everybody who sends.
pub(super) struct Publisher {
    queue: mpsc::Sender<Job>,
    waiting_bytes: Arc<AtomicUsize>,
    queue_bytes: usize,
    message_bytes: usize,
    timeout: Duration,
}

/// A PUBLISH and whoever waits for it.
pub(super) struct Job {
    command: Cmd,
    weight: Weight,
    answer: oneshot::Sender<Result<i64, BrokerError>>,
}

/// Bytes of the queue, given back when the job is done with.
struct Weight {
    bytes: usize,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Job {
    fn finish(self, result: Result<i64, BrokerError>) {
        // Whoever waited may have given up.
        _ = self.answer.send(result);
    }

    fn fail(self, cause: &str) {
        self.finish(Err(BrokerError::Unavailable(cause.to_owned())));
    }
}

impl Publisher {
    /// The door, and the queue for [`Sender::run`]. At most `queue_bytes` wait, no message is over `message_bytes`
    /// (whom it is for would drop it), and nobody waits longer than `timeout`.
    pub(super) fn new(queue_bytes: usize, message_bytes: usize, timeout: Duration) -> (Self, mpsc::Receiver<Job>) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        (Self { queue, waiting_bytes: Arc::default(), queue_bytes, message_bytes, timeout }, jobs)
    }

    /// Queues a message, in this call; ready with the number of its receivers when Redis has it.
    pub(super) fn publish(
        &self,
        name: &str,
        message: &[u8],
    ) -> impl Future<Output = Result<i64, BrokerError>> + Send + use<> {
        let queued = self.queue(name, message);
        let timeout = self.timeout;
        async move {
            let late = || BrokerError::Unavailable(format!("redis took no publication within {timeout:?}"));
            match tokio::time::timeout(timeout, queued?).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(super::stopped())),
                Err(_) => Err(late()),
            }
        }
    }

    fn queue(&self, name: &str, message: &[u8]) -> Result<oneshot::Receiver<Result<i64, BrokerError>>, BrokerError> {
        if message.len() > self.message_bytes {
            return Err(BrokerError::Unavailable(format!(
                "a message of {} bytes is over broker.redis.message_bytes",
                message.len()
            )));
        }
        let weight = self.reserve(name.len() + message.len())?;
        let mut command = Cmd::with_capacity(3, name.len() + message.len() + 16);
        command.arg("PUBLISH").arg(name).arg(message);
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Job { command, weight, answer }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => BrokerError::Busy,
            mpsc::error::TrySendError::Closed(_) => super::stopped(),
        })?;
        Ok(answered)
    }

    fn reserve(&self, bytes: usize) -> Result<Weight, BrokerError> {
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let weight = Weight { bytes, waiting_bytes: self.waiting_bytes.clone() };
        if before + bytes > self.queue_bytes { Err(BrokerError::Busy) } else { Ok(weight) }
    }
}

/// The other end of the queue: the connection and what goes through it.
pub(super) struct Sender {
    connector: Connector,
    health: Arc<Health>,
    jobs: mpsc::Receiver<Job>,
    /// Taken from the queue and not sent yet.
    waiting: Vec<Job>,
    timeout: Duration,
}

impl Sender {
    /// Nothing is connected yet.
    pub(super) fn new(connector: Connector, health: Arc<Health>, jobs: mpsc::Receiver<Job>, timeout: Duration) -> Self {
        Self { connector, health, jobs, waiting: Vec::new(), timeout }
    }

    /// Connects and sends, for ever. While the first attempt after a loss runs, publications wait for it; once it has
    /// failed they fail at once.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut down = None;
        loop {
            let connector = self.connector.clone();
            let connected = self.unless_down(down.as_deref(), connector.connect(|_| ())).await;
            let mut held = Duration::ZERO;
            let cause = match connected {
                Ok(connection) => {
                    self.health.up(Link::Publishing, None);
                    let since = Instant::now();
                    let cause = self.serve(connection).await;
                    held = since.elapsed();
                    down = None;
                    cause
                }
                Err(cause) => {
                    down = Some(cause.clone());
                    cause
                }
            };
            self.health.down(Link::Publishing, &cause);
            self.unless_down(down.as_deref(), sleep(backoff.after(held))).await;
        }
    }

    /// Waits for `event`; meanwhile, when it is `down`, whoever publishes is told so.
    async fn unless_down<T>(&mut self, down: Option<&str>, event: impl Future<Output = T>) -> T {
        let Some(cause) = down else { return event.await };
        self.waiting.drain(..).for_each(|job| job.fail(cause));
        tokio::pin!(event);
        loop {
            tokio::select! {
                happened = &mut event => return happened,
                Some(job) = self.jobs.recv() => job.fail(cause),
            }
        }
    }

    /// Sends batch after batch until the connection fails; says why it did.
    async fn serve(&mut self, Connection { mut redis, ended }: Connection) -> String {
        loop {
            if self.waiting.is_empty() {
                tokio::select! {
                    biased;
                    () = ended.notified() => return "the connection was closed".to_owned(),
                    _ = self.jobs.recv_many(&mut self.waiting, BATCH_COMMANDS) => (),
                }
            }
            let batch = self.next_batch();
            match send(&mut redis, batch, self.timeout).await {
                Ok(None) => self.health.up(Link::Publishing, None),
                // The connection works, and a new one would be told the same. The probe asks again soon.
                Ok(Some(refusal)) => self.health.down(Link::Publishing, &refusal),
                Err(cause) => return cause,
            }
        }
    }

    fn next_batch(&mut self) -> Vec<Job> {
        let mut bytes = 0;
        let fits = |job: &&Job| {
            let begun = bytes < BATCH_BYTES;
            bytes += job.weight.bytes;
            begun
        };
        let length = self.waiting.iter().take_while(fits).count();
        let later = self.waiting.split_off(length);
        mem::replace(&mut self.waiting, later)
    }
}

/// Sends one batch and tells everybody in it; says what Redis refused, if it did. An error is one of the connection.
async fn send(
    redis: &mut MultiplexedConnection,
    mut batch: Vec<Job>,
    limit: Duration,
) -> Result<Option<String>, String> {
    // They were told that it took too long: sending it now would only surprise them.
    batch.retain(|job| !job.answer.is_closed());
    if batch.is_empty() {
        return Ok(None);
    }
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for job in &mut batch {
        pipeline.add_command(mem::take(&mut job.command));
    }
    let sent = match timeout(limit, redis.send_packed_commands(&pipeline, 0, batch.len())).await {
        Ok(Ok(replies)) if replies.len() == batch.len() => Ok(replies),
        Ok(Ok(replies)) => Err(format!("{} replies to {} commands", replies.len(), batch.len())),
        Ok(Err(error)) => Err(format!("publishing: {error}")),
        Err(_) => Err(format!("publishing: no answer within {limit:?}")),
    };
    match sent {
        Ok(replies) => {
            let mut refusal = None;
            for (job, reply) in batch.into_iter().zip(replies) {
                match receivers(reply) {
                    Ok(count) => job.finish(Ok(count)),
                    Err(cause) => job.fail(refusal.insert(cause)),
                }
            }
            Ok(refusal)
        }
        Err(cause) => {
            batch.into_iter().for_each(|job| job.fail(&cause));
            Err(cause)
        }
    }
}

fn receivers(reply: Value) -> Result<i64, String> {
    match reply {
        Value::Int(receivers) => Ok(receivers),
        Value::ServerError(error) => Err(format!("publishing: {error}")),
        _ => Err("PUBLISH was answered with something else than a number".to_owned()),
    }
}
