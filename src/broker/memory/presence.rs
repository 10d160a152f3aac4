//! The presence of one channel: which clients are in it, and until when.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;

use crate::{broker::PresenceCount, clock::MonotonicTime, publication::ClientInfo};

/// The clients that are present in a channel, each with the time at which its entry expires.
#[derive(Default)]
pub(super) struct ChannelPresence {
    expires_at: HashMap<ClientById, MonotonicTime, foldhash::fast::RandomState>,
    /// At this number of entries the next [`Self::add`] first drops the expired ones.
    expire_at_len: usize,
}

/// A client, compared by its id alone. It is the key of its entry, so that the id is not stored twice.
struct ClientById(Arc<ClientInfo>);

impl Borrow<str> for ClientById {
    fn borrow(&self) -> &str {
        &self.0.client
    }
}

impl Hash for ClientById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.client.hash(state);
    }
}

impl PartialEq for ClientById {
    fn eq(&self, other: &Self) -> bool {
        self.0.client == other.0.client
    }
}

impl Eq for ClientById {}

impl ChannelPresence {
    /// Stores that a client is present for `ttl`. The latest call for a client replaces the earlier ones.
    pub(super) fn add(&mut self, client: Arc<ClientInfo>, ttl: Duration, now: MonotonicTime) {
        if self.expires_at.len() >= self.expire_at_len {
            self.drop_expired(now);
            self.expire_at_len = (self.expires_at.len() * 2).max(16);
        }
        // Removed first, because an insert would keep the old key, with the old information about the client.
        self.expires_at.remove(client.client.as_str());
        self.expires_at.insert(ClientById(client), now.saturating_add(ttl));
    }

    /// Removes the client with this id.
    pub(super) fn remove(&mut self, client: &str) {
        self.expires_at.remove(client);
        if self.expires_at.capacity() > 64 && self.expires_at.len() < self.expires_at.capacity() / 8 {
            self.expires_at.shrink_to(self.expires_at.len() * 2);
        }
    }

    fn drop_expired(&mut self, now: MonotonicTime) {
        self.expires_at.retain(|_, expires_at| now < *expires_at);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.expires_at.is_empty()
    }

    /// Returns the clients whose entries have not expired.
    pub(super) fn clients(&self, now: MonotonicTime) -> impl Iterator<Item = &Arc<ClientInfo>> {
        self.expires_at.iter().filter(move |(_, expires_at)| now < **expires_at).map(|(client, _)| &client.0)
    }

    /// Counts the clients whose entries have not expired, and their users.
    pub(super) fn count(&self, now: MonotonicTime) -> PresenceCount {
        let users: HashSet<&str> = self.clients(now).map(|client| client.user.as_str()).collect();
        PresenceCount { clients: self.clients(now).count(), users: users.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: usize) -> Arc<ClientInfo> {
        let client = format!("client-{number}");
        Arc::new(ClientInfo { user: "ann".to_owned(), client, conn_info: None, chan_info: None })
    }

    #[test]
    fn thousand_clients_are_present_until_they_expire_and_are_then_dropped() {
        let (mut presence, ttl) = (ChannelPresence::default(), Duration::from_secs(60));
        let (start, end) = (MonotonicTime::START, MonotonicTime::START.saturating_add(ttl));
        for number in 0..1000 {
            presence.add(client(number), ttl, start);
        }
        assert_eq!(presence.clients(start.saturating_add(ttl - Duration::from_millis(1))).count(), 1000);
        for number in 1000..3000 {
            presence.add(client(number), ttl, end);
        }
        assert_eq!(presence.clients(end).count(), 2000);
        assert_eq!(presence.expires_at.len(), 2000, "expired entries are still stored");
    }

    #[test]
    fn memory_is_released_when_most_clients_have_left() {
        let (mut presence, start) = (ChannelPresence::default(), MonotonicTime::START);
        (0..1000).for_each(|number| presence.add(client(number), Duration::from_secs(60), start));
        let full = presence.expires_at.capacity();
        (0..500).for_each(|number| presence.remove(&client(number).client));
        assert!(presence.expires_at.capacity() > full / 2, "no reallocation while half of the clients are left");
        (500..990).for_each(|number| presence.remove(&client(number).client));
        assert!(presence.expires_at.capacity() < full / 8);
        assert_eq!(presence.clients(start).count(), 10);
    }
}
