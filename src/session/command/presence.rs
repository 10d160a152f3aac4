//! `presence` and `presence_stats`: the clients in a channel.

use std::sync::Arc;

use bytes::Bytes;

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::{ChannelRight, Claims},
    channel::Channel,
    protocol::{self, DisabledOption, ExceededLimit, Format, PresenceStats},
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
        let (limit, max_bytes) = self.services.config.limits.client_reply_limit();
        self.read_presence(id, channel, claims, move |format, clients| {
            let bytes = |client: &Arc<ClientInfo>| {
                let raw = [&client.conn_info, &client.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
                CLIENT_OVERHEAD + client.user.len() + 2 * client.client.len() + raw
            };
            // A part of the clients would look like all of them.
            ExceededLimit::check(limit, max_bytes, clients.iter().map(bytes).sum())?;
            Ok(format.encode_reply(id, &protocol::Reply::Presence(clients)))
        })
    }

    /// `presence_stats`.
    pub(super) fn presence_stats(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        self.read_presence(id, channel, claims, move |format, clients| {
            Ok(format.encode_reply(id, &protocol::Reply::PresenceStats(PresenceStats::count(clients))))
        })
    }

    /// Reads the presence of a channel and answers with what `encode` makes of it. Whether channels of this kind have presence
    /// (108) says nothing of the channel, so it is checked before the permission (103).
    fn read_presence(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
        encode: impl FnOnce(Format, &[Arc<ClientInfo>]) -> Result<Bytes, ExceededLimit> + 'static,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(channel)?;
        if !self.services.permissions.channel_options(&channel)?.presence {
            return Err(DisabledOption { channel: &channel, name: "presence" }.into());
        }
        let allowed = self.check_right(ChannelRight::Presence, &channel, claims, false);
        let (services, format) = (self.services.clone(), self.format);
        Ok(CommandOutcome::pending(id, async move {
            allowed.await?;
            let clients = services.broker.presence(channel).await?;
            Ok(CommandReply::Frame(encode(format, &clients)?))
        }))
    }
}
