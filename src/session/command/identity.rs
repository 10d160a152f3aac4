//! Who the client is: tokens in the first message, in `connect`, on any command, in `refresh`. New claims hold at once, and
//! every live subscription is judged again by them.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;

use super::{CommandAnswer, CommandFailure, CommandOutcome, CommandReply, subscribing::SubscribeResultTemplate};
use crate::{
    auth::{
        Claims, ServerSideSubscription, TokenError,
        credentials::{self, FirstMessage},
    },
    channel::Channel,
    clock::{Millis, NEVER, millis},
    config::{AnonymousAccess, Door},
    hub::{
        KeepAlive, Reauthorize, ReplyBuilder, Requested, Subscribe, SubscribeError, Subscription, SubscriptionSource,
        SubscriptionTerms, UpdateSession,
    },
    protocol::{self, ClientPosition, ConnectResult, Disconnect, ErrorCode, Expiry, Format, Push, RefreshResult},
    session::{Session, auth_state::AuthState},
};

/// Whether the client is to be told of each channel that its token brings, or reads it in the reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnnounceBy {
    Push,
    Reply,
}

/// What new claims mean for the subscriptions that the session has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum ClaimsChange {
    /// Nothing: there are none, or the claims are the same.
    Unchanged,
    /// The hub judges them again.
    Changed,
}

impl Session {
    /// `Authorization: Bearer T` as a message: the first one lets in, a later one refreshes.
    pub(super) fn authenticate_by_text(&mut self, text: &str) -> CommandOutcome {
        if !self.accepts_token_by(Door::Message) {
            self.protocol_error(&Disconnect::BAD_REQUEST);
            return CommandOutcome::Finished;
        }
        let FirstMessage::Token(token) = credentials::parse_first_message(text) else {
            return self.fail(0, CommandFailure::Close(Disconnect::INVALID_TOKEN));
        };
        match self.verify_token(token) {
            Ok(claims) if self.acquire_user_permit(&claims) => {
                let claims_change = self.adopt_claims(claims);
                self.send_connect_push(claims_change)
            }
            Ok(_) => self.fail(0, CommandFailure::Close(Disconnect::TOO_MANY_REQUESTS)),
            Err(_) => self.fail(0, CommandFailure::Close(Disconnect::INVALID_TOKEN)),
        }
    }

    /// With where the client stands in channels that its token brings.
    pub(super) fn connect(
        &mut self,
        id: u32,
        token: Option<Cow<'_, str>>,
        subs: &BTreeMap<Cow<'_, str>, ClientPosition<'_>>,
    ) -> CommandOutcome {
        let token = token.filter(|_| self.accepts_token_by(Door::Connect));
        let anonymous =
            self.services.config.auth.anonymous == AnonymousAccess::Always && self.accepts_token_by(Door::Connect);
        let claims = match (&self.auth_state, token) {
            (AuthState::Plain(claims), None) => Ok(claims.clone()),
            (AuthState::Unauthenticated | AuthState::Plain(_), Some(token)) => self.verify_token(&token),
            (AuthState::Unauthenticated, None) if anonymous => Ok(Arc::new(Claims::anonymous())),
            _ => Err(CommandFailure::Close(Disconnect::BAD_REQUEST)),
        };
        match claims {
            Ok(claims) if self.acquire_user_permit(&claims) => {
                let claims_change = self.adopt_claims(claims);
                self.set_auth_state(self.auth_state.as_sdk());
                self.finish_connect(claims_change, subs, move |format, result| {
                    format.encode_reply(id, &protocol::Reply::Connect(result))
                })
            }
            Ok(_) => self.fail(id, CommandFailure::Close(Disconnect::CONNECTION_LIMIT)),
            Err(failed) => self.fail(id, failed),
        }
    }

    pub(super) fn refresh(&mut self, id: u32, token: Option<Cow<'_, str>>) -> CommandOutcome {
        let Some(token) = token else { return self.fail(id, CommandFailure::Close(Disconnect::BAD_REQUEST)) };
        let claims = match self.verify_token(&token) {
            Ok(claims) => claims,
            Err(failed) => return self.fail(id, failed),
        };
        let claims_change = self.adopt_claims(claims.clone());
        let client = self.client.to_string();
        let expiry = self.client_expiry(claims.expires_at);
        let result = RefreshResult { client: &client, version: protocol::VERSION, expiry };
        let reply = self.format.encode_reply(id, &protocol::Reply::Refresh(&result));
        let subscriptions = self.token_subscriptions(&claims, AnnounceBy::Push, &BTreeMap::new());
        self.subscribe_then_reply(
            id,
            claims_change,
            subscriptions,
            Box::new(move |_| reply.clone()),
            ErrorCode::Internal.into(),
        )
    }

    /// A token on another command; [`CommandOutcome::Pending`] when the hub has to judge and to add subscriptions first.
    pub(super) fn adopt_command_token(&mut self, id: u32, token: &str) -> Result<CommandOutcome, CommandFailure> {
        let claims = self.verify_token(token)?;
        if self.auth_state.claims() == Some(&claims) {
            return Ok(CommandOutcome::Finished);
        }
        self.adopt_claims(claims.clone());
        let subscriptions = self.token_subscriptions(&claims, AnnounceBy::Push, &BTreeMap::new());
        Ok(self.request_subscriptions(id, subscriptions, None, CommandFailure::Close(Disconnect::INTERNAL)))
    }

    /// The server API lets the session last to another time, and perhaps shows its user differently.
    pub(in crate::session) fn apply_refresh(&mut self, expires_at: Millis, info: Option<Bytes>) {
        let Some(claims) = self.auth_state.claims() else { return };
        let info = info.or_else(|| claims.info.clone());
        self.set_auth_state(self.auth_state.with_claims(Arc::new(Claims {
            expires_at,
            info,
            ..Claims::clone(claims)
        })));
        self.push(&Push::Refresh(self.client_expiry(expires_at)));
    }

    /// The claims of a good token of the user that the session has, if it has one.
    fn verify_token(&self, token: &str) -> Result<Arc<Claims>, CommandFailure> {
        let claims = self.services.verifier.verify(token).map_err(|refusal| {
            log::debug!("client {}: token {refusal}", self.client);
            match refusal {
                TokenError::Expired => CommandFailure::Error(ErrorCode::TokenExpired),
                _ => CommandFailure::Close(Disconnect::INVALID_TOKEN),
            }
        })?;
        match self.auth_state.claims() {
            Some(current) if current.user != claims.user => Err(CommandFailure::Close(Disconnect::INVALID_TOKEN)),
            _ => Ok(Arc::new(claims)),
        }
    }

    fn accepts_token_by(&self, door: Door) -> bool {
        self.services.config.auth.doors.contains(&door)
    }

    /// Whether the user may have one more connection, or has counted this one already.
    fn acquire_user_permit(&mut self, claims: &Claims) -> bool {
        if self.user_permit.is_none() && !claims.is_anonymous() {
            self.user_permit = self.services.user_limit.acquire(&claims.user);
            return self.user_permit.is_some();
        }
        true
    }

    fn set_auth_state(&mut self, auth_state: AuthState) {
        self.auth_state = auth_state;
        self.unauthenticated_permits = None;
        if let Some(claims) = self.auth_state.claims() {
            let (key, keep_alive, user) = (self.key, self.keep_alive(), claims.user.clone());
            self.apply_token_expiry();
            self.services.hub.do_send(UpdateSession { key, keep_alive, user });
        }
    }

    /// From now on the session has these claims.
    fn adopt_claims(&mut self, claims: Arc<Claims>) -> ClaimsChange {
        let before = self.auth_state.claims().cloned();
        self.set_auth_state(self.auth_state.with_claims(claims.clone()));
        if before.is_none_or(|before| before == claims) {
            return ClaimsChange::Unchanged;
        }
        let permissions = self.services.permissions.clone();
        let keep = move |channel: &Channel, source: &SubscriptionSource| match source {
            SubscriptionSource::Client => permissions.may_subscribe(&claims, channel, None).is_ok(),
            // A grant of its own for the same user, with an end of its own.
            SubscriptionSource::SubscriptionToken(_) => true,
            // What the server API has brought only the API takes away: the token never had a say in it.
            SubscriptionSource::ServerApi(_) => true,
            SubscriptionSource::ConnectionToken(_) => {
                server_side_subscriptions(&claims).iter().any(|brought| brought.channel == *channel)
            }
        };
        self.services.hub.do_send(Reauthorize { key: self.key, keep: Box::new(keep) });
        ClaimsChange::Changed
    }

    /// Tells a plain session that it is in.
    pub(in crate::session) fn send_connect_push(&mut self, claims_change: ClaimsChange) -> CommandOutcome {
        self.finish_connect(claims_change, &BTreeMap::new(), |format, result| {
            format.encode_push(&Push::Connect(result))
        })
    }

    fn finish_connect(
        &mut self,
        claims_change: ClaimsChange,
        subs: &BTreeMap<Cow<'_, str>, ClientPosition<'_>>,
        write: impl Fn(Format, &ConnectResult<'_>) -> Bytes + Send + 'static,
    ) -> CommandOutcome {
        let Some(claims) = self.auth_state.claims().cloned() else { return CommandOutcome::Finished };
        let has_pings = self.keep_alive() == KeepAlive::ProtocolPing;
        let ping = if has_pings { self.services.config.server.ping_interval.as_secs().max(1) as u32 } else { 0 };
        let (client, node, format) = (self.client.to_string(), self.services.node.clone(), self.format);
        let expiry = self.client_expiry(claims.expires_at);
        let templates: Vec<SubscribeResultTemplate> =
            server_side_subscriptions(&claims).iter().map(|brought| self.result_template(brought, &claims)).collect();
        let reply: ReplyBuilder = Box::new(move |outcome| {
            let subs = templates.iter().zip(outcome);
            let subs = subs.map(|(template, outcome)| (outcome.channel.as_str(), template.result(outcome))).collect();
            let version = protocol::VERSION;
            let (client, session) = (client.as_str(), client.as_str());
            write(format, &ConnectResult { client, version, expiry, subs, ping, pong: has_pings, session, node: &node })
        });
        let subscriptions = self.token_subscriptions(&claims, AnnounceBy::Reply, subs);
        self.subscribe_then_reply(0, claims_change, subscriptions, reply, CommandFailure::Close(Disconnect::INTERNAL))
    }

    /// Says `reply` when the session receives everything that its token brings, and nothing more that it does not allow.
    fn subscribe_then_reply(
        &mut self,
        id: u32,
        claims_change: ClaimsChange,
        subscriptions: Vec<Subscription<Requested>>,
        reply: ReplyBuilder,
        otherwise: CommandFailure,
    ) -> CommandOutcome {
        if subscriptions.is_empty() && claims_change == ClaimsChange::Unchanged {
            self.send(reply(&[]));
            return CommandOutcome::Finished;
        }
        self.request_subscriptions(id, subscriptions, Some(reply), otherwise)
    }

    fn token_subscriptions(
        &mut self,
        claims: &Claims,
        announce_by: AnnounceBy,
        subs: &BTreeMap<Cow<'_, str>, ClientPosition<'_>>,
    ) -> Vec<Subscription<Requested>> {
        let brought = server_side_subscriptions(claims);
        self.has_subscription_info |= brought.iter().any(|brought| brought.info.is_some());
        let subscriptions = brought.iter().map(|brought| {
            let channel = brought.channel.clone();
            let mut options = self.forced_options(&channel, claims, brought.info.as_ref());
            if let Some(recovery) = subs.get(channel.as_str()) {
                self.request_recovery(&mut options, &channel, recovery, false);
            }
            let template = self.result_template(brought, claims);
            let announcement = (announce_by == AnnounceBy::Push).then(|| template.announcement(self.format));
            let terms = SubscriptionTerms { expires_at: brought.expires_at, info: brought.info.clone() };
            let source = SubscriptionSource::ConnectionToken(Box::new(terms));
            Subscription::new(channel, source, options, announcement)
        });
        subscriptions.collect()
    }

    pub(super) fn request_subscriptions(
        &self,
        id: u32,
        subscriptions: Vec<Subscription<Requested>>,
        reply: Option<ReplyBuilder>,
        otherwise: CommandFailure,
    ) -> CommandOutcome {
        let asked = self.services.hub.send(Subscribe { key: self.key, subscriptions, reply });
        let answer = async move {
            let result = match asked.await {
                Ok(Ok(()) | Err(SubscribeError::Closing)) => Ok(CommandReply::SentByHub),
                Ok(Err(SubscribeError::LimitExceeded)) => Err(CommandFailure::Close(Disconnect::CHANNEL_LIMIT)),
                Ok(Err(SubscribeError::Broker(error))) => {
                    log::debug!("a token's channels: {error}");
                    Err(match otherwise {
                        CommandFailure::Error(_) => error.into(),
                        close => close,
                    })
                }
                Ok(Err(
                    SubscribeError::AlreadySubscribed | SubscribeError::Unrecoverable | SubscribeError::TokenExpired,
                ))
                | Err(_) => Err(otherwise),
            };
            CommandAnswer { id, result }
        };
        CommandOutcome::Pending(answer.boxed_local())
    }

    fn result_template(&self, brought: &ServerSideSubscription, claims: &Claims) -> SubscribeResultTemplate {
        let options = self.forced_options(&brought.channel, claims, None);
        SubscribeResultTemplate::new(self.client_expiry(brought.expires_at), brought.data.clone(), &options)
    }

    /// Seconds after which a client should refresh: what is left less the margin, but at least half of it.
    pub(super) fn client_expiry(&self, expires_at: Millis) -> Expiry {
        if expires_at == NEVER {
            return Expiry::NEVER;
        }
        let left = expires_at.saturating_sub(self.services.clock.now()).max(0);
        let margin = millis(self.services.config.auth.refresh_margin).min(left / 2);
        Expiry::after(u32::try_from((left - margin) / 1000).unwrap_or(u32::MAX).max(1))
    }
}

fn server_side_subscriptions(claims: &Claims) -> &[ServerSideSubscription] {
    claims.grants.as_ref().map_or(&[], |grants| grants.subscriptions.as_slice())
}
