//! The replies by which a node of a Cluster refuses a command that it has not run: the slot is on another master, or on its way
//! there, or the Cluster is down. Such a command is [sent again](super::resend) where it belongs, until its caller stops waiting.
//! What comes for the slot meanwhile waits behind it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use redis::{Arg, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::{Notify, mpsc};

use super::{
    super::{partition::slot_of, presence::is_change},
    connect::Connector,
    job::PublishJob,
    slot_queues::SlotQueues,
};

/// Maximum number of refused commands that nothing waits for. Above it they fail.
pub(super) const MAX_UNORDERED: usize = 16_384;
/// Maximum number of masters that the topology does not name yet.
const MAX_NEWCOMERS: usize = 16;
const TOO_MANY_WAIT: &str = "too many commands wait for the new master of their slot";

/// Why a command was refused, and so where it has to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// To the master of this slot.
    Moved(u16),
    /// Once, behind ASKING, to the server at this address, which is importing the slot.
    Ask(String),
    /// To the same server. It does not have all keys: the others are on the importing server, or nowhere.
    TryAgain,
    /// To the same server, when the Cluster works again.
    Down,
}

impl Redirect {
    /// Reads an error. `None`: it is none of these.
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        let node = error.redirect_node();
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => {
                Some(node.map_or(Self::TryAgain, |(_, slot)| Self::Moved(slot)))
            }
            ErrorKind::Server(ServerErrorKind::Ask) => {
                Some(node.map_or(Self::TryAgain, |(address, _)| Self::Ask(address.to_owned())))
            }
            ErrorKind::Server(ServerErrorKind::TryAgain) => Some(Self::TryAgain),
            ErrorKind::Server(ServerErrorKind::ClusterDown) => Some(Self::Down),
            _ => None,
        }
    }

    /// Reads a reply. `None`: the server has run the command, or has refused it for another reason.
    pub(super) fn of_reply(reply: &Value) -> Option<Self> {
        match reply {
            Value::ServerError(error) => Self::of(&error.clone().into()),
            _ => None,
        }
    }
}

/// A command that waits in the queue of its slot.
pub(in super::super) struct WaitingJob {
    pub(super) job: PublishJob,
    /// `None`: it was not refused, but waits behind one that was.
    pub(super) refusal: Option<CommandRefusal>,
}

impl WaitingJob {
    /// Returns whether it has to be sent to an importing server.
    pub(super) fn is_asked(&self) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| matches!(refusal.redirect, Redirect::Ask(_)))
    }
}

/// How a command was refused.
#[derive(Clone, Debug)]
pub(super) struct CommandRefusal {
    pub(super) redirect: Redirect,
    /// The address of the server.
    pub(super) by: String,
}

/// Takes refused commands of all servers of a Cluster, and the requests to read its topology.
pub(in super::super) struct Redirects {
    queues: Mutex<SlotQueues<WaitingJob>>,
    /// Refused commands that nothing waits for.
    unordered: mpsc::Sender<WaitingJob>,
    begun: Notify,
    topology_requested: Notify,
    /// The ways to masters that are importing their first slots, by address: the topology does not name them yet.
    newcomers: Mutex<HashMap<String, Arc<Connector>>>,
}

impl Redirects {
    /// Creates the queues; the receiver is for [`resend`](super::resend::resend).
    pub(in super::super) fn new() -> (Self, mpsc::Receiver<WaitingJob>) {
        let (unordered, receiver) = mpsc::channel(MAX_UNORDERED);
        let (queues, begun, topology_requested, newcomers) = Default::default();
        (Self { queues, unordered, begun, topology_requested, newcomers }, receiver)
    }

    /// Returns the way to a master that the topology does not name yet. `other` leads to another node of the Cluster.
    pub(super) fn newcomer(&self, address: &str, other: &Connector) -> Option<Arc<Connector>> {
        let mut newcomers = self.newcomers.lock();
        if let Some(known) = newcomers.get(address) {
            return Some(known.clone());
        }
        let connector = Arc::new(other.at(address).ok()?);
        if newcomers.len() >= MAX_NEWCOMERS {
            newcomers.clear();
        }
        newcomers.insert(address.to_owned(), connector.clone());
        Some(connector)
    }

    /// Forgets the way to a master that the topology names.
    pub(super) fn forget_newcomer(&self, address: &str) {
        self.newcomers.lock().remove(address);
    }

    /// Has the topology read at once, because a server no longer has what it should have.
    pub(in super::super) fn request_topology(&self) {
        self.topology_requested.notify_one();
    }

    /// Waits for [`Self::request_topology`].
    pub(in super::super) async fn topology_requested(&self) {
        self.topology_requested.notified().await;
    }

    /// Queues a command that the server at this address has refused.
    pub(super) fn send_again(&self, job: PublishJob, redirect: Redirect, by: &str) {
        self.request_topology();
        let slot = match redirect {
            Redirect::Moved(slot) => Some(slot),
            _ => job.slot(),
        };
        // It waits until the keys of its channel have moved. Those of the slot's other channels need not.
        let is_ordered = redirect != Redirect::TryAgain || is_change(&job.command());
        let refusal = Some(CommandRefusal { redirect, by: by.to_owned() });
        match slot {
            Some(_) if !is_ordered => {
                if let Err(error) = self.unordered.try_send(WaitingJob { job, refusal }) {
                    error.into_inner().job.fail(TOO_MANY_WAIT);
                }
            }
            Some(slot) => self.push(slot, by, WaitingJob { job, refusal }),
            None => job.fail("a server of the cluster has refused it, and it has no slot"),
        }
    }

    /// Queues a command whose server, at this address, has left the Cluster before it was sent.
    pub(super) fn send_elsewhere(&self, job: PublishJob, server: &str) {
        match job.slot() {
            Some(slot) => self.send_again(job, Redirect::Moved(slot), server),
            None => job.fail("its server is no longer a master of the cluster"),
        }
    }

    /// Takes those of the `jobs` of a server that have to wait behind refused ones, or behind those that another server still has.
    pub(super) fn take_waiting(&self, jobs: &mut Vec<PublishJob>, server: &str) {
        if self.queues.lock().is_empty() {
            return;
        }
        let waiting = |job: &mut PublishJob| job.slot().is_some_and(|slot| self.queues.lock().has_queue(slot));
        for job in jobs.extract_if(.., waiting) {
            if let Some(slot) = job.slot() {
                self.push(slot, server, WaitingJob { job, refusal: None });
            }
        }
    }

    fn push(&self, slot: u16, server: &str, job: WaitingJob) {
        match self.queues.lock().push(slot, server, job) {
            Ok(()) => self.begun.notify_one(),
            Err(WaitingJob { job, .. }) => job.fail(TOO_MANY_WAIT),
        }
    }

    /// Lets what comes for these slots wait until [`Self::release`]: the server that had them may still have commands.
    pub(in super::super) fn hold(&self, slots: &[u16], server: &str) {
        let mut queues = self.queues.lock();
        slots.iter().for_each(|slot| queues.hold(*slot, server));
    }

    /// Ends [`Self::hold`].
    pub(in super::super) fn release(&self, slots: &[u16]) {
        let mut queues = self.queues.lock();
        slots.iter().for_each(|slot| queues.release(*slot));
        self.begun.notify_one();
    }

    /// Waits for slots whose queues are to be emptied.
    pub(super) async fn begun(&self) -> Vec<u16> {
        self.begun.notified().await;
        self.queues.lock().take_begun()
    }

    /// Takes the first commands of a queue, as [`SlotQueues::take`] says.
    pub(super) fn take(&self, slot: u16, max: usize, keep: bool) -> Option<Vec<WaitingJob>> {
        self.queues.lock().take(slot, max, keep)
    }

    /// Puts commands back that were taken.
    pub(super) fn put_back(&self, slot: u16, jobs: Vec<WaitingJob>) {
        self.queues.lock().put_back(slot, jobs);
    }
}

/// Returns the slot of a command, which has its key or its shard channel first, or is the call of a script.
pub(super) fn slot_of_command(command: &Cmd) -> Option<u16> {
    let argument = |index: usize| match command.args_iter().nth(index)? {
        Arg::Simple(argument) => Some(argument),
        _ => None,
    };
    argument(if argument(0)? == b"EVALSHA" { 3 } else { 1 }).map(slot_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_a_cluster_say_where_to_send_the_command() {
        let redirect = |reply: &str| Redirect::of_reply(&redis::parse_redis_value(reply.as_bytes()).unwrap());
        assert_eq!(redirect("-MOVED 3999 127.0.0.1:6381\r\n"), Some(Redirect::Moved(3999)));
        assert_eq!(redirect("-MOVED 3999 :6381\r\n"), Some(Redirect::Moved(3999)));
        assert_eq!(redirect("-ASK 3999 [::1]:6381\r\n"), Some(Redirect::Ask("[::1]:6381".to_owned())));
        assert_eq!(redirect("-TRYAGAIN Multiple keys request during rehashing of slot\r\n"), Some(Redirect::TryAgain));
        assert_eq!(redirect("-CLUSTERDOWN Hash slot not served\r\n"), Some(Redirect::Down));
        assert_eq!(redirect("-READONLY You can't write against a read only replica.\r\n"), None);
        assert_eq!(redirect(":1\r\n"), None);
    }

    #[test]
    fn command_that_its_server_has_not_run_goes_to_the_master_of_its_slot() {
        let slot = |command: &[&str]| {
            let mut cmd = redis::cmd(command[0]);
            command[1..].iter().for_each(|argument| _ = cmd.arg(*argument));
            slot_of_command(&cmd)
        };
        let expected = Some(slot_of(b"{news}"));
        assert_eq!(slot(&["SPUBLISH", "wardcast:c:{news}", "data"]), expected);
        assert_eq!(slot(&["EVALSHA", "hash", "2", "wardcast:s:{news}", "wardcast:m:{news}"]), expected);
        assert_eq!(slot(&["PING"]), None);
    }
}
