//! Groups of subscribe commands. A client that has many channels sends a command for each, at once: SDKs do after every
//! reconnect. Commands that follow each other, in one frame or in several, are carried out side by side, so that the client
//! waits for the broker once. The hub answers them in their order. These commands end the group, and are handled when it is
//! answered: a second subscribe of one channel, a subscribe with a token of the connection, and every other command.

use actix::prelude::*;
use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};

use super::{
    BufferedCommand, CommandOutcome, CommandReply,
    counts::CountedResult,
    hooks::{Approval, HookQuestion},
};
use crate::{
    channel::Channel,
    hooks::SubscribeApproval,
    hub::{RefusalBuilder, RefusedSubscribe, ReplyBuilder, SubscribeEach, SubscribeError, SubscribeRequest},
    protocol::{self, Command, CommandMethod, ErrorCode, MethodName, WireError},
    session::{Session, rate_limiter::RateVerdict},
};

/// Subscribe commands that wait for others like them.
#[derive(Default)]
pub(in crate::session) struct SubscribeGroup {
    commands: Vec<BufferedCommand>,
    /// One for each command that needs no hook.
    requests: Vec<SubscribeRequest>,
    channels: Vec<Channel>,
    /// Questions to the subscribe hook, each with the index of its command.
    questions: Vec<(usize, HookQuestion<SubscribeApproval>)>,
    /// Bytes of `commands`.
    command_bytes: usize,
    /// The session sends the group when it has handled all frames that have arrived.
    is_scheduled: bool,
}

impl SubscribeGroup {
    fn push(&mut self, command: BufferedCommand) {
        self.command_bytes += command.message.as_ref().map_or(0, Bytes::len);
        self.commands.push(command);
    }
}

impl Session {
    /// Returns whether subscribe commands wait to be carried out.
    pub(super) fn has_group(&self) -> bool {
        self.subscribe_group.is_some()
    }

    /// Returns whether a command is carried out side by side with the group.
    pub(super) fn joins_group(&self, command: &Command<'_>) -> bool {
        let (Some(group), Command { token: None, method: CommandMethod::Subscribe(subscribe), .. }) =
            (&self.subscribe_group, command)
        else {
            return false;
        };
        !group.channels.iter().any(|channel| channel.as_str() == subscribe.channel)
    }

    /// Adds a command to the group, or begins one.
    pub(super) fn add_to_group(&mut self, command: BufferedCommand, request: SubscribeRequest) {
        let group = self.subscribe_group.get_or_insert_default();
        group.channels.extend(request.subscription.as_ref().ok().map(|subscription| subscription.channel().clone()));
        group.push(command);
        group.requests.push(request);
    }

    /// Adds a command about which the subscribe hook is asked, or begins a group.
    pub(super) fn add_question_to_group(
        &mut self,
        command: BufferedCommand,
        channel: Channel,
        question: HookQuestion<SubscribeApproval>,
    ) {
        let group = self.subscribe_group.get_or_insert_default();
        group.channels.push(channel);
        group.questions.push((group.commands.len(), question));
        group.push(command);
    }

    /// Adds a command that has failed: the hub only answers it, in its turn.
    pub(super) fn add_refused_to_group(&mut self, command: BufferedCommand, id: u32, error: WireError) {
        let reply: ReplyBuilder = Box::new(|_| Bytes::new());
        let (error, channel) = (SubscribeError::Refused(error), self.refused_channel(&command));
        let (subscription, refusal) = (Err(RefusedSubscribe { error, channel }), self.refusal(id));
        self.add_to_group(command, SubscribeRequest { subscription, reply, refusal });
    }

    /// Returns the channel for which the hub notes that a command of a group has failed. A command over the rate limit is not noted:
    /// a client that sends many would drive out what has become of others.
    fn refused_channel(&self, command: &BufferedCommand) -> Option<Channel> {
        let message = command.message.as_ref().ok().filter(|_| command.verdict != Some(RateVerdict::Limited))?;
        match self.format.parse_command(message).ok()?.method {
            CommandMethod::Subscribe(subscribe) => Channel::new(&subscribe.channel).ok(),
            _ => None,
        }
    }

    /// Returns what builds the reply to a subscribe command that fails.
    pub(super) fn refusal(&self, id: u32) -> RefusalBuilder {
        let (metrics, format) = (self.services.metrics.clone(), self.format);
        Box::new(move |error| {
            let error: WireError = match error {
                // The client learns it from the close.
                SubscribeError::Closing => return None,
                SubscribeError::AlreadySubscribed => ErrorCode::AlreadySubscribed.into(),
                SubscribeError::LimitExceeded(limit) => (*limit).into(),
                SubscribeError::TokenExpired => ErrorCode::TokenExpired.into(),
                SubscribeError::Unrecoverable => ErrorCode::UnrecoverablePosition.into(),
                SubscribeError::Refused(error) => error.clone(),
                SubscribeError::Broker(error) => error.clone().into(),
            };
            metrics.count_error(error.code());
            let frame = format.encode_reply(id, &protocol::Reply::Error(&error));
            Some((error, frame))
        })
    }

    /// Returns whether the group is carried out before the next command is looked at.
    pub(super) fn is_group_full(&self) -> bool {
        let config = self.services.config.current();
        let limits = &config.limits;
        let is_full = self.subscribe_group.as_ref().is_some_and(|group| {
            // Commands may be long. So many bytes a client may also have in one command.
            group.commands.len() >= limits.concurrent_subscribes || group.command_bytes >= limits.message_bytes
        });
        // Commands were put back because their client reads slowly: its outbox may have room for one more reply only.
        is_full || self.commands.has_postponed()
    }

    /// Has the group carried out when all frames have been handled that have arrived.
    pub(super) fn schedule_group(&mut self, ctx: &mut Context<Self>) {
        let Some(group) = &mut self.subscribe_group else { return };
        if !std::mem::replace(&mut group.is_scheduled, true) {
            ctx.spawn(async {}.into_actor(self).map(|(), session, ctx| {
                let outcome = session.send_group();
                session.finish_then_continue(outcome, ctx);
            }));
        }
    }

    /// Has the hub carry out the group, if there is one.
    pub(super) fn send_group(&mut self) -> CommandOutcome {
        let Some(group) = self.subscribe_group.take() else { return CommandOutcome::Finished };
        let SubscribeGroup { mut commands, requests, questions, .. } = *group;
        if !questions.is_empty() {
            // The commands are handled again when the hook has answered all of them at once.
            return CommandOutcome::pending(0, async move {
                let questions = questions.into_iter().map(|(at, question)| question.map(move |answer| (at, answer)));
                for (at, answer) in join_all(questions).await {
                    commands[at].approval = Some(Box::new(Approval::Subscribe(answer)));
                }
                Ok(CommandReply::Postponed(commands))
            });
        }
        let finished = self.services.hub.send(SubscribeEach { key: self.key, requests });
        let services = self.services.clone();
        CommandOutcome::pending(0, async move {
            let finished = finished.await.map_err(|_| ErrorCode::Internal)?;
            let count = |result, count| services.command_counters.add(MethodName::Subscribe, result, count);
            count(CountedResult::Ok, finished.succeeded);
            count(CountedResult::Error, finished.refused);
            count(CountedResult::Closed, finished.closed);
            Ok(CommandReply::Postponed(commands.split_off(finished.total().min(commands.len()))))
        })
    }
}
