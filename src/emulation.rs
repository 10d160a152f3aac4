//! Commands of clients whose connection is an HTTP response. They come in HTTP requests of their own, on any connection and to
//! any node. The id of a session is the secret that lets a request speak for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

/// Cost of a message in a queue beyond its bytes.
pub const MESSAGE_COST_BYTES: usize = 96;

/// The sessions of this instance that get commands by requests.
#[derive(Debug, Default)]
pub struct EmulatedSessions(Mutex<HashMap<Uuid, Arc<CommandQueue>>>);

#[derive(Debug)]
struct CommandQueue {
    state: Mutex<QueueState>,
    limit_bytes: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    messages: VecDeque<Bytes>,
    cost_bytes: usize,
    waker: Option<Waker>,
}

/// Why commands are not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendCommandsError {
    /// This instance has no such session.
    #[error("there is no such session")]
    UnknownSession,
    /// Above `limits.emulation_bytes`.
    #[error("too many commands of this session wait")]
    Full,
}

impl EmulatedSessions {
    /// Adds a session with a new id. At most `limit_bytes` of its commands wait, and `first` in any case.
    pub fn open(self: &Arc<Self>, first: Bytes, limit_bytes: usize) -> CommandReceiver {
        let messages: VecDeque<Bytes> = Some(first).into_iter().filter(|first| !first.is_empty()).collect();
        let cost_bytes = messages.iter().map(cost).sum();
        let state = Mutex::new(QueueState { messages, cost_bytes, waker: None });
        let (id, queue) = (Uuid::new_v4(), Arc::new(CommandQueue { state, limit_bytes }));
        self.0.lock().insert(id, queue.clone());
        CommandReceiver { id, queue, sessions: self.clone() }
    }

    /// Queues a message with commands for a session.
    ///
    /// # Errors
    /// [`SendCommandsError`].
    pub fn send(&self, session: &Uuid, message: Bytes) -> Result<(), SendCommandsError> {
        let queue = self.0.lock().get(session).cloned().ok_or(SendCommandsError::UnknownSession)?;
        let mut state = queue.state.lock();
        if state.cost_bytes + cost(&message) > queue.limit_bytes {
            return Err(SendCommandsError::Full);
        }
        state.cost_bytes += cost(&message);
        state.messages.push_back(message);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Ok(())
    }
}

fn cost(message: &Bytes) -> usize {
    message.len() + MESSAGE_COST_BYTES
}

/// The receiving end of a session. Dropping it removes the session.
#[derive(Debug)]
pub struct CommandReceiver {
    id: Uuid,
    queue: Arc<CommandQueue>,
    sessions: Arc<EmulatedSessions>,
}

impl CommandReceiver {
    /// The id of the session, for its client only.
    pub fn session_id(&self) -> Uuid {
        self.id
    }

    /// Ready with the next message of the client.
    pub fn poll_next(&self, cx: &Context<'_>) -> Poll<Bytes> {
        let mut state = self.queue.state.lock();
        match state.messages.pop_front() {
            Some(message) => {
                state.cost_bytes -= cost(&message);
                if state.messages.is_empty() {
                    // An idle session keeps no buffer.
                    state.messages = VecDeque::new();
                }
                Poll::Ready(message)
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for CommandReceiver {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(receiver: &CommandReceiver) -> Option<Bytes> {
        match receiver.poll_next(&Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => Some(message),
            Poll::Pending => None,
        }
    }

    #[test]
    fn messages_arrive_in_order_after_the_first_one() {
        let sessions = Arc::<EmulatedSessions>::default();
        let receiver = sessions.open(Bytes::from_static(b"connect"), 1000);
        for message in ["a", "b"] {
            sessions.send(&receiver.session_id(), Bytes::from_static(message.as_bytes())).unwrap();
        }
        let received: Vec<Bytes> = std::iter::from_fn(|| next(&receiver)).collect();
        assert_eq!(received, ["connect", "a", "b"]);
    }

    #[test]
    fn queue_is_bounded_in_bytes_and_count() {
        let sessions = Arc::<EmulatedSessions>::default();
        let receiver = sessions.open(Bytes::new(), 4 * MESSAGE_COST_BYTES);
        let send = |message: &[u8]| sessions.send(&receiver.session_id(), Bytes::copy_from_slice(message));
        assert_eq!(send(&[0; 400]), Err(SendCommandsError::Full));
        for _ in 0..4 {
            assert_eq!(send(b""), Ok(()));
        }
        assert_eq!(send(b""), Err(SendCommandsError::Full));
        assert!(next(&receiver).is_some());
        assert_eq!(send(b""), Ok(()), "there is room again");
    }

    #[test]
    fn session_is_forgotten_when_its_receiver_is_dropped() {
        let sessions = Arc::<EmulatedSessions>::default();
        let receiver = sessions.open(Bytes::new(), 1000);
        let id = receiver.session_id();
        drop(receiver);
        assert_eq!(sessions.send(&id, Bytes::new()), Err(SendCommandsError::UnknownSession));
        assert!(sessions.0.lock().is_empty());
    }
}
