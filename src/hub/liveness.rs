//! The periodic work of a hub. At each tick the timing wheel names the sessions to look at: they are pinged, and closed
//! when they miss a deadline (first message, pong, progress of a full socket, end of a message, end of a close) or when
//! their token or a subscription has expired. Clients of plain sessions are warned before their token expires. Expiry follows
//! the wall clock, even when it jumps. Shutdown, too, closes sessions tick by tick.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Recipient};
use uuid::Uuid;

use super::{
    CloseReason, Hub, KeepAlive, Register, SessionControl, SessionDetails, SessionKey, SessionRenewer,
    timing_wheel::{TICK, Tick},
};
use crate::{
    clock::{NEVER, WallTime},
    config::{Config, Limits},
    protocol::{Disconnect, Format},
    transport::Outbox,
};

/// When a session whose mailbox was full is told again that its token expires.
const WARNING_RETRY: Duration = Duration::from_secs(1);
/// Change of the wall clock against the monotonic clock from which on it counts as a jump.
const CLOCK_JUMP: Duration = Duration::from_millis(500);

/// A session, as the hub knows it.
pub(super) struct HubSession {
    pub(super) outbox: Arc<Outbox>,
    keep_alive: KeepAlive,
    /// When the first of its subscriptions expires.
    pub(super) first_subscription_expiry: WallTime,
    /// When the backend is asked about the first of them.
    pub(super) first_subscription_renewal: WallTime,
    /// When its client is first warned that a subscription expires.
    pub(super) first_subscription_warning: WallTime,
    /// When its client is warned that its token expires, or the backend is asked about the session.
    pub(super) warn_at: WallTime,
    pub(super) client: Uuid,
    pub(super) format: Format,
    /// Boxed: deliveries read the fields beside it, and never this one.
    pub(super) details: Box<SessionDetails>,
    pub(super) controls: Recipient<SessionControl>,
    /// The tick at which the session is looked at. Entries in the timing wheel for other ticks are void.
    scheduled_tick: Tick,
    deadline: Deadline,
}

/// The next deadline of a session's keep-alive.
#[derive(Clone, Copy)]
enum Deadline {
    /// When the session must have authenticated.
    FirstMessage(Instant),
    /// When the next ping is sent.
    NextPing(Instant),
    /// Pings were sent, and none of them is answered. The first of them sets `by`.
    Pong { by: Instant, next_ping: Instant },
}

impl HubSession {
    /// Creates a session that registers; [`Hub::start_keep_alive`] sets its first deadline.
    pub(super) fn new(register: Register) -> Self {
        let Register { outbox, keep_alive, warn_at, client, format, details, controls, .. } = register;
        let deadline = Deadline::NextPing(Instant::now());
        let (first_subscription_expiry, first_subscription_renewal) = (NEVER, NEVER);
        let (first_subscription_warning, scheduled_tick) = (NEVER, 0);
        Self {
            outbox,
            keep_alive,
            first_subscription_expiry,
            first_subscription_renewal,
            first_subscription_warning,
            warn_at,
            client,
            format,
            details,
            controls,
            scheduled_tick,
            deadline,
        }
    }

    /// Sets how the session is kept alive, and returns whether that changes.
    pub(super) fn set_keep_alive(&mut self, keep_alive: KeepAlive) -> bool {
        std::mem::replace(&mut self.keep_alive, keep_alive) != keep_alive
    }

    /// Returns whether its connection is closing.
    pub(super) fn is_closing(&self) -> bool {
        self.outbox.is_closing()
    }

    /// Returns whether the session is authenticated and not closing.
    pub(super) fn is_authenticated(&self) -> bool {
        self.keep_alive != KeepAlive::Unauthenticated && !self.is_closing()
    }

    /// Returns whether the socket is full and nothing has left the outbox for `max_stall`.
    fn is_stalled(&self, now: Instant, max_stall: Duration) -> bool {
        self.outbox.stalled_since().is_some_and(|since| now >= since + max_stall)
    }

    /// Time until the first of an open session's deadlines: keep-alive, end of a message, a stalled outbox, token
    /// expiry or the warning before it, or the expiry of a subscription.
    ///
    /// The deadline of a message that has not begun yet is the one it would have if it began now, and so is that of a stall.
    /// So the hub looks at each session before any deadline that begins meanwhile, and need not be told of fragments and
    /// full sockets.
    fn time_to_next_deadline(&self, limits: &Liveness, now: Instant, wall_now: WallTime) -> Duration {
        let keep_alive = match self.deadline {
            Deadline::FirstMessage(at) | Deadline::NextPing(at) => at,
            Deadline::Pong { by, next_ping } => by.min(next_ping),
        };
        let message = self.outbox.incomplete_since().unwrap_or(now) + limits.max_message_age;
        let stall = self.outbox.stalled_since().unwrap_or(now) + limits.max_outbox_stall;
        let of_subscriptions =
            self.first_subscription_expiry.min(self.first_subscription_renewal).min(self.first_subscription_warning);
        let expiry = self.outbox.expires_at().min(of_subscriptions).min(self.warn_at);
        let first = keep_alive.min(message).min(stall);
        first.saturating_duration_since(now).min(expiry.saturating_duration_since(wall_now))
    }

    /// Returns whether a message from the client has been incomplete for too long.
    fn is_message_overdue(&self, max_message_age: Duration, now: Instant) -> bool {
        self.outbox.incomplete_since().is_some_and(|since| now.saturating_duration_since(since) >= max_message_age)
    }

    /// Has the client warned of the expiry of its token when it is time, or the backend asked about the session, once.
    fn warn_of_expiry(&mut self, wall_now: WallTime, renewer: impl FnOnce() -> Option<Arc<dyn SessionRenewer>>) {
        if wall_now >= self.warn_at {
            let expires_at = self.outbox.expires_at();
            if renewer().is_some_and(|renewer| renewer.renew_session(expires_at)) {
                self.warn_at = NEVER;
                return;
            }
            let is_sent = self.controls.try_send(SessionControl::WarnOfExpiry(expires_at)).is_ok();
            // A session whose mailbox is full waits for the broker or for the backend.
            let again_at = wall_now.saturating_add(WARNING_RETRY);
            self.warn_at = if is_sent || again_at >= expires_at { NEVER } else { again_at };
        }
    }

    fn encode_ping(&self) -> bytes::Bytes {
        if self.keep_alive == KeepAlive::ProtocolPing {
            self.format.encode_ping()
        } else {
            self.format.encode_keep_alive()
        }
    }
}

/// The intervals, and the state that is kept from tick to tick.
pub(super) struct Liveness {
    ping_interval: Duration,
    pong_timeout: Duration,
    first_message_timeout: Duration,
    max_message_age: Duration,
    max_outbox_stall: Duration,
    /// When the last tick was, by both clocks.
    last_tick: (Instant, WallTime),
    ticks: u32,
    /// `Some` during a shutdown.
    pub(super) closing_waves: Option<ClosingWaves>,
}

/// The sessions that a shutdown has still to close.
pub(super) struct ClosingWaves {
    remaining: Vec<SessionKey>,
    /// Sessions to close at each tick.
    wave_size: usize,
}

impl ClosingWaves {
    /// Spreads the close of these sessions over a time, one wave per tick.
    pub(super) fn new(remaining: Vec<SessionKey>, spread_over: Duration) -> Self {
        let waves = (spread_over.as_millis() / TICK.as_millis()).max(1) as usize;
        let wave_size = remaining.len().div_ceil(waves).max(1);
        Self { remaining, wave_size }
    }
}

impl Liveness {
    pub(super) fn new(config: &Config, now: Instant, wall_now: WallTime) -> Self {
        Self {
            ping_interval: config.server.ping_interval,
            pong_timeout: config.server.pong_timeout,
            first_message_timeout: config.auth.first_message_timeout,
            max_message_age: config.limits.message_age,
            max_outbox_stall: config.limits.outbox_stall,
            last_tick: (now, wall_now),
            ticks: 0,
            closing_waves: None,
        }
    }

    /// Changes the limits that a reload can change. Sessions meet them at their next deadline.
    pub(super) fn set_limits(&mut self, limits: &Limits) {
        (self.max_message_age, self.max_outbox_stall) = (limits.message_age, limits.outbox_stall);
    }

    /// Returns when the last tick was.
    pub(super) fn last_tick_at(&self) -> Instant {
        self.last_tick.0
    }

    /// Returns whether the wall clock has jumped since the last tick.
    fn has_clock_jumped(&mut self, now: Instant, wall_now: WallTime) -> bool {
        let (before, wall_before) = std::mem::replace(&mut self.last_tick, (now, wall_now));
        let expected = wall_before.saturating_add(now.saturating_duration_since(before));
        let jump = wall_now.saturating_duration_since(expected).max(expected.saturating_duration_since(wall_now));
        jump > CLOCK_JUMP
    }

    /// Delay of a session's first ping: somewhere in the second half of the interval, so that clients that connected at
    /// the same time do not answer at the same time.
    fn first_ping_delay(&self, key: SessionKey) -> Duration {
        let spread = key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        self.ping_interval / 2 + self.ping_interval.mul_f64(spread as f64 / f64::from(u16::MAX) / 2.0)
    }
}

impl Hub {
    /// Starts the keep-alive of a session that is new, or is to be kept alive in another way.
    pub(super) fn start_keep_alive(&mut self, key: SessionKey) {
        let now = Instant::now();
        let Some(session) = self.registry.session_mut(key) else { return };
        session.deadline = match session.keep_alive {
            KeepAlive::Unauthenticated => Deadline::FirstMessage(now + self.liveness.first_message_timeout),
            KeepAlive::NativePing | KeepAlive::ProtocolPing | KeepAlive::OneWay => {
                Deadline::NextPing(now + self.liveness.first_ping_delay(key))
            }
        };
        self.schedule(key);
    }

    /// Puts a session into the timing wheel at its next deadline.
    pub(super) fn schedule(&mut self, key: SessionKey) {
        let (now, wall_now) = (Instant::now(), self.clock.now());
        let Some(session) = self.registry.session_mut(key) else { return };
        let after = match session.outbox.abort_at() {
            Some(abort_at) => abort_at.saturating_duration_since(now),
            None => session.time_to_next_deadline(&self.liveness, now, wall_now),
        };
        session.scheduled_tick = self.wheel.schedule(key, after, session.scheduled_tick);
    }

    /// Does the work of one tick.
    pub(super) fn on_tick(&mut self, ctx: &mut <Self as Actor>::Context) {
        let (now, wall_now) = (Instant::now(), self.clock.now());
        self.hold_after_freeze(now);
        self.revocations.note_time(wall_now);
        let _ = self.obey_revocations();
        self.end_long_hold(now);
        self.write_gate.note_run(wall_now);
        let (tick, keys) = self.wheel.advance();
        for key in keys {
            if self.registry.session(key).is_some_and(|session| session.scheduled_tick == tick) {
                self.check_deadlines(key);
            }
        }
        // The times of its beginning: a freeze in the middle of this tick is noticed by the next.
        if self.liveness.has_clock_jumped(now, wall_now) {
            let all: Vec<SessionKey> = self.registry.keys().collect();
            all.into_iter().for_each(|key| self.check_deadlines(key));
        }
        self.run_revocations(ctx);
        self.tell_postponed_of_rules(ctx);
        self.liveness.ticks += 1;
        if self.liveness.ticks.is_multiple_of((Duration::from_secs(1).as_millis() / TICK.as_millis()) as u32) {
            self.broker_subscriptions.release_idle();
        }
        self.refresh_presence(self.liveness.ticks);
        self.poll_positions(ctx);
        self.close_next_wave();
    }

    /// Acts on the deadlines that a session has reached, and schedules it for the next one.
    fn check_deadlines(&mut self, key: SessionKey) {
        let (now, wall_now) = (Instant::now(), self.clock.now());
        let Some(session) = self.registry.session_mut(key) else { return };
        if let Some(abort_at) = session.outbox.abort_at() {
            if now < abort_at {
                return self.schedule(key);
            }
            session.outbox.abort();
            return self.remove_session(key);
        }
        if let Deadline::Pong { next_ping, .. } = session.deadline
            && session.outbox.take_pong()
        {
            session.deadline = Deadline::NextPing(next_ping);
        }
        if let Err(ended) = session.outbox.check_token(wall_now) {
            return self.handle_push_error(key, ended);
        }
        session.warn_of_expiry(wall_now, || self.renewers.of(key).cloned());
        if wall_now >= session.first_subscription_warning {
            self.warn_of_subscription_expiries(key, wall_now);
        }
        let Some(session) = self.registry.session_mut(key) else { return };
        match session.deadline {
            _ if wall_now >= session.first_subscription_expiry => self.end_expired_subscriptions(key, wall_now),
            _ if wall_now >= session.first_subscription_renewal => self.renew_subscriptions(key, wall_now),
            // It waits for the connect hook, or for the verification of its token, for a limited time.
            Deadline::FirstMessage(_) if session.outbox.is_command_pending() => {}
            Deadline::FirstMessage(by) if now >= by => return self.close(key, &Disconnect::STALE),
            _ if session.is_stalled(now, self.liveness.max_outbox_stall) => return self.close(key, CloseReason::SLOW),
            Deadline::Pong { by, next_ping } if now >= by && session.outbox.holds_up_pongs() => {
                session.deadline = Deadline::Pong { by: now + self.liveness.pong_timeout, next_ping };
            }
            Deadline::Pong { by, .. } if now >= by => return self.close(key, &Disconnect::NO_PONG),
            _ if session.is_message_overdue(self.liveness.max_message_age, now) => {
                return self.close(key, &Disconnect::BAD_REQUEST);
            }
            Deadline::NextPing(at) | Deadline::Pong { next_ping: at, .. } if now >= at => {
                return self.send_ping(key, now, wall_now);
            }
            _ => {}
        }
        self.schedule(key);
    }

    fn send_ping(&mut self, key: SessionKey, now: Instant, wall_now: WallTime) {
        let Some(session) = self.registry.session_mut(key) else { return };
        let (outbox, next_ping) = (session.outbox.clone(), now + self.liveness.ping_interval);
        let by = match session.deadline {
            Deadline::Pong { by, .. } => by,
            Deadline::NextPing(_) | Deadline::FirstMessage(_) => {
                // Only a pong that arrives from now on answers this ping.
                outbox.take_pong();
                now + self.liveness.pong_timeout
            }
        };
        session.deadline = match session.keep_alive {
            KeepAlive::OneWay => Deadline::NextPing(next_ping),
            _ => Deadline::Pong { by, next_ping },
        };
        let pushed = outbox.push(wall_now, session.encode_ping()).and_then(|_| outbox.flush(&self.clock, wall_now));
        if let Err(error) = pushed {
            self.handle_push_error(key, error);
        }
        self.schedule(key);
    }

    /// Ends the subscriptions of a session whose connection is closing, and waits for its peer to leave: at
    /// [`Outbox::abort_at`] the connection is aborted.
    pub(super) fn await_disconnect(&mut self, key: SessionKey) {
        self.drop_subscriptions(key);
        self.schedule(key);
    }

    /// During a shutdown, closes the next wave of sessions; after the last wave, those that have registered meanwhile.
    fn close_next_wave(&mut self) {
        let Some(ClosingWaves { remaining, wave_size }) = &mut self.liveness.closing_waves else { return };
        let wave = if remaining.is_empty() {
            let is_open = |key: &SessionKey| self.registry.session(*key).is_some_and(|session| !session.is_closing());
            self.registry.keys().filter(is_open).collect()
        } else {
            remaining.split_off(remaining.len().saturating_sub(*wave_size))
        };
        wave.into_iter().for_each(|key| self.close(key, &Disconnect::SHUTDOWN));
    }
}

#[cfg(test)]
mod tests {
    use actix::Addr;

    use super::*;
    use crate::{
        broker::memory::MemoryBroker,
        hub::{
            CloseAllSessions,
            testing::{RunTicks, TestSession, start_hub, test_hubs},
        },
    };

    fn start_test_hub() -> Addr<Hub> {
        let hubs = test_hubs();
        let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, crate::clock::Clock::default());
        start_hub(&hubs, Arc::new(broker))
    }

    async fn connect_sessions(hub: &Addr<Hub>, count: usize) -> Vec<TestSession> {
        let mut sessions = Vec::new();
        for _ in 0..count {
            sessions.push(TestSession::connect(hub).await);
        }
        sessions
    }

    fn count_closing(sessions: &[TestSession]) -> usize {
        sessions.iter().filter(|session| session.outbox.is_closing()).count()
    }

    #[test]
    fn clock_jump_is_detected_once_in_either_direction() {
        let (mut now, date) = (Instant::now(), WallTime::from_unix_seconds);
        let mut liveness = Liveness::new(&Config::default(), now, date(1000));
        assert!(!liveness.has_clock_jumped(now, date(1000)));
        for jumped in [1010, 900] {
            assert!(liveness.has_clock_jumped(now, date(jumped)));
            assert!(!liveness.has_clock_jumped(now, date(jumped)));
        }
        // A tick that comes late, because the machine was busy, is not a jump.
        now += Duration::from_secs(5);
        assert!(!liveness.has_clock_jumped(now, date(905)));
        // The monotonic clock does not count the time for which the machine was suspended.
        assert!(liveness.has_clock_jumped(now + TICK, date(905 + 3600)));
    }

    #[actix_rt::test]
    async fn shutdown_closes_sessions_in_waves_with_3001() {
        let hub = start_test_hub();
        let mut sessions = connect_sessions(&hub, 40).await;
        // One session per tick. The hub's own ticks, 100 ms apart, are too few to close the other 30 meanwhile.
        hub.send(CloseAllSessions { spread_over: 40 * TICK }).await.unwrap();
        hub.send(RunTicks(10)).await.unwrap();
        let closing = count_closing(&sessions);
        assert!((10..40).contains(&closing), "{closing}");
        hub.send(RunTicks(30)).await.unwrap();
        assert_eq!(count_closing(&sessions), 40);
        let received = sessions[0].read_until_close().await;
        // The payload of a close frame: 3001, of which one byte is no UTF-8, and the reason.
        assert!(received.ends_with("\u{b}\u{fffd}shutdown"), "{received}");
    }

    #[actix_rt::test]
    async fn session_that_registers_during_shutdown_is_closed_too() {
        let hub = start_test_hub();
        let early = connect_sessions(&hub, 2).await;
        hub.send(CloseAllSessions { spread_over: Duration::ZERO }).await.unwrap();
        hub.send(RunTicks(1)).await.unwrap();
        assert_eq!(count_closing(&early), 2);
        let mut late = connect_sessions(&hub, 3).await;
        hub.send(RunTicks(1)).await.unwrap();
        assert_eq!(count_closing(&late), 3, "all at once");
        let received = late[2].read_until_close().await;
        // The payload of a close frame: 3001, of which one byte is no UTF-8, and the reason.
        assert!(received.ends_with("\u{b}\u{fffd}shutdown"), "{received}");
    }
}
