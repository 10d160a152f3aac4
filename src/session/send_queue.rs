//! The `send` commands of a client on their way to the backend: one after the other, in the order in which the client sent them. The
//! client's other commands do not wait for them unless too many wait themselves.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Session;
use crate::{
    hooks::{ForwardedHeaders, Hook, HookRefusal, Received},
    hub::{AwaitDisconnect, CloseReason},
};

/// What waits for the backend. Session and task are on one thread, and none of them holds the borrow while it waits.
#[derive(Default)]
pub(super) struct SendQueue(RefCell<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Encoded requests, the oldest first, without the one that the backend is asked about.
    requests: VecDeque<Bytes>,
    /// Bytes of `requests`.
    bytes: usize,
    /// A task asks the backend.
    has_task: bool,
    /// Told when there is room.
    room: Option<oneshot::Sender<()>>,
}

impl SendQueue {
    /// Takes the oldest request. Without one the task ends.
    fn take_next(&self) -> Option<Bytes> {
        let mut waiting = self.0.borrow_mut();
        // The client may go on as soon as one fewer waits.
        waiting.room.take().map(|room| room.send(()));
        let next = waiting.requests.pop_front();
        waiting.bytes -= next.as_ref().map_or(0, Bytes::len);
        waiting.has_task = next.is_some();
        next
    }
}

impl Session {
    /// Queues a request for the backend. Returns what completes when there is room for the next one, if there is none now
    /// (`hooks.send_queue`, and `limits.message_bytes` in total).
    pub(super) fn queue_for_backend(&mut self, hook: Arc<Hook>, request: Bytes) -> Option<oneshot::Receiver<()>> {
        let queue = self.send_queue.get_or_insert_default().clone();
        let config = self.services.config.current();
        let (receiver, starts_task) = {
            let mut waiting = queue.0.borrow_mut();
            waiting.bytes += request.len();
            waiting.requests.push_back(request);
            let is_full =
                waiting.requests.len() >= config.hooks.send_queue || waiting.bytes >= config.limits.message_bytes;
            let (room, receiver) = oneshot::channel();
            waiting.room = is_full.then_some(room);
            (is_full.then_some(receiver), !std::mem::replace(&mut waiting.has_task, true))
        };
        if starts_task {
            actix_rt::spawn(self.ask_in_order(queue, hook));
        }
        receiver
    }

    /// Asks the backend about one request after the other. What was queued is sent even if the client has left.
    fn ask_in_order(&self, queue: Rc<SendQueue>, hook: Arc<Hook>) -> impl Future<Output = ()> + use<> {
        let headers: ForwardedHeaders = self.hook_headers.clone();
        // A queue that waits for the backend must not keep the socket of a session that has ended.
        let (services, outbox, format) = (self.services.clone(), Arc::downgrade(&self.outbox), self.format);
        let (client, key) = (self.client, self.key);
        async move {
            while let Some(request) = queue.take_next() {
                let answer = hook.clone().ask::<Received>(request, headers.clone()).await;
                // The client has no reply that could say so.
                let Err(HookRefusal::Disconnect(disconnect)) = answer else { continue };
                if let Some(outbox) = outbox.upgrade() {
                    CloseReason::from(&disconnect).close(&outbox, format, client, &services.clock, &services.metrics);
                }
                services.hub.do_send(AwaitDisconnect(key));
                *queue.0.borrow_mut() = Waiting::default();
                return;
            }
        }
    }
}
