//! The embedded default: one instance, nothing beside it. A publication goes to the hubs in the call that publishes it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;

use super::{Broker, BrokerError, Deliver, NoRoom, Question};
use crate::{channel::Channel, publication::Publication};

/// A broker inside this process.
pub struct MemoryBroker {
    deliver: Arc<dyn Deliver>,
    subscribed: Mutex<HashSet<Channel>>,
}

impl MemoryBroker {
    /// Delivers to `deliver`.
    pub fn new(deliver: Arc<dyn Deliver>) -> Self {
        Self { deliver, subscribed: Mutex::default() }
    }
}

impl Broker for MemoryBroker {
    fn publish(&self, publication: Publication) -> BoxFuture<'static, Result<(), BrokerError>> {
        let is_wanted = self.subscribed.lock().contains(&publication.channel);
        let delivered = if is_wanted { self.deliver.deliver(publication) } else { Ok(()) };
        ready(delivered.map_err(|NoRoom| BrokerError::Busy)).boxed()
    }

    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.subscribed.lock().insert(channel);
        ready(Ok(())).boxed()
    }

    fn unsubscribe(&self, channel: Channel) {
        self.subscribed.lock().remove(&channel);
    }

    fn survey(&self, question: Question, deadline: Duration) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>> {
        let answer = self.deliver.answer(question);
        async move {
            let answer = tokio::time::timeout(deadline, answer).await;
            answer.map(|answer| vec![answer]).map_err(|_| BrokerError::Incomplete { answered: 0, asked: 1 })
        }
        .boxed()
    }

    fn ready(&self) -> BoxFuture<'static, Result<(), String>> {
        ready(Ok(())).boxed()
    }
}
