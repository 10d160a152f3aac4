//! Pages of connections. A hub reads its sessions in the order of their slots, so that a page costs what it has, and not what the
//! node has.

use std::sync::Arc;

use actix::prelude::*;

use crate::{
    broker::{ConnectionInfo, ConnectionsPage, ConnectionsQuery, MAX_PAGE_BYTES, NodeIdentity},
    channel::Channel,
    clock::NEVER,
    hub::{
        Hub,
        liveness::HubSession,
        registry::{OwnedSession, Slot},
    },
};

/// Maximum slots that a hub looks at for one page. Free slots and sessions without a user count, too.
const MAX_SLOTS: usize = 65_536;

/// Reads a page of a hub's connections.
#[derive(Message)]
#[rtype(result = "WorkerPage")]
struct ListConnections {
    query: Arc<ConnectionsQuery>,
    /// The channel of the query, which is a valid name.
    channel: Option<Channel>,
    /// The first slot to look at.
    from: Slot,
    /// Maximum connections.
    limit: usize,
    max_bytes: usize,
}

/// The connections of a page that are on one worker.
#[derive(Default, MessageResponse)]
struct WorkerPage {
    connections: Vec<(Slot, ConnectionInfo)>,
    /// The hub has not looked at all of its slots.
    has_more: bool,
    /// The last slot at which it has looked, if any.
    last: Option<Slot>,
    bytes: usize,
}

/// Returns the connections of this node that a page has.
pub(super) async fn list(hubs: &[Addr<Hub>], node: &NodeIdentity, query: &ConnectionsQuery) -> ConnectionsPage {
    let mut page = ConnectionsPage::default();
    let Some(start) = query.start_on(&node.uid) else { return page };
    let channel = match query.channel.as_deref().map(Channel::new).transpose() {
        Ok(channel) => channel,
        Err(_) => return page,
    };
    let (query, mut bytes) = (Arc::new(query.clone()), 0);
    let (first_worker, mut from) = start.map_or((0, 0), |(worker, slot)| (worker, slot.saturating_add(1)));
    for (worker, hub) in (0_u32..).zip(hubs).skip(first_worker as usize) {
        let limit = query.limit.saturating_sub(page.connections.len());
        let max_bytes = MAX_PAGE_BYTES.saturating_sub(bytes);
        let list = ListConnections { query: query.clone(), channel: channel.clone(), from, limit, max_bytes };
        // A hub that has ended has no sessions.
        let listed = hub.send(list).await.unwrap_or_default();
        bytes += listed.bytes;
        page.connections.extend(listed.connections.into_iter().map(|(slot, info)| ((worker, slot), info)));
        if listed.has_more {
            // Without a slot the page was full when it reached this worker.
            let until = listed.last.map(|slot| (worker, slot));
            page.until = until.or_else(|| worker.checked_sub(1).map(|before| (before, Slot::MAX)));
            break;
        }
        from = 0;
    }
    page
}

impl Handler<ListConnections> for Hub {
    type Result = WorkerPage;

    fn handle(&mut self, list: ListConnections, _: &mut Self::Context) -> WorkerPage {
        let ListConnections { query, channel, from, .. } = &list;
        match (&query.user, channel) {
            (Some(user), _) => self.list_connections(&list, self.registry.slots_of_user_from(user, *from)),
            (None, Some(channel)) => {
                let slots = self.registry.slots_of_channel_from(channel, *from, list.limit.saturating_add(1));
                let (is_part, slots) = (slots.len() > list.limit, slots.into_iter());
                let mut page = self.list_connections(&list, slots);
                page.has_more |= is_part;
                page
            }
            (None, None) => self.list_connections(&list, self.registry.slots_from(*from)),
        }
    }
}

impl Hub {
    fn list_connections(&self, list: &ListConnections, slots: impl Iterator<Item = Slot>) -> WorkerPage {
        let mut page = WorkerPage::default();
        for (count, slot) in slots.enumerate() {
            let found = self.registry.owned_at(slot).filter(|found| self.is_listed(found, list));
            // The first connection is always listed, so that a page goes on.
            let is_full = page.connections.len() >= list.limit || page.bytes > list.max_bytes || count >= MAX_SLOTS;
            if is_full && (found.is_some() || count >= MAX_SLOTS) {
                page.has_more = true;
                break;
            }
            page.last = Some(slot);
            if let Some(found) = found {
                let info = connection_info(&found, list.query.channels);
                page.bytes += info.json_bytes();
                page.connections.push((slot, info));
            }
        }
        page
    }

    /// Returns whether a session is open and one of those that the query asks for.
    fn is_listed(&self, found: &OwnedSession<'_, HubSession>, list: &ListConnections) -> bool {
        !found.session.is_closing()
            && list.query.user.as_deref().is_none_or(|user| **found.user == *user)
            && list.channel.as_ref().is_none_or(|channel| found.channels.contains(channel))
    }
}

/// Describes a connection for the server API.
fn connection_info(found: &OwnedSession<'_, HubSession>, max_channels: usize) -> ConnectionInfo {
    let HubSession { client, format, details, outbox, .. } = found.session;
    let software = details.software.as_deref();
    let (transport, encoding) = format.names();
    let expires_at = outbox.expires_at();
    let channels = found.channels.iter().take(max_channels).map(|(channel, _)| channel.as_str().to_owned());
    ConnectionInfo {
        client: client.to_string(),
        user: found.user.to_string(),
        transport: transport.to_owned(),
        format: encoding.to_owned(),
        address: details.address.to_string(),
        credential: details.credential,
        name: software.map(|software| software.name.to_string()).unwrap_or_default(),
        version: software.map(|software| software.version.to_string()).unwrap_or_default(),
        connected_at: details.connected_at.unix_seconds(),
        expire_at: (expires_at != NEVER).then(|| expires_at.unix_seconds()),
        num_channels: found.channels.len(),
        channels: channels.collect(),
    }
}
