//! Applies controls of the server API to the sessions of a hub.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{CloseReason, Hub, ServerApiSubscription, SessionControl, SessionKey, liveness::HubSession};
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
                self.send_to_session(key, SessionControl::Refresh { expires_at: expires_at.unwrap_or(NEVER), info });
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

    fn handle(&mut self, ApplyControl(queued): ApplyControl, _: &mut Self::Context) {
        for key in self.matching_sessions(&queued.control) {
            self.apply_control(key, &queued.control.action);
        }
    }
}
