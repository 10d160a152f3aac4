//! What a client says: the first message, then commands, one after the other. A command that has to wait for hub or broker
//! holds up what the same client said after it, and nothing else. Who it is stands in [`identity`], what it does with
//! channels in [`channels`], what it asks of their memory in [`memory`].

mod channels;
mod identity;
mod memory;
mod subscribing;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::{Buf, Bytes};
use futures_util::{FutureExt, future::LocalBoxFuture};

pub(super) use self::identity::ClaimsChange;
use super::{Session, auth_state::AuthState, rate_limiter::RateVerdict};
use crate::{
    auth::{
        Claims,
        credentials::{self, FirstMessage},
    },
    hub::CloseReason,
    protocol::{self, Command, CommandMethod, Disconnect, ErrorCode, Format, MalformedCommand},
};

/// How long one client may keep the thread before others have their turn, and how many commands it may do: most take a
/// microsecond, but a token that comes with one takes up to a third of a millisecond to verify (ES384).
const TURN: Duration = Duration::from_millis(2);
const COMMANDS_AT_ONCE: usize = 64;

/// A frame of which some commands are still to be done.
#[derive(Default)]
pub(super) struct CommandBuffer {
    frame: Option<Bytes>,
    /// Bytes of `frame` up to the command behind the one in hand.
    consumed: u32,
    /// The next command has been put back, and was counted when it came.
    is_put_back: bool,
}

impl CommandBuffer {
    pub(super) fn fill(&mut self, frame: Bytes) {
        *self = Self { frame: Some(frame), consumed: 0, is_put_back: false };
    }

    /// The next command, unread; `None` when all are done. Behind one that is malformed nothing is found.
    fn next(&mut self, format: Format) -> Option<Result<Bytes, MalformedCommand>> {
        let mut frame = self.frame.take()?;
        let consumed = std::mem::take(&mut self.consumed) as usize;
        frame.advance(consumed.min(frame.len()));
        if consumed > 0 && frame.is_empty() {
            return None;
        }
        Some(format.find_first_message(&frame).map(|(message, next)| {
            // A frame is at most `limits.message_bytes`, far below 4 GiB.
            self.consumed = u32::try_from(next).unwrap_or(u32::MAX);
            let message = frame.slice(message);
            self.frame = Some(frame);
            message
        }))
    }

    /// The command in hand is to come again.
    fn put_back(&mut self) {
        (self.consumed, self.is_put_back) = (0, true);
    }
}

/// What a command has come to.
pub(super) enum CommandOutcome {
    /// Answered, or there is nothing to answer.
    Finished,
    /// Answered when this is ready.
    Pending(LocalBoxFuture<'static, CommandAnswer>),
}

/// What is answered to a command.
pub(super) struct CommandAnswer {
    id: u32,
    result: Result<CommandReply, CommandFailure>,
}

/// A command was done.
enum CommandReply {
    /// This frame says so.
    Frame(Bytes),
    /// The hub has answered, in the turn in which the session began to receive.
    SentByHub,
}

/// A command was not done.
enum CommandFailure {
    /// The client is told.
    Error(ErrorCode),
    /// The session cannot go on.
    Close(Disconnect),
}

impl<E: Into<ErrorCode>> From<E> for CommandFailure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl CommandAnswer {
    fn error(id: u32, error: ErrorCode) -> Self {
        Self { id, result: Err(error.into()) }
    }
}

impl Session {
    /// Does what waits in the inbox, as far as it can be done at once.
    pub(super) fn process_commands(&mut self, ctx: &mut Context<Self>) {
        let end = Instant::now() + TURN;
        for number in 0..COMMANDS_AT_ONCE {
            if number > 0 && Instant::now() >= end {
                break;
            }
            let Some(message) = self.commands.next(self.format) else { return self.flush() };
            // What came before may have waited for a broker: the token's time may be over, or the hub has closed us.
            if self.has_expired() {
                return self.close(CloseReason::EXPIRED);
            }
            if self.outbox.is_closing() {
                return self.enter_closing();
            }
            let done = self.handle_message(message);
            if self.finish_or_wait(done, ctx) {
                return self.flush();
            }
        }
        self.flush();
        let others = actix::fut::wrap_future::<_, Self>(tokio::task::yield_now());
        ctx.wait(others.map(|(), session, ctx| session.process_commands(ctx)));
    }

    /// Answers what was done outside of a message, and then goes on with messages.
    pub(super) fn finish_then_continue(&mut self, done: CommandOutcome, ctx: &mut Context<Self>) {
        let _ = self.finish_or_wait(done, ctx);
        self.flush();
    }

    /// Answers; or, if that has to wait, does so later and goes on then.
    fn finish_or_wait(&mut self, done: CommandOutcome, ctx: &mut Context<Self>) -> bool {
        let CommandOutcome::Pending(mut answer) = done else { return false };
        if let Some(answer) = (&mut answer).now_or_never() {
            self.answer(answer);
            return false;
        }
        ctx.wait(answer.into_actor(self).map(|answer, session, ctx| {
            session.answer(answer);
            session.process_commands(ctx);
        }));
        true
    }

    fn handle_message(&mut self, message: Result<Bytes, MalformedCommand>) -> CommandOutcome {
        let verdict =
            if std::mem::take(&mut self.commands.is_put_back) { RateVerdict::Allowed } else { self.charge_command() };
        if verdict == RateVerdict::Flooding {
            self.close(&Disconnect::TOO_MANY_REQUESTS);
            return CommandOutcome::Finished;
        }
        let Ok(message) = message else {
            self.protocol_error(&Disconnect::BAD_REQUEST);
            return CommandOutcome::Finished;
        };
        if let Some(text) = self.token_text(&message) {
            if verdict == RateVerdict::Limited {
                self.close(&Disconnect::TOO_MANY_REQUESTS);
                return CommandOutcome::Finished;
            }
            return self.authenticate_by_text(text);
        }
        match (&self.auth_state, self.format.parse_command(&message)) {
            (AuthState::Rejected { .. }, _) => CommandOutcome::Finished,
            (AuthState::Unauthenticated, Ok(Command { method, .. }))
                if !matches!(method, CommandMethod::Connect(_)) =>
            {
                self.close(&Disconnect::BAD_REQUEST);
                CommandOutcome::Finished
            }
            (_, Ok(Command { id: id @ 1.., .. })) if verdict == RateVerdict::Limited => {
                self.answer(CommandAnswer::error(id, ErrorCode::TooManyRequests));
                CommandOutcome::Finished
            }
            (_, Ok(command)) => self.authorize_command(command, &message),
            (_, Err(_)) => {
                self.protocol_error(&Disconnect::BAD_REQUEST);
                CommandOutcome::Finished
            }
        }
    }

    /// Text that brings a token, and is no command.
    fn token_text<'m>(&self, message: &'m Bytes) -> Option<&'m str> {
        // The reader has checked that text is UTF-8.
        let text = std::str::from_utf8(message).ok().filter(|_| self.format == Format::Json)?;
        (credentials::parse_first_message(text) != FirstMessage::Other).then_some(text)
    }

    /// Something that is no command: it ends an SDK session and one that is nobody, with this; a plain one is told.
    pub(super) fn protocol_error(&mut self, otherwise: &Disconnect) {
        self.protocol_errors += 1;
        match self.auth_state {
            AuthState::Plain(_) if self.protocol_errors > self.services.config.limits.errors => {
                self.close(&Disconnect::TOO_MANY_ERRORS);
            }
            AuthState::Plain(_) => self.answer(CommandAnswer::error(0, ErrorCode::BadRequest)),
            AuthState::Unauthenticated | AuthState::Sdk(_) => self.close(otherwise),
            AuthState::Rejected { .. } => {}
        }
    }

    /// A command of somebody: first the token that it carries, or should.
    fn authorize_command(&mut self, Command { id, token, method }: Command<'_>, message: &Bytes) -> CommandOutcome {
        let (method, token) = match (method, token) {
            (CommandMethod::Connect(request), token)
                if request.token.is_some() || token.is_some() || !self.wants_tokens() =>
            {
                return self.connect(id, request.token.or(token), &request.subs);
            }
            (CommandMethod::Refresh { token: inner }, token) => return self.refresh(id, inner.or(token)),
            (method, token) => (method, token),
        };
        match token {
            Some(token) => match self.adopt_command_token(id, &token) {
                Ok(CommandOutcome::Finished) => {}
                Ok(joining) => {
                    // The command comes again when the session has what its new token brings, and no more.
                    self.commands.put_back();
                    return joining;
                }
                Err(failed) => return self.fail(id, failed),
            },
            None if self.wants_tokens() && !matches!(method, CommandMethod::Pong) => {
                return self.fail(id, ErrorCode::Unauthorized.into());
            }
            None => {}
        }
        let Some(claims) = self.auth_state.claims().cloned() else { return CommandOutcome::Finished };
        self.run_command(id, method, message, &claims)
    }

    /// Whether every command must carry a token.
    fn wants_tokens(&self) -> bool {
        self.services.config.auth.require_token_per_message
    }

    fn run_command(
        &mut self,
        id: u32,
        method: CommandMethod<'_>,
        message: &Bytes,
        claims: &Arc<Claims>,
    ) -> CommandOutcome {
        let done = match method {
            CommandMethod::Pong => {
                self.outbox.note_pong();
                return CommandOutcome::Finished;
            }
            CommandMethod::Send { .. } => {
                self.close(&Disconnect::NOT_AVAILABLE);
                return CommandOutcome::Finished;
            }
            CommandMethod::Ping => {
                self.reply(id, &protocol::Reply::Ping);
                return CommandOutcome::Finished;
            }
            CommandMethod::Rpc { .. } => Err(ErrorCode::NotAvailable.into()),
            CommandMethod::Presence { channel } => self.presence(id, &channel, claims),
            CommandMethod::PresenceStats { channel } => self.presence_stats(id, &channel, claims),
            CommandMethod::History(request) => self.history(id, &request, claims),
            CommandMethod::Subscribe(request) => self.subscribe(id, &request, claims),
            CommandMethod::SubRefresh { channel, token } => self.sub_refresh(id, &channel, token.as_deref(), claims),
            CommandMethod::Unsubscribe { channel } => self.unsubscribe(id, &channel),
            CommandMethod::Publish { channel, data: Some(data) } => {
                let data = protocol::to_single_line(message, data);
                self.publish(id, &channel, data, claims)
            }
            CommandMethod::Publish { data: None, .. } => Err(ErrorCode::BadRequest.into()),
            // Done before.
            CommandMethod::Connect(_) | CommandMethod::Refresh { .. } => Err(ErrorCode::BadRequest.into()),
        };
        done.unwrap_or_else(|failed| self.fail(id, failed))
    }

    fn fail(&mut self, id: u32, failed: CommandFailure) -> CommandOutcome {
        self.answer(CommandAnswer { id, result: Err(failed) });
        CommandOutcome::Finished
    }

    fn answer(&mut self, CommandAnswer { id, result }: CommandAnswer) {
        match result {
            Ok(CommandReply::Frame(frame)) => self.send(frame),
            Ok(CommandReply::SentByHub) => {}
            Err(CommandFailure::Error(error)) => {
                self.services.metrics.count_error(error.code());
                self.reply(id, &protocol::Reply::Error(error));
            }
            Err(CommandFailure::Close(disconnect)) => self.close(&disconnect),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_one_by_one_and_again_after_put_back() {
        let all =
            |commands: &mut CommandBuffer| std::iter::from_fn(|| commands.next(Format::Json)?.ok()).collect::<Vec<_>>();
        let lines = |text: &'static str| {
            let mut commands = CommandBuffer::default();
            commands.fill(Bytes::from_static(text.as_bytes()));
            all(&mut commands)
        };
        assert_eq!(lines("a\nb"), ["a", "b"]);
        assert_eq!(lines("a\n\nb\n"), ["a", "", "b"]);
        assert_eq!(lines(""), [""]);
        assert_eq!(lines("\n"), [""]);
        let mut commands = CommandBuffer::default();
        commands.fill(Bytes::from_static(b"a\nb"));
        commands.next(Format::Json).unwrap().unwrap();
        commands.put_back();
        assert_eq!(all(&mut commands), ["a", "b"]);
    }
}
