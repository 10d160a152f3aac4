//! `subscribe`: joins the options that the client asks for with those that the channel adds, and makes the result for the
//! client.

use std::sync::Arc;

use bytes::Bytes;

use super::{CommandFailure, CommandOutcome, hooks::Approval};
use crate::{
    audit::AuditFields,
    auth::{Claims, SubscriptionClaims, refusal_log::Refusal},
    broker::Retention,
    channel::Channel,
    clock::{NEVER, WallTime},
    config::{DeltaType, OptionOverrides, RecoveryMode},
    hooks::SubscribeApproval,
    hub::{
        HookTerms, NoteRefusedSubscription, RecoveryRequest, ReplyBuilder, RequestedEpoch, SubscribeOutcome,
        SubscribeRequest, Subscription, SubscriptionOptions, SubscriptionSource, SubscriptionTerms, Visibility,
    },
    protocol::{
        self, BinaryChannel, ClientPosition, Disconnect, ErrorCode, Expiry, Format, Push, RawFilter, SubscribeCommand,
        SubscribeResult, WireError,
    },
    publication::ClientInfo,
    session::Session,
};

/// The part of a subscription's result that does not depend on what the client has missed.
pub(super) struct SubscribeResultTemplate {
    expiry: Expiry,
    data: Option<Bytes>,
    is_positioned: bool,
    is_recoverable: bool,
    has_deltas: bool,
}

/// What a subscription token or the subscribe hook adds to a subscription; by default nothing.
#[derive(Default)]
struct GrantedTerms {
    source: SubscriptionSource,
    expiry: Expiry,
    overrides: OptionOverrides,
    data: Option<Bytes>,
}

impl SubscribeResultTemplate {
    pub(super) fn new(expiry: Expiry, data: Option<Bytes>, options: &SubscriptionOptions) -> Self {
        let &SubscriptionOptions { is_positioned, is_recoverable, has_deltas, .. } = options;
        Self { expiry, data, is_positioned, is_recoverable, has_deltas }
    }

    /// Returns the result of a subscription with this outcome.
    pub(super) fn result<'a>(&'a self, outcome: &'a SubscribeOutcome) -> SubscribeResult<'a> {
        // A client that recovers a server-side subscription has a position there, whatever the channel's options say.
        let was_recovering = outcome.was_recovering;
        SubscribeResult {
            expiry: self.expiry,
            is_recoverable: self.is_recoverable || was_recovering,
            is_positioned: self.is_positioned || was_recovering,
            position: outcome.position(),
            publications: outcome.missed_publications(),
            is_recovered: outcome.is_recovered(),
            was_recovering,
            data: self.data.as_ref(),
            has_delta: self.has_deltas,
        }
    }

    /// Returns the pushes for a server-side subscription. SDKs receive missed publications there one by one.
    pub(super) fn announcement(self, format: Format) -> ReplyBuilder {
        self.into_builder(move |outcome, result| {
            let without_publications = SubscribeResult { publications: Vec::new(), ..result.clone() };
            let subscribed = format.encode_push(&Push::Subscribe(&outcome.channel, &without_publications));
            let missed = result.publications.iter().map(|missed| format.encode_push(&Push::Publication(*missed)));
            [subscribed].into_iter().chain(missed).flatten().collect()
        })
    }

    /// Returns a builder for one subscription.
    fn into_builder(
        self,
        encode: impl Fn(&SubscribeOutcome, &SubscribeResult<'_>) -> Bytes + Send + 'static,
    ) -> ReplyBuilder {
        Box::new(move |outcomes| {
            outcomes.first().map(|outcome| encode(outcome, &self.result(outcome))).unwrap_or_default()
        })
    }
}

impl Session {
    /// `subscribe`. Returns the request to the hub.
    pub(super) fn subscribe(
        &mut self,
        id: u32,
        command: &SubscribeCommand<'_>,
        approval: Option<&Approval>,
        claims: &Claims,
    ) -> Result<CommandOutcome, CommandFailure> {
        let channel = Channel::new(&command.channel)?;
        self.check_data_format(&channel)?;
        let terms = match command.token.as_deref() {
            Some(token) => self.terms_of_token(token, &channel, claims)?,
            None if self.services.permissions.asks_subscribe_hook(claims, &channel) => match approval {
                Some(Approval::Subscribe(approval)) => {
                    self.terms_of_approval(approval.clone().map_err(CommandFailure::from_hook)?)
                }
                _ => {
                    let question = self.ask_subscribe_hook(&channel, command.data, claims);
                    return Ok(CommandOutcome::AskHook(channel, question));
                }
            },
            None => {
                self.services.permissions.may_subscribe(claims, &channel, None)?;
                GrantedTerms::default()
            }
        };
        let GrantedTerms { source, expiry, overrides, data } = terms;
        let forced = self.forced_options(&channel, claims, source.info(), overrides);
        let options = self.requested_options(&channel, forced, overrides, command)?;
        let format = self.format;
        let reply = SubscribeResultTemplate::new(expiry, data, &options)
            .into_builder(move |_, result| format.encode_reply(id, &protocol::Reply::Subscribe(result)));
        let subscription = Ok(Subscription::new(channel, source, options));
        Ok(CommandOutcome::Subscribe(SubscribeRequest { subscription, reply, refusal: self.refusal(id) }))
    }

    /// Checks that the connection can carry the data of a channel.
    pub(super) fn check_data_format(&self, channel: &Channel) -> Result<(), WireError> {
        let options = self.services.permissions.channel_options(channel);
        let is_binary = options.is_ok_and(|options| options.has_binary_data());
        if is_binary && self.format.is_json() { Err(BinaryChannel.into()) } else { Ok(()) }
    }

    /// Tells the hub that a subscribe command has failed, for the server API.
    pub(super) fn note_refused_subscription(&self, channel: &str, error: &WireError) {
        let Ok(channel) = Channel::new(channel) else { return };
        let (code, message) = (error.code(), error.message().to_owned());
        self.services.hub.do_send(NoteRefusedSubscription { key: self.key, channel, code, message });
    }

    /// Returns the terms of a subscription with a token.
    fn terms_of_token(
        &mut self,
        token: &str,
        channel: &Channel,
        claims: &Claims,
    ) -> Result<GrantedTerms, CommandFailure> {
        let token = self.verify_subscription_token(token, channel, claims)?;
        self.services.permissions.may_subscribe(claims, channel, Some(&token))?;
        let (expiry, overrides, data) = (self.client_expiry(token.expires_at), token.overrides, token.data.clone());
        Ok(GrantedTerms { source: self.source_from_token(token), expiry, overrides, data })
    }

    /// Returns the terms of a subscription that the hook allows. The client does not learn when it ends, because it has no token
    /// to refresh: the hub asks the sub_refresh hook in time. Without that it is unsubscribed with 2501, after which SDKs subscribe again,
    /// and the hook is asked again.
    fn terms_of_approval(&mut self, approval: SubscribeApproval) -> GrantedTerms {
        let SubscribeApproval { info, data, overrides, expires_at } = approval;
        let source = self.source_of_approval(expires_at, info, false);
        GrantedTerms { source, expiry: Expiry::NEVER, overrides, data }
    }

    /// Returns the source of a subscription that the hook allows.
    pub(super) fn source_of_approval(
        &mut self,
        expires_at: WallTime,
        info: Option<Bytes>,
        is_server_side: bool,
    ) -> SubscriptionSource {
        self.has_subscription_info |= info.is_some();
        let renew_at = self.renew_subscription_at(expires_at);
        if renew_at != NEVER && self.takeover.is_none() {
            self.register_renewer();
        }
        SubscriptionSource::Hook(Box::new(HookTerms { expires_at, info, renew_at, is_server_side }))
    }

    /// Returns the claims of a subscription token.
    ///
    /// # Errors
    /// 109 if it has expired or is not valid yet, 100 if its key is about to be fetched, 103 if it is invalid. A token for another channel or user closes the session.
    pub(super) fn verify_subscription_token(
        &self,
        token: &str,
        channel: &Channel,
        claims: &Claims,
    ) -> Result<SubscriptionClaims, CommandFailure> {
        let token = self.services.verifier.verify_subscription(token).map_err(|error| {
            let source = AuditFields { channel: Some(channel.as_str()), ..self.audit_fields() };
            self.services.refusals.record_from(Refusal::SubscriptionToken(error), &source);
            match error {
                error if error.needs_new_token() => ErrorCode::TokenExpired,
                error if error.is_temporary() => ErrorCode::Internal,
                _ => ErrorCode::PermissionDenied,
            }
        })?;
        if token.channel == *channel && token.user == claims.user {
            Ok(token)
        } else {
            // The token was stolen, or the client is badly mistaken.
            Err(CommandFailure::Close(Disconnect::INVALID_TOKEN))
        }
    }

    pub(super) fn source_from_token(&mut self, token: SubscriptionClaims) -> SubscriptionSource {
        self.has_subscription_info |= token.info.is_some();
        let SubscriptionClaims { expires_at, info, token, .. } = token;
        let terms = SubscriptionTerms { expires_at, warn_at: self.warn_before(expires_at), info, token };
        SubscriptionSource::SubscriptionToken(Box::new(terms))
    }

    /// Returns the options that a subscription has, whatever its client asks for: those of its channel, unless a token or the
    /// server API has overridden them.
    pub(super) fn forced_options(
        &self,
        channel: &Channel,
        claims: &Claims,
        info: Option<&Bytes>,
        overrides: OptionOverrides,
    ) -> SubscriptionOptions {
        let Ok(channel_options) = self.services.permissions.channel_options(channel) else {
            return SubscriptionOptions::default();
        };
        let retention = Retention::from_options(&channel_options);
        let is_recoverable = retention.is_some() && overrides.force_recovery.unwrap_or(channel_options.force_recovery);
        let forces_positioning = overrides.force_positioning.unwrap_or(channel_options.force_positioning);
        // A channel without presence has none that a client could read.
        let in_presence = channel_options.presence && overrides.presence.unwrap_or(true);
        let sends_join_leave = overrides.join_leave.unwrap_or(channel_options.join_leave);
        let visibility = (in_presence || sends_join_leave).then(|| Visibility {
            info: Arc::new(ClientInfo {
                user: claims.user.to_string(),
                client: self.client.to_string(),
                conn_info: claims.info.clone(),
                chan_info: info.cloned(),
            }),
            in_presence,
            sends_join_leave,
        });
        SubscriptionOptions {
            retention,
            is_positioned: is_recoverable || (retention.is_some() && forces_positioning),
            is_recoverable,
            wants_join_leave: overrides.force_push_join_leave.unwrap_or(channel_options.force_push_join_leave),
            visibility,
            ..SubscriptionOptions::default()
        }
    }

    /// Returns the options of a subscription for which a client asks, beside those that it has anyway. Options that the channel
    /// does not have are ignored, which the result shows.
    fn requested_options(
        &self,
        channel: &Channel,
        mut options: SubscriptionOptions,
        overrides: OptionOverrides,
        command: &SubscribeCommand<'_>,
    ) -> Result<SubscriptionOptions, CommandFailure> {
        let channel_options = self.services.permissions.channel_options(channel)?;
        let has_history = options.retention.is_some();
        options.is_recoverable |= has_history && command.is_recoverable;
        options.is_positioned |= has_history && (command.is_positioned || options.is_recoverable);
        let has_join_leave = overrides.join_leave.unwrap_or(channel_options.join_leave);
        options.wants_join_leave |= has_join_leave && command.wants_join_leave;
        // The base of a delta is the publication before it, which a filter may leave out.
        if command.filter.is_some() && !command.delta.is_empty() {
            return Err(ErrorCode::BadRequest.with_detail("subscribe has both tf and delta").into());
        }
        let filter = command.filter.map(RawFilter::read).transpose();
        let filter =
            filter.map_err(|error| ErrorCode::BadRequest.with_detail(format_args!("subscribe.tf: {error}")))?;
        options.filter = filter.map(Arc::new);
        options.has_deltas =
            command.delta == "fossil" && channel_options.allowed_delta_types.contains(&DeltaType::Fossil);
        self.request_recovery(&mut options, channel, &command.recovery, command.requires_recovery());
        Ok(options)
    }

    /// Adds the recovery that a client asks for, if the channel has a history.
    pub(super) fn request_recovery(
        &self,
        options: &mut SubscriptionOptions,
        channel: &Channel,
        position: &ClientPosition<'_>,
        required: bool,
    ) {
        if !position.wants_recovery || options.retention.is_none() {
            return;
        }
        let channel_options = self.services.permissions.channel_options(channel);
        let mode = channel_options.map_or(RecoveryMode::Stream, |options| options.force_recovery_mode);
        let epoch = RequestedEpoch::parse(&position.epoch);
        options.recover = Some(RecoveryRequest { offset: position.offset, epoch, mode, required });
        (options.is_recoverable, options.is_positioned) = (true, true);
    }
}
