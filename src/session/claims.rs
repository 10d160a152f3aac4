//! The claims of a session: how tokens become claims, and what new claims change at once.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{Services, Session, auth_state::AuthState, command::CommandFailure};
use crate::{
    audit::{AuditEvent, AuditFields, AuditLog},
    auth::{CONNECT_HOOK, Claims, ServerSideSubscription, TokenError, refusal_log::Refusal},
    channel::Channel,
    clock::{NEVER, WallTime},
    config::Door,
    hub::{AwaitDisconnect, CloseReason, Reauthorize, RefusedAttempt, SubscriptionSource, UpdateSession},
    protocol::{Disconnect, ErrorCode, Expiry, Format, Push},
    revocation::TokenIds,
};

/// Why a token above `limits.connections_per_user` is refused.
pub(super) const TOO_MANY_CONNECTIONS: &str = "too many connections of this user";

/// What the audit log says about claims that a client brings: by a valid token, or by the answer of the connect hook.
pub(super) struct AuditedClaims {
    fields: AuditFields<'static>,
    request_id: Option<Box<str>>,
    user: Arc<str>,
    ids: TokenIds,
    expires_at: WallTime,
}

impl AuditedClaims {
    /// Records what became of them.
    pub(super) fn record(&self, event: AuditEvent, reason: Option<&'static str>, audit: &AuditLog) {
        let fields = AuditFields { reason, request: self.request_id.as_deref(), ..self.fields };
        audit.record(event, fields.with_token(&self.user, &self.ids, self.expires_at));
    }
}

/// Whether new claims change what the subscriptions of a session are allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimsChange {
    /// There are no subscriptions yet, or the claims are equal.
    Unchanged,
    /// The hub checks the subscriptions against the new claims.
    Changed,
}

impl Session {
    /// Returns whether the configuration allows to send a token in this way.
    pub(super) fn accepts_token_by(&self, door: Door) -> bool {
        self.services.config.current().auth.doors.contains(&door)
    }

    /// Returns whether the token of the session has been revoked.
    pub(super) fn is_revoked(&self) -> bool {
        let claims = self.auth_state.claims();
        claims.is_some_and(|claims| self.services.permissions.is_revoked(&claims.user, &claims.token))
    }

    /// Logs that something of the client is refused.
    pub(super) fn record_refusal(&self, refusal: Refusal) {
        self.services.refusals.record_from(refusal, &self.audit_fields());
    }

    /// Returns what the audit log says about this session.
    pub(super) fn audit_fields(&self) -> AuditFields<'_> {
        AuditFields { request: self.request_id.as_deref(), ..self.own_audit_fields() }
    }

    /// Returns the same without the id of the HTTP request.
    fn own_audit_fields(&self) -> AuditFields<'static> {
        AuditFields { address: Some(self.address), client: Some(self.client), ..AuditFields::default() }
    }

    /// Returns the claims of a token that the client has sent, with its first message in the way `door`.
    ///
    /// # Errors
    /// A token that has expired or is not valid yet is error 109, one whose key is about to be fetched the temporary error 100.
    /// An invalid one, or one of another user than the session's, closes the session.
    pub(super) fn verify_token(&mut self, token: &str, door: Option<Door>) -> Result<Arc<Claims>, CommandFailure> {
        let claims = self.services.verifier.verify(token).map_err(|error| {
            self.record_refusal(Refusal::Token(error));
            let failure = if error.needs_new_token() {
                ErrorCode::TokenExpired.into()
            } else if error.is_temporary() {
                ErrorCode::Internal.into()
            } else {
                CommandFailure::Close(Disconnect::INVALID_TOKEN)
            };
            self.note_refused_attempt(token, error, &failure);
            failure
        })?;
        if self.auth_state.claims().is_some_and(|current| current.user != claims.user) {
            self.audit_token(
                AuditEvent::Refused,
                Some("the token belongs to another user than the session"),
                door,
                token,
                &claims,
            );
            return Err(CommandFailure::Close(Disconnect::INVALID_TOKEN));
        }
        if !self.acquire_user_permit(&claims, |session| session.presented_token(token, door, &claims)) {
            self.audit_token(AuditEvent::Refused, Some(TOO_MANY_CONNECTIONS), door, token, &claims);
            return Err(CommandFailure::Close(Disconnect::CONNECTION_LIMIT));
        }
        match self.auth_state.claims() {
            None => self.audit_token(AuditEvent::Connected, None, door, token, &claims),
            Some(current) if **current != claims => self.audit_token(AuditEvent::Refreshed, None, door, token, &claims),
            // Sent again, beside another command.
            Some(_) => {}
        }
        Ok(Arc::new(claims))
    }

    /// Remembers for explanations that a client was refused which is not authenticated. The end of a session that is has its own.
    fn note_refused_attempt(&self, token: &str, error: TokenError, failure: &CommandFailure) {
        let Services { refused_attempts, verifier, clock, .. } = &*self.services;
        if self.auth_state.claims().is_some() || !refused_attempts.is_enabled() {
            return;
        }
        if let Some(user) = verifier.user_of_refused(token) {
            refused_attempts.note(RefusedAttempt {
                at: clock.now(),
                client: self.client,
                user,
                is_signed: error.is_of_signed_token(),
                code: Some(failure.code()),
                reason: error.to_string().into(),
            });
        }
    }

    /// Records what became of a valid token.
    fn audit_token(
        &self,
        event: AuditEvent,
        reason: Option<&'static str>,
        door: Option<Door>,
        token: &str,
        claims: &Claims,
    ) {
        if let Some(presented) = self.presented_token(token, door, claims) {
            presented.record(event, reason, &self.services.audit);
        }
    }

    /// Returns what the audit log says about a valid token; `None` without an audit log.
    fn presented_token(&self, token: &str, door: Option<Door>, claims: &Claims) -> Option<AuditedClaims> {
        let Services { audit, verifier, .. } = &*self.services;
        audit.is_enabled().then(|| AuditedClaims {
            fields: AuditFields { door, ..self.own_audit_fields() },
            request_id: self.request_id.clone(),
            user: claims.user.clone(),
            ids: verifier.ids_of(token),
            expires_at: claims.expires_at,
        })
    }

    /// Returns what the audit log says about an answer of the connect hook; `None` without an audit log.
    pub(super) fn granted_claims(&self, claims: &Claims) -> Option<AuditedClaims> {
        self.services.audit.is_enabled().then(|| AuditedClaims {
            fields: AuditFields { by: Some(CONNECT_HOOK), ..self.own_audit_fields() },
            request_id: self.request_id.clone(),
            user: claims.user.clone(),
            ids: TokenIds::default(),
            expires_at: claims.expires_at,
        })
    }

    /// Counts the connection for its user (`limits.connections_per_user`), unless it is counted already or has no user.
    /// Returns whether the user may have it on this instance. If the others refuse it later, the session is closed then.
    /// `audited` returns what the audit log says then.
    pub(super) fn acquire_user_permit(
        &mut self,
        claims: &Claims,
        audited: impl FnOnce(&Self) -> Option<AuditedClaims>,
    ) -> bool {
        if self.user_permit.is_none() && !claims.is_anonymous() {
            let acquired = self.services.user_limit.acquire(&claims.user);
            let verdict = acquired.and_then(|(permit, verdict)| {
                self.user_permit = Some(permit);
                verdict.if_asked()
            });
            if let Some(is_allowed) = verdict {
                self.close_unless(is_allowed, audited(self));
            }
            return self.user_permit.is_some();
        }
        true
    }

    /// Closes the session if the other instances refuse the permit of its user, as it is closed if this one does. It does not
    /// wait for them: until then the client is connected, as the audit log says, and afterwards that it was refused.
    fn close_unless(&self, is_allowed: BoxFuture<'static, bool>, audited: Option<AuditedClaims>) {
        let (services, outbox, format) = (self.services.clone(), self.outbox.clone(), self.format);
        let (client, key) = (self.client, self.key);
        actix_rt::spawn(async move {
            if !is_allowed.await {
                if let Some(audited) = audited {
                    audited.record(AuditEvent::Refused, Some(TOO_MANY_CONNECTIONS), &services.audit);
                }
                let reason = CloseReason::from(&Disconnect::CONNECTION_LIMIT);
                reason.close(&outbox, format, client, &services.clock, &services.metrics);
                services.hub.do_send(AwaitDisconnect(key));
            }
        });
    }

    /// Gives the session new claims, and has the hub end the subscriptions that they do not allow.
    pub(super) fn adopt_claims(&mut self, claims: Arc<Claims>) -> ClaimsChange {
        let before = self.auth_state.claims().cloned();
        self.set_auth_state(self.auth_state.with_claims(claims.clone()));
        if before.is_none_or(|before| before == claims) {
            return ClaimsChange::Unchanged;
        }
        self.services.api_grants.note_refresh(&claims.user, claims.expires_at);
        self.end_forbidden_subscriptions(claims);
        ClaimsChange::Changed
    }

    /// Has the hub end the subscriptions that the claims of the session, or the rules of channels, do not allow any more.
    pub(super) fn end_forbidden_subscriptions(&self, claims: Arc<Claims>) {
        let (permissions, is_json) = (self.services.permissions.clone(), self.format.is_json());
        let keep = move |channel: &Channel, source: &SubscriptionSource| {
            let may_be_subscribed = || permissions.may_be_subscribed(&claims.user, channel).is_ok();
            if is_json && permissions.channel_options(channel).is_ok_and(|options| options.has_binary_data()) {
                // The rules were reloaded. As when it subscribes: the connection cannot carry the data.
                return false;
            }
            let is_personal = || permissions.personal_channels(&claims.user).any(|personal| personal == *channel);
            match source {
                SubscriptionSource::Client | SubscriptionSource::Restored => {
                    permissions.may_subscribe(&claims, channel, None).is_ok()
                }
                // It has a token and an expiry of its own, for the same user.
                SubscriptionSource::SubscriptionToken(_) => may_be_subscribed(),
                // The backend has allowed it to the same user. It ends with its own expiry.
                SubscriptionSource::Hook(_) => may_be_subscribed(),
                // No token has allowed it: only the server API ends it, or the end of its namespace.
                SubscriptionSource::ServerApi(_) => may_be_subscribed(),
                SubscriptionSource::Personal => is_personal(),
                SubscriptionSource::ConnectionToken(_) => {
                    let is_granted =
                        server_side_subscriptions(&claims).iter().any(|granted| granted.channel == *channel);
                    (is_granted && may_be_subscribed()) || is_personal()
                }
            }
        };
        self.services.hub.do_send(Reauthorize { key: self.key, keep: Box::new(keep) });
    }

    /// Changes the state of the session, and tells outbox and hub what follows from it.
    pub(super) fn set_auth_state(&mut self, auth_state: AuthState) {
        let before = std::mem::replace(&mut self.auth_state, auth_state);
        if let Some(claims) = self.auth_state.claims().cloned() {
            self.unauthenticated_permits = None;
            if !self.services.audit.is_enabled() {
                self.request_id = None;
            }
            self.report_begin();
            // The hub may have given the session another end, by a control that waits in the mailbox: claims that do not change the
            // end must not bring back the old one.
            if before.claims().is_none_or(|before| !before.ends_as(&claims)) {
                self.apply_token_expiry();
            }
            self.update_renewer();
            let (key, keep_alive, warn_at) = (self.key, self.keep_alive(), self.warn_at());
            let (expires_at, user, token) = (claims.expires_at, claims.user.clone(), claims.token);
            self.services.hub.do_send(UpdateSession { key, keep_alive, expires_at, warn_at, user, token });
        }
    }

    /// Returns how the expiry of the session is sent to the client. A client without a token can refresh nothing: the hub asks the
    /// backend in time.
    pub(super) fn session_expiry(&self, claims: &Claims) -> Expiry {
        if claims.hook.is_some() { Expiry::NEVER } else { self.client_expiry(claims.expires_at) }
    }

    /// Returns how an expiry is sent to the client: as the seconds after which it should refresh.
    pub(super) fn client_expiry(&self, expires_at: WallTime) -> Expiry {
        if expires_at == NEVER {
            return Expiry::NEVER;
        }
        let seconds = self.time_to_refresh(expires_at, self.services.clock.now()).as_secs();
        Expiry::after(u32::try_from(seconds).unwrap_or(u32::MAX).max(1))
    }

    /// Returns the time after which the client should refresh: what is left less `auth.refresh_margin`, but at least half of it.
    fn time_to_refresh(&self, expires_at: WallTime, now: WallTime) -> Duration {
        let left = expires_at.saturating_duration_since(now);
        left - self.services.config.current().auth.refresh_margin.min(left / 2)
    }

    /// Returns when the client is warned that its token expires: when it should have refreshed. SDKs have a timer for that. For a session
    /// of the connect hook it is when the backend is asked.
    pub(super) fn warn_at(&self) -> WallTime {
        self.auth_state.claims().map_or(NEVER, |claims| match &claims.hook {
            Some(_) => self.renew_session_at(claims.expires_at),
            None => self.warn_before(claims.expires_at),
        })
    }

    /// Returns when the client is warned of the expiry of a token: when it should have refreshed. SDKs have a timer for that.
    pub(super) fn warn_before(&self, expires_at: WallTime) -> WallTime {
        // A client that sends no commands can only connect again.
        let is_warned = matches!(self.auth_state, AuthState::Plain(_)) && self.format != Format::ChannelEvents;
        if !is_warned || expires_at == NEVER {
            return NEVER;
        }
        let now = self.services.clock.now();
        now.saturating_add(self.time_to_refresh(expires_at, now))
    }

    /// Warns the client of a plain session that the token of a subscription expires at this time.
    pub(super) fn warn_of_subscription_expiry(&mut self, channel: &Channel, expires_at: WallTime) {
        if matches!(self.auth_state, AuthState::Plain(_)) {
            self.push(&Push::SubRefresh(channel, self.client_expiry(expires_at)));
        }
    }

    /// Warns the client of a plain session that its token expires at this time, unless it has brought another one.
    pub(super) fn warn_of_expiry(&mut self, expires_at: WallTime) {
        if matches!(&self.auth_state, AuthState::Plain(claims) if claims.expires_at == expires_at) {
            self.push(&Push::Refresh(self.client_expiry(expires_at)));
        }
    }
}

/// Returns the channels that a token names: the session is subscribed to them without asking.
pub(super) fn server_side_subscriptions(claims: &Claims) -> &[ServerSideSubscription] {
    claims.grants.as_ref().map_or(&[], |grants| grants.subscriptions.as_slice())
}
