//! Heartbeats: every node announces itself to all others over the control channel. It says hello when its subscriptions have
//! (re)connected, and every node that receives a hello answers with a heartbeat at once, so that the newcomer knows all others
//! within a moment. It says goodbye when it stops. What is received goes into the list of [`nodes`](super::nodes).

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    RedisContext,
    envelope::{self, DropReason, Heartbeat, HeartbeatKind},
    router::no_server_error,
};
use crate::broker::BrokerError;

/// Minimum time between two heartbeats, so that a flood of hellos causes no flood of answers.
const MIN_GAP: Duration = Duration::from_millis(100);
/// Time until the next attempt, if a heartbeat could not be sent.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// What this node has announced so far, and what it has to announce.
#[derive(Default)]
pub(super) struct Announcer {
    state: Mutex<AnnouncerState>,
    /// Wakes [`send_heartbeats`].
    due: Notify,
}

#[derive(Default)]
struct AnnouncerState {
    /// The next heartbeat asks the other nodes for theirs.
    is_hello_due: bool,
    /// The others know this node, or will in a moment: a hello is on its way. They may ask before it is confirmed here.
    is_announced: bool,
    /// Whether the others knew this node before the hello that is on its way.
    was_announced: bool,
    /// The node has said goodbye: nothing may follow.
    has_stopped: bool,
}

impl Announcer {
    /// Returns whether the other nodes know this one. Only then they accept its answers.
    pub(super) fn is_announced(&self) -> bool {
        let state = self.state.lock();
        state.is_announced && !state.has_stopped
    }

    /// Has the node say hello, because its subscriptions have (re)connected.
    pub(super) fn request_hello(&self) {
        self.state.lock().is_hello_due = true;
        self.due.notify_one();
    }

    /// Takes the next heartbeat to send; `None` before the first hello and after the goodbye.
    fn take_next(&self) -> Option<HeartbeatKind> {
        let mut state = self.state.lock();
        if state.has_stopped {
            return None;
        }
        if std::mem::take(&mut state.is_hello_due) {
            state.was_announced = std::mem::replace(&mut state.is_announced, true);
            return Some(HeartbeatKind::Hello);
        }
        state.is_announced.then_some(HeartbeatKind::Alive)
    }

    /// Notes whether a heartbeat was sent.
    fn finish(&self, kind: HeartbeatKind, is_sent: bool) {
        let mut state = self.state.lock();
        match (kind, is_sent) {
            (HeartbeatKind::Hello, false) => (state.is_hello_due, state.is_announced) = (true, state.was_announced),
            (HeartbeatKind::Hello | HeartbeatKind::Alive | HeartbeatKind::Goodbye, _) => {}
        }
    }
}

/// Sends heartbeats, and removes silent nodes from the list, forever.
pub(super) async fn send_heartbeats(context: Arc<RedisContext>) {
    let interval = context.heartbeat_interval;
    let mut next = Instant::now() + interval;
    loop {
        let wake = context.nodes.next_removal().map_or(next, |removal| removal.min(next));
        let is_due = timeout_at(wake, context.announcer.due.notified()).await.is_ok();
        context.nodes.remove_silent();
        if !is_due && Instant::now() < next {
            continue;
        }
        let is_sent = send_next(&context).await;
        next = Instant::now() + if is_sent { interval } else { interval.min(RETRY_DELAY) };
        sleep(MIN_GAP).await;
    }
}

/// Sends the next heartbeat, if there is one. Returns whether that has succeeded.
async fn send_next(context: &RedisContext) -> bool {
    let Some(kind) = context.announcer.take_next() else { return true };
    let sent = send(context, kind).await;
    context.announcer.finish(kind, sent.is_ok());
    sent.inspect_err(|error| log::debug!("heartbeat not sent error={:?}", error.to_string())).is_ok()
}

/// Queues a heartbeat during the call.
fn send(context: &RedisContext, kind: HeartbeatKind) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
    let message = context.signer.sign(envelope::encode_heartbeat(&context.instance, &context.deliver.node(), kind));
    let layout = envelope::encode_layout(&context.instance, context.router.routes().fingerprint());
    let layout = (kind != HeartbeatKind::Goodbye).then(|| context.signer.sign(layout));
    let name = context.names.control_channel();
    let servers = context.router.servers_with(name);
    let publish = |message: &[u8]| servers.iter().map(|server| server.publish(name, message)).collect::<Vec<_>>();
    let (sent, layout_sent) = (publish(&message), layout.map(|layout| publish(&layout)).unwrap_or_default());
    async move {
        let (results, _) = tokio::join!(join_all(sent), join_all(layout_sent));
        // Every node listens on all servers.
        let is_sent = results.iter().any(Result::is_ok);
        match results.into_iter().find_map(Result::err) {
            Some(error) if !is_sent => Err(error),
            None if !is_sent => Err(no_server_error()),
            _ => Ok(()),
        }
    }
}

/// Says goodbye to the other nodes, if they know this one. To be called on the broker's thread, so that no heartbeat of its
/// tasks can follow.
pub(super) async fn announce_stop(context: &RedisContext) -> Result<(), BrokerError> {
    let was_announced = context.announcer.is_announced();
    context.announcer.state.lock().has_stopped = true;
    if was_announced { send(context, HeartbeatKind::Goodbye).await } else { Ok(()) }
}

/// Handles a heartbeat. This node receives its own, too.
///
/// # Errors
/// The list of nodes is full, or another program says goodbye for this node.
pub(super) fn receive(context: &RedisContext, Heartbeat { instance, node, kind }: Heartbeat) -> Result<(), DropReason> {
    if instance == context.instance {
        if kind != HeartbeatKind::Goodbye || context.announcer.state.lock().has_stopped {
            return Ok(());
        }
        // Another program has sent it. The other nodes learn at once that this one is still alive.
        context.announcer.due.notify_one();
        return Err(DropReason("goodbye"));
    }
    if kind == HeartbeatKind::Goodbye {
        context.nodes.remove(&instance);
        return Ok(());
    }
    context.nodes.record_heartbeat(&instance, &node)?;
    if kind == HeartbeatKind::Hello {
        context.announcer.due.notify_one();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_says_hello_first_and_again_until_it_is_sent_and_nothing_after_its_goodbye() {
        let announcer = Announcer::default();
        assert_eq!(announcer.take_next(), None, "its subscriptions have not connected yet");
        announcer.request_hello();
        for is_sent in [false, true] {
            assert!(!announcer.is_announced());
            assert_eq!(announcer.take_next(), Some(HeartbeatKind::Hello));
            assert!(announcer.is_announced(), "a node that has received the hello may ask before its sender knows");
            announcer.finish(HeartbeatKind::Hello, is_sent);
        }
        assert!(announcer.is_announced());
        assert_eq!(announcer.take_next(), Some(HeartbeatKind::Alive));
        announcer.request_hello();
        assert_eq!(announcer.take_next(), Some(HeartbeatKind::Hello), "the subscriptions have reconnected");
        announcer.finish(HeartbeatKind::Hello, false);
        assert!(announcer.is_announced(), "the others still know it");
        announcer.state.lock().has_stopped = true;
        assert_eq!((announcer.take_next(), announcer.is_announced()), (None, false));
    }
}
