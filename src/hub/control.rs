//! Applies controls of the server API to the sessions of a hub: to a few sessions at once, to the many sessions of one user in
//! turns, as [`paced_queue`](super::paced_queue) says, while other users' controls do not wait.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    CloseReason, Hub, ServerApiSubscription, SessionControl, SessionKey,
    fanout::MAX_RUN,
    liveness::HubSession,
    paced_queue::{AT_ONCE, PacedQueue, continue_after_others},
};
use crate::{
    broker::{Control, ControlAction},
    channel::Channel,
    clock::NEVER,
    protocol::{Disconnect, UnsubscribeCode},
};

/// Applies a control from the broker to the sessions of a hub. Sent to all hubs of the instance.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub(super) struct ApplyControl(pub(super) Arc<QueuedControl>);

/// A control and its permit, which is released when all hubs have applied it.
pub(super) struct QueuedControl {
    pub(super) control: Control,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Maximum sessions to which a control waits to be applied. Above it, all controls that wait are applied at once.
const MAX_PACED: usize = if cfg!(test) { 600 } else { 100_000 };

/// The controls that a hub has not applied to all sessions yet.
#[derive(Default)]
pub(super) struct PacedControls {
    sessions: PacedQueue<(SessionKey, Arc<QueuedControl>)>,
    /// The controls in `sessions`, in the same order, each with the number of its sessions there.
    controls: VecDeque<(Arc<QueuedControl>, usize)>,
    is_running: bool,
}

impl PacedControls {
    /// Returns whether a control of this user waits.
    fn has_user(&self, user: &str) -> bool {
        self.controls.iter().any(|(queued, _)| queued.control.user == user)
    }

    fn add(&mut self, keys: Vec<SessionKey>, queued: &Arc<QueuedControl>) {
        self.controls.push_back((queued.clone(), keys.len()));
        keys.into_iter().for_each(|key| self.sessions.add((key, queued.clone())));
    }

    /// Takes the next session and the control that is applied to it, if its turn has come.
    fn take_due(&mut self, now: Instant) -> Option<(SessionKey, Arc<QueuedControl>)> {
        let due = self.sessions.take_due(now);
        if due.is_some()
            && let Some((_, left)) = self.controls.front_mut()
        {
            *left -= 1;
            if *left == 0 {
                self.controls.pop_front();
            }
        }
        due
    }
}

impl ServerApiSubscription {
    /// Reads the subscription of a control; `None` if the control gives none, or in a channel that cannot exist.
    pub(super) fn from_action(action: &ControlAction) -> Option<Self> {
        let ControlAction::Subscribe { channel, info, data, recover_since, expires_at, overrides } = action else {
            return None;
        };
        let channel = Channel::new(channel).ok()?;
        let raw = |text: &Option<String>| text.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes()));
        let since = recover_since.as_ref().map(|since| (since.offset, since.epoch.clone()));
        let (info, data, expires_at, overrides) = (raw(info), raw(data), *expires_at, *overrides);
        Some(Self { channel, info, data, since, expires_at, overrides })
    }
}

impl Hub {
    /// The open sessions of the control's user that match its client id and its whitelist.
    fn matching_sessions(&self, control: &Control) -> Vec<SessionKey> {
        let is_match = |(_, session): &(SessionKey, &HubSession)| {
            let mut text = uuid::Uuid::encode_buffer();
            let client: &str = session.client.hyphenated().encode_lower(&mut text);
            !session.is_closing()
                && control.client.as_deref().is_none_or(|only| only == client)
                && !control.whitelist.iter().any(|exempt| exempt == client)
        };
        self.registry.sessions_of(&control.user).filter(is_match).map(|(key, _)| key).collect()
    }

    /// Applies paced controls for at most [`MAX_RUN`]; if some are left, continues after the other tasks of the thread.
    fn run_paced_controls(&mut self, ctx: &mut <Self as Actor>::Context) {
        let mut now = Instant::now();
        let deadline = now + MAX_RUN;
        while now < deadline
            && let Some((key, queued)) = self.paced_controls.take_due(now)
        {
            self.apply_control(key, &queued.control.action);
            now = Instant::now();
        }
        self.paced_controls.is_running = !self.paced_controls.sessions.is_empty();
        if self.paced_controls.is_running {
            continue_after_others(ctx, self.paced_controls.sessions.is_due(now), Self::run_paced_controls);
        }
    }

    /// Applies all controls that wait, in their order.
    fn finish_paced_controls(&mut self) {
        self.paced_controls.controls.clear();
        for (key, queued) in std::mem::take(&mut self.paced_controls.sessions) {
            self.apply_control(key, &queued.control.action);
        }
    }

    /// Applies a control to one session.
    fn apply_control(&mut self, key: SessionKey, action: &ControlAction) {
        match action {
            ControlAction::Subscribe { .. } => {
                let Some(given) = ServerApiSubscription::from_action(action) else { return };
                self.send_to_session(key, SessionControl::Subscribe(Box::new(given)));
            }
            ControlAction::Unsubscribe { channel } => {
                let Ok(channel) = Channel::new(channel) else { return };
                self.end_subscription(key, &channel, UnsubscribeCode::ByServer);
                // The session may be about to subscribe because of an earlier control, even if it was subscribed. This
                // one then follows it through the session, and cannot overtake it.
                self.send_to_session(key, SessionControl::Unsubscribe(channel));
            }
            ControlAction::Disconnect { code, reason } => {
                if let Some(disconnect) = Disconnect::custom(*code, reason) {
                    self.close(key, CloseReason::from_server_api(&disconnect));
                }
            }
            ControlAction::Refresh { expires_at, info } => {
                let info = info.as_ref().map(|info| Bytes::copy_from_slice(info.as_bytes()));
                let expires_at = expires_at.unwrap_or(NEVER);
                // An earlier end does not wait for the commands of the client that come first in the session.
                let outbox = self.registry.session(key).map(|session| &session.outbox);
                if let Some(outbox) = outbox.filter(|outbox| expires_at < outbox.expires_at()) {
                    outbox.set_expiry(expires_at);
                    self.schedule(key);
                }
                self.send_to_session(key, SessionControl::Refresh { expires_at, info });
            }
        }
    }

    /// Sends a control to a session that has to apply it itself. If too many wait there already, because the broker is slow, a
    /// session that would keep what the control takes is closed; a reconnecting client gets back only what it may have.
    fn send_to_session(&mut self, key: SessionKey, control: SessionControl) {
        let Some(session) = self.registry.session(key) else { return };
        let only_adds = matches!(control, SessionControl::Subscribe(_));
        if let Err(error) = session.controls.try_send(control) {
            log::warn!("dropped server API control client={} error={:?}", session.client, error.to_string());
            if !only_adds {
                self.close(key, &Disconnect::INTERNAL);
            }
        }
    }
}

/// Ends a subscription because of a control (2000), after the session has done everything that came before the control.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ForceUnsubscribe {
    /// The session.
    pub key: SessionKey,
    /// The channel.
    pub channel: Channel,
}

impl Handler<ForceUnsubscribe> for Hub {
    type Result = ();

    fn handle(&mut self, ForceUnsubscribe { key, channel }: ForceUnsubscribe, _: &mut Self::Context) {
        self.end_subscription(key, &channel, UnsubscribeCode::ByServer);
        self.delay_subscription_expiry(key);
    }
}

impl Handler<ApplyControl> for Hub {
    type Result = ();

    fn handle(&mut self, ApplyControl(queued): ApplyControl, ctx: &mut Self::Context) {
        let keys = self.matching_sessions(&queued.control);
        if keys.is_empty() {
            return;
        }
        // The controls of a user are applied in their order.
        if keys.len() <= AT_ONCE && !self.paced_controls.has_user(&queued.control.user) {
            return keys.into_iter().for_each(|key| self.apply_control(key, &queued.control.action));
        }
        self.paced_controls.add(keys, &queued);
        if self.paced_controls.sessions.len() > MAX_PACED {
            self.finish_paced_controls();
        } else if !self.paced_controls.is_running {
            self.run_paced_controls(ctx);
        }
    }
}

#[cfg(test)]
mod tests;
