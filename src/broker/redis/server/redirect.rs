//! The replies by which a node of a Cluster refuses a command that it has not run: the slot is on another master, or on its way
//! there, or the Cluster is down. Such a command is sent again where it belongs, until its caller stops waiting.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt},
};
use redis::{Arg, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

use super::{
    super::{
        RedisContext,
        partition::slot_of,
        scripts::{Announcement, ImportingCall},
    },
    job::PublishJob,
};

/// Time until a refused command is sent again. Meanwhile the topology is read.
const RESEND_DELAY: Duration = Duration::from_millis(60);
/// Maximum number of refused commands that wait. Above it they fail.
const MAX_REFUSED: usize = 16_384;
/// Maximum number of commands that are sent to an importing server together.
const BATCH_COMMANDS: usize = 512;

/// Where a refused command has to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// To the master of this slot.
    Moved(u16),
    /// Once, behind ASKING, to the server at this address, which is importing the slot.
    Ask(String),
    /// To the same server.
    Later,
    /// To the same server, when the Cluster works again.
    Down,
}

impl Redirect {
    /// Reads an error. `None`: it is none of these.
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        let node = error.redirect_node();
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Some(node.map_or(Self::Later, |(_, slot)| Self::Moved(slot))),
            ErrorKind::Server(ServerErrorKind::Ask) => {
                Some(node.map_or(Self::Later, |(address, _)| Self::Ask(address.to_owned())))
            }
            ErrorKind::Server(ServerErrorKind::TryAgain) => Some(Self::Later),
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

/// Takes refused commands of all servers of a Cluster, and the requests to read its topology.
pub(in super::super) struct Redirects {
    queue: mpsc::Sender<RefusedJob>,
    topology_requested: Notify,
}

/// A refused command.
pub(in super::super) struct RefusedJob {
    job: PublishJob,
    redirect: Redirect,
    /// The address of the server that has refused it.
    by: String,
}

impl Redirects {
    /// Creates the queue; the receiver is for [`resend`].
    pub(in super::super) fn new() -> (Self, mpsc::Receiver<RefusedJob>) {
        let (queue, refused) = mpsc::channel(MAX_REFUSED);
        (Self { queue, topology_requested: Notify::new() }, refused)
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
        if let Err(error) = self.queue.try_send(RefusedJob { job, redirect, by: by.to_owned() }) {
            error.into_inner().job.fail("too many commands wait for the new master of their slot");
        }
    }

    /// Queues a command whose server has left the Cluster before it was sent.
    pub(super) fn send_elsewhere(&self, job: PublishJob) {
        match slot_of_command(&job.command()) {
            Some(slot) => self.send_again(job, Redirect::Moved(slot), ""),
            None => job.fail("its server is no longer a master of the cluster"),
        }
    }
}

/// Returns the slot of a command, which has its key or its shard channel first, or is the call of a script.
fn slot_of_command(command: &Cmd) -> Option<u16> {
    let argument = |index: usize| match command.args_iter().nth(index)? {
        Arg::Simple(argument) => Some(argument),
        _ => None,
    };
    argument(if argument(0)? == b"EVALSHA" { 3 } else { 1 }).map(slot_of)
}

/// Sends refused commands again, forever. Those for one importing server keep their order, and wait for no other server.
pub(in super::super) async fn resend(
    context: &RedisContext,
    redirects: &Redirects,
    mut refused: mpsc::Receiver<RefusedJob>,
) {
    let mut delayed = VecDeque::<(Instant, RefusedJob)>::new();
    // What waits for the batch that is on its way to this importing server.
    let mut importing = HashMap::<String, Vec<RefusedJob>>::new();
    let mut batches = FuturesUnordered::new();
    loop {
        let waiting = delayed.len() + importing.values().map(Vec::len).sum::<usize>();
        let due = delayed.front().map(|(due, _)| *due);
        tokio::select! {
            Some(RefusedJob { job, redirect, by }) = refused.recv(), if waiting < MAX_REFUSED => match redirect {
                Redirect::Ask(address) => {
                    let refused = RefusedJob { job, redirect: Redirect::Later, by };
                    if let Some(waiting) = importing.get_mut(&address) {
                        waiting.push(refused);
                    } else {
                        importing.insert(address.clone(), Vec::new());
                        batches.push(send_to_importing(context, redirects, address, vec![refused]));
                    }
                }
                redirect => delayed.push_back((Instant::now() + RESEND_DELAY, RefusedJob { job, redirect, by })),
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some((_, refused)) = delayed.pop_front() {
                    send_delayed(context, redirects, refused);
                }
            }
            Some(address) = batches.next() => {
                let mut next = importing.remove(&address).unwrap_or_default();
                if !next.is_empty() {
                    importing.insert(address.clone(), next.split_off(next.len().min(BATCH_COMMANDS)));
                    batches.push(send_to_importing(context, redirects, address, next));
                }
            }
        }
    }
}

fn send_delayed(context: &RedisContext, redirects: &Redirects, RefusedJob { job, redirect, by }: RefusedJob) {
    // A caller that has stopped waiting has reported a failure.
    if job.is_abandoned() {
        return;
    }
    let routes = context.router.routes();
    match redirect {
        Redirect::Moved(slot) => match routes.of_slot(slot) {
            Some(server) => server.publisher.enqueue_again(job),
            None => redirects.send_again(job, redirect, &by),
        },
        Redirect::Later | Redirect::Down | Redirect::Ask(_) => match routes.at(&by) {
            Some(server) => server.publisher.enqueue_again(job),
            None => redirects.send_elsewhere(job),
        },
    }
}

/// Sends commands to the server at this address, which is importing their slots, in one round trip; returns the address. What
/// they announce there is announced by the old master, too: it has the subscribers until the move ends.
async fn send_to_importing(
    context: &RedisContext,
    redirects: &Redirects,
    address: String,
    mut batch: Vec<RefusedJob>,
) -> String {
    batch.retain(|refused| !refused.job.is_abandoned());
    let routes = context.router.routes();
    let Some(server) = routes.at(&address) else {
        // It has no other slot yet.
        batch.into_iter().for_each(|RefusedJob { job, redirect, by }| redirects.send_again(job, redirect, &by));
        return address;
    };
    let calls: Vec<_> = batch.iter().map(|refused| ImportingCall::new(&refused.job.command())).collect();
    let commands = calls.iter().flat_map(|call| call.commands.iter().cloned()).collect();
    let replies = server.connector.query_many(commands, server.timeout).await;
    let mut replies = match replies {
        Ok(replies) => replies.into_iter(),
        Err(error) => {
            batch.into_iter().for_each(|refused| refused.job.fail(&error));
            return address;
        }
    };
    let mut announced = Vec::new();
    for (call, RefusedJob { job, redirect, by }) in calls.iter().zip(batch) {
        let reply = replies.by_ref().take(call.commands.len()).last().unwrap_or_default();
        match Redirect::of_reply(&reply) {
            Some(moved @ Redirect::Moved(_)) => redirects.send_again(job, moved, &by),
            Some(_) => redirects.send_again(job, redirect, &by),
            None => {
                let (reply, announcements) = call.parse(reply);
                let old = routes.at(&by);
                let announce = |Announcement { shard_channel, message }| {
                    Some(old?.publisher.publish(std::str::from_utf8(&shard_channel).ok()?, &message))
                };
                // Queued before the caller goes on: what it publishes next comes behind it.
                announced.extend(announcements.into_iter().filter_map(announce));
                job.complete_command(reply);
            }
        }
    }
    // The next batch comes after them. One that fails is lost, like any other of an old master.
    join_all(announced).await;
    address
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
        assert_eq!(redirect("-TRYAGAIN Multiple keys request during rehashing of slot\r\n"), Some(Redirect::Later));
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
