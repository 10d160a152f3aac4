//! The embedded default: one instance, nothing beside it. A publication goes to the hubs in the call that publishes it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;

use super::{
    Broker, BrokerError, Control, Deliver, History, HistoryRequest, Movement, NoRoom, PublishOptions, Published,
    Question, Retention, is_ticket_id, no_ticket_id,
};
use crate::{
    channel::Channel,
    publication::{ClientInfo, Publication},
};

/// No ticket waits longer, whatever is configured: the clock's arithmetic has an end.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A broker inside this process.
pub struct MemoryBroker {
    deliver: Arc<dyn Deliver>,
    subscribed: Mutex<HashSet<Channel>>,
    tickets: Mutex<Tickets>,
}

impl MemoryBroker {
    /// Delivers to `deliver`, and keeps at most so many tickets (`limits.tickets`).
    pub fn new(deliver: Arc<dyn Deliver>, tickets: usize) -> Self {
        Self { deliver, subscribed: Mutex::default(), tickets: Mutex::new(Tickets::new(tickets)) }
    }
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        publication: Publication,
        _: PublishOptions,
    ) -> BoxFuture<'static, Result<Published, BrokerError>> {
        let is_wanted = self.subscribed.lock().contains(&publication.channel);
        let delivered = if is_wanted { self.deliver.deliver(publication) } else { Ok(()) };
        ready(delivered.map(|()| Published::default()).map_err(|NoRoom| BrokerError::Busy)).boxed()
    }

    fn history(&self, _: Channel, _: HistoryRequest, _: Retention) -> BoxFuture<'static, Result<History, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn remove_history(&self, _: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn announce(&self, _: Channel, _: Movement, _: Arc<ClientInfo>) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn add_member(&self, _: Channel, _: Arc<ClientInfo>, _: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn remove_member(&self, _: Channel, _: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn members(&self, _: Channel) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
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

    fn control(&self, control: Control) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(self.deliver.control(control).map_err(|NoRoom| BrokerError::Busy)).boxed()
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        let put = if is_ticket_id(&id) { self.tickets.lock().put(id, value, ttl) } else { Err(no_ticket_id()) };
        ready(put).boxed()
    }

    fn take_ticket(&self, id: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        ready(Ok(self.tickets.lock().take(&id))).boxed()
    }

    fn ready(&self) -> BoxFuture<'static, Result<(), String>> {
        ready(Ok(())).boxed()
    }
}

/// What waits to be taken. There is no timer: what is over makes room when there is none.
struct Tickets {
    waiting: HashMap<String, Ticket>,
    most: usize,
    /// No ticket is over before; so that whoever fills it up does not make us look through all of them each time.
    none_over_before: Instant,
}

struct Ticket {
    value: Bytes,
    until: Instant,
}

impl Tickets {
    fn new(most: usize) -> Self {
        Self { waiting: HashMap::new(), most, none_over_before: Instant::now() }
    }

    fn put(&mut self, id: String, value: Bytes, ttl: Duration) -> Result<(), BrokerError> {
        let now = Instant::now();
        if self.waiting.len() >= self.most && !self.waiting.contains_key(&id) {
            self.make_room(now);
            if self.waiting.len() >= self.most {
                return Err(BrokerError::Busy);
            }
        }
        let until = now + ttl.min(LONGEST);
        self.none_over_before = self.none_over_before.min(until);
        self.waiting.insert(id, Ticket { value, until });
        Ok(())
    }

    fn take(&mut self, id: &str) -> Option<Bytes> {
        let ticket = self.waiting.remove(id)?;
        (Instant::now() < ticket.until).then_some(ticket.value)
    }

    fn make_room(&mut self, now: Instant) {
        if self.none_over_before <= now {
            self.waiting.retain(|_, ticket| now < ticket.until);
            self.none_over_before = self.waiting.values().map(|ticket| ticket.until).min().unwrap_or(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn tickets_that_are_over_make_room_and_no_others_do() {
        let mut tickets = Tickets::new(2);
        assert_eq!(tickets.put("over".to_owned(), Bytes::new(), Duration::ZERO), Ok(()));
        assert_eq!(tickets.put("a".to_owned(), Bytes::new(), LONG), Ok(()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), LONG), Ok(()));
        assert_eq!(tickets.put("c".to_owned(), Bytes::new(), LONG), Err(BrokerError::Busy));
        assert_eq!(tickets.put("a".to_owned(), Bytes::from_static(b"again"), LONG), Ok(()), "it takes no more room");
        assert_eq!((tickets.take("over"), tickets.take("a")), (None, Some(Bytes::from_static(b"again"))));
        assert_eq!(tickets.put("c".to_owned(), Bytes::new(), Duration::ZERO), Ok(()));
        assert_eq!(tickets.take("c"), None);
    }

    #[test]
    fn whoever_fills_it_up_does_not_hide_what_is_over_later() {
        let mut tickets = Tickets::new(1);
        assert_eq!(tickets.put("a".to_owned(), Bytes::new(), LONG), Ok(()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), LONG), Err(BrokerError::Busy));
        assert!(tickets.none_over_before > Instant::now(), "the next one does not look again");
        assert_eq!(tickets.take("a"), Some(Bytes::new()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), Duration::ZERO), Ok(()));
        assert_eq!(tickets.put("c".to_owned(), Bytes::new(), LONG), Ok(()));
    }
}
