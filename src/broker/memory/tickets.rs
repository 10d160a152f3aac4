//! What waits to be taken once. There is no timer: what is over makes room when there is none.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::broker::BrokerError;

/// No ticket waits longer, whatever is configured: the clock's arithmetic has an end.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// The tickets of this instance.
pub(super) struct TicketStore {
    tickets: HashMap<String, Ticket>,
    max_tickets: usize,
    /// No ticket is over before; so that whoever fills it up does not make us look through all of them each time.
    earliest_expiry: Instant,
}

struct Ticket {
    value: Bytes,
    expires_at: Instant,
}

impl TicketStore {
    pub(super) fn new(max_tickets: usize) -> Self {
        Self { tickets: HashMap::new(), max_tickets, earliest_expiry: Instant::now() }
    }

    pub(super) fn put(&mut self, id: String, value: Bytes, ttl: Duration) -> Result<(), BrokerError> {
        let now = Instant::now();
        if self.tickets.len() >= self.max_tickets && !self.tickets.contains_key(&id) {
            self.drop_expired(now);
            if self.tickets.len() >= self.max_tickets {
                return Err(BrokerError::Busy);
            }
        }
        let expires_at = now + ttl.min(MAX_TTL);
        self.earliest_expiry = self.earliest_expiry.min(expires_at);
        self.tickets.insert(id, Ticket { value, expires_at });
        Ok(())
    }

    pub(super) fn take(&mut self, id: &str) -> Option<Bytes> {
        let ticket = self.tickets.remove(id)?;
        (Instant::now() < ticket.expires_at).then_some(ticket.value)
    }

    fn drop_expired(&mut self, now: Instant) {
        if self.earliest_expiry <= now {
            self.tickets.retain(|_, ticket| now < ticket.expires_at);
            self.earliest_expiry = self.tickets.values().map(|ticket| ticket.expires_at).min().unwrap_or(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn only_expired_tickets_make_room() {
        let mut tickets = TicketStore::new(2);
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
    fn full_store_still_finds_tickets_that_expire_later() {
        let mut tickets = TicketStore::new(1);
        assert_eq!(tickets.put("a".to_owned(), Bytes::new(), LONG), Ok(()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), LONG), Err(BrokerError::Busy));
        assert!(tickets.earliest_expiry > Instant::now(), "the next one does not look again");
        assert_eq!(tickets.take("a"), Some(Bytes::new()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), Duration::ZERO), Ok(()));
        assert_eq!(tickets.put("c".to_owned(), Bytes::new(), LONG), Ok(()));
    }
}
