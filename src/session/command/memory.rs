//! What a client asks of a channel's memory: its history, and who is there. First whether channels of this kind have one
//! (108): that is the configuration's, and says nothing of the channel. Then whether this client may ask (103).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{Answer, Done, Failed, Reply, channels::denied, failed};
use crate::{
    auth::{Claims, Denied, Permissions},
    broker::{HistoryRequest, Retention, Since},
    channel::Channel,
    hub::Find,
    protocol::{self, ErrorCode, Format, HistoryResult, PresenceStats},
    publication::ClientInfo,
    session::{Services, Session},
};

/// What every connected client is counted with in a reply: names of members, and what stands around them.
const MEMBER_BYTES: usize = 96;

type May = fn(&Permissions, &Claims, &Channel, bool) -> Result<(), Denied>;

impl Session {
    pub(super) fn history(
        &self,
        id: u32,
        asked: &protocol::HistoryRequest<'_>,
        claims: &Arc<Claims>,
    ) -> Result<Done, Failed> {
        let channel = Channel::new(&asked.channel).map_err(|_| ErrorCode::BadRequest)?;
        let limit = usize::try_from(asked.limit).map_err(|_| ErrorCode::BadRequest)?;
        let limit = limit.min(self.services.config.limits.history_publications);
        let options = self.services.permissions.known(&channel).map_err(denied)?;
        let retention = Retention::of(options).ok_or(ErrorCode::NotAvailable)?;
        let since = asked.since.as_ref().map(|(offset, epoch)| Since::read(*offset, epoch));
        let is_reverse = asked.is_reverse;
        let wants_hub = self.services.permissions.history_wants_subscription(&channel);
        let may = self.may(&channel, claims, wants_hub, Permissions::may_read_history);
        let (services, format) = (self.services.clone(), self.format);
        let read = async move {
            may.await?;
            let since = match since {
                Some(None) => return Err(ErrorCode::UnrecoverablePosition),
                since => since.flatten(),
            };
            let request = HistoryRequest { since, limit, is_reverse };
            let read = services.broker.history(channel, request, retention).await;
            let mut history = read.map_err(|error| failed(&error))?;
            if !history.knows(&request) {
                return Err(ErrorCode::UnrecoverablePosition);
            }
            history.cut(reply_bytes(&services));
            let publications = history.publications.iter().map(Into::into).collect();
            let result = HistoryResult { publications, position: history.top };
            Ok(format.reply(id, &protocol::Reply::History(&result)))
        };
        Ok(later(id, read))
    }

    pub(super) fn presence(&self, id: u32, channel: &str, claims: &Arc<Claims>) -> Result<Done, Failed> {
        let most_bytes = reply_bytes(&self.services);
        self.members(id, channel, claims, move |format, members| {
            let bytes = |member: &Arc<ClientInfo>| {
                let raw = [&member.conn_info, &member.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
                MEMBER_BYTES + member.user.len() + 2 * member.client.len() + raw
            };
            // Half of those who are there would look like all of them.
            if members.iter().map(bytes).sum::<usize>() > most_bytes {
                return Err(ErrorCode::LimitExceeded);
            }
            Ok(format.reply(id, &protocol::Reply::Presence(members)))
        })
    }

    pub(super) fn presence_stats(&self, id: u32, channel: &str, claims: &Arc<Claims>) -> Result<Done, Failed> {
        self.members(id, channel, claims, move |format, members| {
            Ok(format.reply(id, &protocol::Reply::PresenceStats(PresenceStats::of(members))))
        })
    }

    fn members(
        &self,
        id: u32,
        channel: &str,
        claims: &Arc<Claims>,
        write: impl FnOnce(Format, &[Arc<ClientInfo>]) -> Result<Bytes, ErrorCode> + 'static,
    ) -> Result<Done, Failed> {
        let channel = Channel::new(channel).map_err(|_| ErrorCode::BadRequest)?;
        if !self.services.permissions.known(&channel).map_err(denied)?.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        let wants_hub = self.services.permissions.presence_wants_subscription(&channel);
        let may = self.may(&channel, claims, wants_hub, Permissions::may_read_presence);
        let (services, format) = (self.services.clone(), self.format);
        let read = async move {
            may.await?;
            let members = services.broker.members(channel).await.map_err(|error| failed(&error))?;
            write(format, &members)
        };
        Ok(later(id, read))
    }

    /// Asks for a permission, and the hub before it where it matters what the session is subscribed to.
    fn may(
        &self,
        channel: &Channel,
        claims: &Arc<Claims>,
        wants_hub: bool,
        may: May,
    ) -> impl Future<Output = Result<(), ErrorCode>> + use<> {
        let find = wants_hub.then(|| self.services.hub.send(Find { key: self.key, channel: channel.clone() }));
        let (permissions, claims, channel) = (self.services.permissions.clone(), claims.clone(), channel.clone());
        async move {
            let is_subscribed = match find {
                Some(find) => find.await.is_ok_and(|grant| grant.is_some()),
                None => false,
            };
            may(&permissions, &claims, &channel, is_subscribed).map_err(denied)
        }
    }
}

/// A reply has to fit into the outbox, too, or the client would be closed for having asked.
fn reply_bytes(services: &Services) -> usize {
    let limits = &services.config.limits;
    limits.reply_bytes.min(limits.outbox_bytes / 2)
}

fn later(id: u32, frame: impl Future<Output = Result<Bytes, ErrorCode>> + 'static) -> Done {
    let answer = frame.map(move |frame| Answer { id, result: frame.map(Reply::Frame).map_err(Failed::Error) });
    Done::Later(answer.boxed_local())
}
