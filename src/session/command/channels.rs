//! What a client does with channels that it has: refresh a subscription, unsubscribe, publish. Each asks for the permission
//! first.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{CommandAnswer, CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::{ChannelRight, Claims, SubscriptionClaims, TokenError},
    broker::{PublishOptions, Retention},
    channel::Channel,
    hub::{ExtendSubscription, GetSubscription, SubscriptionSource, SubscriptionTerms, Unsubscribe},
    protocol::{self, Disconnect, ErrorCode},
    publication::{ClientInfo, Publication},
    session::{Session, rate_limiter::RateVerdict},
};

impl Session {
    /// The subscription lasts as long as a newer token says.
    pub(super) fn sub_refresh(
        &mut self,
        id: u32,
        channel: &str,
        token: Option<&str>,
        claims: &Claims,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(channel)?;
        let token = self.verify_subscription_token(token.ok_or(ErrorCode::PermissionDenied)?, &channel, claims)?;
        let reply = self.format.encode_reply(id, &protocol::Reply::SubRefresh(self.client_expiry(token.expires_at)));
        let source = self.source_from_token(token);
        let asked = self.services.hub.send(ExtendSubscription { key: self.key, channel, source });
        let answer = async move {
            let is_subscribed = asked.await.unwrap_or(false);
            let result =
                if is_subscribed { Ok(CommandReply::Frame(reply)) } else { Err(ErrorCode::PermissionDenied.into()) };
            CommandAnswer { id, result }
        };
        Ok(CommandOutcome::Pending(answer.boxed_local()))
    }

    pub(super) fn verify_subscription_token(
        &self,
        token: &str,
        channel: &Channel,
        claims: &Claims,
    ) -> Result<SubscriptionClaims, CommandFailure> {
        let token = self.services.verifier.verify_subscription(token).map_err(|refusal| {
            log::debug!("client {}: subscription token {refusal}", self.client);
            match refusal {
                TokenError::Expired => ErrorCode::TokenExpired,
                _ => ErrorCode::PermissionDenied,
            }
        })?;
        if token.channel == *channel && token.user == claims.user {
            Ok(token)
        } else {
            // It was made for somebody else, or for something else: it has been stolen, or mistaken badly.
            Err(CommandFailure::Close(Disconnect::INVALID_TOKEN))
        }
    }

    pub(super) fn source_from_token(&mut self, token: SubscriptionClaims) -> SubscriptionSource {
        self.has_subscription_info |= token.info.is_some();
        SubscriptionSource::SubscriptionToken(Box::new(SubscriptionTerms {
            expires_at: token.expires_at,
            info: token.info,
        }))
    }

    pub(super) fn unsubscribe(&self, id: u32, channel: &str) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(channel)?;
        let reply = self.format.encode_reply(id, &protocol::Reply::Unsubscribe);
        let asked = self.services.hub.send(Unsubscribe { key: self.key, channel });
        let answer = async move {
            // Not having it is what the client wants, too.
            let done = asked.await.map(|_| CommandReply::Frame(reply));
            CommandAnswer { id, result: done.map_err(|_| ErrorCode::Internal.into()) }
        };
        Ok(CommandOutcome::Pending(answer.boxed_local()))
    }

    pub(super) fn publish(
        &mut self,
        id: u32,
        channel: &str,
        data: Bytes,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        let limits = &self.services.config.limits;
        if data.len() > limits.publication_bytes {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let channel = Channel::new(channel)?;
        if self.publication_rate.charge(limits.publications_per_second) != RateVerdict::Allowed {
            return Err(ErrorCode::TooManyRequests.into());
        }
        let (services, claims, key, format) = (self.services.clone(), claims.clone(), self.key, self.format);
        let mut info = ClientInfo {
            user: claims.user.to_string(),
            client: self.client.to_string(),
            conn_info: claims.info.clone(),
            chan_info: None,
        };
        let asks_hub =
            self.has_subscription_info || services.permissions.depends_on_subscription(ChannelRight::Publish, &channel);
        let published = async move {
            let find = asks_hub.then(|| services.hub.send(GetSubscription { key, channel: channel.clone() }));
            let source = match find {
                Some(find) => find.await.unwrap_or(None),
                None => None,
            };
            services.permissions.may(ChannelRight::Publish, &claims, &channel, source.is_some())?;
            info.chan_info = source.and_then(|source| source.info().cloned());
            services.metrics.publications.inc();
            let publication = Publication { info: Some(info.into()), ..Publication::new(channel, data) };
            let retention =
                services.permissions.channel_options(&publication.channel).ok().and_then(Retention::from_options);
            let options = PublishOptions { retention, ..PublishOptions::default() };
            let published = services.broker.publish(publication, options).await;
            published.map_err(ErrorCode::from)
        };
        let answer = published.map(move |result| CommandAnswer {
            id,
            result: match result {
                Ok(_) => Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::Publish))),
                Err(error) => Err(CommandFailure::Error(error)),
            },
        });
        Ok(CommandOutcome::Pending(answer.boxed_local()))
    }
}
