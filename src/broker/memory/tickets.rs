//! The tickets of this instance, each of which can be taken once. There is no timer: expired tickets are dropped when the
//! store is full.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::broker::BrokerError;

/// Maximum lifetime of a ticket, whatever is configured: adding a longer time to an `Instant` could overflow.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Tickets by id.
pub(super) struct TicketStore {
    tickets: HashMap<String, Ticket>,
    max_tickets: usize,
    /// No ticket expires before this time. Until then a full store need not search for expired ones.
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
        assert_eq!(tickets.put("expired".to_owned(), Bytes::new(), Duration::ZERO), Ok(()));
        assert_eq!(tickets.put("a".to_owned(), Bytes::new(), LONG), Ok(()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), LONG), Ok(()));
        assert_eq!(tickets.put("c".to_owned(), Bytes::new(), LONG), Err(BrokerError::Busy));
        assert_eq!(
            tickets.put("a".to_owned(), Bytes::from_static(b"again"), LONG),
            Ok(()),
            "a replaced ticket needs no more room"
        );
        assert_eq!((tickets.take("expired"), tickets.take("a")), (None, Some(Bytes::from_static(b"again"))));
        assert_eq!(tickets.put("c".to_owned(), Bytes::new(), Duration::ZERO), Ok(()));
        assert_eq!(tickets.take("c"), None);
    }

    #[test]
    fn full_store_still_finds_tickets_that_expire_later() {
        let mut tickets = TicketStore::new(1);
        assert_eq!(tickets.put("a".to_owned(), Bytes::new(), LONG), Ok(()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), LONG), Err(BrokerError::Busy));
        assert!(tickets.earliest_expiry > Instant::now(), "the next put does not search again");
        assert_eq!(tickets.take("a"), Some(Bytes::new()));
        assert_eq!(tickets.put("b".to_owned(), Bytes::new(), Duration::ZERO), Ok(()));
        assert_eq!(tickets.put("c".to_owned(), Bytes::new(), LONG), Ok(()));
    }
}
