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

pub(super) use self::identity::Standing;
use super::{Session, pace::Haste, speaker::Speaker};
use crate::{
    auth::{
        Claims,
        door::{self, FirstText},
    },
    broker::BrokerError,
    protocol::{self, Command, Disconnect, ErrorCode, Format, Malformed, Method},
};

/// How long one client may keep the thread before others have their turn, and how many commands it may do: most take a
/// microsecond, but a token that comes with one takes up to a third of a millisecond to verify (ES384).
const TURN: Duration = Duration::from_millis(2);
const COMMANDS_AT_ONCE: usize = 64;

/// A frame of which some commands are still to be done.
#[derive(Default)]
pub(super) struct Inbox {
    frame: Option<Bytes>,
    /// Bytes of `frame` up to the command behind the one in hand.
    taken: u32,
    /// The next command has been put back, and was counted when it came.
    is_again: bool,
}

impl Inbox {
    pub(super) fn take(&mut self, frame: Bytes) {
        *self = Self { frame: Some(frame), taken: 0, is_again: false };
    }

    /// The next command, unread; `None` when all are done. Behind one that is malformed nothing is found.
    fn next(&mut self, format: Format) -> Option<Result<Bytes, Malformed>> {
        let mut frame = self.frame.take()?;
        let taken = std::mem::take(&mut self.taken) as usize;
        frame.advance(taken.min(frame.len()));
        if taken > 0 && frame.is_empty() {
            return None;
        }
        Some(format.first_message(&frame).map(|(message, next)| {
            // A frame is at most `limits.message_bytes`, far below 4 GiB.
            self.taken = u32::try_from(next).unwrap_or(u32::MAX);
            let message = frame.slice(message);
            self.frame = Some(frame);
            message
        }))
    }

    /// The command in hand is to come again.
    fn put_back(&mut self) {
        (self.taken, self.is_again) = (0, true);
    }
}

/// What a command has come to.
pub(super) enum Done {
    /// Answered, or there is nothing to answer.
    Now,
    /// Answered when this is ready.
    Later(LocalBoxFuture<'static, Answer>),
}

/// What is answered to a command.
pub(super) struct Answer {
    id: u32,
    result: Result<Reply, Failed>,
}

/// A command was done.
enum Reply {
    /// This frame says so.
    Frame(Bytes),
    /// The hub has answered, in the turn in which the session began to receive.
    Said,
}

/// A command was not done.
enum Failed {
    /// The client is told.
    Error(ErrorCode),
    /// The session cannot go on.
    Close(Disconnect),
}

impl From<ErrorCode> for Failed {
    fn from(error: ErrorCode) -> Self {
        Self::Error(error)
    }
}

impl Answer {
    fn error(id: u32, error: ErrorCode) -> Self {
        Self { id, result: Err(error.into()) }
    }
}

impl Session {
    /// Does what waits in the inbox, as far as it can be done at once.
    pub(super) fn proceed(&mut self, ctx: &mut Context<Self>) {
        let end = Instant::now() + TURN;
        for number in 0..COMMANDS_AT_ONCE {
            if number > 0 && Instant::now() >= end {
                break;
            }
            let Some(message) = self.inbox.next(self.format) else { return self.flush() };
            // What came before may have waited for a broker: the token's time may be over, or the hub has closed us.
            if self.has_expired() {
                return self.close(&Disconnect::EXPIRED);
            }
            if self.outbox.is_closing() {
                return self.silence();
            }
            let done = self.message(message);
            if self.is_waiting_for(done, ctx) {
                return self.flush();
            }
        }
        self.flush();
        let others = actix::fut::wrap_future::<_, Self>(tokio::task::yield_now());
        ctx.wait(others.map(|(), session, ctx| session.proceed(ctx)));
    }

    /// Answers what was done outside of a message, and then goes on with messages.
    pub(super) fn carry_on(&mut self, done: Done, ctx: &mut Context<Self>) {
        let _ = self.is_waiting_for(done, ctx);
        self.flush();
    }

    /// Answers; or, if that has to wait, does so later and goes on then.
    fn is_waiting_for(&mut self, done: Done, ctx: &mut Context<Self>) -> bool {
        let Done::Later(mut answer) = done else { return false };
        if let Some(answer) = (&mut answer).now_or_never() {
            self.answer(answer);
            return false;
        }
        ctx.wait(answer.into_actor(self).map(|answer, session, ctx| {
            session.answer(answer);
            session.proceed(ctx);
        }));
        true
    }

    fn message(&mut self, message: Result<Bytes, Malformed>) -> Done {
        let haste = if std::mem::take(&mut self.inbox.is_again) { Haste::None } else { self.hurry() };
        if haste == Haste::Flood {
            self.close(&Disconnect::TOO_MANY_REQUESTS);
            return Done::Now;
        }
        let Ok(message) = message else {
            self.nonsense(&Disconnect::BAD_REQUEST);
            return Done::Now;
        };
        if let Some(text) = self.token_text(&message) {
            if haste == Haste::Over {
                self.close(&Disconnect::TOO_MANY_REQUESTS);
                return Done::Now;
            }
            return self.text_token(text);
        }
        match (&self.speaker, self.format.command(&message)) {
            (Speaker::Gone | Speaker::Rejected { .. }, _) => Done::Now,
            (Speaker::Nobody, Ok(Command { method, .. })) if !matches!(method, Method::Connect(_)) => {
                self.close(&Disconnect::BAD_REQUEST);
                Done::Now
            }
            (_, Ok(Command { id: id @ 1.., .. })) if haste == Haste::Over => {
                self.answer(Answer::error(id, ErrorCode::TooManyRequests));
                Done::Now
            }
            (_, Ok(command)) => self.authorized(command, &message),
            (_, Err(_)) => {
                self.nonsense(&Disconnect::BAD_REQUEST);
                Done::Now
            }
        }
    }

    /// Text that brings a token, and is no command.
    fn token_text<'m>(&self, message: &'m Bytes) -> Option<&'m str> {
        // The reader has checked that text is UTF-8.
        let text = std::str::from_utf8(message).ok().filter(|_| self.format == Format::Json)?;
        (door::first_text(text) != FirstText::Else).then_some(text)
    }

    /// Something that is no command: it ends an SDK session and one that is nobody, with this; a plain one is told.
    pub(super) fn nonsense(&mut self, otherwise: &Disconnect) {
        self.errors += 1;
        match self.speaker {
            Speaker::Plain(_) if self.errors > self.services.config.limits.errors => {
                self.close(&Disconnect::TOO_MANY_ERRORS);
            }
            Speaker::Plain(_) => self.answer(Answer::error(0, ErrorCode::BadRequest)),
            Speaker::Nobody | Speaker::Sdk(_) => self.close(otherwise),
            Speaker::Gone | Speaker::Rejected { .. } => {}
        }
    }

    /// A command of somebody: first the token that it carries, or should.
    fn authorized(&mut self, Command { id, token, method }: Command<'_>, message: &Bytes) -> Done {
        let (method, token) = match (method, token) {
            (Method::Connect(request), token) if request.token.is_some() || token.is_some() || !self.wants_tokens() => {
                return self.connect(id, request.token.or(token), &request.subs);
            }
            (Method::Refresh { token: inner }, token) => return self.refresh(id, inner.or(token)),
            (method, token) => (method, token),
        };
        match token {
            Some(token) => match self.adopt_token_of_command(id, &token) {
                Ok(Done::Now) => {}
                Ok(joining) => {
                    // The command comes again when the session has what its new token brings, and no more.
                    self.inbox.put_back();
                    return joining;
                }
                Err(failed) => return self.fail(id, failed),
            },
            None if self.wants_tokens() && !matches!(method, Method::Pong) => {
                return self.fail(id, ErrorCode::Unauthorized.into());
            }
            None => {}
        }
        let Some(claims) = self.speaker.claims().cloned() else { return Done::Now };
        self.command(id, method, message, &claims)
    }

    /// Whether every command must carry a token.
    fn wants_tokens(&self) -> bool {
        self.services.config.auth.require_token_per_message
    }

    fn command(&mut self, id: u32, method: Method<'_>, message: &Bytes, claims: &Arc<Claims>) -> Done {
        let done = match method {
            Method::Pong => {
                self.outbox.note_answer();
                return Done::Now;
            }
            Method::Send { .. } => {
                self.close(&Disconnect::NOT_AVAILABLE);
                return Done::Now;
            }
            Method::Ping => {
                self.reply(id, &protocol::Reply::Ping);
                return Done::Now;
            }
            Method::Rpc { .. } => Err(ErrorCode::NotAvailable.into()),
            Method::Presence { channel } => self.presence(id, &channel, claims),
            Method::PresenceStats { channel } => self.presence_stats(id, &channel, claims),
            Method::History(request) => self.history(id, &request, claims),
            Method::Subscribe(request) => self.subscribe(id, &request, claims),
            Method::SubRefresh { channel, token } => self.sub_refresh(id, &channel, token.as_deref(), claims),
            Method::Unsubscribe { channel } => self.unsubscribe(id, &channel),
            Method::Publish { channel, data: Some(data) } => {
                let data = protocol::one_line(message, data);
                self.publish(id, &channel, data, claims)
            }
            Method::Publish { data: None, .. } => Err(ErrorCode::BadRequest.into()),
            // Done before.
            Method::Connect(_) | Method::Refresh { .. } => Err(ErrorCode::BadRequest.into()),
        };
        done.unwrap_or_else(|failed| self.fail(id, failed))
    }

    fn fail(&mut self, id: u32, failed: Failed) -> Done {
        self.answer(Answer { id, result: Err(failed) });
        Done::Now
    }

    fn answer(&mut self, Answer { id, result }: Answer) {
        match result {
            Ok(Reply::Frame(frame)) => self.send(frame),
            Ok(Reply::Said) => {}
            Err(Failed::Error(error)) => {
                self.services.metrics.count_error(error.code());
                self.reply(id, &protocol::Reply::Error(error));
            }
            Err(Failed::Close(disconnect)) => self.close(&disconnect),
        }
    }
}

fn failed(error: &BrokerError) -> ErrorCode {
    match error {
        BrokerError::Busy => ErrorCode::TooManyRequests,
        BrokerError::NotAvailable => ErrorCode::NotAvailable,
        BrokerError::Unavailable(_) | BrokerError::Incomplete { .. } => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_one_by_one_and_again_when_put_back() {
        let all = |inbox: &mut Inbox| std::iter::from_fn(|| inbox.next(Format::Json)?.ok()).collect::<Vec<_>>();
        let lines = |text: &'static str| {
            let mut inbox = Inbox::default();
            inbox.take(Bytes::from_static(text.as_bytes()));
            all(&mut inbox)
        };
        assert_eq!(lines("a\nb"), ["a", "b"]);
        assert_eq!(lines("a\n\nb\n"), ["a", "", "b"]);
        assert_eq!(lines(""), [""]);
        assert_eq!(lines("\n"), [""]);
        let mut inbox = Inbox::default();
        inbox.take(Bytes::from_static(b"a\nb"));
        inbox.next(Format::Json).unwrap().unwrap();
        inbox.put_back();
        assert_eq!(all(&mut inbox), ["a", "b"]);
    }
}
