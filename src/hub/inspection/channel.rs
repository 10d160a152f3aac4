//! What this node knows of a channel: its subscribers, and how far they are.

use std::{collections::HashSet, sync::Arc};

use actix::prelude::*;
use futures_util::future::join_all;

use crate::{broker::NodeChannel, channel::Channel, hub::Hub, position::Position};

/// Describes a channel on one hub.
#[derive(Message)]
#[rtype(result = "Option<WorkerChannel>")]
struct DescribeChannel(Channel);

/// What a hub knows of a channel that has subscribers there.
struct WorkerChannel {
    clients: usize,
    users: HashSet<Arc<str>>,
    filtered: usize,
    position: Option<Position>,
    is_filling_gap: bool,
}

/// Returns what this node knows of the channel with this name.
pub(super) async fn describe(hubs: &[Addr<Hub>], channel: &str) -> NodeChannel {
    let mut described = NodeChannel::default();
    let Ok(channel) = Channel::new(channel) else { return described };
    let (mut users, mut lowest) = (HashSet::new(), None::<Position>);
    let answers = join_all(hubs.iter().map(|hub| hub.send(DescribeChannel(channel.clone())))).await;
    for found in answers.into_iter().flatten().flatten() {
        described.num_clients += found.clients as u64;
        described.num_filtered += found.filtered as u64;
        described.is_filling_gap |= found.is_filling_gap;
        users.extend(found.users);
        let is_lower = |position: &Position| lowest.is_none_or(|lowest| position.offset < lowest.offset);
        lowest = found.position.filter(is_lower).or(lowest);
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
        let (mut clients, mut filtered, mut users) = (0, 0, HashSet::new());
        for (_, options, sessions) in self.registry.groups(&channel) {
            let before = clients;
            for (slot, _, _) in sessions {
                clients += 1;
                users.extend(self.registry.owned_at(slot).map(|owned| owned.user.clone()));
            }
            if options.filter.is_some() {
                filtered += clients - before;
            }
        }
        users.remove("");
        Some(WorkerChannel { clients, users, filtered, position, is_filling_gap })
    }
}
