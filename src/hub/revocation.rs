//! Applies revocations in a hub. Before a hub delivers anything, it applies the revocations that it has not applied yet: it
//! marks the outboxes of the sessions that they mean, from which nothing more is written, and ends subscriptions. Then it
//! closes the marked sessions, and those whose tokens have expired. Both a little at a time.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{fut::LocalBoxActorFuture, prelude::*};
use tokio::sync::oneshot;

use super::{
    CloseReason, Hub, SessionKey, SubscriptionSource,
    fanout::{DrainQueue, MAX_RUN},
    paced_queue::{PacedQueue, continue_after_others},
};
use crate::{
    channel::Channel,
    protocol::UnsubscribeCode,
    revocation::{Changes, Revocation, RevocationState, TokenIdentity},
    transport::FROZEN_AFTER,
};

/// How long a hub holds its deliveries at most before it closes the sessions that wait for them, so that their clients connect
/// to an instance that has the list. An instance that has once had the list delivers again before that.
const MAX_HOLD: Duration = Duration::from_secs(15);

/// Has a hub apply all revocations of the list. Answered when the sessions that they mean are closed.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub(super) struct ObeyRevocations;

/// Waits until the hub may deliver, for a reply that brings publications.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AwaitRevocations;

/// The work for revocations that a hub still has to do.
pub(super) struct RevokedSessions {
    /// The revocations up to this state are applied, but to the sessions in `to_check`.
    obeyed: RevocationState,
    /// Sessions that a revocation may mean. Nothing is delivered before all are checked.
    to_check: VecDeque<SessionKey>,
    /// Sessions that are not closed yet: marked ones, those whose tokens have expired, and those for which deliveries were held
    /// for too long.
    to_close: PacedQueue<(SessionKey, CloseReason<'static>)>,
    /// Since when deliveries have been held.
    held_since: Option<Instant>,
    /// The fan-out has ended because sessions were left to check.
    fanout_waits: bool,
    /// Checking and closing continue after the other tasks of the thread.
    is_running: bool,
    /// Answered when `to_check` and `to_close` are empty.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Default for RevokedSessions {
    fn default() -> Self {
        let (to_check, to_close, waiting) = (VecDeque::new(), PacedQueue::default(), Vec::new());
        let (obeyed, held_since) = (RevocationState::INITIAL, None);
        Self { obeyed, to_check, to_close, held_since, fanout_waits: false, is_running: false, waiting }
    }
}

impl RevokedSessions {
    fn is_done(&self) -> bool {
        self.to_check.is_empty() && self.to_close.is_empty()
    }

    /// Returns whether the hub should continue as soon as the other tasks of the thread have run.
    fn has_work_now(&mut self, now: Instant) -> bool {
        !self.to_check.is_empty() || self.to_close.is_due(now)
    }
}

impl Hub {
    /// Has the deliveries held, if this process has been frozen: revocations may wait in its sockets, and publications that
    /// came before them in its queues. The last tick tells: there is one every 100 ms.
    pub(super) fn hold_after_freeze(&self, now: Instant) {
        let frozen_for = now.saturating_duration_since(self.liveness.last_tick_at());
        if frozen_for > FROZEN_AFTER {
            self.broker_subscriptions.broker().confirm_revocations(frozen_for);
        }
    }

    /// Applies all revocations. Returns whether the hub may deliver something outside of its fan-out.
    pub(super) fn may_deliver(&mut self) -> bool {
        self.hold_after_freeze(Instant::now());
        self.obey_revocations()
    }

    /// Completes when the hub may be able to deliver again, after [`Self::may_deliver`] has said that it may not.
    pub(super) fn wait_until_released(&mut self) -> impl Future<Output = ()> + use<> {
        let revocations = self.revocations.clone();
        let (done, checked) = oneshot::channel();
        if !self.revoked.is_done() {
            self.revoked.waiting.push(done);
        }
        async move {
            // An error means that there is nothing to wait for.
            let _ = checked.await;
            revocations.wait_until_released().await;
        }
    }

    /// Sets the user of a session and what names its token, and closes it if the token is revoked: it may have been between
    /// its verification and now.
    pub(super) fn set_owner(
        &mut self,
        key: SessionKey,
        user: Arc<str>,
        token: TokenIdentity,
        ctx: &mut <Self as Actor>::Context,
    ) {
        self.registry.set_user(key, user);
        self.registry.set_token(key, token);
        self.recheck_revocations(key);
        self.run_revocations(ctx);
    }

    /// Applies revocations as [`Self::obey_revocations`] does, for the fan-out, which ends if it may not deliver.
    pub(super) fn may_fan_out(&mut self) -> bool {
        let may_deliver = self.obey_revocations();
        self.revoked.fanout_waits |= !self.revoked.to_check.is_empty();
        may_deliver
    }

    /// Applies the revocations that this hub has not applied yet, with those of keys whose end has come, for at most [`MAX_RUN`].
    /// Returns whether it may deliver: not while the list may lack some, or sessions are left to check.
    pub(super) fn obey_revocations(&mut self) -> bool {
        self.revocations.end_keys();
        let state = self.revocations.state();
        if state == self.revoked.obeyed && self.revoked.to_check.is_empty() {
            return true;
        }
        let (obeyed, changes) = self.revocations.changes_since(self.revoked.obeyed);
        self.revoked.obeyed = obeyed;
        match changes {
            Changes::Known(revocations) => {
                for Revocation { target, .. } in &revocations {
                    match (target.token_id(), target.user()) {
                        (Some(id), _) => self.revoked.to_check.extend(self.registry.sessions_with_token(id)),
                        (None, Some(user)) => {
                            self.revoked.to_check.extend(self.registry.sessions_of(user).map(|(key, _)| key));
                        }
                        (None, None) => {}
                    }
                }
            }
            Changes::Many => self.revoked.to_check = self.registry.keys().collect(),
        }
        self.check_sessions(Instant::now() + MAX_RUN);
        !state.is_held() && self.revoked.to_check.is_empty()
    }

    /// Checks the sessions that revocations may mean, until the deadline.
    fn check_sessions(&mut self, deadline: Instant) {
        while let Some(key) = self.revoked.to_check.pop_front() {
            self.recheck_revocations(key);
            if Instant::now() >= deadline {
                break;
            }
        }
        if self.revoked.to_check.is_empty() {
            self.write_gate.note_obeyed(self.revoked.obeyed);
        }
    }

    /// Closes the sessions if deliveries have been held for too long.
    pub(super) fn end_long_hold(&mut self, now: Instant) {
        if !self.revocations.state().is_held() {
            self.revoked.held_since = None;
            return;
        }
        let since = *self.revoked.held_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= MAX_HOLD {
            self.revoked.held_since = None;
            let waiting: Vec<SessionKey> = self.registry.keys_of_users().collect();
            if !waiting.is_empty() {
                log::warn!("closing sessions that wait for the list of revocations count={}", waiting.len());
            }
            waiting.into_iter().for_each(|key| self.revoked.to_close.add((key, CloseReason::HELD)));
        }
    }

    /// Closes a session whose token has expired, in its turn. Until then it has no subscriptions, and its outbox writes nothing.
    pub(super) fn close_expired(&mut self, key: SessionKey) {
        self.drop_subscriptions(key);
        self.revoked.to_close.add((key, CloseReason::EXPIRED));
    }

    /// Marks a session whose token is revoked, or ends those of its subscriptions whose tokens are.
    pub(super) fn recheck_revocations(&mut self, key: SessionKey) {
        if self.revocations.is_empty() {
            return;
        }
        let Some((user, token)) = self.registry.owner(key) else { return };
        if self.revocations.is_revoked(user, token) {
            if self.registry.session(key).is_some_and(|session| session.outbox.revoke()) {
                self.revoked.to_close.add((key, CloseReason::REVOKED));
            }
            return;
        }
        let subscriptions = self.registry.subscriptions_by_token(key);
        let revoked = subscriptions
            .filter(|(channel, of_subscription)| self.is_revoked_in(user, token, channel, of_subscription));
        let revoked: Vec<Channel> = revoked.map(|(channel, _)| channel.clone()).collect();
        if !revoked.is_empty() {
            self.end_subscriptions(key, &revoked, UnsubscribeCode::ByServer);
        }
    }

    /// Returns whether a subscription must not start: its token is revoked, or what it allows in the channel.
    pub(super) fn is_start_revoked(&self, key: SessionKey, channel: &Channel, source: &SubscriptionSource) -> bool {
        if self.revocations.is_empty() || matches!(source, SubscriptionSource::ServerApi(_)) {
            return false;
        }
        let owner = self.registry.owner(key);
        owner.is_some_and(|(user, token)| self.is_revoked_in(user, token, channel, source.token().unwrap_or(token)))
    }

    /// Returns whether a subscription of a session with this user and this token has a token that is revoked, or revoked in
    /// the channel. The session's own token is not revoked.
    fn is_revoked_in(
        &self,
        user: &str,
        token: &TokenIdentity,
        channel: &Channel,
        of_subscription: &TokenIdentity,
    ) -> bool {
        (of_subscription != token && self.revocations.is_revoked(user, of_subscription))
            || self.revocations.is_revoked_in(user, channel, of_subscription)
    }

    /// Checks and closes sessions, for at most [`MAX_RUN`]; if some are left, continues after the other tasks of the thread.
    pub(super) fn run_revocations(&mut self, ctx: &mut <Self as Actor>::Context) {
        if !self.revoked.is_running {
            self.run_revocations_once(ctx);
        }
    }

    fn run_revocations_once(&mut self, ctx: &mut <Self as Actor>::Context) {
        let deadline = Instant::now() + MAX_RUN;
        self.check_sessions(deadline);
        let mut now = Instant::now();
        while now < deadline
            && let Some((key, reason)) = self.revoked.to_close.take_due(now)
        {
            self.close(key, reason);
            now = Instant::now();
        }
        self.revoked.is_running = !self.revoked.is_done();
        if self.revoked.is_running {
            continue_after_others(ctx, self.revoked.has_work_now(now), Self::run_revocations_once);
        } else {
            // An error means that the caller has stopped waiting.
            self.revoked.waiting.drain(..).for_each(|waiting| _ = waiting.send(()));
        }
        if self.revoked.to_check.is_empty() && std::mem::take(&mut self.revoked.fanout_waits) {
            ctx.notify(DrainQueue);
        }
    }
}

impl Handler<ObeyRevocations> for Hub {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: ObeyRevocations, ctx: &mut Self::Context) -> Self::Result {
        let _ = self.obey_revocations();
        let (done, closed) = oneshot::channel();
        self.revoked.waiting.push(done);
        self.run_revocations(ctx);
        // An error means that the hub has ended, and its sessions with it.
        Box::pin(async move { _ = closed.await })
    }
}

impl Handler<AwaitRevocations> for Hub {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: AwaitRevocations, _: &mut Self::Context) -> Self::Result {
        self.await_revocations()
    }
}

impl Hub {
    fn await_revocations(&mut self) -> LocalBoxActorFuture<Self, ()> {
        if self.may_deliver() {
            return Box::pin(actix::fut::ready(()));
        }
        let released = self.wait_until_released().into_actor(self);
        Box::pin(released.then(|(), hub, _| hub.await_revocations()))
    }
}

#[cfg(test)]
mod tests;
