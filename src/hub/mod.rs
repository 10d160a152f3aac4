//! One hub per worker thread: an actor that knows the sessions of its thread and what they listen to, fans publications
//! out to their outboxes, and has the one wheel that pings, expires and gives up. Sessions, API and server talk to it by
//! the messages below; it talks to the broker through [`Interest`] only.

mod control;
mod fanout;
mod hubs;
mod interest;
mod registry;
mod subscribing;
mod subscription;
mod tending;
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

use self::{fanout::Fanout, registry::Registry, tending::Member, wheel::Wheel};
use crate::{
    channel::Channel,
    clock::{Clock, Millis},
    config::Config,
    metrics::Metrics,
    protocol::{Disconnect, Format},
    transport::Outbox,
};

pub use hubs::Hubs;
pub use interest::Interest;
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
    /// Empty replies and empty commands, as SDKs expect.
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
    /// How they are written.
    pub format: Format,
    /// How it is kept alive at first.
    pub keep_alive: KeepAlive,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// Whose it is, if that is known already.
    pub user: Option<Arc<str>>,
    /// What others know the connection by.
    pub client: Uuid,
    /// Where it is told what only it can do.
    pub session: Recipient<Renew>,
}

/// The server API changes until when a session lasts, and what others see of its user.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Renew {
    /// The new end.
    pub expires_at: Millis,
    /// Raw JSON instead of the token's `info`.
    pub info: Option<Bytes>,
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
    registry: Registry<Member>,
    fanout: Fanout,
    wheel: Wheel,
    interest: Arc<Interest>,
    clock: Clock,
    metrics: Arc<Metrics>,
    timing: tending::Timing,
    channels_per_session: usize,
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
            channels_per_session: config.limits.channels_per_session,
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
        let emptied = self.registry.leave_all(key);
        emptied.iter().for_each(|channel| self.interest.release(channel));
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
        ctx.run_interval(wheel::TICK, |hub, _| hub.tend());
    }
}

impl Handler<Register> for Hub {
    type Result = ();

    fn handle(&mut self, register: Register, _: &mut Self::Context) {
        let Register { key, outbox, format, keep_alive, expires_at, user, client, session } = register;
        self.registry.insert(key, Member::new(outbox, format, keep_alive, expires_at, client, session));
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
