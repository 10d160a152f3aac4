//! Server-side subscriptions: those that a session's token names, and those that the server API adds.

use std::{borrow::Cow, collections::BTreeMap, error::Error};

use uuid::Uuid;

use super::{CommandFailure, CommandOutcome, CommandReply, subscribe::SubscribeResultTemplate};
use crate::{
    auth::Claims,
    channel::Channel,
    clock::NEVER,
    hub::{
        ReplyBuilder, Requested, ServerApiSubscription, Subscribe, SubscribeError, Subscription, SubscriptionSource,
        SubscriptionTerms,
    },
    protocol::{ClientPosition, Disconnect, ExceededLimit},
    session::{
        Session,
        claims::{ClaimsChange, server_side_subscriptions},
    },
};

impl Session {
    /// Returns the subscriptions that a token names, each with the template of its result.
    pub(super) fn token_subscriptions(
        &mut self,
        claims: &Claims,
        positions: &BTreeMap<Cow<'_, str>, ClientPosition<'_>>,
    ) -> impl Iterator<Item = (Subscription<Requested>, SubscribeResultTemplate)> {
        let granted = server_side_subscriptions(claims);
        self.has_subscription_info |= granted.iter().any(|granted| granted.info.is_some());
        granted.iter().map(|granted| {
            let channel = granted.channel.clone();
            let mut options = self.forced_options(&channel, claims, granted.info.as_ref());
            let expiry = self.client_expiry(granted.expires_at);
            let template = SubscribeResultTemplate::new(expiry, granted.data.clone(), &options);
            if let Some(position) = positions.get(channel.as_str()) {
                self.request_recovery(&mut options, &channel, position, false);
            }
            let terms = SubscriptionTerms { expires_at: granted.expires_at, info: granted.info.clone() };
            let source = SubscriptionSource::ConnectionToken(Box::new(terms));
            (Subscription::new(channel, source, options), template)
        })
    }

    /// Returns the subscriptions that a newer token names. The client gets a push for each that is new.
    pub(super) fn announced_token_subscriptions(&mut self, claims: &Claims) -> Vec<Subscription<Requested>> {
        let format = self.format;
        let no_positions = BTreeMap::new();
        let granted = self.token_subscriptions(claims, &no_positions);
        granted.map(|(subscription, template)| subscription.announced_by(template.announcement(format))).collect()
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
                    SubscribeError::AlreadySubscribed | SubscribeError::Unrecoverable | SubscribeError::TokenExpired,
                ))
                | Err(_) => Err(otherwise),
            }
        })
    }

    /// Keeps a subscription of the server API until the client has room for what it has missed.
    pub(in crate::session) fn queue_recovering_subscription(&mut self, subscription: ServerApiSubscription) {
        let waiting = self.recovering_subscriptions.get_or_insert_default();
        let limit = self.services.config.limits.channels_per_session;
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
        let ServerApiSubscription { channel, info, data, since, expires_at } = request;
        let client = self.client;
        if let Err(error) = self.services.permissions.may_be_subscribed(&claims.user, &channel) {
            log_refused(client, &channel, &error);
            return CommandOutcome::Finished;
        }
        self.has_subscription_info |= info.is_some();
        let mut options = self.forced_options(&channel, &claims, info.as_ref());
        if let Some((offset, epoch)) = since {
            let position = ClientPosition { wants_recovery: true, epoch: epoch.into(), offset };
            self.request_recovery(&mut options, &channel, &position, false);
        }
        let expires_at = expires_at.unwrap_or(NEVER);
        let template = SubscribeResultTemplate::new(self.client_expiry(expires_at), data, &options);
        let source = SubscriptionSource::ServerApi(Box::new(SubscriptionTerms { expires_at, info }));
        let subscription =
            Subscription::new(channel.clone(), source, options).announced_by(template.announcement(self.format));
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

fn log_refused(client: Uuid, channel: &Channel, error: &dyn Error) {
    let text = error.to_string();
    log::info!("refused server API subscription client={client} channel={channel:?} error={text:?}");
}
