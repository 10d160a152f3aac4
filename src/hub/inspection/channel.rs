//! Describes a channel for the server API as this node knows it: its subscribers, and up to which position they have received
//! it. A hub reads the users of many subscribers in pages, in the order of their slots, so that its deliveries wait for one
//! page only.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use actix::prelude::*;

use super::PAGE_SLOTS;
use crate::{
    broker::NodeChannel,
    channel::Channel,
    hub::{Hub, registry::Slot},
    position::Position,
};

/// Describes a channel on one hub.
#[derive(Message)]
#[rtype(result = "Option<WorkerChannel>")]
struct DescribeChannel(Channel);

/// A channel with subscribers, as one hub knows it.
struct WorkerChannel {
    clients: usize,
    filtered: usize,
    position: Option<Position>,
    is_filling_gap: bool,
}

/// Reads the users of a channel's subscribers on one hub.
#[derive(Message)]
#[rtype(result = "UsersPage")]
struct ReadUsers {
    channel: Channel,
    /// The first slot to look at.
    from: Slot,
    hasher: RandomState,
}

/// The users of some sessions.
#[derive(Default, MessageResponse)]
struct UsersPage {
    /// The hash of each user's name, without anonymous sessions. Two of a million users have the same once in 40 million calls.
    users: Vec<u64>,
    /// Where the next page begins. `None`: this is the last one.
    next: Option<Slot>,
}

/// Returns what this node knows of the channel with this name.
pub(super) async fn describe(hubs: &[Addr<Hub>], channel: &str) -> NodeChannel {
    let mut described = NodeChannel::default();
    let Ok(channel) = Channel::new(channel) else { return described };
    let (mut users, hasher, mut lowest) = (HashSet::new(), RandomState::new(), None::<Position>);
    for hub in hubs {
        let Ok(Some(found)) = hub.send(DescribeChannel(channel.clone())).await else { continue };
        described.num_clients += found.clients as u64;
        described.num_filtered += found.filtered as u64;
        described.is_filling_gap |= found.is_filling_gap;
        let is_lower = |position: &Position| lowest.is_none_or(|lowest| position.offset < lowest.offset);
        lowest = found.position.filter(is_lower).or(lowest);
        let mut next = Some(0);
        while let Some(from) = next {
            let read = ReadUsers { channel: channel.clone(), from, hasher: hasher.clone() };
            // A hub that has ended has no sessions.
            let page = hub.send(read).await.unwrap_or_default();
            users.extend(page.users);
            next = page.next;
        }
    }
    described.num_users = users.len() as u64;
    described.position = lowest.map(Into::into);
    described
}

impl Handler<DescribeChannel> for Hub {
    type Result = Option<WorkerChannel>;

    fn handle(&mut self, DescribeChannel(channel): DescribeChannel, _: &mut Self::Context) -> Self::Result {
        let state = self.registry.channel_state(&channel)?;
        let (position, is_filling_gap) = (state.position, state.gap_fill.is_some());
        let (mut clients, mut filtered) = (0, 0);
        for (options, count) in self.registry.group_sizes(&channel) {
            clients += count;
            filtered += if options.filter.is_some() { count } else { 0 };
        }
        Some(WorkerChannel { clients, filtered, position, is_filling_gap })
    }
}

impl Handler<ReadUsers> for Hub {
    type Result = UsersPage;

    fn handle(&mut self, ReadUsers { channel, from, hasher }: ReadUsers, _: &mut Self::Context) -> UsersPage {
        let subscribers: usize = self.registry.group_sizes(&channel).map(|(_, count)| count).sum();
        let owned = |slot| self.registry.owned_at(slot).filter(|owned| !owned.user.is_empty());
        if subscribers <= PAGE_SLOTS {
            let slots = self.registry.groups(&channel).flat_map(|(_, _, sessions)| sessions);
            let users = slots.filter_map(|(slot, _, _)| owned(slot)).map(|owned| hasher.hash_one(&**owned.user));
            return UsersPage { users: users.collect(), next: None };
        }
        let mut slots = self.registry.slots_from(from);
        let page = slots.by_ref().take(PAGE_SLOTS).filter_map(owned);
        let of_channel = page.filter(|owned| owned.channels.contains(&channel));
        let users = of_channel.map(|owned| hasher.hash_one(&**owned.user)).collect();
        UsersPage { users, next: slots.next() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        broker::memory::MemoryBroker,
        clock::Clock,
        config::Config,
        hub::testing::{TestSession, start_hub, test_hubs},
    };

    #[actix_rt::test]
    async fn users_of_a_channel_are_counted_in_pages_each_once() {
        let hubs = test_hubs();
        let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
        let hub = start_hub(&hubs, Arc::new(broker));
        let news = Channel::new("news").unwrap();
        let mut sessions = Vec::new();
        for number in 0..20 {
            let session = TestSession::connect_as(["ann", "bob", "eve", "", "other"][number % 5], &hub).await;
            if number % 5 < 4 {
                session.subscribe(&news, &hub).await;
            }
            sessions.push(session);
        }
        let described = describe(std::slice::from_ref(&hub), "news").await;
        assert_eq!((described.num_clients, described.num_users), (16, 3));
        // A turn looks at one page.
        let (mut next, mut turns, hasher) = (Some(0), 0, RandomState::new());
        while let Some(from) = next {
            let page = hub.send(ReadUsers { channel: news.clone(), from, hasher: hasher.clone() }).await.unwrap();
            assert!(page.users.len() <= PAGE_SLOTS);
            (next, turns) = (page.next, turns + 1);
        }
        assert!(turns >= 20 / PAGE_SLOTS, "{turns}");
    }
}
