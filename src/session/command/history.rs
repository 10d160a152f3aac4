//! `history`: reads the publications that a channel keeps.

use std::sync::Arc;

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::{ChannelRight, Claims},
    broker::{HistoryRequest, Retention, SincePosition, page_limit, read_history_page},
    channel::Channel,
    hub::AwaitRevocations,
    protocol::{self, DisabledOption, HistoryCommand, HistoryResult},
    session::Session,
};

impl Session {
    /// `history`. Whether channels of this kind have a history (108) says nothing of the channel, so it is checked before the
    /// permission (103).
    pub(super) fn history(
        &self,
        id: u32,
        command: &HistoryCommand<'_>,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(&command.channel)?;
        let limit = page_limit(command.limit.into(), self.services.config.current().limits.history_publications);
        let options = self.services.permissions.channel_options(&channel)?;
        let retention =
            Retention::from_options(&options).ok_or(DisabledOption { channel: &channel, name: "history_size" })?;
        self.check_data_format(&channel)?;
        let since = command.since.as_ref().map(|(offset, epoch)| SincePosition::parse(*offset, epoch));
        let is_reverse = command.is_reverse;
        let allowed = self.check_right(ChannelRight::History, &channel, claims, false);
        let recheck = self.recheck_right(ChannelRight::History, &channel, claims);
        let (services, format) = (self.services.clone(), self.format);
        let max_bytes = Some(self.services.config.current().limits.client_reply_bytes());
        Ok(CommandOutcome::pending(id, async move {
            allowed.await?;
            let request = HistoryRequest { since: since.transpose()?, limit, is_reverse, max_bytes };
            let page = read_history_page(&*services.broker, channel, request, retention).await?;
            // Like deliveries, publications wait until this instance knows which tokens are revoked, whole or in a channel. An error
            // means that the hub has ended, and the session with it.
            let _ = services.hub.send(AwaitRevocations).await;
            recheck().await?;
            let publications = page.publications.iter().map(Into::into).collect();
            let result = HistoryResult { publications, position: page.top };
            Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::History(&result))))
        }))
    }
}
