//! Looking after sessions as the wheel comes by: pings and pongs, the first-message deadline, expiry by the wall clock
//! wherever it jumps, messages that never end, and connections that do not go when they are closed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::Recipient;
use uuid::Uuid;

use super::{Hub, KeepAlive, Renew, SessionKey, wheel::TICK};
use crate::{
    clock::{Clock, Millis, NEVER, millis},
    config::Config,
    protocol::{Disconnect, Format, frame},
    transport::{Backlog, Outbox},
};

/// How long a closed connection may take to go before it is cut.
const FAREWELL: Duration = Duration::from_secs(2);
/// A wall clock that moves this much against the monotonic one has jumped.
const JUMP_MILLIS: Millis = 500;

/// One session, as the hub knows it.
pub(super) struct Member {
    pub(super) outbox: Arc<Outbox>,
    /// How its frames are written.
    pub(super) format: Format,
    keep_alive: KeepAlive,
    expires_at: Millis,
    /// When the first of its subscriptions ends by itself.
    pub(super) subscriptions_expire_at: Millis,
    pub(super) client: Uuid,
    pub(super) session: Recipient<Renew>,
    /// The tick of the last place in the wheel; older places are void.
    armed_at: u64,
    due: Due,
}

/// What the session is waited for, besides its expiry.
#[derive(Clone, Copy)]
enum Due {
    FirstMessage(Instant),
    NextPing(Instant),
    Pong { by: Instant, next_ping: Instant },
    Gone(Instant),
}

impl Member {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        format: Format,
        keep_alive: KeepAlive,
        expires_at: Millis,
        client: Uuid,
        session: Recipient<Renew>,
    ) -> Self {
        let due = Due::NextPing(Instant::now());
        Self {
            outbox,
            format,
            keep_alive,
            expires_at,
            subscriptions_expire_at: NEVER,
            client,
            session,
            armed_at: 0,
            due,
        }
    }

    /// Tells whether it is to be kept alive in another way than before.
    pub(super) fn update(&mut self, keep_alive: KeepAlive, expires_at: Millis) -> bool {
        self.expires_at = expires_at;
        self.outbox.expire_at(expires_at);
        std::mem::replace(&mut self.keep_alive, keep_alive) != keep_alive
    }

    /// Whether its connection is being closed.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.due, Due::Gone(_))
    }

    /// Whether it has said who it is, and is not being closed.
    pub(super) fn is_somebody(&self) -> bool {
        self.keep_alive != KeepAlive::Waiting && !self.is_leaving()
    }

    pub(super) fn farewell(&self, disconnect: &Disconnect, clock: &Clock) {
        let backlog = if *disconnect == Disconnect::EXPIRED { Backlog::Drop } else { Backlog::Send };
        self.outbox.close(self.format.farewell(disconnect), backlog, clock);
    }

    fn ping(&self) -> bytes::Bytes {
        if self.keep_alive == KeepAlive::EmptyReply { self.format.ping() } else { frame::PING }
    }
}

/// Intervals, and what the hub remembers between two turns.
pub(super) struct Timing {
    ping_interval: Duration,
    pong_timeout: Duration,
    first_message: Duration,
    message_age: Duration,
    started: Instant,
    /// Wall clock minus monotonic clock at the last turn.
    drift: Millis,
    turned: u32,
    /// While the instance stops: who is still to be told, and how many at a turn.
    pub(super) leaving: Option<(Vec<SessionKey>, usize)>,
}

impl Timing {
    pub(super) fn new(config: &Config, now: Millis) -> Self {
        Self {
            ping_interval: config.server.ping_interval,
            pong_timeout: config.server.pong_timeout,
            first_message: config.auth.first_message_timeout,
            message_age: config.limits.message_age,
            started: Instant::now(),
            drift: now,
            turned: 0,
            leaving: None,
        }
    }

    /// Whether the wall clock has jumped since the last turn.
    fn has_jumped(&mut self, now: Millis) -> bool {
        let drift = now - millis(self.started.elapsed());
        let before = std::mem::replace(&mut self.drift, drift);
        (drift - before).abs() > JUMP_MILLIS
    }

    /// A first ping somewhere in the second half of the interval, so that clients that came together do not answer
    /// together.
    fn first_ping(&self, key: SessionKey) -> Duration {
        let spread = key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        self.ping_interval / 2 + self.ping_interval.mul_f64(spread as f64 / f64::from(u16::MAX) / 2.0)
    }
}

impl Hub {
    /// A session is new or has changed: what is due, and when.
    pub(super) fn begin_tending(&mut self, key: SessionKey) {
        let now = Instant::now();
        let Some(member) = self.registry.member_mut(key).filter(|member| !member.is_leaving()) else { return };
        member.due = match member.keep_alive {
            KeepAlive::Waiting => Due::FirstMessage(now + self.timing.first_message),
            KeepAlive::Native | KeepAlive::EmptyReply => Due::NextPing(now + self.timing.first_ping(key)),
        };
        self.arm(key);
    }

    /// Puts a session into the wheel for whatever comes first.
    pub(super) fn arm(&mut self, key: SessionKey) {
        let now = self.clock.now();
        let Some(member) = self.registry.member_mut(key) else { return };
        let (Due::FirstMessage(at) | Due::NextPing(at) | Due::Pong { by: at, .. } | Due::Gone(at)) = member.due;
        let end = member.expires_at.min(member.subscriptions_expire_at);
        let left = Duration::from_millis(end.saturating_sub(now).max(0).unsigned_abs());
        let after = at.saturating_duration_since(Instant::now()).min(left);
        member.armed_at = self.wheel.put(key, after, member.armed_at);
    }

    /// One turn of the wheel.
    pub(super) fn tend(&mut self) {
        let (tick, keys) = self.wheel.turn();
        for key in keys {
            if self.registry.member(key).is_some_and(|member| member.armed_at == tick) {
                self.look_at(key);
            }
        }
        let now = self.clock.now();
        if self.timing.has_jumped(now) {
            let all: Vec<SessionKey> = self.registry.keys().collect();
            all.into_iter().for_each(|key| self.look_at(key));
        }
        self.timing.turned += 1;
        if self.timing.turned.is_multiple_of((Duration::from_secs(1).as_millis() / TICK.as_millis()) as u32) {
            self.interest.sweep();
        }
        self.send_wave();
    }

    fn look_at(&mut self, key: SessionKey) {
        let (now, wall) = (Instant::now(), self.clock.now());
        let Some(member) = self.registry.member_mut(key) else { return };
        match member.due {
            Due::Gone(by) if now >= by => {
                member.outbox.cut();
                self.remove(key);
                return;
            }
            Due::Gone(_) => {}
            _ if wall >= member.subscriptions_expire_at && wall < member.expires_at => {
                self.expire_subscriptions(key, wall);
            }
            _ if wall >= member.expires_at => return self.close(key, &Disconnect::EXPIRED),
            Due::FirstMessage(by) if now >= by => return self.close(key, &Disconnect::STALE),
            Due::Pong { next_ping, .. } if member.outbox.take_answer() => member.due = Due::NextPing(next_ping),
            Due::Pong { by, .. } if now >= by => return self.close(key, &Disconnect::NO_PONG),
            _ if member.outbox.incomplete_for() > self.timing.message_age => {
                return self.close(key, &Disconnect::BAD_REQUEST);
            }
            Due::NextPing(at) if now >= at => return self.ping(key, wall),
            _ => {}
        }
        self.arm(key);
    }

    fn ping(&mut self, key: SessionKey, wall: Millis) {
        let Some(member) = self.registry.member_mut(key) else { return };
        let now = Instant::now();
        member.due = Due::Pong { by: now + self.timing.pong_timeout, next_ping: now + self.timing.ping_interval };
        let outbox = member.outbox.clone();
        // Only what comes after this ping answers it.
        outbox.take_answer();
        let pushed = outbox.push(wall, member.ping()).and_then(|_| outbox.flush(&self.clock, wall));
        match pushed {
            Ok(_) => self.arm(key),
            Err(refused) => self.refuse(key, refused),
        }
    }

    /// A session's connection is closed: nothing is sent to it any more, and it is cut if it does not go.
    pub(super) fn let_go(&mut self, key: SessionKey) {
        self.silence(key);
        if let Some(member) = self.registry.member_mut(key).filter(|member| !member.is_leaving()) {
            member.due = Due::Gone(Instant::now() + FAREWELL);
            (member.expires_at, member.subscriptions_expire_at) = (NEVER, NEVER);
            self.arm(key);
        }
    }

    /// The next of those that are told that the instance stops.
    fn send_wave(&mut self) {
        let Some((mut leaving, wave)) = self.timing.leaving.take() else { return };
        for key in leaving.split_off(leaving.len().saturating_sub(wave)) {
            self.close(key, &Disconnect::SHUTDOWN);
        }
        if leaving.is_empty() {
            // Who came in the meantime.
            leaving = self.registry.keys().collect();
        }
        self.timing.leaving = Some((leaving, wave));
    }
}
