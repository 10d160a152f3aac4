//! Beginning to receive a channel: what the client asks for, what the channel's options add to it, and what is promised in
//! the reply.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{Answer, Done, Failed, Reply, channels::denied, failed};
use crate::{
    auth::Claims,
    broker::Retention,
    channel::Channel,
    clock::NEVER,
    config::{DeltaType, RecoveryMode},
    hub::{Begun, Claimed, Given, Grant, NotSubscribed, Options, Recover, Shown, Subscribe, Tell, Terms, Wanted},
    protocol::{self, ErrorCode, Expiry, Format, Push, Recovery, SubscribeRequest, SubscribeResult, UnreadFilter},
    publication::ClientInfo,
    session::Session,
};

/// What the client is told of a subscription, whatever it has missed.
pub(super) struct Promise {
    expiry: Expiry,
    data: Option<Bytes>,
    is_positioned: bool,
    is_recoverable: bool,
    has_delta: bool,
}

impl Promise {
    pub(super) fn new(expiry: Expiry, data: Option<Bytes>, options: &Options) -> Self {
        let &Options { is_positioned, is_recoverable, has_deltas: has_delta, .. } = options;
        Self { expiry, data, is_positioned, is_recoverable, has_delta }
    }

    pub(super) fn result<'a>(&'a self, begun: &'a Begun) -> SubscribeResult<'a> {
        // Who recovers in a channel that a token brings has a position there, whatever the channel's options say.
        let was_recovering = begun.was_recovering;
        SubscribeResult {
            expiry: self.expiry,
            is_recoverable: self.is_recoverable || was_recovering,
            is_positioned: self.is_positioned || was_recovering,
            position: begun.position,
            publications: begun.publications(),
            is_recovered: begun.is_recovered,
            was_recovering,
            data: self.data.as_ref(),
            has_delta: self.has_delta,
        }
    }

    /// The pushes for a subscription that the client has not asked for: SDKs take what was missed from there one by one.
    pub(super) fn announcement(self, format: Format) -> Tell {
        self.each(move |begun, result| {
            let bare = SubscribeResult { publications: Vec::new(), ..result.clone() };
            let told = format.push(&Push::Subscribe(&begun.channel, &bare));
            let missed = result.publications.iter().map(|missed| format.push(&Push::Publication(*missed)));
            [told].into_iter().chain(missed).flatten().collect()
        })
    }

    fn each(self, write: impl Fn(&Begun, &SubscribeResult<'_>) -> Bytes + Send + 'static) -> Tell {
        Box::new(move |begun| begun.iter().map(|begun| write(begun, &self.result(begun))).next().unwrap_or_default())
    }
}

impl Session {
    pub(super) fn subscribe(
        &mut self,
        id: u32,
        request: &SubscribeRequest<'_>,
        claims: &Claims,
    ) -> Result<Done, Failed> {
        let channel = Channel::new(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
        let token =
            request.token.as_deref().map(|token| self.judge_subscription(token, &channel, claims)).transpose()?;
        self.services.permissions.may_subscribe(claims, &channel, token.as_ref()).map_err(denied)?;
        let expiry = token.as_ref().map_or(Expiry::NEVER, |token| self.told(token.expires_at));
        let grant = token.map_or(Grant::Asked, |token| self.grant_of(token));
        let options = self.asked(&channel, claims, grant.info(), request)?;
        let promise = Promise::new(expiry, None, &options);
        let format = self.format;
        let reply = promise.each(move |_, result| format.reply(id, &protocol::Reply::Subscribe(result)));
        let wanted = vec![Wanted { channel, grant, options, announcement: None }];
        let asked = self.services.hub.send(Subscribe { key: self.key, wanted, reply: Some(reply) });
        let answer = async move {
            let result = match asked.await {
                Ok(Ok(()) | Err(NotSubscribed::Closing)) => Ok(Reply::Said),
                Ok(Err(NotSubscribed::Already)) => Err(ErrorCode::AlreadySubscribed),
                Ok(Err(NotSubscribed::TooMany)) => Err(ErrorCode::LimitExceeded),
                Ok(Err(NotSubscribed::Expired)) => Err(ErrorCode::TokenExpired),
                Ok(Err(NotSubscribed::Unrecoverable)) => Err(ErrorCode::UnrecoverablePosition),
                Ok(Err(NotSubscribed::Broker(error))) => Err(failed(&error)),
                Err(_) => Err(ErrorCode::Internal),
            };
            Answer { id, result: result.map_err(Failed::Error) }
        };
        Ok(Done::Later(answer.boxed_local()))
    }

    /// The server API brings a channel; it stays until the API takes it away, or its time is over.
    pub(in crate::session) fn receive(&mut self, given: Given) -> Done {
        let Some(claims) = self.speaker.claims().cloned() else { return Done::Now };
        let Given { channel, info, data, since, expires_at } = given;
        if let Err(why) = self.services.permissions.may_be_given(&claims.user, &channel) {
            log::info!("client {}: a subscription of the API to {channel:?} is none: {why}", self.client);
            return Done::Now;
        }
        self.has_subscription_info |= info.is_some();
        let mut options = self.forced(&channel, &claims, info.as_ref());
        if let Some((offset, epoch)) = since {
            let recovery = Recovery { is_wanted: true, epoch: epoch.into(), offset };
            self.recover(&mut options, &channel, &recovery, false);
        }
        let expires_at = expires_at.unwrap_or(NEVER);
        let promise = Promise::new(self.told(expires_at), data, &options);
        let announcement = Some(promise.announcement(self.format));
        let grant = Grant::Given(Box::new(Terms { expires_at, info }));
        // Nobody waits for an answer: what cannot be had now, the API has to bring again.
        let asked =
            Subscribe { key: self.key, wanted: vec![Wanted { channel, grant, options, announcement }], reply: None };
        let asked = self.services.hub.send(asked);
        let client = self.client;
        let answer = async move {
            if let Ok(Err(why)) = asked.await {
                log::info!("client {client}: a subscription of the API is none: {why}");
            }
            Answer { id: 0, result: Ok(Reply::Said) }
        };
        Done::Later(answer.boxed_local())
    }

    /// What a subscription to a channel is, whatever its client wants.
    pub(super) fn forced(&self, channel: &Channel, claims: &Claims, info: Option<&Bytes>) -> Options {
        let Ok(channels) = self.services.permissions.known(channel) else { return Options::default() };
        let retention = Retention::of(channels);
        let is_recoverable = retention.is_some() && channels.force_recovery;
        let is_announced = channels.join_leave || channels.force_push_join_leave;
        let shown = (channels.presence || is_announced).then(|| Shown {
            who: Arc::new(ClientInfo {
                user: claims.user.to_string(),
                client: self.client.to_string(),
                conn_info: claims.info.clone(),
                chan_info: info.cloned(),
            }),
            is_present: channels.presence,
            is_announced,
        });
        Options {
            retention,
            is_positioned: is_recoverable || (retention.is_some() && channels.force_positioning),
            is_recoverable,
            hears_movements: channels.force_push_join_leave,
            shown,
            ..Options::default()
        }
    }

    /// The same with what the client wants; what the channel has not is passed over, and the reply says so.
    fn asked(
        &self,
        channel: &Channel,
        claims: &Claims,
        info: Option<&Bytes>,
        request: &SubscribeRequest<'_>,
    ) -> Result<Options, Failed> {
        let channels = self.services.permissions.known(channel).map_err(denied)?;
        let mut options = self.forced(channel, claims, info);
        let has_history = options.retention.is_some();
        options.is_recoverable |= has_history && request.is_recoverable;
        options.is_positioned |= has_history && (request.is_positioned || options.is_recoverable);
        options.hears_movements |= channels.join_leave && request.wants_join_leave;
        // A difference is to the publication before, which a filter may have left out.
        if request.filter.is_some() && !request.delta.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        options.filter =
            request.filter.map(UnreadFilter::read).transpose().map_err(|_| ErrorCode::BadRequest)?.map(Arc::new);
        options.has_deltas = request.delta == "fossil" && channels.allowed_delta_types.contains(&DeltaType::Fossil);
        self.recover(&mut options, channel, &request.recovery, request.insists());
        Ok(options)
    }

    /// With what was missed, where the channel has a history.
    pub(super) fn recover(&self, options: &mut Options, channel: &Channel, recovery: &Recovery<'_>, or_nothing: bool) {
        if !recovery.is_wanted || options.retention.is_none() {
            return;
        }
        let mode = self.services.permissions.known(channel).map_or(RecoveryMode::Stream, |of| of.force_recovery_mode);
        let epoch = Claimed::read(&recovery.epoch);
        options.recover = Some(Recover { offset: recovery.offset, epoch, mode, or_nothing });
        (options.is_recoverable, options.is_positioned) = (true, true);
    }
}
