//! A job of the publishing connection: a command, and the caller that waits for its reply.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::{
    super::history::{StoredPublication, split_reply, store_call},
    fault::accepted,
    redirect::slot_of_command,
};
use crate::broker::BrokerError;

/// A command, and the caller that waits for its reply.
pub(super) struct PublishJob {
    command: JobCommand,
    queued_bytes: QueuedBytes,
    /// Whether its publication must not share a call.
    is_alone: bool,
    result: oneshot::Sender<Result<Value, BrokerError>>,
}

/// Receives the reply to a job.
pub(super) type JobResult = oneshot::Receiver<Result<Value, BrokerError>>;

/// What a job sends.
pub(super) enum JobCommand {
    /// PUBLISH. If it is refused, the server accepts no publications.
    Publish(Cmd),
    /// A call of a script. It may be refused because of the keys of its channel.
    Script(Cmd),
    /// A publication for a history. Several of them become one call of a script.
    Store(Box<StoredPublication>),
}

/// Bytes that a job has reserved in the queue. Dropping it releases them.
pub(super) struct QueuedBytes {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl QueuedBytes {
    /// Reserves bytes of `total`. `None`: they would be more than `max`.
    pub(super) fn reserve(bytes: usize, total: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = total.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Self { bytes, total: total.clone() };
        (before + bytes <= max).then_some(reserved)
    }
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl PublishJob {
    /// Creates a job.
    pub(super) fn new(command: JobCommand, queued_bytes: QueuedBytes) -> (Self, JobResult) {
        let (sender, result) = oneshot::channel();
        (Self { command, queued_bytes, is_alone: false, result: sender }, result)
    }

    /// Creates a job for a command that another connection has sent, to send it again.
    pub(super) fn again(command: Cmd) -> (Self, JobResult) {
        Self::new(JobCommand::Script(command), QueuedBytes { bytes: 0, total: Arc::default() })
    }

    /// Returns whether the caller has stopped waiting.
    pub(super) fn is_abandoned(&self) -> bool {
        self.result.is_closed()
    }

    /// Returns the bytes that it has reserved in the queue.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes.bytes
    }

    /// Returns whether a refusal means that the server accepts no publications.
    pub(super) fn is_publish(&self) -> bool {
        matches!(self.command, JobCommand::Publish(_))
    }

    /// Returns the publication that it stores.
    pub(super) fn publication(&self) -> Option<&StoredPublication> {
        match &self.command {
            JobCommand::Store(publication) => Some(publication),
            _ => None,
        }
    }

    /// Returns the slot of its keys. `None`: it has none.
    pub(super) fn slot(&self) -> Option<u16> {
        match &self.command {
            JobCommand::Publish(command) | JobCommand::Script(command) => slot_of_command(command),
            JobCommand::Store(publication) => Some(publication.slot()),
        }
    }

    /// Returns whether its publication must not share a call.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Returns the command that does only this job.
    pub(super) fn command(&self) -> Cmd {
        match &self.command {
            JobCommand::Publish(command) | JobCommand::Script(command) => command.clone(),
            JobCommand::Store(publication) => store_call(&[publication]),
        }
    }

    /// Takes [`Self::command`] to send it.
    pub(super) fn take_command(&mut self) -> Cmd {
        match &mut self.command {
            JobCommand::Publish(command) | JobCommand::Script(command) => mem::take(command),
            JobCommand::Store(_) => self.command(),
        }
    }

    /// Prepares the job to be sent again after a server has refused it with this command. A publication has a call for itself
    /// then: while a slot moves, the channels of a call may be on both servers, and none of them would take it.
    pub(super) fn restore(&mut self, refused: &Cmd) {
        self.is_alone = true;
        if let JobCommand::Publish(command) | JobCommand::Script(command) = &mut self.command {
            *command = refused.clone();
        }
    }

    /// Gives the caller the reply to [`Self::command`].
    pub(super) fn complete_command(self, reply: Value) {
        let reply = match self.command {
            JobCommand::Store(_) => split_reply(reply, 1).swap_remove(0),
            _ => reply,
        };
        self.complete(accepted(reply));
    }

    /// Gives the reply to the caller.
    pub(super) fn complete(self, result: Result<Value, String>) {
        // The caller may have stopped waiting.
        _ = self.result.send(result.map_err(BrokerError::Unavailable));
    }

    /// Tells the caller that the command has failed.
    pub(super) fn fail(self, error: &str) {
        self.complete(Err(error.to_owned()));
    }
}
