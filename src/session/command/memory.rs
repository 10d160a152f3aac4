//! What a client asks of a channel's memory: its history, and who is there. First whether channels of this kind have one
//! (108): that is the configuration's, and says nothing of the channel. Then whether this client may ask (103).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{CommandAnswer, CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::{ChannelRight, Claims},
    broker::{HistoryRequest, Retention, SincePosition, read_history_page},
    channel::Channel,
    hub::GetSubscription,
    protocol::{self, ErrorCode, Format, HistoryResult, PresenceStats},
    publication::ClientInfo,
    session::{Services, Session},
};

/// What every connected client is counted with in a reply: names of members, and what stands around them.
const MEMBER_BYTES: usize = 96;

impl Session {
    pub(super) fn history(
        &self,
        id: u32,
        asked: &protocol::HistoryCommand<'_>,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(&asked.channel)?;
        let limit = usize::try_from(asked.limit).map_err(|_| ErrorCode::BadRequest)?;
        let limit = limit.min(self.services.config.limits.history_publications);
        let options = self.services.permissions.channel_options(&channel)?;
        let retention = Retention::from_options(options).ok_or(ErrorCode::NotAvailable)?;
        let since = asked.since.as_ref().map(|(offset, epoch)| SincePosition::parse(*offset, epoch));
        let is_reverse = asked.is_reverse;
        let may = self.check_right(ChannelRight::History, &channel, claims);
        let (services, format) = (self.services.clone(), self.format);
        let read = async move {
            may.await?;
            let request = HistoryRequest { since: since.transpose()?, limit, is_reverse };
            let max_bytes = max_reply_bytes(&services);
            let page = read_history_page(&*services.broker, channel, request, retention, max_bytes).await?;
            let publications = page.publications.iter().map(Into::into).collect();
            let result = HistoryResult { publications, position: page.top };
            Ok(format.encode_reply(id, &protocol::Reply::History(&result)))
        };
        Ok(answer_later(id, read))
    }

    pub(super) fn presence(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        let most_bytes = max_reply_bytes(&self.services);
        self.read_members(id, channel, claims, move |format, members| {
            let bytes = |member: &Arc<ClientInfo>| {
                let raw = [&member.conn_info, &member.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
                MEMBER_BYTES + member.user.len() + 2 * member.client.len() + raw
            };
            // Half of those who are there would look like all of them.
            if members.iter().map(bytes).sum::<usize>() > most_bytes {
                return Err(ErrorCode::LimitExceeded);
            }
            Ok(format.encode_reply(id, &protocol::Reply::Presence(members)))
        })
    }

    pub(super) fn presence_stats(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        self.read_members(id, channel, claims, move |format, members| {
            Ok(format.encode_reply(id, &protocol::Reply::PresenceStats(PresenceStats::count(members))))
        })
    }

    fn read_members(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
        write: impl FnOnce(Format, &[Arc<ClientInfo>]) -> Result<Bytes, ErrorCode> + 'static,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(channel)?;
        if !self.services.permissions.channel_options(&channel)?.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        let may = self.check_right(ChannelRight::Presence, &channel, claims);
        let (services, format) = (self.services.clone(), self.format);
        let read = async move {
            may.await?;
            let members = services.broker.presence(channel).await?;
            write(format, &members)
        };
        Ok(answer_later(id, read))
    }

    /// Checks a right, and first asks the hub for the session's subscription if the right depends on it.
    fn check_right(
        &self,
        right: ChannelRight,
        channel: &Channel,
        claims: &Arc<Claims>,
    ) -> impl Future<Output = Result<(), ErrorCode>> + use<> {
        let asks_hub = self.services.permissions.depends_on_subscription(right, channel);
        let find =
            asks_hub.then(|| self.services.hub.send(GetSubscription { key: self.key, channel: channel.clone() }));
        let (permissions, claims, channel) = (self.services.permissions.clone(), claims.clone(), channel.clone());
        async move {
            let is_subscribed = match find {
                Some(find) => find.await.is_ok_and(|source| source.is_some()),
                None => false,
            };
            permissions.may(right, &claims, &channel, is_subscribed).map_err(ErrorCode::from)
        }
    }
}

/// A reply has to fit into the outbox, too, or the client would be closed for having asked.
fn max_reply_bytes(services: &Services) -> usize {
    let limits = &services.config.limits;
    limits.reply_bytes.min(limits.outbox_bytes / 2)
}

fn answer_later(id: u32, frame: impl Future<Output = Result<Bytes, ErrorCode>> + 'static) -> CommandOutcome {
    let answer = frame
        .map(move |frame| CommandAnswer { id, result: frame.map(CommandReply::Frame).map_err(CommandFailure::Error) });
    CommandOutcome::Pending(answer.boxed_local())
}
