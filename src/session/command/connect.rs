//! `connect`, and the token as text in the first message: how a client authenticates, and the answer that greets it.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    BufferedCommand, CommandFailure, CommandOutcome,
    hooks::{Approval, HookAnswer},
};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{
        Claims, ConnectGrant,
        credentials::{self, CredentialError, FirstMessage},
        refusal_log::Refusal,
    },
    config::{AnonymousAccess, Door},
    hooks::HookRefusal,
    hub::{ClientSoftware, KeepAlive, NoteAuthentication, ReplyBuilder},
    protocol::{self, ClientPosition, ConnectCommand, ConnectResult, Diagnosis, Disconnect, ErrorCode, Format, Push},
    session::{
        Session,
        auth_state::AuthState,
        claims::{ClaimsChange, TOO_MANY_CONNECTIONS},
    },
};

impl Session {
    /// Returns a message if it is text that brings a token instead of a command.
    pub(super) fn token_text<'m>(&self, message: &'m Bytes) -> Option<&'m str> {
        // The reader has checked that text is UTF-8.
        let text = std::str::from_utf8(message).ok().filter(|_| self.format.is_json())?;
        (credentials::parse_first_message(text) != FirstMessage::Other).then_some(text)
    }

    /// Handles `Authorization: Bearer T` as a message: the first one authenticates the client, a later one refreshes.
    pub(super) fn authenticate_by_text(&mut self, text: &str) -> CommandOutcome {
        if !self.accepts_token_by(Door::Message) {
            self.record_refusal(Refusal::DisabledDoor(Door::Message));
            return self.protocol_error(&Disconnect::BAD_REQUEST, || Diagnosis::without_id("not a JSON object"));
        }
        let claims = match credentials::parse_first_message(text) {
            FirstMessage::Token(token) => self.verify_token(token, Some(Door::Message)),
            _ => {
                self.record_refusal(Refusal::Credentials(CredentialError::AuthorizationHeader));
                Err(CommandFailure::Close(Disconnect::INVALID_TOKEN))
            }
        };
        match claims {
            Ok(claims) => {
                let change = self.adopt_claims(claims);
                self.note_authentication(Some(Door::Message), None);
                self.send_connect_push(change, None)
            }
            // Text has no id that a reply could carry.
            Err(CommandFailure::Error(error)) if error.has_code(ErrorCode::Internal) => {
                self.fail(0, CommandFailure::Close(Disconnect::INTERNAL))
            }
            Err(CommandFailure::Error(_)) => self.fail(0, CommandFailure::Close(Disconnect::EXPIRED_TOKEN)),
            Err(failure) => self.fail(0, failure),
        }
    }

    /// `connect`. From here on the session is an SDK session. `command.subs` are the client's positions in
    /// channels of server-side subscriptions: those that it has anyway, and those that an earlier connection had.
    pub(super) fn connect(
        &mut self,
        id: u32,
        command: ConnectCommand<'_>,
        buffered: &BufferedCommand,
    ) -> Result<CommandOutcome, CommandFailure> {
        let token = command.token.as_deref();
        let accepts_connect = self.accepts_token_by(Door::Connect);
        let sent_token = accepts_connect && token.is_some();
        let accepts_anonymous =
            accepts_connect && self.services.config.current().auth.anonymous == AnonymousAccess::Always;
        if token.is_some() && !accepts_connect {
            self.record_refusal(Refusal::DisabledDoor(Door::Connect));
        }
        let mut data = None;
        let claims = match (&self.auth_state, token.filter(|_| accepts_connect)) {
            (AuthState::Plain(claims), None) => claims.clone(),
            (
                AuthState::Unauthenticated | AuthState::NeedsNewToken | AuthState::NotApproved | AuthState::Plain(_),
                Some(token),
            ) => self.verify_connect_token(token)?,
            (AuthState::NotApproved, None) => return Err(CommandFailure::Close(Disconnect::TOO_MANY_REQUESTS)),
            (AuthState::Unauthenticated | AuthState::NeedsNewToken, None) if self.services.hooks.connect.is_some() => {
                let Some(Approval::Connect(answer)) = buffered.approval.as_deref() else {
                    let hooks = &self.services.hooks;
                    let asked = hooks.connect.as_ref().map(|hook| self.ask_connect_hook(hook, id, &command, buffered));
                    return asked.ok_or_else(|| ErrorCode::Internal.into());
                };
                let granted = self.adopt_grant(answer.clone())?;
                data = granted.data;
                granted.claims
            }
            (AuthState::Unauthenticated | AuthState::NeedsNewToken, None) if accepts_anonymous => {
                let fields = AuditFields { door: Some(Door::Connect), ..self.audit_fields() };
                self.services.audit.record(AuditEvent::Connected, fields);
                Arc::new(Claims::anonymous())
            }
            (AuthState::Unauthenticated | AuthState::NeedsNewToken, None) if accepts_connect => {
                self.record_refusal(Refusal::MissingToken);
                return Err(CommandFailure::Close(Disconnect::BAD_REQUEST));
            }
            _ => return Err(CommandFailure::Close(Disconnect::BAD_REQUEST)),
        };
        let change = self.adopt_claims(claims);
        self.set_auth_state(self.auth_state.as_sdk());
        let software = ClientSoftware::new(&command.name, &command.version);
        self.note_authentication(sent_token.then_some(Door::Connect), software);
        Ok(self.finish_connect(change, &command.subs, data, move |format, result| {
            format.encode_reply(id, &protocol::Reply::Connect(result))
        }))
    }

    /// Tells the hub how the client has authenticated, for the server API.
    fn note_authentication(&self, credential: Option<Door>, software: Option<Box<ClientSoftware>>) {
        self.services.hub.do_send(NoteAuthentication { key: self.key, credential, software });
    }

    /// Returns the claims of the token of `connect`. Without them, a client that had none is told to get another token.
    fn verify_connect_token(&mut self, token: &str) -> Result<Arc<Claims>, CommandFailure> {
        let verified = self.verify_token(token, Some(Door::Connect));
        if matches!((&self.auth_state, &verified), (AuthState::Unauthenticated, Err(CommandFailure::Error(_)))) {
            self.set_auth_state(AuthState::NeedsNewToken);
        }
        verified
    }

    /// Returns what the connect hook has given the client, which counts for its user from now on. A client that is refused cannot be
    /// asked about again on this connection.
    fn adopt_grant(&mut self, answer: HookAnswer<ConnectGrant>) -> Result<ConnectGrant, CommandFailure> {
        let granted = answer.map_err(|refusal| {
            self.record_refusal(Refusal::ConnectHook(match &refusal {
                HookRefusal::Error(error) => error.code(),
                HookRefusal::Disconnect(disconnect) => disconnect.code().into(),
            }));
            self.set_auth_state(AuthState::NotApproved);
            CommandFailure::from_hook(refusal)
        })?;
        let is_within_limit =
            self.acquire_user_permit(&granted.claims, |session| session.granted_claims(&granted.claims));
        let (event, reason) = if is_within_limit {
            (AuditEvent::Connected, None)
        } else {
            (AuditEvent::Refused, Some(TOO_MANY_CONNECTIONS))
        };
        if let Some(audited) = self.granted_claims(&granted.claims) {
            audited.record(event, reason, &self.services.audit);
        }
        is_within_limit.then_some(granted).ok_or(CommandFailure::Close(Disconnect::CONNECTION_LIMIT))
    }

    /// Tells the client of a plain session that it is connected, with data of the connect hook.
    pub(in crate::session) fn send_connect_push(
        &mut self,
        change: ClaimsChange,
        data: Option<Bytes>,
    ) -> CommandOutcome {
        self.finish_connect(change, &BTreeMap::new(), data, |format, result| format.encode_push(&Push::Connect(result)))
    }

    /// Subscribes the session to its server-side channels, then sends what `encode` makes of the result.
    fn finish_connect(
        &mut self,
        change: ClaimsChange,
        positions: &BTreeMap<Cow<'_, str>, ClientPosition<'_>>,
        data: Option<Bytes>,
        encode: impl Fn(Format, &ConnectResult<'_>) -> Bytes + Send + 'static,
    ) -> CommandOutcome {
        let Some(claims) = self.auth_state.claims().cloned() else { return CommandOutcome::Finished };
        let has_pings = self.keep_alive() == KeepAlive::ProtocolPing;
        let ping =
            if has_pings { self.services.config.current().server.ping_interval.as_secs().max(1) as u32 } else { 0 };
        let (client, session) = (self.client.to_string(), self.session_id().to_string());
        let (node, format) = (self.services.node.clone(), self.format);
        let expiry = self.session_expiry(&claims);
        let subscriptions = self.connect_subscriptions(&claims, positions);
        let (subscriptions, templates): (Vec<_>, Vec<_>) = subscriptions.into_iter().unzip();
        let reply: ReplyBuilder = Box::new(move |outcomes| {
            let subs = templates.iter().zip(outcomes);
            let subs = subs.map(|(template, outcome)| (outcome.channel.as_str(), template.result(outcome))).collect();
            let version = protocol::VERSION;
            let (client, session, data) = (client.as_str(), session.as_str(), data.as_ref());
            let result =
                ConnectResult { client, version, expiry, data, subs, ping, pong: has_pings, session, node: &node };
            encode(format, &result)
        });
        self.subscribe_then_reply(0, change, subscriptions, reply, CommandFailure::Close(Disconnect::INTERNAL))
    }
}
