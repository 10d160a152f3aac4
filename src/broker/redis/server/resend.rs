//! Sends the commands again that servers of a Cluster have refused, and those of their slots that have come since: of each slot one
//! batch at a time, so that they keep their order.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{Cmd, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{
    super::{
        RedisContext, presence,
        router::Routes,
        scripts::{Announcement, ImportingCall},
    },
    RedisServer,
    connect::Connector,
    redirect::{CommandRefusal, MAX_UNORDERED, Redirect, Redirects, WaitingJob},
};

/// Time until a refused command is sent again. Meanwhile the topology is read.
const RESEND_DELAY: Duration = Duration::from_millis(60);
/// How long a slot keeps its queue after the last command for its importing server: what was published without a history would be
/// sent to the old master at once, and overtake the next such command.
const QUEUE_KEPT_FOR: Duration = Duration::from_secs(1);
/// Time after which an empty queue is looked at again.
const KEPT_QUEUE_CHECK: Duration = Duration::from_millis(2);
/// Maximum number of commands of a slot that are sent together.
const BATCH_COMMANDS: usize = 512;

/// Sends refused commands again, forever. No slot waits for another one.
pub(in super::super) async fn resend(
    context: &RedisContext,
    redirects: &Redirects,
    mut unordered: mpsc::Receiver<WaitingJob>,
) {
    let mut slots = FuturesUnordered::new();
    let mut delayed = VecDeque::<(Instant, WaitingJob)>::new();
    loop {
        let due = delayed.front().map(|(due, _)| *due);
        tokio::select! {
            Some(job) = unordered.recv(), if delayed.len() < MAX_UNORDERED => {
                delayed.push_back((Instant::now() + RESEND_DELAY, job));
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                delayed.pop_front().into_iter().for_each(|(_, waiting)| send_to_publisher(context, redirects, waiting));
            }
            begun = redirects.begun() => {
                slots.extend(begun.into_iter().map(|slot| SlotResender { context, redirects, slot }.empty_queue()));
            }
            Some(()) = slots.next() => {}
        }
    }
}

/// Queues a command again at the server that has refused it.
fn send_to_publisher(context: &RedisContext, redirects: &Redirects, WaitingJob { job, refusal }: WaitingJob) {
    // A caller that has stopped waiting has reported a failure.
    if job.is_abandoned() {
        return;
    }
    match refusal.and_then(|refusal| context.router.routes().at(&refusal.by).cloned()) {
        Some(server) => server.publisher.enqueue_again(job),
        None => redirects.send_elsewhere(job, ""),
    }
}

/// What became of a command.
enum Answer {
    /// A server has run it, or has refused it for another reason than its slot.
    Reply(Value),
    Refused(CommandRefusal),
    /// It may have run.
    Failed(String),
}

/// Empties the queue of a slot.
struct SlotResender<'a> {
    context: &'a RedisContext,
    redirects: &'a Redirects,
    slot: u16,
}

impl SlotResender<'_> {
    async fn empty_queue(self) {
        let mut kept_until = Instant::now();
        while let Some(mut batch) = self.redirects.take(self.slot, BATCH_COMMANDS, Instant::now() < kept_until) {
            // A caller that has stopped waiting has reported a failure.
            batch.retain(|waiting| !waiting.job.is_abandoned());
            if batch.is_empty() {
                sleep(KEPT_QUEUE_CHECK).await;
                continue;
            }
            if batch.iter().any(WaitingJob::is_asked) {
                kept_until = Instant::now() + QUEUE_KEPT_FOR;
            }
            let later = batch.split_off(first_part(&batch));
            self.redirects.put_back(self.slot, later);
            let refused = self.send(batch).await;
            self.redirects.put_back(self.slot, refused);
        }
    }

    /// Sends commands that may be sent together. Returns those that are refused again.
    async fn send(&self, mut batch: Vec<WaitingJob>) -> Vec<WaitingJob> {
        let refusal = batch.first().and_then(|first| first.refusal.clone());
        let redirect = refusal.as_ref().map(|refusal| &refusal.redirect);
        if !matches!(redirect, None | Some(Redirect::Ask(_))) {
            sleep(RESEND_DELAY).await;
            batch.retain(|waiting| !waiting.job.is_abandoned());
        }
        if batch.is_empty() {
            return batch;
        }
        let answers = match (redirect, refusal.as_ref().map_or("", |refusal| &refusal.by)) {
            (Some(Redirect::Ask(address)), by) => self.send_to_importing(&batch, address, by).await,
            (Some(Redirect::TryAgain), by) if let [waiting] = &batch[..] => vec![self.send_divided(waiting, by).await],
            _ => self.send_to_master(&batch).await,
        };
        let mut refused = Vec::new();
        for (WaitingJob { job, .. }, answer) in batch.into_iter().zip(answers) {
            match answer {
                Answer::Reply(reply) => job.complete_command(reply),
                Answer::Refused(refusal) => refused.push(WaitingJob { job, refusal: Some(refusal) }),
                Answer::Failed(error) => job.fail(&error),
            }
        }
        if !refused.is_empty() {
            self.redirects.request_topology();
        }
        refused
    }

    /// Returns the way to the server at this address, which is importing the slot. It may have no other slot yet.
    fn importing(&self, routes: &Routes, address: &str) -> Option<Arc<Connector>> {
        match routes.at(address) {
            Some(server) => {
                self.redirects.forget_newcomer(address);
                Some(server.connector.clone())
            }
            None => self.redirects.newcomer(address, &routes.servers().first()?.connector),
        }
    }

    async fn send_to_master(&self, batch: &[WaitingJob]) -> Vec<Answer> {
        let routes = self.context.router.routes();
        let Some(server) = routes.of_slot(self.slot) else {
            let refusal = CommandRefusal { redirect: Redirect::Moved(self.slot), by: String::new() };
            return batch.iter().map(|_| Answer::Refused(refusal.clone())).collect();
        };
        let commands = batch.iter().map(|waiting| waiting.job.command()).collect();
        match server.connector.query_many(commands, server.timeout).await {
            Ok(replies) => replies.into_iter().map(|reply| answer(&server.address, reply)).collect(),
            Err(error) => batch.iter().map(|_| Answer::Failed(error.clone())).collect(),
        }
    }

    /// Sends commands to the server at this address, which is importing their slot, in one round trip. What they announce there is
    /// announced by the old master, too: it has the subscribers until the move ends.
    async fn send_to_importing(&self, batch: &[WaitingJob], address: &str, by: &str) -> Vec<Answer> {
        let routes = self.context.router.routes();
        let Some(importing) = self.importing(&routes, address) else {
            let refusal = CommandRefusal { redirect: Redirect::TryAgain, by: by.to_owned() };
            return batch.iter().map(|_| Answer::Refused(refusal.clone())).collect();
        };
        let calls: Vec<_> = batch.iter().map(|waiting| ImportingCall::new(&waiting.job.command())).collect();
        let commands = calls.iter().flat_map(|call| call.commands.iter().cloned()).collect();
        let mut replies = match importing.query_many(commands, self.context.timeout).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => return batch.iter().map(|_| Answer::Failed(error.clone())).collect(),
        };
        let (mut answers, mut announced) = (Vec::new(), Vec::new());
        for call in &calls {
            let reply = replies.by_ref().take(call.commands.len()).last().unwrap_or_default();
            let (reply, announcements) = call.parse(reply);
            announced.extend(announcements);
            answers.push(match Redirect::of_reply(&reply) {
                Some(moved @ Redirect::Moved(_)) => {
                    Answer::Refused(CommandRefusal { redirect: moved, by: by.to_owned() })
                }
                Some(_) => Answer::Refused(CommandRefusal { redirect: Redirect::TryAgain, by: by.to_owned() }),
                None => Answer::Reply(reply),
            });
        }
        if let Some(old) = routes.at(by) {
            announce(old, announced).await;
        }
        answers
    }

    /// Sends changes of presence to the server at this address, which does not have all of their keys: of each channel alone.
    async fn send_divided(&self, waiting: &WaitingJob, by: &str) -> Answer {
        let command = waiting.job.command();
        let mut replies = Vec::new();
        for part in presence::divide(&command) {
            match self.send_part(&part, by).await {
                // What has run so far may run again: nothing else of the slot is sent meanwhile.
                Answer::Reply(reply) => replies.push(reply),
                other => return other,
            }
        }
        Answer::Reply(presence::merge(&command, replies))
    }

    async fn send_part(&self, command: &Cmd, by: &str) -> Answer {
        let routes = self.context.router.routes();
        let Some(server) = routes.at(by).or_else(|| routes.of_slot(self.slot)) else {
            return Answer::Refused(CommandRefusal { redirect: Redirect::Moved(self.slot), by: by.to_owned() });
        };
        match query(&server.connector, &server.address, vec![command.clone()], server.timeout).await {
            Answer::Refused(CommandRefusal { redirect: Redirect::Ask(address), by }) => {
                match self.importing(&routes, &address) {
                    Some(importing) => {
                        let call = ImportingCall::new(command);
                        match query(&importing, &address, call.commands.clone(), self.context.timeout).await {
                            Answer::Reply(reply) => Answer::Reply(call.parse(reply).0),
                            Answer::Refused(_) => Answer::Refused(CommandRefusal { redirect: Redirect::TryAgain, by }),
                            failed => failed,
                        }
                    }
                    None => Answer::Refused(CommandRefusal { redirect: Redirect::TryAgain, by }),
                }
            }
            answer => answer,
        }
    }
}

/// Returns how many commands from the first on may be sent together. Those that servers have refused in different ways go to
/// different servers; and a message must not overtake what a script announces, or be overtaken by it.
fn first_part(batch: &[WaitingJob]) -> usize {
    let Some(first) = batch.first() else { return 0 };
    let redirect = |waiting: &WaitingJob| waiting.refusal.as_ref().map(|refusal| refusal.redirect.clone());
    let goes_along = |waiting: &&WaitingJob| match (redirect(first), redirect(waiting)) {
        (Some(Redirect::TryAgain), _) => false,
        (Some(Redirect::Ask(address)), other) => other == Some(Redirect::Ask(address)),
        (_, Some(Redirect::Ask(_) | Redirect::TryAgain)) => false,
        _ => waiting.job.is_publish() == first.job.is_publish(),
    };
    1 + batch[1..].iter().take_while(goes_along).count()
}

/// Sends commands, and returns the last reply.
async fn query(connector: &Connector, address: &str, commands: Vec<Cmd>, limit: Duration) -> Answer {
    match connector.query_many(commands, limit).await {
        Ok(mut replies) => answer(address, replies.pop().unwrap_or_default()),
        Err(error) => Answer::Failed(error),
    }
}

fn answer(address: &str, reply: Value) -> Answer {
    match Redirect::of_reply(&reply) {
        Some(redirect) => Answer::Refused(CommandRefusal { redirect, by: address.to_owned() }),
        None => Answer::Reply(reply),
    }
}

/// Announces what scripts have announced on the importing server. What is lost is lost like any message of an old master.
async fn announce(old: &RedisServer, announcements: Vec<Announcement>) {
    let commands = announcements.into_iter().map(|Announcement { shard_channel, message }| {
        let mut command = redis::cmd("SPUBLISH");
        command.arg(shard_channel).arg(message);
        command
    });
    let commands: Vec<Cmd> = commands.collect();
    if !commands.is_empty() {
        _ = old.connector.query_many(commands, old.timeout).await;
    }
}
