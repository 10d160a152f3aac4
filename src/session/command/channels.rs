//! What a client does with channels that it has: refresh a subscription, unsubscribe, publish. Each asks for the permission
//! first.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{Answer, Done, Failed, Reply, failed};
use crate::{
    auth::{Claims, Denied, Refusal, SubscriptionClaims},
    broker::{PublishOptions, Retention},
    channel::Channel,
    hub::{Extend, Find, Grant, Terms, Unsubscribe},
    protocol::{self, Disconnect, ErrorCode},
    publication::{ClientInfo, Publication},
    session::{Session, pace::Haste},
};

impl Session {
    /// The subscription lasts as long as a newer token says.
    pub(super) fn sub_refresh(
        &mut self,
        id: u32,
        channel: &str,
        token: Option<&str>,
        claims: &Claims,
    ) -> Result<Done, Failed> {
        let channel = Channel::new(channel).map_err(|_| ErrorCode::BadRequest)?;
        let token = self.judge_subscription(token.ok_or(ErrorCode::PermissionDenied)?, &channel, claims)?;
        let reply = self.format.reply(id, &protocol::Reply::SubRefresh(self.told(token.expires_at)));
        let grant = self.grant_of(token);
        let asked = self.services.hub.send(Extend { key: self.key, channel, grant });
        let answer = async move {
            let is_subscribed = asked.await.unwrap_or(false);
            let result = if is_subscribed { Ok(Reply::Frame(reply)) } else { Err(ErrorCode::PermissionDenied.into()) };
            Answer { id, result }
        };
        Ok(Done::Later(answer.boxed_local()))
    }

    pub(super) fn judge_subscription(
        &self,
        token: &str,
        channel: &Channel,
        claims: &Claims,
    ) -> Result<SubscriptionClaims, Failed> {
        let token = self.services.verifier.verify_subscription(token).map_err(|refusal| {
            log::debug!("client {}: subscription token {refusal}", self.client);
            match refusal {
                Refusal::Expired => ErrorCode::TokenExpired,
                Refusal::Invalid(_) => ErrorCode::PermissionDenied,
            }
        })?;
        if token.channel == *channel && token.user == claims.user {
            Ok(token)
        } else {
            // It was made for somebody else, or for something else: it has been stolen, or mistaken badly.
            Err(Failed::Close(Disconnect::INVALID_TOKEN))
        }
    }

    pub(super) fn grant_of(&mut self, token: SubscriptionClaims) -> Grant {
        self.has_subscription_info |= token.info.is_some();
        Grant::Token(Box::new(Terms { expires_at: token.expires_at, info: token.info }))
    }

    pub(super) fn unsubscribe(&self, id: u32, channel: &str) -> Result<Done, Failed> {
        let channel = Channel::new(channel).map_err(|_| ErrorCode::BadRequest)?;
        let reply = self.format.reply(id, &protocol::Reply::Unsubscribe);
        let asked = self.services.hub.send(Unsubscribe { key: self.key, channel });
        let answer = async move {
            // Not having it is what the client wants, too.
            let done = asked.await.map(|_| Reply::Frame(reply));
            Answer { id, result: done.map_err(|_| ErrorCode::Internal.into()) }
        };
        Ok(Done::Later(answer.boxed_local()))
    }

    pub(super) fn publish(
        &mut self,
        id: u32,
        channel: &str,
        data: Bytes,
        claims: &Arc<Claims>,
    ) -> Result<Done, Failed> {
        let limits = &self.services.config.limits;
        if data.len() > limits.publication_bytes {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let channel = Channel::new(channel).map_err(|_| ErrorCode::BadRequest)?;
        if self.paces.1.take(limits.publications_per_second) != Haste::None {
            return Err(ErrorCode::TooManyRequests.into());
        }
        let (services, claims, key, format) = (self.services.clone(), claims.clone(), self.key, self.format);
        let mut info = ClientInfo {
            user: claims.user.to_string(),
            client: self.client.to_string(),
            conn_info: claims.info.clone(),
            chan_info: None,
        };
        let asks_hub = self.has_subscription_info || services.permissions.publish_wants_subscription(&channel);
        let published = async move {
            let find = asks_hub.then(|| services.hub.send(Find { key, channel: channel.clone() }));
            let grant = match find {
                Some(find) => find.await.unwrap_or(None),
                None => None,
            };
            services.permissions.may_publish(&claims, &channel, grant.is_some()).map_err(denied)?;
            info.chan_info = grant.and_then(|grant| grant.info().cloned());
            services.metrics.publications.inc();
            let publication = Publication { info: Some(info.into()), ..Publication::new(channel, data) };
            let retention = services.permissions.known(&publication.channel).ok().and_then(Retention::of);
            let options = PublishOptions { retention, ..PublishOptions::default() };
            let published = services.broker.publish(publication, options).await;
            published.map_err(|error| failed(&error))
        };
        let answer = published.map(move |result| Answer {
            id,
            result: match result {
                Ok(_) => Ok(Reply::Frame(format.reply(id, &protocol::Reply::Publish))),
                Err(error) => Err(Failed::Error(error)),
            },
        });
        Ok(Done::Later(answer.boxed_local()))
    }
}

pub(super) fn denied(denied: Denied) -> ErrorCode {
    match denied {
        Denied::UnknownNamespace => ErrorCode::UnknownChannel,
        Denied::BadName => ErrorCode::BadRequest,
        Denied::NotGranted => ErrorCode::PermissionDenied,
    }
}
