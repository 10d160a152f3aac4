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
    connect::{Connector, ReconnectBackoff, RedisConnection},
    health::{RedisHealth, RedisLink},
};
use crate::broker::BrokerError;

/// Commands that wait; their bytes are bounded too, see [`Publisher::new`].
const MAX_QUEUED_COMMANDS: usize = 16_384;
/// A batch ends with the command that goes over one of these: a long one would not be answered in time on a slow link.
const BATCH_COMMANDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// The door to the connection, for everybody who sends.
pub(super) struct Publisher {
    queue: mpsc::Sender<PublishJob>,
    total_queued_bytes: Arc<AtomicUsize>,
    queue_bytes: usize,
    message_bytes: usize,
    timeout: Duration,
}

/// A PUBLISH and whoever waits for it.
pub(super) struct PublishJob {
    command: Cmd,
    queued_bytes: QueuedBytes,
    answer: oneshot::Sender<Result<i64, BrokerError>>,
}

/// Bytes of the queue, given back when the job is done with.
struct QueuedBytes {
    bytes: usize,
    total_queued_bytes: Arc<AtomicUsize>,
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.total_queued_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl PublishJob {
    fn complete(self, result: Result<i64, BrokerError>) {
        // Whoever waited may have given up.
        _ = self.answer.send(result);
    }

    fn fail(self, cause: &str) {
        self.complete(Err(BrokerError::Unavailable(cause.to_owned())));
    }
}

impl Publisher {
    /// The door, and the queue for [`PublisherTask::run`]. At most `queue_bytes` wait, no message is over `message_bytes`
    /// (whom it is for would drop it), and nobody waits longer than `timeout`.
    pub(super) fn new(
        queue_bytes: usize,
        message_bytes: usize,
        timeout: Duration,
    ) -> (Self, mpsc::Receiver<PublishJob>) {
        let (queue, jobs) = mpsc::channel(MAX_QUEUED_COMMANDS);
        (Self { queue, total_queued_bytes: Arc::default(), queue_bytes, message_bytes, timeout }, jobs)
    }

    /// Queues a message, in this call; ready with the number of its receivers when Redis has it.
    pub(super) fn publish(
        &self,
        name: &str,
        message: &[u8],
    ) -> impl Future<Output = Result<i64, BrokerError>> + Send + use<> {
        let queued = self.enqueue(name, message);
        let timeout = self.timeout;
        async move {
            let late = || BrokerError::Unavailable(format!("redis took no publication within {timeout:?}"));
            match tokio::time::timeout(timeout, queued?).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(super::stopped_error())),
                Err(_) => Err(late()),
            }
        }
    }

    fn enqueue(&self, name: &str, message: &[u8]) -> Result<oneshot::Receiver<Result<i64, BrokerError>>, BrokerError> {
        if message.len() > self.message_bytes {
            return Err(BrokerError::Unavailable(format!(
                "a message of {} bytes is over broker.redis.message_bytes",
                message.len()
            )));
        }
        let queued_bytes = self.reserve(name.len() + message.len())?;
        let mut command = Cmd::with_capacity(3, name.len() + message.len() + 16);
        command.arg("PUBLISH").arg(name).arg(message);
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(PublishJob { command, queued_bytes, answer }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => BrokerError::Busy,
            mpsc::error::TrySendError::Closed(_) => super::stopped_error(),
        })?;
        Ok(answered)
    }

    fn reserve(&self, bytes: usize) -> Result<QueuedBytes, BrokerError> {
        let before = self.total_queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let queued_bytes = QueuedBytes { bytes, total_queued_bytes: self.total_queued_bytes.clone() };
        if before + bytes > self.queue_bytes { Err(BrokerError::Busy) } else { Ok(queued_bytes) }
    }
}

/// The other end of the queue: the connection and what goes through it.
pub(super) struct PublisherTask {
    connector: Connector,
    health: Arc<RedisHealth>,
    jobs: mpsc::Receiver<PublishJob>,
    /// Taken from the queue and not sent yet.
    unsent: Vec<PublishJob>,
    timeout: Duration,
}

impl PublisherTask {
    /// Nothing is connected yet.
    pub(super) fn new(
        connector: Connector,
        health: Arc<RedisHealth>,
        jobs: mpsc::Receiver<PublishJob>,
        timeout: Duration,
    ) -> Self {
        Self { connector, health, jobs, unsent: Vec::new(), timeout }
    }

    /// Connects and sends, for ever. While the first attempt after a loss runs, publications wait for it; once it has
    /// failed they fail at once.
    pub(super) async fn run(mut self) {
        let mut backoff = ReconnectBackoff::default();
        let mut down = None;
        loop {
            let connector = self.connector.clone();
            let connected = self.reject_jobs_until(down.as_deref(), connector.connect(|_| ())).await;
            let mut uptime = Duration::ZERO;
            let cause = match connected {
                Ok(connection) => {
                    self.health.report_up(RedisLink::Publishing, None);
                    let since = Instant::now();
                    let cause = self.send_until_failure(connection).await;
                    uptime = since.elapsed();
                    down = None;
                    cause
                }
                Err(cause) => {
                    down = Some(cause.clone());
                    cause
                }
            };
            self.health.report_down(RedisLink::Publishing, &cause);
            self.reject_jobs_until(down.as_deref(), sleep(backoff.next_delay(uptime))).await;
        }
    }

    /// Waits for `event`; meanwhile, when it is `down`, whoever publishes is told so.
    async fn reject_jobs_until<T>(&mut self, down: Option<&str>, event: impl Future<Output = T>) -> T {
        let Some(cause) = down else { return event.await };
        self.unsent.drain(..).for_each(|job| job.fail(cause));
        tokio::pin!(event);
        loop {
            tokio::select! {
                happened = &mut event => return happened,
                Some(job) = self.jobs.recv() => job.fail(cause),
            }
        }
    }

    /// Sends batch after batch until the connection fails; says why it did.
    async fn send_until_failure(&mut self, RedisConnection { mut redis, closed }: RedisConnection) -> String {
        loop {
            if self.unsent.is_empty() {
                tokio::select! {
                    biased;
                    () = closed.notified() => return "the connection was closed".to_owned(),
                    _ = self.jobs.recv_many(&mut self.unsent, BATCH_COMMANDS) => (),
                }
            }
            let batch = self.next_batch();
            match send_batch(&mut redis, batch, self.timeout).await {
                Ok(None) => self.health.report_up(RedisLink::Publishing, None),
                // The connection works, and a new one would be told the same. The probe asks again soon.
                Ok(Some(refusal)) => self.health.report_down(RedisLink::Publishing, &refusal),
                Err(cause) => return cause,
            }
        }
    }

    fn next_batch(&mut self) -> Vec<PublishJob> {
        let mut bytes = 0;
        let fits = |job: &&PublishJob| {
            let begun = bytes < BATCH_BYTES;
            bytes += job.queued_bytes.bytes;
            begun
        };
        let length = self.unsent.iter().take_while(fits).count();
        let later = self.unsent.split_off(length);
        mem::replace(&mut self.unsent, later)
    }
}

/// Sends one batch and tells everybody in it; says what Redis refused, if it did. An error is one of the connection.
async fn send_batch(
    redis: &mut MultiplexedConnection,
    mut batch: Vec<PublishJob>,
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
                match receiver_count(reply) {
                    Ok(count) => job.complete(Ok(count)),
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

fn receiver_count(reply: Value) -> Result<i64, String> {
    match reply {
        Value::Int(receivers) => Ok(receivers),
        Value::ServerError(error) => Err(format!("publishing: {error}")),
        _ => Err("PUBLISH was answered with something else than a number".to_owned()),
    }
}
