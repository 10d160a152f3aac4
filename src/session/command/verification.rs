//! Handles the messages of a client that is not authenticated yet. Each may carry a token, whose verification waits for its
//! turn.

use actix::prelude::*;

use super::{BufferedCommand, CommandFailure, CommandOutcome};
use crate::{
    auth::{Overloaded, VerificationTurn},
    protocol::{CommandMethod, Disconnect, ErrorCode, MethodName},
    session::{Session, auth_state::AuthState},
};

impl Session {
    /// Returns whether a message of the client may bring its first token. One about which the connect hook was asked has none.
    pub(super) fn needs_verification_turn(&self, command: &BufferedCommand) -> bool {
        let has_no_token =
            matches!(self.auth_state, AuthState::Unauthenticated | AuthState::NeedsNewToken | AuthState::NotApproved);
        has_no_token && command.approval.is_none()
    }

    pub(super) fn try_verification_turn(&self) -> Option<VerificationTurn> {
        self.services.verifications.try_turn(self.address.into())
    }

    /// Handles a message in its turn.
    pub(super) fn handle_in_turn(&mut self, command: BufferedCommand, turn: VerificationTurn) -> CommandOutcome {
        let outcome = self.handle_command(command);
        let is_refused = self.auth_state.claims().is_none() && self.outbox.is_closing();
        turn.finish(is_refused);
        outcome
    }

    /// Handles a message when it is its turn, and then the next ones.
    pub(super) fn wait_for_verification_turn(&mut self, command: BufferedCommand, ctx: &mut Context<Self>) {
        let (verifications, address) = (self.services.verifications.clone(), self.address.into());
        let turn = async move { verifications.wait_for_turn(address).await };
        self.outbox.set_command_pending(true);
        ctx.wait(turn.into_actor(self).map(move |turn, session, ctx| {
            session.outbox.set_command_pending(false);
            if session.outbox.is_closing() {
                return session.enter_closing();
            }
            let outcome = match turn {
                Ok(turn) => session.handle_in_turn(command, turn),
                Err(Overloaded) => session.refuse_unverified(&command),
            };
            session.finish_then_continue(outcome, ctx);
        }));
    }

    /// Refuses a message that there is no time to verify, as one over a rate limit: the client tries again a little later.
    fn refuse_unverified(&mut self, command: &BufferedCommand) -> CommandOutcome {
        let message = command.message.as_ref().ok();
        let parsed = message.and_then(|message| self.format.parse_command(message).ok());
        match parsed {
            // It was sent behind a connect that was refused.
            Some(parsed)
                if matches!(self.auth_state, AuthState::NeedsNewToken | AuthState::NotApproved)
                    && !matches!(parsed.method, CommandMethod::Connect(_)) =>
            {
                CommandOutcome::Finished
            }
            Some(parsed) => {
                let id = parsed.id;
                self.handled_method = Some(parsed.method.name());
                // The connect hook is asked about a connection once.
                if !matches!(self.auth_state, AuthState::NotApproved) {
                    self.auth_state = AuthState::NeedsNewToken;
                }
                self.fail(id, ErrorCode::TooManyRequests.into())
            }
            None => {
                let is_token = message.is_some_and(|message| self.token_text(message).is_some());
                self.handled_method = Some(if is_token { MethodName::Connect } else { MethodName::Unknown });
                self.fail(0, CommandFailure::Close(Disconnect::TOO_MANY_REQUESTS))
            }
        }
    }
}
