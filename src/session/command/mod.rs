//! The commands of a client: one file for each, from what the client sent to its effect. They are handled one after the
//! other. A command that waits for hub or broker holds up the later ones of the same client, and nothing else. Only subscribe
//! commands that follow each other are carried out side by side ([`subscribe_group`]).

mod buffer;
mod channel_events;
mod connect;
mod counts;
mod history;
mod hooks;
mod presence;
mod publish;
mod refresh;
mod rights;
mod server_side;
mod sub_refresh;
mod subscribe;
mod subscribe_group;
mod unsubscribe;
mod verification;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;
use futures_util::{FutureExt, future::LocalBoxFuture};

pub use self::counts::CommandCounters;
use self::{
    buffer::BufferedCommand,
    counts::CountedResult,
    hooks::{Approval, HookQuestion},
};
pub(super) use self::{buffer::CommandBuffer, hooks::ask_hook, subscribe_group::SubscribeGroup};
use super::{Session, auth_state::AuthState, rate_limiter::RateVerdict};
use crate::{
    auth::Claims,
    channel::Channel,
    hooks::SubscribeApproval,
    hub::{ServerApiSubscription, SubscribeRequest},
    protocol::{self, Command, CommandMethod, ConnectCommand, Diagnosis, Disconnect, ErrorCode, MethodName, WireError},
};

/// How long one client may keep the thread before other tasks run, and how many of its commands are handled in that time:
/// most take a microsecond, but a token that comes with one takes up to a third of a millisecond to verify (ES384).
const TURN: Duration = Duration::from_millis(2);
const COMMANDS_PER_TURN: usize = 64;

/// What a session handles next.
enum Next {
    /// A command of the client.
    Command(BufferedCommand),
    /// A subscription of the server API with recovery.
    Subscription(ServerApiSubscription),
}

/// What a command has come to.
pub(super) enum CommandOutcome {
    /// It is answered, or has no answer.
    Finished,
    /// It is a subscribe command: this is the request to the hub.
    Subscribe(SubscribeRequest),
    /// It is a subscribe command about which the hook is asked.
    AskHook(Channel, HookQuestion<SubscribeApproval>),
    /// It is a subscribe command, and waits for others like it.
    Grouped,
    /// It is answered when this is ready.
    Pending(LocalBoxFuture<'static, CommandAnswer>),
}

/// The answer to a command.
pub(super) struct CommandAnswer {
    id: u32,
    result: CommandResult,
}

type CommandResult = Result<CommandReply, CommandFailure>;

/// How a successful command is answered.
enum CommandReply {
    /// By this frame.
    Frame(Bytes),
    /// By the hub, in the turn in which the subscriptions became live.
    SentByHub,
    /// Not at all.
    Nothing,
    /// These commands of a group are not answered yet: the client has to read the replies to the others first.
    Postponed(Vec<BufferedCommand>),
}

/// Why a command failed.
pub(super) enum CommandFailure {
    /// The client gets an error reply.
    Error(WireError),
    /// The session is closed.
    Close(Disconnect),
}

impl<E: Into<WireError>> From<E> for CommandFailure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl CommandFailure {
    /// Returns the code that the client gets.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Error(error) => error.code(),
            Self::Close(disconnect) => disconnect.code().into(),
        }
    }
}

impl CommandOutcome {
    /// Answers command `id` when its result is ready.
    fn pending(id: u32, result: impl Future<Output = CommandResult> + 'static) -> Self {
        Self::Pending(result.map(move |result| CommandAnswer { id, result }).boxed_local())
    }
}

impl Session {
    /// Handles the commands that are in the buffer, until one has to wait, or the client has to read the replies first.
    /// Controls of the server API that wait for room come first.
    pub(super) fn process_commands(&mut self, ctx: &mut Context<Self>) {
        let end = Instant::now() + TURN;
        for number in 0..COMMANDS_PER_TURN {
            if number > 0 && Instant::now() >= end {
                break;
            }
            if self.pause_if_replies_wait() {
                return;
            }
            let next = match self.next_recovering_subscription() {
                Some(subscription) => Next::Subscription(subscription),
                None => match self.commands.next(self.format) {
                    Some(command) => Next::Command(command),
                    None => {
                        self.schedule_group(ctx);
                        return self.flush();
                    }
                },
            };
            // The command before may have waited for a broker: the token may have expired, or the hub closed the session.
            if let Err(ended) = self.check_token() {
                return self.handle_push_error(ended);
            }
            if self.outbox.is_closing() {
                return self.enter_closing();
            }
            let outcome = match next {
                Next::Subscription(subscription) => self.add_server_side_subscription(subscription),
                Next::Command(command) if self.needs_verification_turn(&command) => {
                    match self.try_verification_turn() {
                        Some(turn) => self.handle_in_turn(command, turn),
                        None => {
                            self.wait_for_verification_turn(command, ctx);
                            return self.flush();
                        }
                    }
                }
                Next::Command(command) => match self.handle_command(command) {
                    CommandOutcome::Grouped if self.is_group_full() => self.send_group(),
                    outcome => outcome,
                },
            };
            if self.finish_or_wait(outcome, ctx) {
                return self.flush();
            }
        }
        self.flush();
        let other_tasks = actix::fut::wrap_future::<_, Self>(tokio::task::yield_now());
        ctx.wait(other_tasks.map(|(), session, ctx| session.process_commands(ctx)));
    }

    /// Stops reading the client if it has to read its replies before they may become more. Otherwise the replies to commands
    /// sent at once would together exceed the outbox, and the client would be closed however fast it reads.
    fn pause_if_replies_wait(&mut self) -> bool {
        if !self.outbox.must_drain() {
            return false;
        }
        self.flush();
        if !self.outbox.pause_reading() {
            return false;
        }
        self.services.metrics.reading_pauses.inc();
        true
    }

    /// Answers what did not begin with a message, then goes on with messages.
    pub(super) fn finish_then_continue(&mut self, outcome: CommandOutcome, ctx: &mut Context<Self>) {
        // The answer may have put commands back, and nothing else would have them handled.
        if !self.finish_or_wait(outcome, ctx) {
            self.process_commands(ctx);
        }
    }

    /// Answers now if the outcome is ready. Otherwise answers later and goes on with messages then; returns whether it has to
    /// wait.
    fn finish_or_wait(&mut self, outcome: CommandOutcome, ctx: &mut Context<Self>) -> bool {
        let CommandOutcome::Pending(mut answer) = outcome else { return false };
        if let Some(answer) = (&mut answer).now_or_never() {
            self.answer(answer);
            return false;
        }
        self.outbox.set_command_pending(true);
        ctx.wait(answer.into_actor(self).map(|answer, session, ctx| {
            session.outbox.set_command_pending(false);
            session.answer(answer);
            session.process_commands(ctx);
        }));
        true
    }

    /// Handles a command, and counts it if that has finished it. One that is pending is counted with its answer, and the
    /// commands of a group with their group.
    fn handle_command(&mut self, command: BufferedCommand) -> CommandOutcome {
        let outcome = self.begin_command(command);
        match &outcome {
            CommandOutcome::Pending(_) => {}
            CommandOutcome::Finished => self.count_command(Some(CountedResult::Ok)),
            CommandOutcome::Subscribe(_) | CommandOutcome::AskHook(..) | CommandOutcome::Grouped => {
                self.count_command(None);
            }
        }
        outcome
    }

    fn begin_command(&mut self, BufferedCommand { message, verdict, approval }: BufferedCommand) -> CommandOutcome {
        let parsed = message.as_ref().map(|message| self.format.parse_command(message));
        if self.has_group() && !matches!(&parsed, Ok(Ok(command)) if self.joins_group(command)) {
            // What follows a group is handled when the group is answered.
            self.commands.put_back([BufferedCommand { message, verdict, approval }]);
            return self.send_group();
        }
        self.handled_method = Some(match &parsed {
            Ok(Ok(command)) => command.method.name(),
            _ => MethodName::Unknown,
        });
        let verdict = verdict.unwrap_or_else(|| self.charge_command());
        if verdict == RateVerdict::Flooding {
            return self.fail(0, CommandFailure::Close(Disconnect::TOO_MANY_REQUESTS));
        }
        let (Ok(message), Ok(parsed)) = (&message, parsed) else {
            return self.protocol_error(&Disconnect::BAD_REQUEST, || {
                Diagnosis::without_id("the length of a message is invalid")
            });
        };
        if let Some(text) = self.token_text(message) {
            self.handled_method = Some(MethodName::Connect);
            if verdict == RateVerdict::Limited {
                return self.fail(0, CommandFailure::Close(Disconnect::TOO_MANY_REQUESTS));
            }
            return self.authenticate_by_text(text);
        }
        match (&self.auth_state, parsed) {
            (AuthState::Rejected(_), _) => self.ignore_command(),
            (AuthState::Unauthenticated, Ok(Command { method, .. }))
                if !matches!(method, CommandMethod::Connect(_)) =>
            {
                self.fail(0, CommandFailure::Close(Disconnect::BAD_REQUEST))
            }
            // Sent before the client had read the error for its `connect`. Some SDKs take a close now as the last word.
            (AuthState::NeedsNewToken | AuthState::NotApproved, Ok(Command { method, .. }))
                if !matches!(method, CommandMethod::Connect(_)) =>
            {
                self.ignore_command()
            }
            (_, Ok(Command { id, .. })) if id > 0 && verdict == RateVerdict::Limited => {
                let limited = Err(ErrorCode::TooManyRequests.into());
                self.answer_or_group(id, BufferedCommand::counted(message, verdict), limited)
            }
            (_, Ok(command)) => {
                let id = command.id;
                let buffered = BufferedCommand { approval, ..BufferedCommand::counted(message, verdict) };
                let outcome = self.authorize_command(command, message, &buffered);
                self.answer_or_group(id, buffered, outcome)
            }
            (_, Err(_)) => {
                let format = self.format;
                self.protocol_error(&Disconnect::BAD_REQUEST, || format.diagnose(message))
            }
        }
    }

    /// Drops a command that is neither handled nor answered, and so not counted.
    fn ignore_command(&mut self) -> CommandOutcome {
        self.count_command(None);
        CommandOutcome::Finished
    }

    /// Answers a command that has failed. A subscribe command is added to the group instead, also if it has failed while there
    /// is one, because the commands before it come first.
    fn answer_or_group(
        &mut self,
        id: u32,
        command: BufferedCommand,
        outcome: Result<CommandOutcome, CommandFailure>,
    ) -> CommandOutcome {
        match outcome {
            Ok(CommandOutcome::Subscribe(request)) => self.add_to_group(command, request),
            Ok(CommandOutcome::AskHook(channel, question)) => self.add_question_to_group(command, channel, question),
            Err(CommandFailure::Error(error)) if self.has_group() => self.add_refused_to_group(command, id, error),
            Ok(outcome) => return outcome,
            Err(failure) => return self.fail(id, failure),
        }
        CommandOutcome::Grouped
    }

    /// Handles a message that is not a command. A plain session gets an error reply with what `diagnose` finds, until it has
    /// sent more of them than `limits.errors`; an SDK session and one that is not authenticated are closed with `disconnect`.
    pub(super) fn protocol_error(
        &mut self,
        disconnect: &Disconnect,
        diagnose: impl FnOnce() -> Diagnosis,
    ) -> CommandOutcome {
        self.protocol_errors += 1;
        self.handled_method.get_or_insert(MethodName::Unknown);
        match self.auth_state {
            AuthState::Plain(_) if self.protocol_errors > self.services.config.current().limits.errors => {
                self.fail(0, CommandFailure::Close(Disconnect::TOO_MANY_ERRORS))
            }
            AuthState::Plain(_) => {
                let Diagnosis { id, detail } = diagnose();
                self.fail(id, ErrorCode::BadRequest.with_detail(detail).into())
            }
            AuthState::Unauthenticated | AuthState::NeedsNewToken | AuthState::NotApproved | AuthState::Sdk(_) => {
                self.fail(0, CommandFailure::Close(disconnect.clone()))
            }
            AuthState::Rejected(_) => self.ignore_command(),
        }
    }

    /// Handles the token that a command carries, if any, and then the command.
    fn authorize_command(
        &mut self,
        Command { id, token, method }: Command<'_>,
        message: &Bytes,
        buffered: &BufferedCommand,
    ) -> Result<CommandOutcome, CommandFailure> {
        if matches!(method, CommandMethod::OtherType) {
            return Err(ErrorCode::NotAvailable.with_detail("type other than 0").into());
        }
        let is_token_required = self.services.config.current().auth.require_token_per_message;
        let (method, token) = match (method, token) {
            (CommandMethod::Connect(command), token)
                if command.token.is_some() || token.is_some() || !is_token_required =>
            {
                let command = ConnectCommand { token: command.token.or(token), ..command };
                return self.connect(id, command, buffered);
            }
            (CommandMethod::Refresh { token: inner }, token) => return self.refresh(id, inner.or(token)),
            (method, token) => (method, token),
        };
        match token {
            Some(token) => {
                let outcome = self.adopt_command_token(id, &token)?;
                if let CommandOutcome::Pending(_) = outcome {
                    // The command is handled when the session has the subscriptions of its new token, and no others.
                    self.commands.put_back([buffered.clone()]);
                    self.count_command(None);
                    return Ok(outcome);
                }
            }
            None if is_token_required && !matches!(method, CommandMethod::Pong) => {
                return Err(ErrorCode::Unauthorized.into());
            }
            None => {}
        }
        let Some(claims) = self.auth_state.claims().cloned() else { return Ok(CommandOutcome::Finished) };
        self.run_command(id, method, message, buffered.approval.as_deref(), &claims)
    }

    fn run_command(
        &mut self,
        id: u32,
        method: CommandMethod<'_>,
        message: &Bytes,
        approval: Option<&Approval>,
        claims: &Arc<Claims>,
    ) -> Result<CommandOutcome, CommandFailure> {
        match method {
            CommandMethod::Subscribe(command) => {
                let outcome = self.subscribe(id, &command, approval, claims);
                // In a group the hub notes it when it answers: the command may be handled again before.
                if let Err(CommandFailure::Error(error)) = &outcome
                    && !self.has_group()
                {
                    self.note_refused_subscription(&command.channel, error);
                }
                outcome
            }
            CommandMethod::SubRefresh { channel, token } => self.sub_refresh(id, &channel, token.as_deref(), claims),
            CommandMethod::Unsubscribe { channel } => Ok(self.unsubscribe(id, &channel)),
            CommandMethod::Publish { channel, data } => {
                let data = data.ok_or_else(|| self.describe_lack_of_data())?;
                self.publish(id, &channel, message, data, claims)
            }
            CommandMethod::History(command) => self.history(id, &command, claims),
            CommandMethod::Presence { channel } => self.presence(id, &channel, claims),
            CommandMethod::PresenceStats { channel } => self.presence_stats(id, &channel, claims),
            CommandMethod::Ping => {
                self.reply(id, &protocol::Reply::Ping);
                Ok(CommandOutcome::Finished)
            }
            CommandMethod::Pong => {
                self.outbox.note_pong();
                Ok(CommandOutcome::Finished)
            }
            CommandMethod::Rpc { method, data } => self.rpc(id, &method, data, claims),
            CommandMethod::Send { data } => self.send_to_backend(data, claims),
            // Handled with their tokens, unless a required token is missing.
            CommandMethod::Connect(_) | CommandMethod::Refresh { .. } | CommandMethod::OtherType => {
                Err(ErrorCode::BadRequest.into())
            }
        }
    }

    fn describe_lack_of_data(&self) -> WireError {
        ErrorCode::BadRequest.with_detail(if self.format.is_json() {
            "publish.data is missing"
        } else {
            "publish.data is missing, or not JSON"
        })
    }

    fn fail(&mut self, id: u32, failure: CommandFailure) -> CommandOutcome {
        self.answer(CommandAnswer { id, result: Err(failure) });
        CommandOutcome::Finished
    }

    fn answer(&mut self, CommandAnswer { id, result }: CommandAnswer) {
        self.count_command(CountedResult::of(&result));
        match result {
            Ok(CommandReply::Frame(frame)) => self.send(frame),
            Ok(CommandReply::SentByHub | CommandReply::Nothing) => {}
            Ok(CommandReply::Postponed(commands)) => self.commands.put_back(commands),
            Err(CommandFailure::Error(error)) => {
                self.services.metrics.count_error(error.code());
                self.reply(id, &protocol::Reply::Error(&error));
            }
            Err(CommandFailure::Close(disconnect)) => self.close(&disconnect),
        }
    }
}
