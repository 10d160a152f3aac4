//! Publishes publications, controls, survey answers and probes, over a connection that never subscribes, and through a bounded
//! queue. Calls reach Redis in their order, because a batch is sent when the one before it has been answered. What is queued
//! meanwhile becomes the next batch, so a busy instance pays for one round trip and one system call per hundreds of commands.
//!
//! Redis has accepted a publication if it has answered, and is a master after it: see [`role`](super::role). Nothing is sent
//! twice: a publish that was in flight when the connection broke fails, although it may have arrived.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    super::{RedisContext, history::StoredPublication, scripts},
    RedisServer,
    batch::{BATCH_COMMANDS, BatchCall, take_batch},
    connect::{Connector, ReconnectBackoff, RedisConnection},
    fault,
    health::RedisLink,
    job::{JobCommand, JobResult, PublishJob, QueuedBytes},
    redirect::{Redirect, Redirects},
};
use crate::{
    broker::BrokerError,
    log_throttle::LogThrottle,
    metrics::{MAX_BROKER_COMMANDS, Queue, QueueDepth},
};

/// Minimum time between two log lines about refused scripts. Each caller gets an error, too.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// What the call of a script is queued with besides its message: the hash, the keys, and the other arguments.
const SCRIPT_OVERHEAD_BYTES: usize = 512;

/// Queues commands for the publishing connection.
pub(super) struct Publisher {
    /// `PUBLISH`, or `SPUBLISH` in a Cluster.
    command: &'static str,
    queue: mpsc::Sender<PublishJob>,
    total_queued_bytes: Arc<AtomicUsize>,
    max_queued_bytes: usize,
    max_message_bytes: usize,
    timeout: Duration,
    /// Takes what is queued when the server has left its Cluster.
    redirects: Option<Arc<Redirects>>,
}

/// The error of a command whose task has ended meanwhile: the server has left its Cluster, or the broker has stopped.
const ENDED: &str = "the connection to this redis was given up before it answered";

impl Publisher {
    /// Creates the queue; the receiver is for [`PublisherTask`]. At most `max_queued_bytes` are queued. A message over
    /// `max_message_bytes` is not published, because its receivers would drop it. No call waits longer than `timeout`.
    pub(super) fn new(
        command: &'static str,
        max_queued_bytes: usize,
        max_message_bytes: usize,
        timeout: Duration,
        redirects: Option<Arc<Redirects>>,
    ) -> (Self, mpsc::Receiver<PublishJob>) {
        let (queue, jobs) = mpsc::channel(MAX_BROKER_COMMANDS);
        let total_queued_bytes = Arc::default();
        let publisher =
            Self { command, queue, total_queued_bytes, max_queued_bytes, max_message_bytes, timeout, redirects };
        (publisher, jobs)
    }

    /// Queues a message during the call. The future completes when Redis has accepted it, with the number of receivers.
    pub(super) fn publish(
        &self,
        name: &str,
        message: &[u8],
    ) -> impl Future<Output = Result<i64, BrokerError>> + Send + use<> {
        let mut command = Cmd::with_capacity(3, name.len() + message.len() + 16);
        command.arg(self.command).arg(name).arg(message);
        let reply = self.send(JobCommand::Publish(command), name.len() + message.len(), message.len());
        async move { receiver_count(reply.await?).map_err(BrokerError::Unavailable) }
    }

    /// Queues the call of a script that publishes a message of `message_bytes`. The future completes with its reply.
    pub(super) fn run_script(
        &self,
        call: Cmd,
        message_bytes: usize,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        self.send(JobCommand::Script(call), message_bytes + SCRIPT_OVERHEAD_BYTES, message_bytes)
    }

    /// Queues a publication for a history. The future completes with the reply of the script for it.
    pub(super) fn store(
        &self,
        publication: StoredPublication,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        let bytes = publication.message_bytes();
        self.send(JobCommand::Store(Box::new(publication)), bytes + SCRIPT_OVERHEAD_BYTES, bytes)
    }

    /// Returns how full the queue is. Its bytes include those of commands that Redis has not answered.
    pub(super) fn depth(&self) -> QueueDepth {
        let queued = MAX_BROKER_COMMANDS - self.queue.capacity();
        let bytes = self.total_queued_bytes.load(Ordering::Relaxed);
        QueueDepth::of_entries(Queue::BrokerCommands, queued, MAX_BROKER_COMMANDS)
            .with_bytes(bytes, self.max_queued_bytes)
    }

    /// Returns whether half of the commands are queued that may be, or half of their bytes.
    pub(super) fn is_half_full(&self) -> bool {
        self.queue.capacity() < MAX_BROKER_COMMANDS / 2
            || self.total_queued_bytes.load(Ordering::Relaxed) > self.max_queued_bytes / 2
    }

    fn send(
        &self,
        command: JobCommand,
        queued_bytes: usize,
        message_bytes: usize,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        let queued = self.enqueue(command, queued_bytes, message_bytes);
        let limit = self.timeout;
        async move {
            match timeout(limit, queued?).await {
                Ok(result) => result.unwrap_or_else(|_| Err(BrokerError::Unavailable(ENDED.to_owned()))),
                Err(_) => Err(BrokerError::Unavailable(format!("redis accepted no publication within {limit:?}"))),
            }
        }
    }

    fn enqueue(
        &self,
        command: JobCommand,
        queued_bytes: usize,
        message_bytes: usize,
    ) -> Result<JobResult, BrokerError> {
        if message_bytes > self.max_message_bytes {
            let error = format!("a message of {message_bytes} bytes is larger than broker.redis.message_bytes");
            return Err(BrokerError::Unavailable(error));
        }
        let queued_bytes = QueuedBytes::reserve(queued_bytes, &self.total_queued_bytes, self.max_queued_bytes);
        let (job, result) = PublishJob::new(command, queued_bytes.ok_or(BrokerError::Busy)?);
        match self.queue.try_send(job) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(BrokerError::Busy),
            Err(mpsc::error::TrySendError::Closed(job)) => send_elsewhere(self.redirects.as_deref(), "", job),
        }
        Ok(result)
    }

    /// Queues a job again that another server has refused.
    pub(super) fn enqueue_again(&self, job: PublishJob) {
        if let Err(error) = self.queue.try_send(job) {
            error.into_inner().fail("the publishing queue of the new master is full");
        }
    }
}

/// Owns the publishing connection, and sends over it what is queued.
pub(super) struct PublisherTask {
    context: Arc<RedisContext>,
    server: Arc<RedisServer>,
    jobs: mpsc::Receiver<PublishJob>,
    /// Taken from the queue, and not sent yet.
    unsent: Vec<PublishJob>,
    refused_scripts: LogThrottle,
}

impl PublisherTask {
    /// Creates the task. [`Self::run`] connects.
    pub(super) fn new(context: Arc<RedisContext>, server: Arc<RedisServer>, jobs: mpsc::Receiver<PublishJob>) -> Self {
        Self { context, server, jobs, unsent: Vec::new(), refused_scripts: LogThrottle::new(REFUSAL_LOG_INTERVAL) }
    }

    /// Connects and sends, forever. Jobs wait during the first attempt to connect after a loss. Once that has failed, jobs
    /// fail at once until a later attempt succeeds.
    pub(super) async fn run(mut self) {
        let (context, server) = (self.context.clone(), self.server.clone());
        let mut backoff = ReconnectBackoff::default();
        let mut outage = None;
        loop {
            let connected = self.reject_jobs_until(outage.as_deref(), connect(&context, &server)).await;
            let mut uptime = Duration::ZERO;
            let error = match connected {
                Ok(connection) => {
                    server.health.report_up(RedisLink::Publishing, None);
                    let since = Instant::now();
                    let error = self.send_until_failure(connection).await;
                    (outage, uptime) = (None, since.elapsed());
                    error
                }
                Err(error) => outage.insert(error).clone(),
            };
            server.health.report_down(RedisLink::Publishing, &error);
            self.reject_jobs_until(outage.as_deref(), sleep(backoff.next_delay(uptime))).await;
        }
    }

    /// Waits for `event`. During an outage all jobs fail meanwhile.
    async fn reject_jobs_until<T>(&mut self, outage: Option<&str>, event: impl Future<Output = T>) -> T {
        let Some(error) = outage else { return event.await };
        self.unsent.drain(..).for_each(|job| job.fail(error));
        tokio::pin!(event);
        loop {
            tokio::select! {
                output = &mut event => return output,
                Some(job) = self.jobs.recv() => job.fail(error),
            }
        }
    }

    /// Sends batches until the connection fails, and returns the reason.
    async fn send_until_failure(&mut self, connection: RedisConnection) -> String {
        let health = &self.server.health;
        let (mut redis, mut end) = connection.into_parts();
        loop {
            if let Some(reason) = end.is_due() {
                return reason.to_owned();
            }
            if self.unsent.is_empty() {
                tokio::select! {
                    biased;
                    reason = end.reached() => return reason.to_owned(),
                    _ = self.jobs.recv_many(&mut self.unsent, BATCH_COMMANDS) => (),
                }
            }
            if let Some(redirects) = &self.server.redirects {
                redirects.take_waiting(&mut self.unsent, &self.server.address);
            }
            let batch = take_batch(&mut self.unsent);
            match send_batch(&self.server, &mut redis, batch, &self.refused_scripts).await {
                Ok(BatchOutcome::Published) => health.report_up(RedisLink::Publishing, None),
                // The connection works, and Redis would refuse over a new one, too. The next probe tries again soon.
                Ok(BatchOutcome::Refused(refusal)) => health.report_down(RedisLink::Publishing, &refusal),
                Ok(BatchOutcome::Abandoned) => (),
                Err(error) => return error,
            }
        }
    }
}

/// Sends the jobs to the servers that have their slots now, which have not been sent here.
impl Drop for PublisherTask {
    fn drop(&mut self) {
        self.jobs.close();
        let queued = std::iter::from_fn(|| self.jobs.try_recv().ok());
        self.unsent
            .drain(..)
            .chain(queued)
            .for_each(|job| send_elsewhere(self.server.redirects.as_deref(), &self.server.address, job));
    }
}

fn send_elsewhere(redirects: Option<&Redirects>, server: &str, job: PublishJob) {
    match redirects {
        Some(redirects) => redirects.send_elsewhere(job, server),
        None => job.fail(ENDED),
    }
}

/// Opens a connection over which Redis has accepted a publication. That it is open proves nothing: writes may be paused
/// (`CLIENT PAUSE`, a failover), or the user may not publish. Loads the scripts, so that the first calls need not wait for it. A
/// user that may not load them can still publish to channels without a history.
async fn connect(context: &RedisContext, server: &RedisServer) -> Result<RedisConnection, String> {
    let mut connection = server.connector.connect(|_| ()).await?;
    let mut commands = Pipeline::new();
    // A master without partitions gets no publications.
    let publish_check = server.own_names.load().publish_check.clone();
    publish_check.iter().for_each(|name| _ = commands.cmd(context.names.publish_command()).arg(name).arg(""));
    scripts::load_commands().for_each(|load| _ = commands.add_command(load));
    let count = commands.len();
    let mut replies = send(&server.connector, &mut connection.redis, &mut commands, count).await?;
    if publish_check.is_some() {
        receiver_count(replies.swap_remove(0))?;
    }
    Ok(connection)
}

/// What became of a batch.
enum BatchOutcome {
    /// Redis has accepted every command.
    Published,
    /// Redis has refused commands, for this reason.
    Refused(String),
    /// No caller waited any more, so nothing was sent.
    Abandoned,
}

/// Sends one batch, and completes its jobs.
///
/// # Errors
/// The connection has failed, or does not lead to a master.
async fn send_batch(
    server: &RedisServer,
    redis: &mut MultiplexedConnection,
    mut batch: Vec<PublishJob>,
    refused_scripts: &LogThrottle,
) -> Result<BatchOutcome, String> {
    // A caller that has stopped waiting has reported a failure. Its message must not be sent after that.
    batch.retain(|job| !job.is_abandoned());
    if batch.is_empty() {
        return Ok(BatchOutcome::Abandoned);
    }
    let mut calls = BatchCall::group(batch);
    let mut pipeline = Pipeline::with_capacity(calls.len() + 1);
    calls.iter_mut().for_each(|call| _ = pipeline.add_command(call.take_command()));
    match send(&server.connector, redis, &mut pipeline, calls.len()).await {
        Ok(replies) => {
            let mut outcome = BatchOutcome::Published;
            for ((call, reply), command) in calls.into_iter().zip(replies).zip(pipeline.cmd_iter()) {
                call.distribute(reply, |job, reply| {
                    if let Err(refusal) = complete(server, job, reply, command, refused_scripts) {
                        outcome = BatchOutcome::Refused(refusal);
                    }
                });
            }
            Ok(outcome)
        }
        Err(error) => {
            calls.into_iter().for_each(|call| call.fail(&error));
            Err(error)
        }
    }
}

/// Gives a job the reply to `command`, or sends it again.
///
/// # Errors
/// The server accepts no publications, for this reason.
fn complete(
    server: &RedisServer,
    mut job: PublishJob,
    reply: Value,
    command: &Cmd,
    refused_scripts: &LogThrottle,
) -> Result<(), String> {
    if let Some(redirects) = &server.redirects
        && let Some(redirect) = Redirect::of_reply(&reply)
    {
        let is_down = redirect == Redirect::Down;
        job.restore(command);
        redirects.send_again(job, redirect, &server.address);
        return if is_down { Err("the cluster does not serve the slot".to_owned()) } else { Ok(()) };
    }
    match accepted(reply) {
        Ok(reply) => job.complete(Ok(reply)),
        Err(error) => {
            let is_publish = job.is_publish();
            job.fail(&error);
            if is_publish {
                return Err(error);
            }
            if let Some(count) = refused_scripts.count(Instant::now().into_std()) {
                log::warn!("redis has refused calls of scripts count={count} error={error:?}");
            }
        }
    }
    Ok(())
}

async fn send(
    connector: &Connector,
    redis: &mut MultiplexedConnection,
    commands: &mut Pipeline,
    count: usize,
) -> Result<Vec<Value>, String> {
    connector.send_to_master(redis, commands, count).await.map_err(|error| format!("publishing: {error}"))
}

/// Returns the reply, unless it is an error.
fn accepted(reply: Value) -> Result<Value, String> {
    fault::accepted(reply).map_err(|error| format!("publishing: {error}"))
}

fn receiver_count(reply: Value) -> Result<i64, String> {
    match accepted(reply)? {
        Value::Int(receivers) => Ok(receivers),
        _ => Err("publishing: the reply to PUBLISH is not a number".to_owned()),
    }
}
