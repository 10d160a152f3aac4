//! What waits to be taken once. There is no timer: what is over makes room when there is none.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::broker::BrokerError;

/// No ticket waits longer, whatever is configured: the clock's arithmetic has an end.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The tickets of this instance.
pub(super) struct Tickets {
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
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: HashMap::new(), most, none_over_before: Instant::now() }
    }

    pub(super) fn put(&mut self, id: String, value: Bytes, ttl: Duration) -> Result<(), BrokerError> {
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

    pub(super) fn take(&mut self, id: &str) -> Option<Bytes> {
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
