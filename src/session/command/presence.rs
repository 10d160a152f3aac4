//! `presence` and `presence_stats`: list and count the clients in a channel.

use std::sync::Arc;

use bytes::Bytes;

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::{ChannelRight, Claims},
    broker::PresenceCount,
    channel::Channel,
    protocol::{self, DisabledOption, ExceededLimit, PresenceStats, WireError},
    publication::ClientInfo,
    session::Session,
};

/// What a client takes in a reply beside its values: the names of its fields and what surrounds them.
const CLIENT_OVERHEAD: usize = 96;

impl Session {
    /// `presence`.
    pub(super) fn presence(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        let (channel, allowed) = self.channel_with_presence(channel, claims)?;
        let recheck = self.recheck_right(ChannelRight::Presence, &channel, claims);
        let (services, format) = (self.services.clone(), self.format);
        Ok(CommandOutcome::pending(id, async move {
            allowed.await?;
            let (limit, max_bytes) = services.config.current().limits.client_reply_limit();
            let clients = services.broker.presence(channel, max_bytes).await?;
            recheck().await?;
            // A part of the clients would look like all of them.
            ExceededLimit::check(limit, max_bytes, clients.iter().map(|client| reply_bytes(client)).sum())?;
            Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::Presence(&clients))))
        }))
    }

    /// `presence_stats`.
    pub(super) fn presence_stats(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        let (channel, allowed) = self.channel_with_presence(channel, claims)?;
        let recheck = self.recheck_right(ChannelRight::Presence, &channel, claims);
        let (services, format) = (self.services.clone(), self.format);
        Ok(CommandOutcome::pending(id, async move {
            allowed.await?;
            let PresenceCount { clients, users } = services.broker.count_presence(channel).await?;
            recheck().await?;
            let stats = PresenceStats::new(clients, users);
            Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::PresenceStats(stats))))
        }))
    }

    /// Returns a channel that has presence, and whether the client may read it. Whether channels of this kind have presence
    /// (108) says nothing of the channel, so it is checked before the permission (103).
    fn channel_with_presence(
        &self,
        channel: &str,
        claims: &Arc<Claims>,
    ) -> Result<(Channel, impl Future<Output = Result<(), WireError>> + use<>), CommandFailure> {
        let channel = Channel::new(channel)?;
        if !self.services.permissions.channel_options(&channel)?.presence {
            return Err(DisabledOption { channel: &channel, name: "presence" }.into());
        }
        let allowed = self.check_right(ChannelRight::Presence, &channel, claims, false);
        Ok((channel, async move { allowed.await.map(drop) }))
    }
}

/// Returns the bytes of a client in a reply.
fn reply_bytes(ClientInfo { user, client, conn_info, chan_info }: &ClientInfo) -> usize {
    let raw = [conn_info, chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
    CLIENT_OVERHEAD + user.len() + 2 * client.len() + raw
}
