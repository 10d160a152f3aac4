//! Beginning and ceasing to receive channels: what a session asks for, what its token brings, what newer claims take away,
//! and subscriptions whose time is over.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;

use super::{
    Hub, SessionKey,
    begun::{Begun, Tell},
    reception::{Departed, Options},
    recovery::Beginning,
    registry::{Channels, Subscription},
    starting::Start,
    subscription::Grant,
};
use crate::{
    broker::BrokerError,
    channel::Channel,
    clock::Millis,
    position::Position,
    protocol::{Disconnect, Push, Unsubscribed},
    publication::{ClientInfo, Publication},
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
    /// The frame that says yes, if one does; it is told of `wanted` in that order.
    pub reply: Option<Tell>,
}

/// One channel of a [`Subscribe`].
pub struct Wanted {
    /// Its name.
    pub channel: Channel,
    /// Why.
    pub grant: Grant,
    /// How.
    pub options: Options,
    /// Queued before the reply, if the session did not receive the channel yet.
    pub announcement: Option<Tell>,
}

/// Why a session does not receive a channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSubscribed {
    /// It does already. What a token brings may be there already.
    #[error("already subscribed")]
    Already,
    /// `limits.channels_per_session`, or `limits.filter_nodes_per_channel`.
    #[error("too many channels or filters")]
    TooMany,
    /// The session is closing.
    #[error("the session is closing")]
    Closing,
    /// What the client has missed cannot be had, and it wanted that or nothing.
    #[error("unrecoverable position")]
    Unrecoverable,
    /// The token's time was over before its subscription began.
    #[error("token expired")]
    Expired,
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

impl Wanted {
    fn wants_all_or_nothing(&self) -> bool {
        self.options.recover.is_some_and(|recover| recover.or_nothing)
    }

    /// From where on the client receives, if it is told.
    fn told(&self, beginning: Option<&Beginning>) -> Option<Position> {
        let is_told = self.options.is_positioned || self.options.is_recoverable;
        beginning.filter(|_| is_told).map(Beginning::place)
    }

    fn begun(&self, beginning: Option<&Beginning>, missed: Vec<Publication>) -> Begun {
        let begun = Begun::new(self.channel.clone(), self.told(beginning));
        match (&self.options.recover, beginning) {
            (Some(recover), Some(beginning)) if beginning.is_recovered => {
                begun.recovering().recovered(recover, &self.options, missed)
            }
            (Some(_), Some(_)) => begun.recovering(),
            _ => begun,
        }
    }
}

impl Hub {
    fn channels_of(&self, key: SessionKey) -> Result<Channels<'_>, NotSubscribed> {
        let is_leaving = self.registry.member(key).is_none_or(|member| member.is_leaving());
        self.registry.channels_of(key).filter(|_| !is_leaving).ok_or(NotSubscribed::Closing)
    }

    fn may_subscribe(&self, Subscribe { key, wanted, .. }: &Subscribe) -> Result<(), NotSubscribed> {
        let held = self.channels_of(*key)?;
        let (known, new): (Vec<_>, Vec<_>) = wanted.iter().partition(|wanted| held.contains(&wanted.channel));
        if known.iter().any(|wanted| !wanted.grant.is_server_side()) {
            Err(NotSubscribed::Already)
        } else if held.len() + new.len() > self.bounds.channels_per_session {
            Err(NotSubscribed::TooMany)
        } else {
            Ok(())
        }
    }

    /// The session receives from now on, and is told so before anything else.
    pub(super) fn begin(&mut self, subscribe: Subscribe, starts: Vec<Start>) -> Result<(), NotSubscribed> {
        let Subscribe { key, wanted, reply } = subscribe;
        let held = self.channels_of(key)?;
        let known: Vec<bool> = wanted.iter().map(|wanted| held.contains(&wanted.channel)).collect();
        let Some(member) = self.registry.member(key) else { return Err(NotSubscribed::Closing) };
        let (now, outbox, format) = (self.clock.now(), member.outbox.clone(), member.format);
        let client = member.client;
        if let Err(refused) = self.may_begin(&wanted, &known) {
            if refused == NotSubscribed::Closing {
                self.close(key, &Disconnect::SUBSCRIPTION_EXPIRED);
            }
            return Err(refused);
        }
        let is_for_it = |publication: &Publication| publication.exclude != Some(client);
        let starts = starts
            .into_iter()
            .map(|Start { beginning, missed }| (beginning, missed.into_iter().filter(is_for_it).collect::<Vec<_>>()));
        let (beginnings, missed): (Vec<_>, Vec<_>) = starts.unzip();
        let begun = wanted.iter().zip(&beginnings).zip(missed);
        let mut begun: Vec<Begun> =
            begun.map(|((wanted, beginning), missed)| wanted.begun(beginning.as_ref(), missed)).collect();
        let frames = self.frames(&wanted, &known, reply.as_ref(), &beginnings, &mut begun);
        if wanted.iter().zip(&begun).any(|(wanted, begun)| wanted.wants_all_or_nothing() && !begun.is_recovered) {
            return Err(NotSubscribed::Unrecoverable);
        }
        for frame in frames {
            if let Err(refused) = outbox.push(now, frame) {
                self.refuse(key, refused);
                return Err(NotSubscribed::Closing);
            }
        }
        for ((Wanted { channel, grant, options, .. }, known), beginning) in
            wanted.into_iter().zip(known).zip(beginnings)
        {
            if known {
                self.take_grant(key, &channel, grant);
                continue;
            }
            let mut reception = options.reception(format);
            reception.after = beginning.as_ref().map_or(0, |beginning| beginning.after);
            let shown = options.shown.map(Box::new);
            self.show(&channel, shown.as_deref());
            self.registry.subscribe(key, Subscription { channel: channel.clone(), grant, reception, shown });
            if let (Some(track), Some(beginning)) = (self.registry.state_mut(&channel), beginning) {
                track.position.get_or_insert(beginning.at);
                track.checked = track.checked.or(options.retention.filter(|_| options.is_positioned));
            }
        }
        self.note_expiry(key);
        let _ = outbox.flush(&self.clock, now);
        Ok(())
    }

    /// What tells the client of it. Should that be longer than a reply may be, or than waits for a client, nothing counts as
    /// recovered: the client knows how to go on from there.
    fn frames(
        &self,
        wanted: &[Wanted],
        known: &[bool],
        reply: Option<&Tell>,
        beginnings: &[Option<Beginning>],
        begun: &mut [Begun],
    ) -> Vec<Bytes> {
        let tell = |begun: &[Begun]| -> Vec<Bytes> {
            let fresh = wanted.iter().zip(known).zip(begun).filter(|((_, known), _)| !**known);
            let announced = fresh.filter_map(|((wanted, _), begun)| {
                wanted.announcement.as_ref().map(|announcement| announcement(std::slice::from_ref(begun)))
            });
            announced.chain(reply.map(|reply| reply(begun))).collect()
        };
        let fits = |bytes: usize| bytes <= self.bounds.reply_bytes;
        if fits(begun.iter().map(Begun::least_bytes).sum()) {
            let frames = tell(begun);
            if fits(frames.iter().map(Bytes::len).sum()) {
                return frames;
            }
        }
        for ((begun, beginning), wanted) in begun.iter_mut().zip(beginnings).zip(wanted) {
            *begun = begun.unrecovered(wanted.told(beginning.as_ref()));
        }
        tell(begun)
    }

    /// A session receives a channel for another reason from now on.
    fn take_grant(&mut self, key: SessionKey, channel: &Channel, grant: Grant) {
        // What the server API brings changes nothing where the channel is there.
        if matches!(grant, Grant::Given(_)) {
            return;
        }
        let info = grant.info().cloned();
        if let Some(shown) = self.registry.grant_anew(key, channel, grant).filter(|shown| shown.who.chan_info != info) {
            shown.who = Arc::new(ClientInfo { chan_info: info, ..ClientInfo::clone(&shown.who) });
            let shown = shown.clone();
            self.keep_present(channel, &shown);
        }
    }

    /// The first of a session's subscriptions to end by itself is one of the things that it is waited for.
    pub(super) fn note_expiry(&mut self, key: SessionKey) {
        let first = self.registry.channels_of(key).map(|channels| channels.first_expiry());
        if let (Some(first), Some(member)) = (first, self.registry.member_mut(key))
            && member.subscriptions_expire_at != first
        {
            member.subscriptions_expire_at = first;
            self.arm(key);
        }
    }

    /// Stops a session's receiving a channel, and tells it why. Tells whether it did receive it.
    pub(super) fn end_subscription(&mut self, key: SessionKey, channel: &Channel, why: Unsubscribed) -> bool {
        let had = self.give_back(key, channel);
        if had
            && let Some((outbox, format)) =
                self.registry.member(key).map(|member| (member.outbox.clone(), member.format))
        {
            let now = self.clock.now();
            let told = outbox.push(now, format.push(&Push::Unsubscribe(channel, why)));
            if let Err(refused) = told.and_then(|_| outbox.flush(&self.clock, now)) {
                self.refuse(key, refused);
            }
        }
        had
    }

    fn give_back(&mut self, key: SessionKey, channel: &Channel) -> bool {
        let departed = self.registry.unsubscribe(key, channel);
        departed.map(|departed| self.depart(&departed)).is_some()
    }

    /// A session receives a channel no more.
    pub(super) fn depart(&mut self, Departed { channel, is_last, shown }: &Departed) {
        if *is_last {
            self.interest.release(channel);
        }
        self.hide(channel, shown.as_deref());
    }

    /// Ends the subscriptions whose time is over. One that nobody asked for ends the session: the client
    /// cannot ask for it anew.
    pub(super) fn expire_subscriptions(&mut self, key: SessionKey, now: Millis) {
        let Some(channels) = self.registry.channels_of(key) else { return };
        let over = channels.iter().filter(|(_, grant)| grant.expires_at() <= now);
        let over: Vec<(Channel, bool)> =
            over.map(|(channel, grant)| (channel.clone(), grant.is_server_side())).collect();
        if over.iter().any(|(_, is_server_side)| *is_server_side) {
            return self.close(key, &Disconnect::SUBSCRIPTION_EXPIRED);
        }
        for (channel, _) in over {
            self.end_subscription(key, &channel, Unsubscribed::Expired);
        }
        self.note_expiry(key);
    }
}

impl Handler<Subscribe> for Hub {
    type Result = ResponseActFuture<Self, Result<(), NotSubscribed>>;

    fn handle(&mut self, mut subscribe: Subscribe, _: &mut Self::Context) -> Self::Result {
        if let Err(refused) = self.may_subscribe(&subscribe) {
            return Box::pin(actix::fut::ready(Err(refused)));
        }
        if let Some(held) = self.registry.channels_of(subscribe.key) {
            let known = subscribe.wanted.iter_mut().filter(|wanted| held.contains(&wanted.channel));
            // Nothing is missing where it receives already.
            known.for_each(|wanted| wanted.options.recover = None);
        }
        self.start(subscribe, 0)
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
        // One that the session's own token brings ends with that token's word, one of the server API with its.
        let may = held.is_some_and(|held| !held.is_server_side());
        if may {
            self.take_grant(key, &channel, grant);
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
        for channel in over {
            self.end_subscription(key, &channel, Unsubscribed::ByServer);
        }
        self.note_expiry(key);
    }
}
