//! The figures of this node for `info` and `channels`. A hub reads its sessions in pages, in the order of their slots, so that its
//! deliveries wait for one page only, however many channels and users it has.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use actix::prelude::*;
use futures_util::future::join_all;

use super::{PAGE_CHANNELS, PAGE_SLOTS};
use crate::{
    channel::Channel,
    hub::{
        Hub,
        registry::{Registry, Slot, VisitedSession},
    },
};

/// Counts the subscribers of channels, of some sessions of a hub.
#[derive(Message)]
#[rtype(result = "SubscribersPage")]
struct CountSubscribers {
    /// The first slot to look at.
    from: Slot,
}

/// Channels of some sessions.
#[derive(Default, MessageResponse)]
struct SubscribersPage {
    /// Channels with a number of subscribers each. A channel may be named several times.
    channels: Vec<(Channel, usize)>,
    /// Where the next page begins. `None`: this is the last one.
    next: Option<Slot>,
}

/// Collects figures of some sessions of a hub.
#[derive(Message)]
#[rtype(result = "TotalsPage")]
struct CollectTotals {
    /// The first slot to look at.
    from: Slot,
    /// Whether an earlier page has named all channels of the hub.
    has_all_channels: bool,
    hasher: RandomState,
}

/// Figures of some sessions.
#[derive(Default, MessageResponse)]
struct TotalsPage {
    /// Number of authenticated connections.
    clients: u64,
    /// Number of subscriptions.
    subs: u64,
    /// The hash of each user's name, without anonymous sessions. Two of a million users have the same once in 40 million calls.
    users: Vec<u64>,
    /// The hash of each channel's name.
    channels: Vec<u64>,
    /// Whether `channels` has all channels of the hub.
    has_all_channels: bool,
    /// Where the next page begins. `None`: this is the last one.
    next: Option<Slot>,
}

/// The figures of this node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::hub) struct NodeTotals {
    /// Number of authenticated connections.
    pub(in crate::hub) clients: u64,
    /// Number of their users, without anonymous ones.
    pub(in crate::hub) users: u64,
    /// Number of subscriptions.
    pub(in crate::hub) subs: u64,
    /// Number of channels that have subscribers.
    pub(in crate::hub) channels: u64,
}

/// Returns the figures of this node.
pub(in crate::hub) async fn totals(hubs: &[Addr<Hub>]) -> NodeTotals {
    let hasher = RandomState::new();
    let of_hubs = join_all(hubs.iter().map(async |hub| {
        let (mut pages, mut next, mut has_all_channels) = (Vec::new(), Some(0), false);
        while let Some(from) = next {
            // A hub that has ended has no sessions.
            let page = hub.send(CollectTotals { from, has_all_channels, hasher: hasher.clone() }).await;
            let page = page.unwrap_or_default();
            has_all_channels |= page.has_all_channels;
            next = page.next;
            pages.push(page);
        }
        pages
    }));
    let mut totals = NodeTotals::default();
    let (mut users, mut channels) = (HashSet::new(), HashSet::new());
    for page in of_hubs.await.into_iter().flatten() {
        totals.clients += page.clients;
        totals.subs += page.subs;
        users.extend(page.users);
        channels.extend(page.channels);
    }
    (totals.users, totals.channels) = (users.len() as u64, channels.len() as u64);
    totals
}

/// Returns the channels that have subscribers on this node, with the number of these.
pub(in crate::hub) async fn subscribers(hubs: &[Addr<Hub>]) -> HashMap<Channel, usize> {
    let of_hubs = join_all(hubs.iter().map(|hub| async move {
        let (mut counts, mut next) = (HashMap::<Channel, usize>::new(), Some(0));
        while let Some(from) = next {
            let page = hub.send(CountSubscribers { from }).await.unwrap_or_default();
            page.channels.into_iter().for_each(|(channel, count)| *counts.entry(channel).or_default() += count);
            next = page.next;
        }
        counts
    }));
    let mut sum: HashMap<Channel, usize> = HashMap::new();
    for (channel, count) in of_hubs.await.into_iter().flatten() {
        *sum.entry(channel).or_default() += count;
    }
    sum
}

/// Returns the channels of sessions from a slot on, with a number of subscribers each, and where the next page begins. A hub with few
/// channels names them at once, however many subscribers they have.
fn count_subscribers<M, S>(registry: &Registry<M, S>, from: Slot) -> SubscribersPage {
    if from == 0 && registry.count_channels() <= PAGE_CHANNELS {
        return SubscribersPage {
            channels: registry.channel_sizes().map(|(name, size)| (name.clone(), size)).collect(),
            next: None,
        };
    }
    let mut channels = Vec::new();
    let next = registry.visit_page(from, PAGE_SLOTS, PAGE_CHANNELS, |session| {
        channels.extend(session.channels.iter().map(|(channel, _)| (channel.clone(), 1)));
        session.channels.len()
    });
    SubscribersPage { channels, next }
}

/// Collects figures of sessions from a slot on.
fn collect_totals<M, S>(
    registry: &Registry<M, S>,
    CollectTotals { from, has_all_channels, hasher }: CollectTotals,
    is_client: impl Fn(&M) -> bool,
) -> TotalsPage {
    let mut page = TotalsPage { has_all_channels, ..TotalsPage::default() };
    if from == 0 && registry.count_channels() <= PAGE_CHANNELS {
        page.channels = registry.channel_sizes().map(|(channel, _)| hasher.hash_one(channel.as_str())).collect();
        page.has_all_channels = true;
    }
    let names_channels = !page.has_all_channels;
    page.next = registry.visit_page(from, PAGE_SLOTS, PAGE_CHANNELS, |VisitedSession { session, user, channels }| {
        page.clients += u64::from(is_client(session));
        page.subs += channels.len() as u64;
        page.users.extend(user.filter(|user| !user.is_empty()).map(|user| hasher.hash_one(&**user)));
        if !names_channels {
            return 0;
        }
        page.channels.extend(channels.iter().map(|(channel, _)| hasher.hash_one(channel.as_str())));
        channels.len()
    });
    page
}

impl Handler<CountSubscribers> for Hub {
    type Result = SubscribersPage;

    fn handle(&mut self, CountSubscribers { from }: CountSubscribers, _: &mut Self::Context) -> SubscribersPage {
        count_subscribers(&self.registry, from)
    }
}

impl Handler<CollectTotals> for Hub {
    type Result = TotalsPage;

    fn handle(&mut self, collect: CollectTotals, _: &mut Self::Context) -> TotalsPage {
        collect_totals(&self.registry, collect, |session| session.is_authenticated())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{SessionKey, SubscriptionSource, subscription::DeliveryOptions};

    type TestRegistry = Registry<bool, ()>;

    fn subscribe(registry: &mut TestRegistry, key: SessionKey, channel: String) {
        let channel = Channel::new(&channel).unwrap();
        registry.subscribe(key, channel, SubscriptionSource::Client, &DeliveryOptions::default(), None);
    }

    fn add_session(registry: &mut TestRegistry, user: &str, channels: impl IntoIterator<Item = String>) -> SessionKey {
        let key = SessionKey::unique();
        registry.insert(key, true);
        registry.set_user(key, user.into());
        channels.into_iter().for_each(|channel| subscribe(registry, key, channel));
        key
    }

    /// Reads all pages, with a change of the registry after each; returns the counts and the number of pages.
    fn count_all(
        registry: &mut TestRegistry,
        mut after_page: impl FnMut(&mut TestRegistry),
    ) -> (HashMap<String, usize>, usize) {
        let (mut counts, mut next, mut pages) = (HashMap::new(), Some(0), 0);
        while let Some(from) = next {
            let page = count_subscribers(registry, from);
            for (channel, count) in page.channels {
                *counts.entry(channel.as_str().to_owned()).or_default() += count;
            }
            (next, pages) = (page.next, pages + 1);
            after_page(registry);
        }
        (counts, pages)
    }

    #[test]
    fn subscribers_are_counted_in_bounded_pages_each_once() {
        let mut registry = TestRegistry::default();
        for number in 0..20 {
            add_session(&mut registry, "ann", [format!("own-{number}"), "all".to_owned()]);
        }
        let (mut from, mut largest) = (Some(0), 0);
        while let Some(first) = from {
            let page = count_subscribers(&registry, first);
            largest = largest.max(page.channels.len());
            from = page.next;
        }
        assert!(largest <= PAGE_CHANNELS + 1, "the last session of a page has two channels: {largest}");
        let (counts, pages) = count_all(&mut registry, |_| ());
        assert!(pages >= 40 / (PAGE_CHANNELS + 1), "{pages}");
        assert_eq!((counts.len(), counts["all"], counts["own-7"]), (21, 20, 1));
    }

    #[test]
    fn subscribers_that_stay_are_counted_once_while_others_come_and_go() {
        let mut registry = TestRegistry::default();
        let mut others = Vec::new();
        for number in 0..20 {
            add_session(&mut registry, "ann", [format!("stays-{number}"), "all".to_owned()]);
            others.push(add_session(&mut registry, "bob", [format!("goes-{number}")]));
        }
        let mut coming = 0..100;
        let (counts, _) = count_all(&mut registry, |registry| {
            others.pop().into_iter().for_each(|key| _ = registry.remove(key));
            // Enough that the map of channels grows.
            for number in coming.by_ref().take(50) {
                add_session(registry, "eve", [format!("comes-{number}")]);
            }
        });
        assert!((0..20).all(|number| counts[&format!("stays-{number}")] == 1), "{counts:?}");
        assert_eq!(counts["all"], 20);
    }

    #[test]
    fn few_channels_are_named_at_once_however_many_subscribers_they_have() {
        let mut registry = TestRegistry::default();
        for _ in 0..50 {
            add_session(&mut registry, "ann", ["one".to_owned(), "two".to_owned()]);
        }
        let (counts, pages) = count_all(&mut registry, |_| ());
        assert_eq!((counts["one"], counts["two"], pages), (50, 50, 1));
    }

    #[test]
    fn totals_have_each_user_and_channel_once_and_the_anonymous_as_clients_only() {
        for channels in [2, 30_usize] {
            let mut registry = TestRegistry::default();
            for number in 0..30 {
                let user = ["ann", "bob", ""][number % 3];
                add_session(&mut registry, user, ["all".to_owned(), format!("c-{}", number % (channels - 1))]);
            }
            registry.insert(SessionKey::unique(), false);
            let (mut totals, hasher) = (NodeTotals::default(), RandomState::new());
            let (mut users, mut names) = (HashSet::new(), HashSet::new());
            let (mut next, mut has_all_channels) = (Some(0), false);
            while let Some(from) = next {
                let collect = CollectTotals { from, has_all_channels, hasher: hasher.clone() };
                let page = collect_totals(&registry, collect, |is_client| *is_client);
                assert!(page.users.len() <= PAGE_SLOTS && page.channels.len() <= PAGE_CHANNELS + 1);
                assert!(!has_all_channels || page.channels.is_empty(), "named before");
                (totals.clients, totals.subs) = (totals.clients + page.clients, totals.subs + page.subs);
                users.extend(page.users);
                names.extend(page.channels);
                has_all_channels |= page.has_all_channels;
                next = page.next;
            }
            (totals.users, totals.channels) = (users.len() as u64, names.len() as u64);
            let expected = NodeTotals { clients: 30, users: 2, subs: 60, channels: channels as u64 };
            assert_eq!((totals, has_all_channels), (expected, channels == 2));
        }
    }
}
