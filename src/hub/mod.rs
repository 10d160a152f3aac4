//! One hub per worker thread: an actor that knows the sessions of its thread and what they listen to, fans publications
//! out to their outboxes, and has the one wheel that pings, expires and gives up. Sessions, API and server talk to it by
//! the messages below; it talks to the broker through [`Interest`] only.

mod begun;
mod checking;
mod control;
mod delivery;
mod difference;
mod fanout;
mod hubs;
mod interest;
mod joining;
mod passed;
mod presence;
mod reception;
mod recovery;
mod registry;
mod starting;
mod subscribing;
mod subscription;
mod tending;
mod track;
mod wheel;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;
use uuid::Uuid;

use self::{
    checking::Checking, fanout::Fanout, joining::Joinings, registry::Registry, tending::Member, track::Track,
    wheel::Wheel,
};
use crate::{
    channel::Channel,
    clock::{Clock, Millis},
    config::{Config, Limits},
    metrics::Metrics,
    protocol::{Disconnect, Format},
    transport::Outbox,
};

pub use begun::{Begun, Tell};
pub use control::Cease;
pub use hubs::Hubs;
pub use interest::Interest;
pub use reception::{Claimed, Options, Recover, Shown};
pub use subscribing::{Extend, Find, Judge, NotSubscribed, Stays, Subscribe, Unsubscribe, Wanted};
pub use subscription::{Grant, Terms};

/// Names a session, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(u64);

impl SessionKey {
    /// A key that nobody had before.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How a session is kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Nobody yet: it has until the first-message deadline.
    Waiting,
    /// Native ping frames, which browsers answer by themselves.
    Native,
    /// `{}` both ways, as SDKs expect.
    EmptyReply,
}

/// A connection begins to be looked after.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Register {
    /// Its name.
    pub key: SessionKey,
    /// Where its frames go.
    pub outbox: Arc<Outbox>,
    /// How it is kept alive at first.
    pub keep_alive: KeepAlive,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// Whose it is, if that is known already.
    pub user: Option<Arc<str>>,
    /// What others know the connection by.
    pub client: Uuid,
    /// How its frames are written.
    pub format: Format,
    /// Where it is told what only it can do.
    pub session: Recipient<Instruct>,
}

/// The server API wants of a session what only the session can do.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Instruct {
    /// Last until another time, and be shown differently.
    Renew {
        /// The new end.
        expires_at: Millis,
        /// Raw JSON instead of the token's `info`.
        info: Option<Bytes>,
    },
    /// Receive a channel.
    Receive(Box<Given>),
    /// Receive a channel no more, should it have begun to meanwhile.
    Cease(Channel),
}

/// A subscription that the server API brings.
#[derive(Clone, Debug)]
pub struct Given {
    /// To what.
    pub channel: Channel,
    /// Raw JSON that others see of it.
    pub info: Option<Bytes>,
    /// Raw JSON for the client itself.
    pub data: Option<Bytes>,
    /// Where the client stands, as the API says: offset and epoch.
    pub since: Option<(u64, String)>,
    /// When it ends by itself.
    pub expires_at: Option<Millis>,
}

/// Something about a session has changed: it became somebody, or began to speak as an SDK does.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Update {
    /// Which.
    pub key: SessionKey,
    /// How it is kept alive from now on.
    pub keep_alive: KeepAlive,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// Whose it is.
    pub user: Arc<str>,
}

/// A session closes its connection: it gets nothing more, and is cut if it does not go.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave(pub SessionKey);

/// A session's connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unregister(pub SessionKey);

/// Proves that the hub is alive.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AreYouThere;

/// The channels of this hub and how many sessions each has.
#[derive(Message)]
#[rtype(result = "HashMap<Channel, usize>")]
pub struct CountChannels;

/// What this hub has, all in all.
#[derive(Message)]
#[rtype(result = "Counts")]
pub struct CountAll;

/// An answer to [`CountAll`].
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Connections that are somebody.
    pub clients: usize,
    /// Whose they are.
    pub users: HashSet<Arc<str>>,
    /// Subscriptions of all of them.
    pub subs: usize,
    /// Channels that are subscribed to.
    pub channels: HashSet<Channel>,
}

/// The instance stops: all sessions are closed 3001 in waves, spread over this time.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Shutdown {
    /// Over how long.
    pub over: Duration,
}

/// The actor.
pub struct Hub {
    registry: Registry<Member, Track>,
    fanout: Fanout,
    wheel: Wheel,
    interest: Arc<Interest>,
    clock: Clock,
    metrics: Arc<Metrics>,
    timing: tending::Timing,
    joinings: Joinings,
    checking: Checking,
    bounds: Bounds,
}

/// What a hub bounds.
struct Bounds {
    channels_per_session: usize,
    recovered_publications: usize,
    filter_nodes_per_channel: usize,
    /// Longest frame that tells of subscriptions.
    reply_bytes: usize,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Self {
            channels_per_session: limits.channels_per_session,
            recovered_publications: limits.recovered_publications,
            filter_nodes_per_channel: limits.filter_nodes_per_channel,
            // Who has more waiting than an outbox holds is closed, and would come back for the same.
            reply_bytes: limits.reply_bytes.min(limits.outbox_bytes / 2),
        }
    }
}

impl Hub {
    /// Starts a hub on this thread and makes it known to `hubs`.
    pub fn start_here(
        hubs: &Hubs,
        interest: Arc<Interest>,
        config: &Config,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Addr<Self> {
        let (queue, waiting) = fanout::queue(config.limits.hub_queue_bytes);
        let hub = Self {
            registry: Registry::default(),
            fanout: Fanout::new(waiting),
            wheel: Wheel::default(),
            interest,
            timing: tending::Timing::new(config, clock.now()),
            clock,
            metrics,
            joinings: Joinings::new(config.limits.hub_queue_bytes / 4),
            checking: Checking::new(config.server.position_check_interval),
            bounds: Bounds::from(&config.limits),
        };
        let hub = hub.start();
        hubs.add(queue, hub.clone());
        hub
    }

    /// Takes a session out of everything, and gives back the channels that nobody else here listens to.
    fn remove(&mut self, key: SessionKey) {
        self.silence(key);
        self.registry.remove(key);
    }

    /// Releases a session's channels and leaves it to the wheel until its connection is gone.
    fn silence(&mut self, key: SessionKey) {
        self.registry.leave_all(key).iter().for_each(|departed| self.depart(departed));
    }

    /// Closes a session for a reason of ours.
    fn close(&mut self, key: SessionKey, disconnect: &Disconnect) {
        let Some(member) = self.registry.member(key).filter(|member| !member.is_leaving()) else { return };
        // Its session, or its peer, may be closing it at this moment: then that was the reason.
        if !member.outbox.is_closing() {
            self.metrics.count_close(disconnect.code());
        }
        if *disconnect == Disconnect::SLOW {
            // It does not read, so it cannot be told.
            member.outbox.cut();
        } else {
            member.farewell(disconnect, &self.clock);
        }
        self.let_go(key);
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(wheel::TICK, |hub, ctx| hub.tend(ctx));
    }
}

impl Handler<Register> for Hub {
    type Result = ();

    fn handle(&mut self, register: Register, _: &mut Self::Context) {
        let Register { key, outbox, keep_alive, expires_at, user, client, format, session } = register;
        self.registry.insert(key, Member::new(outbox, keep_alive, expires_at, client, format, session));
        if let Some(user) = user {
            self.registry.belongs_to(key, user);
        }
        self.begin_tending(key);
    }
}

impl Handler<Update> for Hub {
    type Result = ();

    fn handle(&mut self, Update { key, keep_alive, expires_at, user }: Update, _: &mut Self::Context) {
        self.registry.belongs_to(key, user);
        if let Some(member) = self.registry.member_mut(key) {
            let is_new = member.update(keep_alive, expires_at);
            if is_new {
                self.begin_tending(key);
            } else {
                self.arm(key);
            }
        }
    }
}

impl Handler<Leave> for Hub {
    type Result = ();

    fn handle(&mut self, Leave(key): Leave, _: &mut Self::Context) {
        self.let_go(key);
    }
}

impl Handler<Unregister> for Hub {
    type Result = ();

    fn handle(&mut self, Unregister(key): Unregister, _: &mut Self::Context) {
        self.remove(key);
    }
}

impl Handler<AreYouThere> for Hub {
    type Result = ();

    fn handle(&mut self, _: AreYouThere, _: &mut Self::Context) {}
}

impl Handler<CountChannels> for Hub {
    type Result = MessageResult<CountChannels>;

    fn handle(&mut self, _: CountChannels, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.registry.count_channels())
    }
}

impl Handler<CountAll> for Hub {
    type Result = MessageResult<CountAll>;

    fn handle(&mut self, _: CountAll, _: &mut Self::Context) -> Self::Result {
        let members = self.registry.keys().filter_map(|key| self.registry.member(key));
        let clients = members.filter(|member| member.is_somebody()).count();
        let channels = self.registry.count_channels();
        let subs = channels.values().sum();
        let users = self.registry.users().filter(|user| !user.is_empty()).cloned().collect();
        MessageResult(Counts { clients, users, subs, channels: channels.into_keys().collect() })
    }
}

impl Handler<Shutdown> for Hub {
    type Result = ();

    fn handle(&mut self, Shutdown { over }: Shutdown, _: &mut Self::Context) {
        let leaving: Vec<SessionKey> = self.registry.keys().collect();
        let waves = (over.as_millis() / wheel::TICK.as_millis()).max(1) as usize;
        let wave = leaving.len().div_ceil(waves).max(1);
        self.timing.leaving = Some((leaving, wave));
    }
}
