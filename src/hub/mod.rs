//! The hub: one actor per worker thread that knows the sessions of its thread and their subscriptions. It fans
//! publications out to their outboxes ([`fanout`]), pings and expires them ([`liveness`]), and applies controls of the
//! server API ([`control`]).
//!
//! Sessions, the server and the [`Hubs`] handle talk to it by messages ([`messages`], [`subscription`]). It talks to
//! the broker only through [`BrokerSubscriptions`].

mod api_grants;
mod broker_subscriptions;
mod close_reason;
mod control;
mod delivery;
mod delta_budget;
mod fanout;
mod fanout_outcome;
mod gap;
mod hubs;
mod inspection;
mod liveness;
mod measurements;
mod messages;
mod paced_queue;
mod pacing;
mod presence;
mod recent_ends;
mod refused_attempts;
mod registry;
mod reload;
mod renewal;
mod revocation;
mod session_details;
mod subscription;
#[cfg(test)]
mod testing;
mod timing_wheel;
mod traces;

use std::{rc::Rc, sync::Arc, time::Instant};

use actix::prelude::*;

use self::{
    control::PacedControls,
    fanout::Fanout,
    gap::{GapReads, HeldBytes, PositionPoller, Verifications},
    liveness::{ClosingWaves, HubSession, Liveness},
    pacing::{PaceLimits, Paces},
    presence::PresenceLifetime,
    recent_ends::{RecentEnds, SubscriptionEnd},
    registry::Registry,
    reload::RulesChecks,
    renewal::Renewers,
    revocation::RevokedSessions,
    subscription::{CatchUpBuffer, ChannelState, FilterTracks},
    timing_wheel::TimingWheel,
    traces::Traces,
};
use crate::{
    broker::TraceEventKind,
    clock::Clock,
    config::{Config, Limits},
    hooks::EventReporter,
    metrics::Metrics,
    publication::MAX_OVERHEAD_BYTES,
    revocation::Revocations,
    transport::WriteGate,
};

pub use api_grants::ApiGrants;
pub use broker_subscriptions::BrokerSubscriptions;
pub use close_reason::{CONNECTION_LOST, CloseReason, record_close};
pub use control::ForceUnsubscribe;
pub use hubs::Hubs;
pub use messages::{
    AwaitDisconnect, CheckHealth, CloseAllSessions, KeepAlive, Register, ServerApiSubscription, SessionControl,
    SessionKey, Unregister, UpdateSession,
};
pub use recent_ends::NoteRefusedSubscription;
pub use refused_attempts::{RefusedAttempt, RefusedAttempts};
pub use renewal::{RenewSession, SessionRenewal, SessionRenewer, SetRenewer, TokenTakeover};
pub use revocation::AwaitRevocations;
pub use session_details::{ClientSoftware, NoteAuthentication, SessionDetails};
pub use subscription::{
    ExpireSubscription, ExtendSubscription, FinishedRequests, GetSubscription, HookTerms, KeepPredicate, Reauthorize,
    RecoveryRequest, RefusalBuilder, RefusedSubscribe, RenewSubscription, ReplyBuilder, Requested, RequestedEpoch,
    Subscribe, SubscribeEach, SubscribeError, SubscribeOutcome, SubscribeRequest, Subscription, SubscriptionOptions,
    SubscriptionRenewal, SubscriptionSource, SubscriptionTerms, Unsubscribe, Visibility,
};

/// The actor that serves the sessions of one worker thread.
pub struct Hub {
    registry: Registry<HubSession, ChannelState>,
    fanout: Fanout,
    paces: Paces,
    wheel: TimingWheel,
    broker_subscriptions: Arc<BrokerSubscriptions>,
    clock: Clock,
    metrics: Arc<Metrics>,
    liveness: Liveness,
    catch_up_buffer: CatchUpBuffer,
    filter_tracks: Arc<FilterTracks>,
    position_poller: PositionPoller,
    presence_lifetime: PresenceLifetime,
    gap_reads: GapReads,
    verifications: Verifications,
    held_bytes: HeldBytes,
    revocations: Arc<Revocations>,
    revoked: RevokedSessions,
    recent_ends: RecentEnds,
    traces: Arc<Traces>,
    paced_controls: PacedControls,
    rules_checks: RulesChecks,
    renewers: Renewers,
    write_gate: Rc<WriteGate>,
    limits: HubLimits,
    /// Gets what the operator's backend is told.
    events: Option<Arc<EventReporter>>,
}

/// The limits that a hub enforces.
struct HubLimits {
    channels_per_session: usize,
    recovered_publications: usize,
    filter_nodes_per_channel: usize,
    filter_positions: usize,
    /// Maximum size of the frames that answer one subscribe request, together.
    reply_bytes: usize,
    /// Maximum size of a page of missed publications. A longer one is longer than a reply.
    page_bytes: usize,
    /// Maximum size of the pages that wait for earlier requests of their group.
    waiting_pages_bytes: usize,
}

impl From<&Limits> for HubLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            channels_per_session: limits.channels_per_session,
            recovered_publications: limits.recovered_publications,
            filter_nodes_per_channel: limits.filter_nodes_per_channel,
            filter_positions: limits.filter_positions,
            reply_bytes: limits.client_reply_bytes(),
            // Pages count with an overhead that a reply does not have.
            page_bytes: limits.client_reply_bytes() + limits.recovered_publications * MAX_OVERHEAD_BYTES,
            // What a client that reads slowly may cost anyway.
            waiting_pages_bytes: limits.outbox_bytes,
        }
    }
}

impl Hub {
    /// Starts a hub on the current thread and adds it to `hubs`.
    pub fn start_on_this_thread(
        hubs: &Hubs,
        broker_subscriptions: Arc<BrokerSubscriptions>,
        config: &Config,
        clock: Clock,
        metrics: Arc<Metrics>,
        events: Option<Arc<EventReporter>>,
    ) -> Addr<Self> {
        let (sender, receiver) = fanout::delivery_queue(config.limits.hub_queue_bytes);
        metrics.compression_counters().install();
        let hub = Self {
            registry: Registry::default(),
            fanout: Fanout::new(receiver, PaceLimits::from(&config.limits)),
            paces: Paces::new(config),
            wheel: TimingWheel::default(),
            broker_subscriptions,
            liveness: Liveness::new(config, Instant::now(), clock.now()),
            clock: clock.clone(),
            metrics,
            catch_up_buffer: CatchUpBuffer::new(config.limits.hub_queue_bytes / 4),
            filter_tracks: hubs.filter_tracks(),
            position_poller: PositionPoller::new(config.server.position_check_interval, Instant::now()),
            presence_lifetime: PresenceLifetime::new(config.broker.presence_ttl),
            gap_reads: GapReads::default(),
            verifications: Verifications::default(),
            held_bytes: HeldBytes::new(config.limits.hub_queue_bytes / 4),
            write_gate: WriteGate::install(hubs.revocations().clone(), clock.now()),
            revocations: hubs.revocations().clone(),
            revoked: RevokedSessions::default(),
            recent_ends: RecentEnds::new(&config.limits),
            traces: hubs.traces(),
            paced_controls: PacedControls::default(),
            rules_checks: RulesChecks::default(),
            renewers: Renewers::default(),
            limits: HubLimits::from(&config.limits),
            events,
        };
        let hub = hub.start();
        hubs.add(sender, hub.clone());
        hub
    }

    /// Forgets a session and ends its subscriptions.
    fn remove_session(&mut self, key: SessionKey) {
        self.drop_subscriptions(key);
        self.trace_session(key, TraceEventKind::Disconnected, None, |event| {
            let cause = self.registry.session(key).and_then(|session| session.outbox.close_cause());
            event.code = cause.as_ref().and_then(|cause| cause.code).map(u32::from);
            event.reason = Some(cause.map_or(CONNECTION_LOST.to_owned(), |cause| cause.reason.into()));
        });
        let user = self.registry.user(key).cloned();
        self.renewers.remove(key);
        if let Some((session, _)) = self.registry.remove(key) {
            self.note_session_end(&session, user);
        }
    }

    /// Ends all subscriptions of a session.
    fn drop_subscriptions(&mut self, key: SessionKey) {
        self.registry.unsubscribe_all(key).iter().for_each(|ended| self.detach_subscriber(ended));
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

    fn handle(&mut self, register: Register, ctx: &mut Self::Context) {
        let (key, owner) = (register.key, register.owner.clone());
        self.registry.insert(key, HubSession::new(register));
        self.start_keep_alive(key);
        if let Some((user, token)) = owner {
            self.set_owner(key, user, token, ctx);
            self.trace_session(key, TraceEventKind::Connected, None, |_| {});
        }
    }
}

impl Handler<UpdateSession> for Hub {
    type Result = ();

    fn handle(&mut self, update: UpdateSession, ctx: &mut Self::Context) {
        let UpdateSession { key, keep_alive, expires_at, warn_at, user, token } = update;
        let is_new = self.registry.user(key).is_none();
        self.set_owner(key, user, token, ctx);
        let event = if is_new { TraceEventKind::Connected } else { TraceEventKind::TokenChanged };
        self.trace_session(key, event, None, |_| {});
        if let Some(session) = self.registry.session_mut(key) {
            // The backend, or the server API, may have given the session another end, of which the session does not know yet.
            if session.outbox.expires_at() == expires_at {
                session.warn_at = warn_at;
            }
            if session.set_keep_alive(keep_alive) {
                self.start_keep_alive(key);
            } else {
                self.schedule(key);
            }
        }
    }
}

impl Handler<AwaitDisconnect> for Hub {
    type Result = ();

    fn handle(&mut self, AwaitDisconnect(key): AwaitDisconnect, _: &mut Self::Context) {
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

impl Handler<CloseAllSessions> for Hub {
    type Result = ();

    fn handle(&mut self, CloseAllSessions { spread_over }: CloseAllSessions, _: &mut Self::Context) {
        self.liveness.closing_waves = Some(ClosingWaves::new(self.registry.keys().collect(), spread_over));
    }
}
