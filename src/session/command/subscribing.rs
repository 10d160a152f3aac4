//! Beginning to receive a channel: what the client asks for, what the channel's options add to it, and what is promised in
//! the reply.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{CommandAnswer, CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::Claims,
    broker::Retention,
    channel::Channel,
    clock::NEVER,
    config::{DeltaType, RecoveryMode},
    hub::{
        RecoveryRequest, ReplyBuilder, RequestedEpoch, ServerApiSubscription, Subscribe, SubscribeError,
        SubscribeOutcome, Subscription, SubscriptionOptions, SubscriptionSource, SubscriptionTerms, Visibility,
    },
    protocol::{self, ClientPosition, ErrorCode, Expiry, Format, Push, RawFilter, SubscribeCommand, SubscribeResult},
    publication::ClientInfo,
    session::Session,
};

/// What the client is told of a subscription, whatever it has missed.
pub(super) struct SubscribeResultTemplate {
    expiry: Expiry,
    data: Option<Bytes>,
    is_positioned: bool,
    is_recoverable: bool,
    has_delta: bool,
}

impl SubscribeResultTemplate {
    pub(super) fn new(expiry: Expiry, data: Option<Bytes>, options: &SubscriptionOptions) -> Self {
        let &SubscriptionOptions { is_positioned, is_recoverable, has_deltas: has_delta, .. } = options;
        Self { expiry, data, is_positioned, is_recoverable, has_delta }
    }

    pub(super) fn result<'a>(&'a self, outcome: &'a SubscribeOutcome) -> SubscribeResult<'a> {
        // Who recovers in a channel that a token brings has a position there, whatever the channel's options say.
        let was_recovering = outcome.was_recovering;
        SubscribeResult {
            expiry: self.expiry,
            is_recoverable: self.is_recoverable || was_recovering,
            is_positioned: self.is_positioned || was_recovering,
            position: outcome.position(),
            publications: outcome.missed_publications(),
            is_recovered: outcome.is_recovered,
            was_recovering,
            data: self.data.as_ref(),
            has_delta: self.has_delta,
        }
    }

    /// The pushes for a subscription that the client has not asked for: SDKs take what was missed from there one by one.
    pub(super) fn announcement(self, format: Format) -> ReplyBuilder {
        self.reply_builder(move |outcome, result| {
            let bare = SubscribeResult { publications: Vec::new(), ..result.clone() };
            let told = format.encode_push(&Push::Subscribe(&outcome.channel, &bare));
            let missed = result.publications.iter().map(|missed| format.encode_push(&Push::Publication(*missed)));
            [told].into_iter().chain(missed).flatten().collect()
        })
    }

    fn reply_builder(
        self,
        write: impl Fn(&SubscribeOutcome, &SubscribeResult<'_>) -> Bytes + Send + 'static,
    ) -> ReplyBuilder {
        Box::new(move |outcome| {
            outcome.iter().map(|outcome| write(outcome, &self.result(outcome))).next().unwrap_or_default()
        })
    }
}

impl Session {
    pub(super) fn subscribe(
        &mut self,
        id: u32,
        request: &SubscribeCommand<'_>,
        claims: &Claims,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(&request.channel)?;
        let token = request
            .token
            .as_deref()
            .map(|token| self.verify_subscription_token(token, &channel, claims))
            .transpose()?;
        self.services.permissions.may_subscribe(claims, &channel, token.as_ref())?;
        let expiry = token.as_ref().map_or(Expiry::NEVER, |token| self.client_expiry(token.expires_at));
        let source = token.map_or(SubscriptionSource::Client, |token| self.source_from_token(token));
        let options = self.requested_options(&channel, claims, source.info(), request)?;
        let template = SubscribeResultTemplate::new(expiry, None, &options);
        let format = self.format;
        let reply =
            template.reply_builder(move |_, result| format.encode_reply(id, &protocol::Reply::Subscribe(result)));
        let subscriptions = vec![Subscription::new(channel, source, options, None)];
        let asked = self.services.hub.send(Subscribe { key: self.key, subscriptions, reply: Some(reply) });
        let answer = async move {
            let result = match asked.await {
                Ok(Ok(()) | Err(SubscribeError::Closing)) => Ok(CommandReply::SentByHub),
                Ok(Err(SubscribeError::AlreadySubscribed)) => Err(ErrorCode::AlreadySubscribed),
                Ok(Err(SubscribeError::LimitExceeded)) => Err(ErrorCode::LimitExceeded),
                Ok(Err(SubscribeError::TokenExpired)) => Err(ErrorCode::TokenExpired),
                Ok(Err(SubscribeError::Unrecoverable)) => Err(ErrorCode::UnrecoverablePosition),
                Ok(Err(SubscribeError::Broker(error))) => Err(error.into()),
                Err(_) => Err(ErrorCode::Internal),
            };
            CommandAnswer { id, result: result.map_err(CommandFailure::Error) }
        };
        Ok(CommandOutcome::Pending(answer.boxed_local()))
    }

    /// The server API brings a channel; it stays until the API takes it away, or its time is over.
    pub(in crate::session) fn add_server_side_subscription(&mut self, given: ServerApiSubscription) -> CommandOutcome {
        let Some(claims) = self.auth_state.claims().cloned() else { return CommandOutcome::Finished };
        let ServerApiSubscription { channel, info, data, since, expires_at } = given;
        if let Err(why) = self.services.permissions.may_be_subscribed(&claims.user, &channel) {
            log::info!("client {}: a subscription of the API to {channel:?} is none: {why}", self.client);
            return CommandOutcome::Finished;
        }
        self.has_subscription_info |= info.is_some();
        let mut options = self.forced_options(&channel, &claims, info.as_ref());
        if let Some((offset, epoch)) = since {
            let recovery = ClientPosition { wants_recovery: true, epoch: epoch.into(), offset };
            self.request_recovery(&mut options, &channel, &recovery, false);
        }
        let expires_at = expires_at.unwrap_or(NEVER);
        let template = SubscribeResultTemplate::new(self.client_expiry(expires_at), data, &options);
        let announcement = Some(template.announcement(self.format));
        let source = SubscriptionSource::ServerApi(Box::new(SubscriptionTerms { expires_at, info }));
        // Nobody waits for an answer: what cannot be had now, the API has to bring again.
        let asked = Subscribe {
            key: self.key,
            subscriptions: vec![Subscription::new(channel, source, options, announcement)],
            reply: None,
        };
        let asked = self.services.hub.send(asked);
        let client = self.client;
        let answer = async move {
            if let Ok(Err(why)) = asked.await {
                log::info!("client {client}: a subscription of the API is none: {why}");
            }
            CommandAnswer { id: 0, result: Ok(CommandReply::SentByHub) }
        };
        CommandOutcome::Pending(answer.boxed_local())
    }

    /// What a subscription to a channel is, whatever its client wants.
    pub(super) fn forced_options(
        &self,
        channel: &Channel,
        claims: &Claims,
        info: Option<&Bytes>,
    ) -> SubscriptionOptions {
        let Ok(channels) = self.services.permissions.channel_options(channel) else {
            return SubscriptionOptions::default();
        };
        let retention = Retention::from_options(channels);
        let is_recoverable = retention.is_some() && channels.force_recovery;
        let sends_join_leave = channels.join_leave || channels.force_push_join_leave;
        let visibility = (channels.presence || sends_join_leave).then(|| Visibility {
            info: Arc::new(ClientInfo {
                user: claims.user.to_string(),
                client: self.client.to_string(),
                conn_info: claims.info.clone(),
                chan_info: info.cloned(),
            }),
            in_presence: channels.presence,
            sends_join_leave,
        });
        SubscriptionOptions {
            retention,
            is_positioned: is_recoverable || (retention.is_some() && channels.force_positioning),
            is_recoverable,
            wants_join_leave: channels.force_push_join_leave,
            visibility,
            ..SubscriptionOptions::default()
        }
    }

    /// The same with what the client wants; what the channel has not is passed over, and the reply says so.
    fn requested_options(
        &self,
        channel: &Channel,
        claims: &Claims,
        info: Option<&Bytes>,
        request: &SubscribeCommand<'_>,
    ) -> Result<SubscriptionOptions, CommandFailure> {
        let channels = self.services.permissions.channel_options(channel)?;
        let mut options = self.forced_options(channel, claims, info);
        let has_history = options.retention.is_some();
        options.is_recoverable |= has_history && request.is_recoverable;
        options.is_positioned |= has_history && (request.is_positioned || options.is_recoverable);
        options.wants_join_leave |= channels.join_leave && request.wants_join_leave;
        // A difference is to the publication before, which a filter may have left out.
        if request.filter.is_some() && !request.delta.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        options.filter =
            request.filter.map(RawFilter::read).transpose().map_err(|_| ErrorCode::BadRequest)?.map(Arc::new);
        options.has_deltas = request.delta == "fossil" && channels.allowed_delta_types.contains(&DeltaType::Fossil);
        self.request_recovery(&mut options, channel, &request.recovery, request.requires_recovery());
        Ok(options)
    }

    /// With what was missed, where the channel has a history.
    pub(super) fn request_recovery(
        &self,
        options: &mut SubscriptionOptions,
        channel: &Channel,
        recovery: &ClientPosition<'_>,
        required: bool,
    ) {
        if !recovery.wants_recovery || options.retention.is_none() {
            return;
        }
        let mode = self
            .services
            .permissions
            .channel_options(channel)
            .map_or(RecoveryMode::Stream, |of| of.force_recovery_mode);
        let epoch = RequestedEpoch::parse(&recovery.epoch);
        options.recover = Some(RecoveryRequest { offset: recovery.offset, epoch, mode, required });
        (options.is_recoverable, options.is_positioned) = (true, true);
    }
}
