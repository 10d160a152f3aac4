//! One hub per worker thread: an actor that knows the sessions of its thread and what they listen to, fans publications
//! out to their outboxes, and has the one wheel that pings, expires and gives up. Sessions, API and server talk to it by
//! the messages below; it talks to the broker through [`BrokerSubscriptions`] only.

mod broker_subscriptions;
mod close_reason;
mod control;
mod delivery;
mod delta_budget;
mod fanout;
mod fanout_outcome;
mod hubs;
mod liveness;
mod position_poller;
mod presence;
mod registry;
mod subscription;
#[cfg(test)]
mod testing;
mod timing_wheel;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;
use uuid::Uuid;

use self::{
    fanout::Fanout,
    liveness::HubSession,
    position_poller::PositionPoller,
    registry::Registry,
    subscription::{CatchUpBuffer, ChannelState},
    timing_wheel::TimingWheel,
};
use crate::{
    channel::Channel,
    clock::{Clock, Millis},
    config::{Config, Limits},
    metrics::Metrics,
    protocol::Format,
    transport::Outbox,
};

pub use broker_subscriptions::BrokerSubscriptions;
pub use close_reason::{CloseReason, record_close};
pub use control::ForceUnsubscribe;
pub use hubs::Hubs;
pub use subscription::{
    ExtendSubscription, GetSubscription, KeepPredicate, Reauthorize, RecoveryRequest, ReplyBuilder, Requested,
    RequestedEpoch, Subscribe, SubscribeError, SubscribeOutcome, Subscription, SubscriptionOptions, SubscriptionSource,
    SubscriptionTerms, Unsubscribe, Visibility,
};

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
    Unauthenticated,
    /// Native ping frames, which browsers answer by themselves.
    NativePing,
    /// `{}` both ways, as SDKs expect.
    ProtocolPing,
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
    /// Whose it is, if that is known already.
    pub user: Option<Arc<str>>,
    /// What others know the connection by.
    pub client: Uuid,
    /// How its frames are written.
    pub format: Format,
    /// Where it is told what only it can do.
    pub controls: Recipient<SessionControl>,
}

/// The server API wants of a session what only the session can do.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum SessionControl {
    /// Last until another time, and be shown differently.
    Refresh {
        /// The new end.
        expires_at: Millis,
        /// Raw JSON instead of the token's `info`.
        info: Option<Bytes>,
    },
    /// Receive a channel.
    Subscribe(Box<ServerApiSubscription>),
    /// Receive a channel no more, should it have begun to meanwhile.
    Unsubscribe(Channel),
}

/// A subscription that the server API brings.
#[derive(Clone, Debug)]
pub struct ServerApiSubscription {
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
pub struct UpdateSession {
    /// Which.
    pub key: SessionKey,
    /// How it is kept alive from now on.
    pub keep_alive: KeepAlive,
    /// Whose it is.
    pub user: Arc<str>,
}

/// A session closes its connection: it gets nothing more, and is cut if it does not go.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BeginClose(pub SessionKey);

/// A session's connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unregister(pub SessionKey);

/// Proves that the hub is alive.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CheckHealth;

/// The channels of this hub and how many sessions each has.
#[derive(Message)]
#[rtype(result = "HashMap<Channel, usize>")]
pub struct CountSubscribers;

/// What this hub has, all in all.
#[derive(Message)]
#[rtype(result = "HubStats")]
pub struct CollectStats;

/// An answer to [`CollectStats`].
#[derive(Clone, Debug, Default)]
pub struct HubStats {
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
pub struct CloseAllSessions {
    /// Over how long.
    pub spread_over: Duration,
}

/// The actor.
pub struct Hub {
    registry: Registry<HubSession, ChannelState>,
    fanout: Fanout,
    wheel: TimingWheel,
    broker_subscriptions: Arc<BrokerSubscriptions>,
    clock: Clock,
    metrics: Arc<Metrics>,
    liveness: liveness::Liveness,
    catch_up_buffer: CatchUpBuffer,
    position_poller: PositionPoller,
    limits: HubLimits,
}

/// What a hub bounds.
struct HubLimits {
    channels_per_session: usize,
    recovered_publications: usize,
    filter_nodes_per_channel: usize,
    /// Longest frame that tells of subscriptions.
    reply_bytes: usize,
}

impl From<&Limits> for HubLimits {
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
    pub fn start_on_this_thread(
        hubs: &Hubs,
        broker_subscriptions: Arc<BrokerSubscriptions>,
        config: &Config,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Addr<Self> {
        let (sender, receiver) = fanout::delivery_queue(config.limits.hub_queue_bytes);
        let hub = Self {
            registry: Registry::default(),
            fanout: Fanout::new(receiver),
            wheel: TimingWheel::default(),
            broker_subscriptions,
            liveness: liveness::Liveness::new(config, clock.now()),
            clock,
            metrics,
            catch_up_buffer: CatchUpBuffer::new(config.limits.hub_queue_bytes / 4),
            position_poller: PositionPoller::new(config.server.position_check_interval, Instant::now()),
            limits: HubLimits::from(&config.limits),
        };
        let hub = hub.start();
        hubs.add(sender, hub.clone());
        hub
    }

    /// Takes a session out of everything, and gives back the channels that nobody else here listens to.
    fn remove_session(&mut self, key: SessionKey) {
        self.drop_subscriptions(key);
        self.registry.remove(key);
    }

    /// Releases a session's channels and leaves it to the wheel until its connection is gone.
    fn drop_subscriptions(&mut self, key: SessionKey) {
        self.registry.unsubscribe_all(key).iter().for_each(|ended| self.hide_subscriber(ended));
    }

    /// Closes a session, unless the session or its client is closing it already.
    fn close<'a>(&mut self, key: SessionKey, reason: impl Into<CloseReason<'a>>) {
        let Some(HubSession { outbox, format, client, .. }) = self.registry.session(key) else { return };
        reason.into().close(outbox, *format, *client, &self.clock, &self.metrics);
        self.await_disconnect(key);
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(timing_wheel::TICK, |hub, ctx| hub.on_tick(ctx));
    }
}

impl Handler<Register> for Hub {
    type Result = ();

    fn handle(&mut self, register: Register, _: &mut Self::Context) {
        let Register { key, outbox, keep_alive, user, client, format, controls } = register;
        self.registry.insert(key, HubSession::new(outbox, keep_alive, client, format, controls));
        if let Some(user) = user {
            self.registry.set_user(key, user);
        }
        self.start_keep_alive(key);
    }
}

impl Handler<UpdateSession> for Hub {
    type Result = ();

    fn handle(&mut self, UpdateSession { key, keep_alive, user }: UpdateSession, _: &mut Self::Context) {
        self.registry.set_user(key, user);
        if let Some(session) = self.registry.session_mut(key) {
            if session.set_keep_alive(keep_alive) {
                self.start_keep_alive(key);
            } else {
                self.schedule(key);
            }
        }
    }
}

impl Handler<BeginClose> for Hub {
    type Result = ();

    fn handle(&mut self, BeginClose(key): BeginClose, _: &mut Self::Context) {
        self.await_disconnect(key);
    }
}

impl Handler<Unregister> for Hub {
    type Result = ();

    fn handle(&mut self, Unregister(key): Unregister, _: &mut Self::Context) {
        self.remove_session(key);
    }
}

impl Handler<CheckHealth> for Hub {
    type Result = ();

    fn handle(&mut self, _: CheckHealth, _: &mut Self::Context) {}
}

impl Handler<CountSubscribers> for Hub {
    type Result = MessageResult<CountSubscribers>;

    fn handle(&mut self, _: CountSubscribers, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.registry.count_subscribers())
    }
}

impl Handler<CollectStats> for Hub {
    type Result = MessageResult<CollectStats>;

    fn handle(&mut self, _: CollectStats, _: &mut Self::Context) -> Self::Result {
        let sessions = self.registry.keys().filter_map(|key| self.registry.session(key));
        let clients = sessions.filter(|session| session.is_authenticated()).count();
        let channels = self.registry.count_subscribers();
        let subs = channels.values().sum();
        let users = self.registry.users().filter(|user| !user.is_empty()).cloned().collect();
        MessageResult(HubStats { clients, users, subs, channels: channels.into_keys().collect() })
    }
}

impl Handler<CloseAllSessions> for Hub {
    type Result = ();

    fn handle(&mut self, CloseAllSessions { spread_over }: CloseAllSessions, _: &mut Self::Context) {
        let to_close: Vec<SessionKey> = self.registry.keys().collect();
        let waves = (spread_over.as_millis() / timing_wheel::TICK.as_millis()).max(1) as usize;
        let wave_size = to_close.len().div_ceil(waves).max(1);
        self.liveness.closing_waves = Some((to_close, wave_size));
    }
}
