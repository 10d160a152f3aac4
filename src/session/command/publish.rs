//! `publish`: sends data of the client to a channel.

use std::sync::Arc;

use bytes::Bytes;

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::{ChannelRight, Claims},
    broker::{PublishOptions, Retention},
    channel::Channel,
    hooks::{ApprovedOptions, HookRequest, PublishApproval},
    protocol::{self, ErrorCode, ExceededLimit, PublishData},
    publication::{ClientInfo, Publication},
    session::{Session, rate_limiter::RateVerdict},
};

impl Session {
    /// `publish`. `data` is a part of `message`.
    pub(super) fn publish(
        &mut self,
        id: u32,
        channel: &str,
        message: &Bytes,
        data: PublishData<'_>,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        let config = self.services.config.current();
        let limits = &config.limits;
        let channel = Channel::new(channel)?;
        // A channel that is not configured is refused below, as one that the client may not publish to.
        let channel_options = self.services.permissions.channel_options(&channel).ok();
        let is_binary = channel_options.is_some_and(|options| options.has_binary_data());
        let data = if is_binary {
            self.check_data_format(&channel)?;
            protocol::part_of(message, data.as_bytes())
        } else {
            let json = data.as_json().ok_or_else(|| self.describe_lack_of_data())?;
            protocol::to_single_line(message, json)
        };
        ExceededLimit::check("limits.publication_bytes", limits.publication_bytes, data.len())?;
        if self.publication_rate.charge(limits.publications_per_second) != RateVerdict::Allowed {
            return Err(ErrorCode::TooManyRequests.into());
        }
        let (services, format) = (self.services.clone(), self.format);
        let mut info = ClientInfo {
            user: claims.user.to_string(),
            client: self.client.to_string(),
            conn_info: claims.info.clone(),
            chan_info: None,
        };
        let question = services.permissions.asks_publish_hook(&channel).then(|| {
            let request = self.hook_request_of(claims).with_data(&data, is_binary);
            let request = HookRequest { channel: Some(channel.as_str()), ..request };
            self.ask_hook::<PublishApproval>(&services.hooks.publish, request)
        });
        let recheck = self.recheck_right(ChannelRight::Publish, &channel, claims);
        // Other clients see the info of the publisher's subscription.
        let allowed = self.check_right(ChannelRight::Publish, &channel, claims, self.has_subscription_info);
        Ok(CommandOutcome::pending(id, async move {
            info.chan_info = allowed.await?.and_then(|source| source.info().cloned());
            // Without a hook, the publication is as the client wants it.
            let mut approval = PublishApproval::default();
            if let Some(question) = question {
                approval = question.await.map_err(CommandFailure::from_hook)?;
                recheck().await?;
            }
            let (data, options) = approval.apply_to(data, is_binary)?;
            let ApprovedOptions { skip_history, tags, use_delta, idempotency_key } = options;
            ExceededLimit::check(
                "limits.publication_bytes",
                services.config.current().limits.publication_bytes,
                data.len(),
            )?;
            services.metrics.publications.inc();
            let channel_options = services.permissions.channel_options(&channel).ok();
            let retention = channel_options.as_deref().and_then(Retention::from_options).filter(|_| !skip_history);
            let use_delta = use_delta || channel_options.is_some_and(|options| options.delta_publish);
            let publication =
                Publication { info: Some(info.into()), tags, use_delta, is_binary, ..Publication::new(channel, data) };
            let options = PublishOptions { retention, idempotency_key, ..PublishOptions::default() };
            services.broker.publish(publication, options).await?;
            Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::Publish)))
        }))
    }
}
