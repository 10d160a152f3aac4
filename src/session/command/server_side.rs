//! Server-side subscriptions: those that a session's token names, the personal channels of its user, those that the server API
//! adds, and those that a client had before it reconnected.

use std::{borrow::Cow, collections::BTreeMap, fmt::Display};

use bytes::Bytes;
use uuid::Uuid;

use super::{CommandFailure, CommandOutcome, CommandReply, subscribe::SubscribeResultTemplate};
use crate::{
    auth::{Claims, ServerSideSubscription},
    channel::Channel,
    clock::NEVER,
    config::OptionOverrides,
    hooks::SubscribeApproval,
    hub::{
        ReplyBuilder, Requested, ServerApiSubscription, Subscribe, SubscribeError, Subscription, SubscriptionSource,
        SubscriptionTerms,
    },
    protocol::{ClientPosition, Disconnect, ExceededLimit, Format},
    revocation::TokenIdentity,
    session::{
        Services, Session,
        claims::{ClaimsChange, server_side_subscriptions},
    },
};

/// A server-side subscription that a session is to have.
pub(super) struct ServerSideRequest {
    channel: Channel,
    source: SubscriptionSource,
    /// Raw JSON that the client gets with the result.
    data: Option<Bytes>,
    overrides: OptionOverrides,
}

impl From<&ServerSideSubscription> for ServerSideRequest {
    fn from(granted: &ServerSideSubscription) -> Self {
        let ServerSideSubscription { channel, info, data, expires_at, overrides } = granted;
        let (expires_at, token) = (*expires_at, TokenIdentity::default());
        let terms = SubscriptionTerms { expires_at, warn_at: NEVER, info: info.clone(), token };
        Self {
            channel: channel.clone(),
            source: SubscriptionSource::ConnectionToken(Box::new(terms)),
            data: data.clone(),
            overrides: *overrides,
        }
    }
}

impl From<ServerApiSubscription> for ServerSideRequest {
    fn from(given: ServerApiSubscription) -> Self {
        let (expires_at, token) = (given.expires_at.unwrap_or(NEVER), TokenIdentity::default());
        let terms = SubscriptionTerms { expires_at, warn_at: NEVER, info: given.info, token };
        let source = SubscriptionSource::ServerApi(Box::new(terms));
        Self { channel: given.channel, source, data: given.data, overrides: given.overrides }
    }
}

impl ServerSideRequest {
    pub(super) fn without_terms(channel: Channel, source: SubscriptionSource) -> Self {
        Self { channel, source, data: None, overrides: OptionOverrides::default() }
    }
}

impl Session {
    /// Returns the subscriptions of a session that connects, each with the template of its result: those of its token, the
    /// personal channels of its user, and those that its client had before and names in `positions`.
    pub(super) fn connect_subscriptions(
        &mut self,
        claims: &Claims,
        positions: &BTreeMap<Cow<'_, str>, ClientPosition<'_>>,
    ) -> Vec<(Subscription<Requested>, SubscribeResultTemplate)> {
        let mut requests = self.granted_requests(claims);
        // A client cannot have had more, and each costs a look at the rules of its token.
        let max_subscriptions = self.services.config.current().limits.channels_per_session;
        let names = positions.keys().take(max_subscriptions);
        for channel in names.filter_map(|name| Channel::new(name).ok()) {
            if requests.len() < max_subscriptions && !requests.iter().any(|request| request.channel == channel) {
                requests
                    .extend(self.restored_request(channel, claims).filter(|request| self.can_carry(&request.channel)));
            }
        }
        let with_position = requests.into_iter().map(|request| {
            let position = positions.get(request.channel.as_str());
            self.server_side_subscription(request, claims, position)
        });
        with_position.collect()
    }

    /// Returns the subscriptions that a newer token names, and the personal channels. The client gets a push for each that is
    /// new.
    pub(super) fn announced_subscriptions(&mut self, claims: &Claims) -> Vec<Subscription<Requested>> {
        let format = self.format;
        let announced = self.granted_requests(claims).into_iter().map(|request| {
            let (subscription, template) = self.server_side_subscription(request, claims, None);
            subscription.announced_by(template.announcement(format))
        });
        announced.collect()
    }

    /// Returns the subscriptions that a token names, and then the personal channels of its user.
    fn granted_requests(&self, claims: &Claims) -> Vec<ServerSideRequest> {
        let granted = server_side_subscriptions(claims);
        let is_named = |channel: &Channel| granted.iter().any(|granted| granted.channel == *channel);
        let personal = self.services.permissions.personal_channels(&claims.user).filter(|channel| !is_named(channel));
        let personal = personal.map(|channel| ServerSideRequest::without_terms(channel, SubscriptionSource::Personal));
        let all = granted.iter().map(ServerSideRequest::from).chain(personal);
        let is_revoked =
            |channel: &Channel| self.services.permissions.is_revoked_in(&claims.user, channel, &claims.token);
        // The token was checked under rules that may have changed since.
        let may_be_subscribed =
            |channel: &Channel| self.services.permissions.may_be_subscribed(&claims.user, channel).is_ok();
        let is_allowed =
            |channel: &Channel| !is_revoked(channel) && may_be_subscribed(channel) && self.can_carry(channel);
        all.filter(|request| is_allowed(&request.channel)).collect()
    }

    /// Returns whether the connection can carry the data of a channel that its client has not asked for. A session is not subscribed to
    /// others: its token may serve clients with both formats.
    pub(super) fn can_carry(&self, channel: &Channel) -> bool {
        let checked = self.check_data_format(channel);
        if let Err(error) = &checked {
            self.note_refused_subscription(channel.as_str(), error);
        }
        checked.is_ok()
    }

    /// Returns a subscription that the client had before: if the server API gave it and has not ended it, or if the client may
    /// subscribe anyway.
    fn restored_request(&self, channel: Channel, claims: &Claims) -> Option<ServerSideRequest> {
        let Services { permissions, api_grants, .. } = &*self.services;
        if permissions.may_be_subscribed(&claims.user, &channel).is_ok()
            && let Some(given) = api_grants.find(&claims.user, &channel)
        {
            api_grants.note_session(&claims.user, &channel, claims.expires_at);
            return Some(given.into());
        }
        let is_allowed = permissions.may_subscribe(claims, &channel, None).is_ok();
        is_allowed.then(|| ServerSideRequest::without_terms(channel, SubscriptionSource::Restored))
    }

    /// Returns the subscription of a session that receives one channel, which the subscribe hook allows.
    pub(super) fn approved_request(&mut self, channel: Channel, approval: SubscribeApproval) -> ServerSideRequest {
        let SubscribeApproval { info, data, overrides, expires_at } = approval;
        let source = self.source_of_approval(expires_at, info, true);
        ServerSideRequest { channel, source, data, overrides }
    }

    /// Returns the subscription of a session that receives one channel, with the events that announce it.
    pub(super) fn requested_channel(
        &mut self,
        request: ServerSideRequest,
        claims: &Claims,
        position: Option<&ClientPosition<'_>>,
    ) -> (Subscription<Requested>, ReplyBuilder) {
        let (subscription, template) = self.server_side_subscription(request, claims, position);
        (subscription, template.announcement(self.format))
    }

    /// Returns a server-side subscription for the hub, with the template of its result.
    fn server_side_subscription(
        &mut self,
        request: ServerSideRequest,
        claims: &Claims,
        position: Option<&ClientPosition<'_>>,
    ) -> (Subscription<Requested>, SubscribeResultTemplate) {
        let ServerSideRequest { channel, source, data, overrides } = request;
        self.has_subscription_info |= source.info().is_some();
        let mut options = self.forced_options(&channel, claims, source.info(), overrides);
        let wants_positions = source == SubscriptionSource::Personal || self.format == Format::ChannelEvents;
        if wants_positions && options.retention.is_some() {
            (options.is_positioned, options.is_recoverable) = (true, true);
        }
        let template = SubscribeResultTemplate::new(self.client_expiry(source.expires_at()), data, &options);
        if let Some(position) = position {
            self.request_recovery(&mut options, &channel, position, false);
        }
        (Subscription::new(channel, source, options), template)
    }

    /// Sends `reply` when the session has the subscriptions of its token, and none that the token does not allow.
    pub(super) fn subscribe_then_reply(
        &mut self,
        id: u32,
        change: ClaimsChange,
        subscriptions: Vec<Subscription<Requested>>,
        reply: ReplyBuilder,
        otherwise: CommandFailure,
    ) -> CommandOutcome {
        if subscriptions.is_empty() && change == ClaimsChange::Unchanged {
            self.send(reply(&[]));
            return CommandOutcome::Finished;
        }
        self.request_subscriptions(id, subscriptions, Some(reply), otherwise)
    }

    /// Asks the hub for the subscriptions of a token. If it fails for a reason that is no fault of the token, the command
    /// fails with `otherwise`.
    pub(super) fn request_subscriptions(
        &self,
        id: u32,
        subscriptions: Vec<Subscription<Requested>>,
        reply: Option<ReplyBuilder>,
        otherwise: CommandFailure,
    ) -> CommandOutcome {
        let subscribed = self.services.hub.send(Subscribe { key: self.key, subscriptions, reply });
        let client = self.client;
        CommandOutcome::pending(id, async move {
            match subscribed.await {
                Ok(Ok(()) | Err(SubscribeError::Closing)) => Ok(CommandReply::SentByHub),
                Ok(Err(SubscribeError::LimitExceeded(_))) => Err(CommandFailure::Close(Disconnect::CHANNEL_LIMIT)),
                Ok(Err(SubscribeError::Broker(error))) => {
                    let text = error.to_string();
                    log::debug!("failed to subscribe to channels of token client={client} error={text:?}");
                    Err(match otherwise {
                        CommandFailure::Error(_) => error.into(),
                        close => close,
                    })
                }
                Ok(Err(
                    SubscribeError::AlreadySubscribed
                    | SubscribeError::Unrecoverable
                    | SubscribeError::TokenExpired
                    | SubscribeError::Refused(_),
                ))
                | Err(_) => Err(otherwise),
            }
        })
    }

    /// Keeps a subscription of the server API until the client has room for what it has missed.
    pub(in crate::session) fn queue_recovering_subscription(&mut self, subscription: ServerApiSubscription) {
        let waiting = self.recovering_subscriptions.get_or_insert_default();
        let limit = self.services.config.current().limits.channels_per_session;
        match ExceededLimit::check("limits.channels_per_session", limit, waiting.len() + 1) {
            Ok(()) => waiting.push_back(subscription),
            Err(limit) => log_refused(self.client, &subscription.channel, &SubscribeError::from(limit)),
        }
    }

    /// Takes the oldest of these subscriptions.
    pub(super) fn next_recovering_subscription(&mut self) -> Option<ServerApiSubscription> {
        let next = self.recovering_subscriptions.as_mut()?.pop_front();
        if next.is_none() {
            self.recovering_subscriptions = None;
        }
        next
    }

    /// Adds a subscription of the server API. It lasts until the API ends it or it expires.
    pub(in crate::session) fn add_server_side_subscription(
        &mut self,
        request: ServerApiSubscription,
    ) -> CommandOutcome {
        let Some(claims) = self.auth_state.claims().cloned() else { return CommandOutcome::Finished };
        let (client, channel) = (self.client, request.channel.clone());
        if let Err(error) = self.services.permissions.may_be_subscribed(&claims.user, &channel) {
            log_refused(client, &channel, &error);
            return CommandOutcome::Finished;
        }
        if let Err(error) = self.check_data_format(&channel) {
            self.note_refused_subscription(channel.as_str(), &error);
            log_refused(client, &channel, &error.message());
            return CommandOutcome::Finished;
        }
        self.services.api_grants.note_session(&claims.user, &channel, claims.expires_at);
        let since = request.since.clone();
        let position =
            since.map(|(offset, epoch)| ClientPosition { wants_recovery: true, epoch: epoch.into(), offset });
        let (subscription, template) = self.server_side_subscription(request.into(), &claims, position.as_ref());
        let subscription = subscription.announced_by(template.announcement(self.format));
        let subscribe = Subscribe { key: self.key, subscriptions: vec![subscription], reply: None };
        let subscribed = self.services.hub.send(subscribe);
        // The API has its answer already: if this fails, it has to subscribe the session again.
        CommandOutcome::pending(0, async move {
            if let Ok(Err(error)) = subscribed.await {
                log_refused(client, &channel, &error);
            }
            Ok(CommandReply::SentByHub)
        })
    }
}

fn log_refused(client: Uuid, channel: &Channel, error: &dyn Display) {
    let text = error.to_string();
    log::info!("refused server API subscription client={client} channel={channel:?} error={text:?}");
}
