//! Who the client is: tokens in the first message, in `connect`, on any command, in `refresh`. New claims hold at once, and
//! every live subscription is judged again by them.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;

use super::{Answer, Done, Failed, Reply, failed, subscribing::Promise};
use crate::{
    auth::{
        Claims, Refusal, ServerSide,
        door::{self, FirstText},
    },
    channel::Channel,
    clock::{Millis, NEVER, millis},
    config::{Anonymous, Door},
    hub::{Grant, Judge, KeepAlive, NotSubscribed, Subscribe, Tell, Terms, Update, Wanted},
    protocol::{self, ConnectResult, Disconnect, ErrorCode, Expiry, Format, Push, Recovery, RefreshResult},
    session::{Session, speaker::Speaker},
};

/// Whether the client is to be told of each channel that its token brings, or reads it in the reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    ByPush,
    ByReply,
}

/// What new claims mean for the subscriptions that the session has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Standing {
    /// Nothing: there are none, or the claims are the same.
    AsBefore,
    /// The hub judges them again.
    Judged,
}

impl Session {
    /// `Authorization: Bearer T` as a message: the first one lets in, a later one refreshes.
    pub(super) fn text_token(&mut self, text: &str) -> Done {
        if !self.is_open(Door::Message) {
            self.nonsense(&Disconnect::BAD_REQUEST);
            return Done::Now;
        }
        let FirstText::Token(token) = door::first_text(text) else {
            return self.fail(0, Failed::Close(Disconnect::INVALID_TOKEN));
        };
        match self.judge(token) {
            Ok(claims) if self.take_seat(&claims) => {
                let standing = self.adopt(claims);
                self.say_hello(standing)
            }
            Ok(_) => self.fail(0, Failed::Close(Disconnect::TOO_MANY_REQUESTS)),
            Err(_) => self.fail(0, Failed::Close(Disconnect::INVALID_TOKEN)),
        }
    }

    /// With where the client stands in channels that its token brings.
    pub(super) fn connect(
        &mut self,
        id: u32,
        token: Option<Cow<'_, str>>,
        subs: &BTreeMap<Cow<'_, str>, Recovery<'_>>,
    ) -> Done {
        let token = token.filter(|_| self.is_open(Door::Connect));
        let anonymous = self.services.config.auth.anonymous == Anonymous::Always && self.is_open(Door::Connect);
        let claims = match (&self.speaker, token) {
            (Speaker::Plain(claims), None) => Ok(claims.clone()),
            (Speaker::Nobody | Speaker::Plain(_), Some(token)) => self.judge(&token),
            (Speaker::Nobody, None) if anonymous => Ok(Arc::new(Claims::anonymous())),
            _ => Err(Failed::Close(Disconnect::BAD_REQUEST)),
        };
        match claims {
            Ok(claims) if self.take_seat(&claims) => {
                let standing = self.adopt(claims);
                self.become_speaker(self.speaker.as_sdk());
                self.greet(standing, subs, move |format, result| format.reply(id, &protocol::Reply::Connect(result)))
            }
            Ok(_) => self.fail(id, Failed::Close(Disconnect::CONNECTION_LIMIT)),
            Err(failed) => self.fail(id, failed),
        }
    }

    pub(super) fn refresh(&mut self, id: u32, token: Option<Cow<'_, str>>) -> Done {
        let Some(token) = token else { return self.fail(id, Failed::Close(Disconnect::BAD_REQUEST)) };
        let claims = match self.judge(&token) {
            Ok(claims) => claims,
            Err(failed) => return self.fail(id, failed),
        };
        let standing = self.adopt(claims.clone());
        let client = self.client.to_string();
        let expiry = self.told(claims.expires_at);
        let result = RefreshResult { client: &client, version: protocol::VERSION, expiry };
        let reply = self.format.reply(id, &protocol::Reply::Refresh(&result));
        let wanted = self.wanted(&claims, Told::ByPush, &BTreeMap::new());
        self.join(id, standing, wanted, Box::new(move |_| reply.clone()), ErrorCode::Internal.into())
    }

    /// A token on another command; [`Done::Later`] when the hub has to judge and to add subscriptions first.
    pub(super) fn adopt_token_of_command(&mut self, id: u32, token: &str) -> Result<Done, Failed> {
        let claims = self.judge(token)?;
        if self.speaker.claims() == Some(&claims) {
            return Ok(Done::Now);
        }
        self.adopt(claims.clone());
        let wanted = self.wanted(&claims, Told::ByPush, &BTreeMap::new());
        Ok(self.ask_for(id, wanted, None, Failed::Close(Disconnect::INTERNAL)))
    }

    /// The server API lets the session last to another time, and perhaps shows its user differently.
    pub(in crate::session) fn renew(&mut self, expires_at: Millis, info: Option<Bytes>) {
        let Some(claims) = self.speaker.claims() else { return };
        let info = info.or_else(|| claims.info.clone());
        self.become_speaker(self.speaker.with(Arc::new(Claims { expires_at, info, ..Claims::clone(claims) })));
        self.push(&Push::Refresh(self.told(expires_at)));
    }

    /// The claims of a good token of the user that the session has, if it has one.
    fn judge(&self, token: &str) -> Result<Arc<Claims>, Failed> {
        let claims = self.services.verifier.verify(token).map_err(|refusal| {
            log::debug!("client {}: token {refusal}", self.client);
            match refusal {
                Refusal::Expired => Failed::Error(ErrorCode::TokenExpired),
                Refusal::Invalid(_) => Failed::Close(Disconnect::INVALID_TOKEN),
            }
        })?;
        match self.speaker.claims() {
            Some(current) if current.user != claims.user => Err(Failed::Close(Disconnect::INVALID_TOKEN)),
            _ => Ok(Arc::new(claims)),
        }
    }

    fn is_open(&self, door: Door) -> bool {
        self.services.config.auth.doors.contains(&door)
    }

    /// Whether the user may have one more connection, or has counted this one already.
    fn take_seat(&mut self, claims: &Claims) -> bool {
        if self.user.is_none() && !claims.is_anonymous() {
            self.user = self.services.users.take(&claims.user);
            return self.user.is_some();
        }
        true
    }

    fn become_speaker(&mut self, speaker: Speaker) {
        self.speaker = speaker;
        self.waiting = None;
        if let Some(claims) = self.speaker.claims() {
            let (keep_alive, expires_at) = (self.keep_alive(), claims.expires_at);
            self.outbox.expire_at(expires_at);
            self.services.hub.do_send(Update { key: self.key, keep_alive, expires_at, user: claims.user.clone() });
        }
    }

    /// From now on the session has these claims.
    fn adopt(&mut self, claims: Arc<Claims>) -> Standing {
        let before = self.speaker.claims().cloned();
        self.become_speaker(self.speaker.with(claims.clone()));
        if before.is_none_or(|before| before == claims) {
            return Standing::AsBefore;
        }
        let permissions = self.services.permissions.clone();
        let stays = move |channel: &Channel, grant: &Grant| match grant {
            Grant::Asked => permissions.may_subscribe(&claims, channel, None).is_ok(),
            // A grant of its own for the same user, with an end of its own.
            Grant::Token(_) => true,
            // What the server API has brought only the API takes away: the token never had a say in it.
            Grant::Given(_) => true,
            Grant::Brought(_) => brought(&claims).iter().any(|brought| brought.channel == *channel),
        };
        self.services.hub.do_send(Judge { key: self.key, stays: Box::new(stays) });
        Standing::Judged
    }

    /// Tells a plain session that it is in.
    pub(in crate::session) fn say_hello(&mut self, standing: Standing) -> Done {
        self.greet(standing, &BTreeMap::new(), |format, result| format.push(&Push::Connect(result)))
    }

    fn greet(
        &mut self,
        standing: Standing,
        subs: &BTreeMap<Cow<'_, str>, Recovery<'_>>,
        write: impl Fn(Format, &ConnectResult<'_>) -> Bytes + Send + 'static,
    ) -> Done {
        let Some(claims) = self.speaker.claims().cloned() else { return Done::Now };
        let has_pings = self.keep_alive() == KeepAlive::EmptyReply;
        let ping = if has_pings { self.services.config.server.ping_interval.as_secs().max(1) as u32 } else { 0 };
        let (client, node, format) = (self.client.to_string(), self.services.node.clone(), self.format);
        let expiry = self.told(claims.expires_at);
        let promises: Vec<Promise> = brought(&claims).iter().map(|brought| self.promise_of(brought, &claims)).collect();
        let reply: Tell = Box::new(move |begun| {
            let subs = promises.iter().zip(begun);
            let subs = subs.map(|(promise, begun)| (begun.channel.as_str(), promise.result(begun))).collect();
            let version = protocol::VERSION;
            let (client, session) = (client.as_str(), client.as_str());
            write(format, &ConnectResult { client, version, expiry, subs, ping, pong: has_pings, session, node: &node })
        });
        let wanted = self.wanted(&claims, Told::ByReply, subs);
        self.join(0, standing, wanted, reply, Failed::Close(Disconnect::INTERNAL))
    }

    /// Says `reply` when the session receives everything that its token brings, and nothing more that it does not allow.
    fn join(&mut self, id: u32, standing: Standing, wanted: Vec<Wanted>, reply: Tell, otherwise: Failed) -> Done {
        if wanted.is_empty() && standing == Standing::AsBefore {
            self.send(reply(&[]));
            return Done::Now;
        }
        self.ask_for(id, wanted, Some(reply), otherwise)
    }

    fn wanted(&mut self, claims: &Claims, told: Told, subs: &BTreeMap<Cow<'_, str>, Recovery<'_>>) -> Vec<Wanted> {
        let brought = brought(claims);
        self.has_subscription_info |= brought.iter().any(|brought| brought.info.is_some());
        let wanted = brought.iter().map(|brought| {
            let channel = brought.channel.clone();
            let mut options = self.forced(&channel, claims, brought.info.as_ref());
            if let Some(recovery) = subs.get(channel.as_str()) {
                self.recover(&mut options, &channel, recovery, false);
            }
            let promise = self.promise_of(brought, claims);
            let announcement = (told == Told::ByPush).then(|| promise.announcement(self.format));
            let terms = Terms { expires_at: brought.expires_at, info: brought.info.clone() };
            Wanted { channel, grant: Grant::Brought(Box::new(terms)), options, announcement }
        });
        wanted.collect()
    }

    pub(super) fn ask_for(&self, id: u32, wanted: Vec<Wanted>, reply: Option<Tell>, otherwise: Failed) -> Done {
        let asked = self.services.hub.send(Subscribe { key: self.key, wanted, reply });
        let answer = async move {
            let result = match asked.await {
                Ok(Ok(()) | Err(NotSubscribed::Closing)) => Ok(Reply::Said),
                Ok(Err(NotSubscribed::TooMany)) => Err(Failed::Close(Disconnect::CHANNEL_LIMIT)),
                Ok(Err(NotSubscribed::Broker(error))) => {
                    log::debug!("a token's channels: {error}");
                    Err(match otherwise {
                        Failed::Error(_) => failed(&error).into(),
                        close => close,
                    })
                }
                Ok(Err(NotSubscribed::Already | NotSubscribed::Unrecoverable | NotSubscribed::Expired)) | Err(_) => {
                    Err(otherwise)
                }
            };
            Answer { id, result }
        };
        Done::Later(answer.boxed_local())
    }

    fn promise_of(&self, brought: &ServerSide, claims: &Claims) -> Promise {
        let options = self.forced(&brought.channel, claims, None);
        Promise::new(self.told(brought.expires_at), brought.data.clone(), &options)
    }

    /// Seconds after which a client should refresh: what is left less the margin, but at least half of it.
    pub(super) fn told(&self, expires_at: Millis) -> Expiry {
        if expires_at == NEVER {
            return Expiry::NEVER;
        }
        let left = expires_at.saturating_sub(self.services.clock.now()).max(0);
        let margin = millis(self.services.config.auth.refresh_margin).min(left / 2);
        Expiry::after(u32::try_from((left - margin) / 1000).unwrap_or(u32::MAX).max(1))
    }
}

fn brought(claims: &Claims) -> &[ServerSide] {
    claims.grants.as_ref().map_or(&[], |grants| grants.subscriptions.as_slice())
}
