//! The tickets of this instance, each of which can be taken once. There is no timer: expired tickets are dropped when the
//! store is full.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use crate::{broker::BrokerError, clock::MonotonicTime};

/// Tickets by id.
pub(super) struct TicketStore {
    tickets: HashMap<String, Ticket>,
    max_tickets: usize,
    /// No ticket expires before this time. Until then a full store need not search for expired ones.
    earliest_expiry: MonotonicTime,
}

struct Ticket {
    value: Bytes,
    expires_at: MonotonicTime,
}

impl TicketStore {
    pub(super) fn new(max_tickets: usize) -> Self {
        Self { tickets: HashMap::new(), max_tickets, earliest_expiry: MonotonicTime::START }
    }

    pub(super) fn put(
        &mut self,
        id: String,
        value: Bytes,
        ttl: Duration,
        now: MonotonicTime,
    ) -> Result<(), BrokerError> {
        if self.tickets.len() >= self.max_tickets && !self.tickets.contains_key(&id) {
            self.drop_expired(now);
            if self.tickets.len() >= self.max_tickets {
                return Err(BrokerError::Busy);
            }
        }
        let expires_at = now.saturating_add(ttl);
        self.earliest_expiry = self.earliest_expiry.min(expires_at);
        self.tickets.insert(id, Ticket { value, expires_at });
        Ok(())
    }

    pub(super) fn read(&self, id: &str, now: MonotonicTime) -> Option<Bytes> {
        let ticket = self.tickets.get(id)?;
        (now < ticket.expires_at).then(|| ticket.value.clone())
    }

    pub(super) fn take(&mut self, id: &str, now: MonotonicTime) -> Option<Bytes> {
        let ticket = self.tickets.remove(id)?;
        (now < ticket.expires_at).then_some(ticket.value)
    }

    fn drop_expired(&mut self, now: MonotonicTime) {
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
    const START: MonotonicTime = MonotonicTime::START;

    fn put(tickets: &mut TicketStore, id: &str, ttl: Duration) -> Result<(), BrokerError> {
        tickets.put(id.to_owned(), Bytes::new(), ttl, START)
    }

    #[test]
    fn only_expired_tickets_make_room() {
        let mut tickets = TicketStore::new(2);
        assert_eq!(put(&mut tickets, "expired", Duration::ZERO), Ok(()));
        assert_eq!(put(&mut tickets, "a", LONG), Ok(()));
        assert_eq!(put(&mut tickets, "b", LONG), Ok(()));
        assert_eq!(put(&mut tickets, "c", LONG), Err(BrokerError::Busy));
        let replaced = tickets.put("a".to_owned(), Bytes::from_static(b"again"), LONG, START);
        assert_eq!(replaced, Ok(()), "a replaced ticket needs no more room");
        let taken = (tickets.take("expired", START), tickets.take("a", START));
        assert_eq!(taken, (None, Some(Bytes::from_static(b"again"))));
        assert_eq!(put(&mut tickets, "c", LONG), Ok(()));
        assert_eq!(tickets.take("c", START.saturating_add(LONG)), None, "expired");
    }

    #[test]
    fn full_store_still_finds_tickets_that_expire_later() {
        let mut tickets = TicketStore::new(1);
        assert_eq!(put(&mut tickets, "a", LONG), Ok(()));
        assert_eq!(put(&mut tickets, "b", LONG), Err(BrokerError::Busy));
        assert_eq!(tickets.earliest_expiry, START.saturating_add(LONG), "the next put does not search again");
        assert_eq!(tickets.take("a", START), Some(Bytes::new()));
        assert_eq!(put(&mut tickets, "b", Duration::ZERO), Ok(()));
        assert_eq!(put(&mut tickets, "c", LONG), Ok(()));
    }
}
