//! `refresh`: applies newer tokens to an authenticated session. They come with this command, with any other command, or through
//! the server API.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::{CommandFailure, CommandOutcome};
use crate::{
    auth::Claims,
    clock::WallTime,
    hub::ReplyBuilder,
    protocol::{self, Disconnect, ErrorCode, Push, RefreshResult},
    session::Session,
};

impl Session {
    /// `refresh`. An expired token closes the session 3005: after error 109 SDKs would stop for good, after 3005 they reconnect,
    /// get 109 for `connect`, and ask for a new token.
    pub(super) fn refresh(&mut self, id: u32, token: Option<Cow<'_, str>>) -> Result<CommandOutcome, CommandFailure> {
        let token = token.ok_or(CommandFailure::Close(Disconnect::BAD_REQUEST))?;
        let claims = self.verify_token(&token, None).map_err(|failure| match failure {
            CommandFailure::Error(error) if error.has_code(ErrorCode::TokenExpired) => {
                CommandFailure::Close(Disconnect::EXPIRED)
            }
            other => other,
        })?;
        let change = self.adopt_claims(claims.clone());
        let client = self.client.to_string();
        let expiry = self.client_expiry(claims.expires_at);
        let result = RefreshResult { client: &client, version: protocol::VERSION, expiry };
        let reply = self.format.encode_reply(id, &protocol::Reply::Refresh(&result));
        let subscriptions = self.announced_subscriptions(&claims);
        let reply: ReplyBuilder = Box::new(move |_| reply.clone());
        Ok(self.subscribe_then_reply(id, change, subscriptions, reply, ErrorCode::Internal.into()))
    }

    /// Adopts the token that another command carries. The outcome is pending if the hub has to check subscriptions and to add
    /// some first.
    pub(super) fn adopt_command_token(&mut self, id: u32, token: &str) -> Result<CommandOutcome, CommandFailure> {
        let claims = self.verify_token(token, None)?;
        if self.auth_state.claims() == Some(&claims) {
            return Ok(CommandOutcome::Finished);
        }
        self.adopt_claims(claims.clone());
        let subscriptions = self.announced_subscriptions(&claims);
        Ok(self.request_subscriptions(id, subscriptions, None, CommandFailure::Close(Disconnect::INTERNAL)))
    }

    /// Applies a refresh of the server API: another expiry, though not later than the end of the token's key, and perhaps other
    /// `info` of the user.
    pub(in crate::session) fn apply_refresh(&mut self, expires_at: WallTime, info: Option<Bytes>) {
        let Some(claims) = self.auth_state.claims() else { return };
        let expires_at = expires_at.min(self.services.verifier.key_end(&claims.token));
        let info = info.or_else(|| claims.info.clone());
        let claims = Arc::new(Claims { expires_at, info, ..Claims::clone(claims) });
        self.services.api_grants.note_refresh(&claims.user, expires_at);
        self.set_auth_state(self.auth_state.with_claims(claims.clone()));
        self.push(&Push::Refresh(self.session_expiry(&claims)));
    }
}
