//! Who is in a channel.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;

use crate::{
    clock::{Millis, millis},
    publication::ClientInfo,
};

/// The members of one channel, each until its time is over.
#[derive(Default)]
pub(super) struct ChannelPresence {
    until: HashMap<PresentClient, Millis, foldhash::fast::RandomState>,
    /// With so many it is worth while to look for those whose time is over.
    expire_at_len: usize,
}

/// Known by the client's id alone.
struct PresentClient(Arc<ClientInfo>);

impl Borrow<str> for PresentClient {
    fn borrow(&self) -> &str {
        &self.0.client
    }
}

impl Hash for PresentClient {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.client.hash(state);
    }
}

impl PartialEq for PresentClient {
    fn eq(&self, other: &Self) -> bool {
        self.0.client == other.0.client
    }
}

impl Eq for PresentClient {}

impl ChannelPresence {
    /// Somebody is there, for so long; the newest word about a client counts.
    pub(super) fn add(&mut self, who: Arc<ClientInfo>, ttl: Duration, now: Millis) {
        if self.until.len() >= self.expire_at_len {
            self.expire(now);
            self.expire_at_len = (self.until.len() * 2).max(16);
        }
        // An entry that is replaced would keep the old key.
        self.until.remove(who.client.as_str());
        self.until.insert(PresentClient(who), now.saturating_add(millis(ttl)));
    }

    /// Somebody is there no more.
    pub(super) fn remove(&mut self, client: &str) {
        self.until.remove(client);
        if self.until.capacity() > 64 && self.until.len() < self.until.capacity() / 8 {
            self.until.shrink_to(self.until.len() * 2);
        }
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Millis) {
        self.until.retain(|_, until| now < *until);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Those whose time is not over.
    pub(super) fn list(&self, now: Millis) -> Vec<Arc<ClientInfo>> {
        self.until.iter().filter(|(_, until)| now < **until).map(|(member, _)| member.0.clone()).collect()
    }
}
