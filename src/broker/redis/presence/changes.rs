//! Changes of presence that must keep their order even if their calls do not. Pure.
//!
//! - A refresh asks Redis which clients it lacks, and stores those again. A client that was changed since the refresh began must
//!   not be stored again as it was then.
//! - Removals that find the publishing queue half full wait outside of it, or a mass disconnect would leave no room for
//!   publications. They are sent many at once. A client that is added again meanwhile is not removed any more.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::{
    broker::{BrokerError, PresentClient},
    channel::Channel,
};

/// Maximum clients that are noted as changed while refreshes run. Above it a refresh stores nothing again: the next one does.
const MAX_CHANGED: usize = 100_000;

/// The removal of a client.
pub(super) struct Removal {
    /// The client.
    pub(super) client: Arc<str>,
    /// Receives the result.
    pub(super) removed: oneshot::Sender<Result<(), BrokerError>>,
}

/// The running refreshes, and the removals that wait.
#[derive(Default)]
pub(super) struct PresenceChanges {
    refreshes: usize,
    /// The clients that were changed since the first of the running refreshes began.
    changed: HashMap<Channel, HashSet<Arc<str>>>,
    changed_count: usize,
    waiting: HashMap<Channel, HashMap<Arc<str>, Removal>>,
}

impl PresenceChanges {
    /// Notes that a refresh begins.
    pub(super) fn begin_refresh(&mut self) {
        self.refreshes += 1;
    }

    /// Notes that a refresh has ended.
    pub(super) fn end_refresh(&mut self) {
        self.refreshes = self.refreshes.saturating_sub(1);
        if self.refreshes == 0 {
            self.changed = HashMap::new();
            self.changed_count = 0;
        }
    }

    /// Removes those clients that have changed since a running refresh began.
    pub(super) fn retain_unchanged(&self, clients: &mut Vec<PresentClient>) {
        if self.changed_count >= MAX_CHANGED {
            return clients.clear();
        }
        clients.retain(|(channel, client)| {
            !self.changed.get(channel).is_some_and(|changed| changed.contains(client.client.as_str()))
        });
    }

    /// Notes that a client is added: it is not removed any more.
    pub(super) fn note_added(&mut self, channel: &Channel, client: &str) {
        self.note_changed(channel, client);
        if let Some(waiting) = self.waiting.get_mut(channel) {
            let replaced = waiting.remove(client);
            if waiting.is_empty() {
                self.waiting.remove(channel);
            }
            replaced.into_iter().for_each(|removal| _ = removal.removed.send(Ok(())));
        }
    }

    /// Notes that a client is removed, or changed in another way.
    pub(super) fn note_changed(&mut self, channel: &Channel, client: &str) {
        if self.refreshes > 0 && self.changed_count < MAX_CHANGED {
            let is_new = self.changed.entry(channel.clone()).or_default().insert(client.into());
            self.changed_count += usize::from(is_new);
        }
    }

    /// Returns whether removals wait. Those that come later have to wait, too.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets a removal wait.
    pub(super) fn add_waiting(&mut self, (channel, removal): (Channel, Removal)) {
        self.waiting.entry(channel).or_default().insert(removal.client.clone(), removal);
    }

    /// Takes at most `count` removals that wait.
    pub(super) fn take_waiting(&mut self, count: usize) -> Vec<(Channel, Removal)> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(channel) = self.waiting.keys().next().cloned()
            && let Some(waiting) = self.waiting.get_mut(&channel)
        {
            let left = count - taken.len();
            let ids: Vec<Arc<str>> = waiting.keys().take(left).cloned().collect();
            taken.extend(ids.iter().filter_map(|client| Some((channel.clone(), waiting.remove(client)?))));
            if waiting.is_empty() {
                self.waiting.remove(&channel);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publication::ClientInfo;

    fn channel(name: &str) -> Channel {
        Channel::new(name).unwrap()
    }

    fn client(name: &str, id: &str) -> PresentClient {
        let info = ClientInfo { user: String::new(), client: id.to_owned(), conn_info: None, chan_info: None };
        (channel(name), Arc::new(info))
    }

    fn unchanged(changes: &PresenceChanges, clients: &[(&str, &str)]) -> Vec<String> {
        let mut clients: Vec<PresentClient> = clients.iter().map(|(name, id)| client(name, id)).collect();
        changes.retain_unchanged(&mut clients);
        clients.iter().map(|(channel, client)| format!("{}/{}", channel.as_str(), client.client)).collect()
    }

    #[test]
    fn refresh_stores_nothing_again_that_was_changed_since_it_began() {
        let mut changes = PresenceChanges::default();
        changes.note_changed(&channel("a"), "1");
        changes.begin_refresh();
        assert_eq!(unchanged(&changes, &[("a", "1")]), ["a/1"], "changed before");
        changes.note_changed(&channel("a"), "1");
        changes.note_added(&channel("a"), "2");
        changes.begin_refresh();
        changes.end_refresh();
        assert_eq!(unchanged(&changes, &[("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")]), ["a/3", "b/1"]);
        changes.end_refresh();
        assert!(changes.changed.is_empty() && changes.changed_count == 0);
        changes.begin_refresh();
        (0..=MAX_CHANGED).for_each(|number| changes.note_changed(&channel("a"), &number.to_string()));
        assert_eq!((changes.changed_count, unchanged(&changes, &[("b", "1")]).len()), (MAX_CHANGED, 0));
    }

    #[test]
    fn removal_waits_until_it_is_taken_or_its_client_is_added_again() {
        let mut changes = PresenceChanges::default();
        let mut wait = |name: &str, id: &str| {
            let (removed, result) = oneshot::channel();
            changes.add_waiting((channel(name), Removal { client: id.into(), removed }));
            result
        };
        let mut results: Vec<_> =
            [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")].map(|(name, id)| wait(name, id)).into();
        changes.note_added(&channel("a"), "2");
        changes.note_added(&channel("b"), "2");
        assert_eq!(results[1].try_recv(), Ok(Ok(())), "replaced");
        assert!(changes.has_waiting() && results[0].try_recv().is_err());
        let mut taken = changes.take_waiting(2);
        assert_eq!(taken.len(), 2);
        taken.extend(changes.take_waiting(2));
        let name = |(channel, removal): &(Channel, Removal)| format!("{}/{}", channel.as_str(), removal.client);
        let mut taken: Vec<String> = taken.iter().map(name).collect();
        taken.sort();
        assert_eq!(taken, ["a/1", "a/3", "b/1"]);
        assert!(!changes.has_waiting() && changes.take_waiting(1).is_empty());
    }
}
