//! The replies by which a node of a Cluster refuses a command that it has not run: the slot is on another master, or on its way
//! there, or the Cluster is down. Such a command is sent again where it belongs, until its caller stops waiting.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{super::RedisContext, job::PublishJob};

/// Time until a refused command is sent again. Meanwhile the topology is read.
const RESEND_DELAY: Duration = Duration::from_millis(60);
/// Maximum number of refused commands that wait. Above it they fail.
const MAX_REFUSED: usize = 16_384;

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
}

/// Sends refused commands again, forever.
pub(in super::super) async fn resend(
    context: &RedisContext,
    redirects: &Redirects,
    mut refused: mpsc::Receiver<RefusedJob>,
) {
    while let Some(first) = refused.recv().await {
        sleep(RESEND_DELAY).await;
        send_one(context, redirects, first).await;
        for _ in 0..refused.len() {
            if let Ok(next) = refused.try_recv() {
                send_one(context, redirects, next).await;
            }
        }
    }
}

async fn send_one(context: &RedisContext, redirects: &Redirects, RefusedJob { job, redirect, by }: RefusedJob) {
    // A caller that has stopped waiting has reported a failure.
    if job.is_abandoned() {
        return;
    }
    let routes = context.router.routes();
    let at = |address: &str| routes.servers().iter().find(|server| server.address() == address);
    match redirect {
        Redirect::Moved(slot) => match routes.of_slot(slot) {
            Some(server) => server.publisher.enqueue_again(job),
            None => redirects.send_again(job, redirect, &by),
        },
        Redirect::Later | Redirect::Down => match at(&by) {
            Some(server) => server.publisher.enqueue_again(job),
            None => job.fail("the server that had the slot is no longer a master"),
        },
        Redirect::Ask(address) => match at(&address) {
            Some(server) => {
                let commands = vec![redis::cmd("ASKING"), job.command()];
                match server.connector.query_many(commands, server.timeout).await {
                    Ok(mut replies) => {
                        let reply = replies.pop().unwrap_or_default();
                        match Redirect::of_reply(&reply) {
                            Some(redirect) => redirects.send_again(job, redirect, &by),
                            None => job.complete_command(reply),
                        }
                    }
                    Err(error) => job.fail(&error),
                }
            }
            None => redirects.send_again(job, Redirect::Later, &by),
        },
    }
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
}
