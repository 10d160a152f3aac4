//! What a client says: the first message, then commands, one after the other. A command that has to wait for hub or broker
//! holds up what the same client said after it, and nothing else.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::{FutureExt, future::LocalBoxFuture};

use super::{Session, speaker::Speaker};
use crate::{
    auth::{
        Claims, Denied, Refusal,
        door::{self, FirstText},
    },
    broker::BrokerError,
    channel::Channel,
    clock::millis,
    config::{AllowPublish, Door},
    hub::{IsSubscribed, KeepAlive, NotSubscribed, Subscribe, Unsubscribe, Update},
    protocol::{self, Command, ConnectResult, Disconnect, ErrorCode, Malformed, Method, frame},
    publication::{ClientInfo, Publication},
};

/// Commands of one client that are done before others have their turn.
const LINES_AT_ONCE: usize = 64;

/// A message of which some lines are still to be done.
#[derive(Default)]
pub(super) struct Inbox {
    text: Option<Bytes>,
}

impl Inbox {
    pub(super) fn take(&mut self, text: Bytes) {
        self.text = Some(text);
    }

    /// The next line; the last may end in a newline. `None` when all are done.
    fn next_line(&mut self) -> Option<Bytes> {
        let mut text = self.text.take()?;
        let Some(end) = text.iter().position(|byte| *byte == b'\n') else { return Some(text) };
        let line = text.split_to(end);
        self.text = Some(text.slice(1..)).filter(|rest| !rest.is_empty());
        Some(line)
    }
}

/// What a command has come to.
enum Done {
    /// Answered, or there is nothing to answer.
    Now,
    /// Answered when this is ready.
    Later(LocalBoxFuture<'static, Answer>),
}

/// What is answered to a command.
struct Answer {
    id: u32,
    result: Result<Option<&'static str>, ErrorCode>,
}

impl Session {
    /// Does what waits in the inbox, as far as it can be done at once.
    pub(super) fn proceed(&mut self, ctx: &mut Context<Self>) {
        for _ in 0..LINES_AT_ONCE {
            let Some(line) = self.inbox.next_line() else { return self.flush() };
            // What came before may have waited for a broker: the token's time may be over, or the hub has closed us.
            if self.has_expired() {
                return self.close(Disconnect::Expired);
            }
            if self.outbox.is_closing() {
                return self.silence();
            }
            match self.line(&line) {
                Done::Now => {}
                Done::Later(mut answer) => match (&mut answer).now_or_never() {
                    Some(answer) => self.answer(answer),
                    None => {
                        self.flush();
                        ctx.wait(answer.into_actor(self).map(|answer, session, ctx| {
                            session.answer(answer);
                            session.proceed(ctx);
                        }));
                        return;
                    }
                },
            }
        }
        self.flush();
        let others = actix::fut::wrap_future::<_, Self>(tokio::task::yield_now());
        ctx.wait(others.map(|(), session, ctx| session.proceed(ctx)));
    }

    fn line(&mut self, line: &Bytes) -> Done {
        // The reader has checked that text is UTF-8.
        let text = std::str::from_utf8(line).unwrap_or_default();
        if let FirstText::Token(_) | FirstText::OtherScheme = door::first_text(text) {
            self.text_token(text);
            return Done::Now;
        }
        match (&self.speaker, protocol::command(text)) {
            (Speaker::Gone, _) => Done::Now,
            (_, Ok(Command { id, method: Method::Connect { token } })) => {
                self.connect(id, token.as_deref());
                Done::Now
            }
            (Speaker::Nobody, _) => {
                self.close(Disconnect::BadRequest);
                Done::Now
            }
            (Speaker::Plain(claims) | Speaker::Sdk(claims), Ok(command)) => {
                let claims = claims.clone();
                self.command(command, line, &claims)
            }
            (_, Err(Malformed)) => {
                self.nonsense();
                Done::Now
            }
        }
    }

    /// Something that is no command: it ends an SDK session and one that is nobody; a plain one is told.
    pub(super) fn nonsense(&mut self) {
        self.errors += 1;
        match self.speaker {
            Speaker::Plain(_) if self.errors > self.services.config.limits.errors => {
                self.close(Disconnect::TooManyErrors)
            }
            Speaker::Plain(_) => self.answer(Answer { id: 0, result: Err(ErrorCode::BadRequest) }),
            Speaker::Nobody | Speaker::Sdk(_) => self.close(Disconnect::BadRequest),
            Speaker::Gone => {}
        }
    }

    /// `Authorization: Bearer T` as a message: the first one lets in, a later one refreshes.
    fn text_token(&mut self, text: &str) {
        if !self.is_open(Door::Message) {
            return self.nonsense();
        }
        let FirstText::Token(token) = door::first_text(text) else { return self.close(Disconnect::InvalidToken) };
        match self.services.verifier.verify(token) {
            Ok(claims) if self.is_same_user(&claims) => {
                self.become_speaker(self.speaker.with(Arc::new(claims)));
                self.say_hello();
            }
            Ok(_) => self.close(Disconnect::InvalidToken),
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn connect(&mut self, id: u32, token: Option<&str>) {
        let token = token.filter(|_| self.is_open(Door::Connect));
        match (&self.speaker, token) {
            (Speaker::Plain(claims), None) => self.become_speaker(Speaker::Sdk(claims.clone())),
            (Speaker::Nobody | Speaker::Plain(_), Some(token)) => match self.services.verifier.verify(token) {
                Ok(claims) if self.is_same_user(&claims) => self.become_speaker(Speaker::Sdk(Arc::new(claims))),
                Err(Refusal::Expired) => return self.answer(Answer { id, result: Err(ErrorCode::TokenExpired) }),
                Ok(_) => return self.close(Disconnect::InvalidToken),
                Err(refusal) => return self.refuse(refusal),
            },
            _ => return self.close(Disconnect::BadRequest),
        }
        self.greet(|result| protocol::connect_reply(id, result));
    }

    fn refuse(&mut self, refusal: Refusal) {
        log::debug!("client {}: token {refusal}", self.client);
        self.close(Disconnect::InvalidToken);
    }

    fn is_open(&self, door: Door) -> bool {
        self.services.config.auth.doors.contains(&door)
    }

    fn is_same_user(&self, claims: &Claims) -> bool {
        self.speaker.claims().is_none_or(|current| current.user == claims.user)
    }

    fn become_speaker(&mut self, speaker: Speaker) {
        self.speaker = speaker;
        self.waiting = None;
        if let Some(claims) = self.speaker.claims() {
            let (keep_alive, expires_at) = (self.speaker.keep_alive(), claims.expires_at);
            self.outbox.expire_at(expires_at);
            self.services.hub.do_send(Update { key: self.key, keep_alive, expires_at });
        }
    }

    /// Tells a plain session that it is in.
    pub(super) fn say_hello(&mut self) {
        self.greet(protocol::connect_push);
    }

    fn greet(&mut self, write: impl FnOnce(&ConnectResult<'_>) -> Vec<u8>) {
        let Some(claims) = self.speaker.claims() else { return };
        let is_sdk = self.speaker.keep_alive() == KeepAlive::EmptyReply;
        let client = self.client.to_string();
        let greeting = write(&ConnectResult {
            client: &client,
            version: protocol::VERSION,
            expires: true,
            ttl: self.told_ttl(claims),
            ping: if is_sdk { self.services.config.server.ping_interval.as_secs().max(1) as u32 } else { 0 },
            pong: is_sdk,
            session: &client,
            node: &self.services.node,
        });
        self.send(frame::text(&greeting));
    }

    /// Seconds after which a client should refresh: what is left less the margin, but at least half of it.
    fn told_ttl(&self, claims: &Claims) -> u32 {
        let left = claims.expires_at.saturating_sub(self.services.clock.now()).max(0);
        let margin = millis(self.services.config.auth.refresh_margin).min(left / 2);
        u32::try_from((left - margin) / 1000).unwrap_or(u32::MAX).max(1)
    }

    fn command(&mut self, Command { id, method }: Command<'_>, line: &Bytes, claims: &Arc<Claims>) -> Done {
        let result = match method {
            Method::Pong => {
                self.outbox.note_answer();
                return Done::Now;
            }
            Method::Send => {
                self.close(Disconnect::NotAvailable);
                return Done::Now;
            }
            Method::Ping => Ok(Some("ping")),
            Method::Unavailable => Err(ErrorCode::NotAvailable),
            Method::Subscribe { channel } => match self.subscribe(id, &channel) {
                Ok(later) => return Done::Later(later),
                Err(error) => Err(error),
            },
            Method::Unsubscribe { channel } => match Channel::new(&channel) {
                Ok(channel) => return Done::Later(self.unsubscribe(id, channel)),
                Err(_) => Err(ErrorCode::BadRequest),
            },
            Method::Publish { channel, data } if data.get().len() <= self.services.config.limits.publication_bytes => {
                let data = protocol::one_line(line, data);
                return Done::Later(self.publish(id, &channel, data, claims));
            }
            Method::Publish { .. } => Err(ErrorCode::LimitExceeded),
            // Handled before.
            Method::Connect { .. } => Err(ErrorCode::BadRequest),
        };
        self.answer(Answer { id, result });
        Done::Now
    }

    fn answer(&mut self, Answer { id, result }: Answer) {
        let reply = match result {
            Ok(Some(method)) => protocol::empty_reply(id, method),
            // The hub has answered, in the turn in which the session began to receive.
            Ok(None) => return,
            Err(error) => {
                self.services.metrics.count_error(error.code());
                protocol::error_reply(id, error)
            }
        };
        self.send(frame::text(&reply));
    }

    fn subscribe(&self, id: u32, channel: &str) -> Result<LocalBoxFuture<'static, Answer>, ErrorCode> {
        let channel = Channel::new(channel).map_err(|_| ErrorCode::BadRequest)?;
        let claims = self.speaker.claims().ok_or(ErrorCode::Unauthorized)?;
        self.services.permissions.may_subscribe(claims, &channel, None).map_err(denied)?;
        let reply = frame::text(&protocol::empty_reply(id, "subscribe"));
        let asked = self.services.hub.send(Subscribe { key: self.key, channel, reply });
        Ok(async move {
            let result = match asked.await {
                Ok(Ok(())) | Ok(Err(NotSubscribed::Closing)) => Ok(None),
                Ok(Err(NotSubscribed::Already)) => Err(ErrorCode::AlreadySubscribed),
                Ok(Err(NotSubscribed::TooMany)) => Err(ErrorCode::LimitExceeded),
                Ok(Err(NotSubscribed::Broker(error))) => Err(failed(&error)),
                Err(_) => Err(ErrorCode::Internal),
            };
            Answer { id, result }
        }
        .boxed_local())
    }

    fn unsubscribe(&self, id: u32, channel: Channel) -> LocalBoxFuture<'static, Answer> {
        let asked = self.services.hub.send(Unsubscribe { key: self.key, channel });
        async move {
            // Not having it is what the client wants, too.
            let result = asked.await.map(|_| Some("unsubscribe")).map_err(|_| ErrorCode::Internal);
            Answer { id, result }
        }
        .boxed_local()
    }

    fn publish(&self, id: u32, channel: &str, data: Bytes, claims: &Arc<Claims>) -> LocalBoxFuture<'static, Answer> {
        let services = self.services.clone();
        let claims = claims.clone();
        let key = self.key;
        let info = ClientInfo {
            user: claims.user.to_string(),
            client: self.client.to_string(),
            conn_info: claims.info.clone(),
            chan_info: None,
        };
        let channel = Channel::new(channel);
        async move {
            let result = async {
                let channel = channel.map_err(|_| ErrorCode::BadRequest)?;
                let options = &services.config.channels;
                let is_subscribed = options.allow_publish == AllowPublish::Subscriber
                    && services.hub.send(IsSubscribed { key, channel: channel.clone() }).await.unwrap_or(false);
                services.permissions.may_publish(&claims, &channel, is_subscribed).map_err(denied)?;
                services.metrics.publications.inc();
                let published = services.broker.publish(Publication { channel, data, info: Some(info) }).await;
                published.map(|()| Some("publish")).map_err(|error| failed(&error))
            }
            .await;
            Answer { id, result }
        }
        .boxed_local()
    }
}

fn denied(denied: Denied) -> ErrorCode {
    match denied {
        Denied::UnknownNamespace => ErrorCode::UnknownChannel,
        Denied::BadName => ErrorCode::BadRequest,
        Denied::NotGranted => ErrorCode::PermissionDenied,
    }
}

fn failed(error: &BrokerError) -> ErrorCode {
    match error {
        BrokerError::Busy => ErrorCode::TooManyRequests,
        BrokerError::Unavailable(_) | BrokerError::Incomplete { .. } => ErrorCode::Internal,
    }
}
