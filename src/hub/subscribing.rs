//! Beginning and ceasing to receive channels: what a session asks for, what its token brings, what newer claims take away,
//! and subscriptions whose time is over.

use std::collections::HashSet;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    Hub, SessionKey,
    registry::{Channels, Left},
    subscription::Grant,
};
use crate::{
    broker::BrokerError,
    channel::Channel,
    clock::Millis,
    protocol::{Disconnect, Push, Unsubscribed},
};

/// A session is to receive channels: all of them, or none. The hub queues `reply` in the same turn in which the session
/// begins to receive, so that no publication overtakes it.
#[derive(Message)]
#[rtype(result = "Result<(), NotSubscribed>")]
pub struct Subscribe {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub wanted: Vec<Wanted>,
    /// The frame that says yes, if one does.
    pub reply: Option<Bytes>,
}

/// One channel of a [`Subscribe`].
pub struct Wanted {
    /// Its name.
    pub channel: Channel,
    /// Why.
    pub grant: Grant,
    /// Queued before the reply, if the session did not receive the channel yet.
    pub announcement: Option<Bytes>,
}

/// Why a session does not receive a channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSubscribed {
    /// It does already. What a token brings may be there already.
    #[error("already subscribed")]
    Already,
    /// `limits.channels_per_session`.
    #[error("too many channels")]
    TooMany,
    /// The session is closing.
    #[error("the session is closing")]
    Closing,
    /// The broker could not.
    #[error("{0}")]
    Broker(#[from] BrokerError),
}

/// A session gives a channel back. Answers whether it had it.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Unsubscribe {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub channel: Channel,
}

/// Why a session receives a channel, if it does.
#[derive(Message)]
#[rtype(result = "Option<Grant>")]
pub struct Find {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub channel: Channel,
}

/// A subscription has a newer token. Answers whether there is a subscription that a token may extend.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Extend {
    /// Who.
    pub key: SessionKey,
    /// What.
    pub channel: Channel,
    /// What the token grants.
    pub grant: Grant,
}

/// A session has new claims: every live subscription is judged again, and what they do not allow is ended (2000).
#[derive(Message)]
#[rtype(result = "()")]
pub struct Judge {
    /// Who.
    pub key: SessionKey,
    /// Whether a subscription stays.
    pub stays: Stays,
}

/// What newer claims say of a subscription.
pub type Stays = Box<dyn Fn(&Channel, &Grant) -> bool + Send>;

impl Hub {
    fn channels_of(&self, key: SessionKey) -> Result<Channels<'_>, NotSubscribed> {
        let is_leaving = self.registry.member(key).is_none_or(|member| member.is_leaving());
        self.registry.channels_of(key).filter(|_| !is_leaving).ok_or(NotSubscribed::Closing)
    }

    fn may_subscribe(&self, Subscribe { key, wanted, .. }: &Subscribe) -> Result<(), NotSubscribed> {
        let held = self.channels_of(*key)?;
        let (known, new): (Vec<_>, Vec<_>) = wanted.iter().partition(|wanted| held.contains(&wanted.channel));
        if known.iter().any(|wanted| !wanted.grant.is_brought()) {
            Err(NotSubscribed::Already)
        } else if held.len() + new.len() > self.channels_per_session {
            Err(NotSubscribed::TooMany)
        } else {
            Ok(())
        }
    }

    fn begin(&mut self, Subscribe { key, wanted, reply }: Subscribe) -> Result<(), NotSubscribed> {
        let held = self.channels_of(key)?;
        let known: Vec<bool> = wanted.iter().map(|wanted| held.contains(&wanted.channel)).collect();
        let Some(member) = self.registry.member(key) else { return Err(NotSubscribed::Closing) };
        let (now, outbox) = (self.clock.now(), member.outbox.clone());
        let announcements = wanted.iter().zip(&known).filter(|(_, known)| !**known);
        for frame in announcements.filter_map(|(wanted, _)| wanted.announcement.clone()).chain(reply) {
            if let Err(refused) = outbox.push(now, frame) {
                self.refuse(key, refused);
                return Err(NotSubscribed::Closing);
            }
        }
        for (wanted, known) in wanted.into_iter().zip(known) {
            if known {
                self.registry.grant_anew(key, &wanted.channel, wanted.grant);
            } else {
                self.registry.subscribe(key, wanted.channel, wanted.grant);
            }
        }
        self.note_expiry(key);
        let _ = outbox.flush(&self.clock, now);
        Ok(())
    }

    /// The first of a session's subscriptions to end by itself is one of the things that it is waited for.
    fn note_expiry(&mut self, key: SessionKey) {
        let first = self.registry.channels_of(key).map(|channels| channels.first_expiry());
        if let (Some(first), Some(member)) = (first, self.registry.member_mut(key))
            && member.subscriptions_expire_at != first
        {
            member.subscriptions_expire_at = first;
            self.arm(key);
        }
    }

    /// Stops a session's receiving a channel, and tells it why.
    pub(super) fn end_subscription(&mut self, key: SessionKey, channel: &Channel, why: Unsubscribed) {
        if self.give_back(key, channel)
            && let Some(member) = self.registry.member(key)
        {
            let (now, outbox) = (self.clock.now(), member.outbox.clone());
            let told = outbox.push(now, member.format.push(&Push::Unsubscribe(channel, why)));
            if let Err(refused) = told.and_then(|_| outbox.flush(&self.clock, now)) {
                self.refuse(key, refused);
            }
        }
    }

    fn give_back(&mut self, key: SessionKey, channel: &Channel) -> bool {
        let left = self.registry.unsubscribe(key, channel);
        if left == Left::Last {
            self.interest.release(channel);
        }
        left != Left::WasNotThere
    }

    /// Ends the subscriptions whose time is over. One that a token brought ends the session: only a new token helps.
    pub(super) fn expire_subscriptions(&mut self, key: SessionKey, now: Millis) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let over = channels.iter().filter(|(_, grant)| grant.expires_at() <= now);
        let over: Vec<(Channel, bool)> = over.map(|(channel, grant)| (channel.clone(), grant.is_brought())).collect();
        if over.iter().any(|(_, is_brought)| *is_brought) {
            return self.close(key, &Disconnect::SUBSCRIPTION_EXPIRED);
        }
        over.iter().for_each(|(channel, _)| self.end_subscription(key, channel, Unsubscribed::Expired));
        self.note_expiry(key);
    }
}

impl Handler<Subscribe> for Hub {
    type Result = ResponseActFuture<Self, Result<(), NotSubscribed>>;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Self::Context) -> Self::Result {
        if let Err(refused) = self.may_subscribe(&subscribe) {
            return Box::pin(actix::fut::ready(Err(refused)));
        }
        if subscribe.wanted.iter().all(|wanted| self.registry.has_subscribers(&wanted.channel)) {
            return Box::pin(actix::fut::ready(self.begin(subscribe)));
        }
        // All of them: one that somebody receives now may be given back while the broker is asked for another.
        let channels: Vec<Channel> = subscribe.wanted.iter().map(|wanted| wanted.channel.clone()).collect();
        let asked = join_all(channels.iter().map(|channel| self.interest.clone().acquire(channel.clone())));
        Box::pin(asked.into_actor(self).map(move |answers, hub, _| {
            let failure = answers.iter().find_map(|answer| answer.clone().err());
            let acquired = channels.into_iter().zip(answers).filter(|(_, answer)| answer.is_ok());
            let acquired: Vec<Channel> = acquired.map(|(channel, _)| channel).collect();
            let was_heard: HashSet<Channel> =
                acquired.iter().filter(|channel| hub.registry.has_subscribers(channel)).cloned().collect();
            let begun = match failure {
                Some(error) => Err(error.into()),
                None => hub.begin(subscribe),
            };
            // Other sessions hold the channel for all already, or there is nobody to hold it for.
            let spare = acquired.iter().filter(|channel| begun.is_err() || was_heard.contains(*channel));
            spare.for_each(|channel| hub.interest.release(channel));
            begun
        }))
    }
}

impl Handler<Unsubscribe> for Hub {
    type Result = bool;

    fn handle(&mut self, Unsubscribe { key, channel }: Unsubscribe, _: &mut Self::Context) -> bool {
        let had = self.give_back(key, &channel);
        self.note_expiry(key);
        had
    }
}

impl Handler<Find> for Hub {
    type Result = Option<Grant>;

    fn handle(&mut self, Find { key, channel }: Find, _: &mut Self::Context) -> Option<Grant> {
        // The wheel may come by a little later than the end.
        let is_live = |grant: &&Grant| self.clock.now() < grant.expires_at();
        self.registry.channels_of(key)?.grant(&channel).filter(is_live).cloned()
    }
}

impl Handler<Extend> for Hub {
    type Result = bool;

    fn handle(&mut self, Extend { key, channel, grant }: Extend, _: &mut Self::Context) -> bool {
        let held = self.registry.channels_of(key).and_then(|channels| channels.grant(&channel));
        // One that the session's own token brings ends with that token's word.
        let may = held.is_some_and(|held| !held.is_brought());
        if may {
            self.registry.grant_anew(key, &channel, grant);
            self.note_expiry(key);
        }
        may
    }
}

impl Handler<Judge> for Hub {
    type Result = ();

    fn handle(&mut self, Judge { key, stays }: Judge, _: &mut Self::Context) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let over = channels.iter().filter(|(channel, grant)| !stays(channel, grant));
        let over: Vec<Channel> = over.map(|(channel, _)| channel.clone()).collect();
        over.iter().for_each(|channel| self.end_subscription(key, channel, Unsubscribed::ByServer));
        self.note_expiry(key);
    }
}
