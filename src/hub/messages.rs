//! The messages that a hub receives from sessions and from the [`Hubs`](super::Hubs) handle, and the controls that it
//! sends to sessions. The messages about subscriptions are in [`subscription`](super::subscription).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;
use uuid::Uuid;

use super::SessionDetails;
use crate::{
    channel::Channel, clock::WallTime, config::OptionOverrides, protocol::Format, revocation::TokenIdentity,
    transport::Outbox,
};

/// Identifies a session. Unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub(super) u64);

impl SessionKey {
    /// Returns a key that was never returned before.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How a session is kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Not pinged. It is closed 3502 unless it authenticates within `auth.first_message_timeout`.
    Unauthenticated,
    /// By native ping frames, which browsers answer automatically.
    NativePing,
    /// By the protocol's own pings, `{}` in both directions, as SDKs expect.
    ProtocolPing,
    /// By what the server sends; its client does not answer. If the client is gone, its kernel acknowledges nothing.
    OneWay,
}

/// Registers a session with the hub of its thread.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Register {
    /// The session.
    pub key: SessionKey,
    /// The write half of its connection.
    pub outbox: Arc<Outbox>,
    /// How it is kept alive at first.
    pub keep_alive: KeepAlive,
    /// When it is sent [`SessionControl::WarnOfExpiry`], or the backend is asked about it, or [`NEVER`](crate::clock::NEVER).
    pub warn_at: WallTime,
    /// Its user and what names its token, if it is authenticated already.
    pub owner: Option<(Arc<str>, TokenIdentity)>,
    /// Its client id.
    pub client: Uuid,
    /// The format of its frames.
    pub format: Format,
    /// What the server API shows of it.
    pub details: Box<SessionDetails>,
    /// Receives the controls that only the session can apply.
    pub controls: Recipient<SessionControl>,
}

/// Updates a session that has authenticated, has new claims, or has become an SDK session. Its outbox knows when it ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct UpdateSession {
    /// The session.
    pub key: SessionKey,
    /// How it is kept alive from now on.
    pub keep_alive: KeepAlive,
    /// When it ends by its claims. If its outbox has another end, `warn_at` does not apply.
    pub expires_at: WallTime,
    /// When it is sent [`SessionControl::WarnOfExpiry`], or the backend is asked about it, or [`NEVER`](crate::clock::NEVER).
    pub warn_at: WallTime,
    /// Its user.
    pub user: Arc<str>,
    /// What names its token.
    pub token: TokenIdentity,
}

/// Ends the subscriptions of a session whose outbox is closing, and has its connection aborted if the peer does not
/// leave.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AwaitDisconnect(pub SessionKey);

/// Removes a session whose connection has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unregister(pub SessionKey);

/// An action that only the session itself can carry out: a control of the server API, or a warning of its hub.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum SessionControl {
    /// Change when the session expires, and perhaps what other clients see of its user.
    Refresh {
        /// The new expiry.
        expires_at: WallTime,
        /// Raw JSON that replaces the token's `info`.
        info: Option<Bytes>,
    },
    /// Subscribe to a channel.
    Subscribe(Box<ServerApiSubscription>),
    /// Unsubscribe from a channel, if a [`Subscribe`](Self::Subscribe) that came before has subscribed to it meanwhile.
    Unsubscribe(Channel),
    /// End the subscriptions that the rules of channels do not allow any more, because they have been reloaded.
    CheckRules,
    /// Warn the client that its token expires at this time, if it has brought no other one meanwhile.
    WarnOfExpiry(WallTime),
    /// Note that the backend has extended the session. Outbox and hub know it already.
    ApplyRenewal {
        /// The end about which the backend was asked.
        asked: WallTime,
        /// The new one.
        expires_at: WallTime,
        /// Raw JSON that replaces what other clients see of the user.
        info: Option<Bytes>,
    },
    /// Warn the client that the token of a subscription expires.
    WarnOfSubscriptionExpiry {
        /// The channel of the subscription.
        channel: Channel,
        /// When the token expires.
        expires_at: WallTime,
    },
}

/// A server-side subscription that the server API adds.
#[derive(Clone, Debug)]
pub struct ServerApiSubscription {
    /// The channel.
    pub channel: Channel,
    /// Raw JSON that other clients see of the subscription.
    pub info: Option<Bytes>,
    /// Raw JSON that is sent to the client in the subscribe push.
    pub data: Option<Bytes>,
    /// The position that the client has, as the API call states it: offset and epoch.
    pub since: Option<(u64, String)>,
    /// When the subscription expires.
    pub expires_at: Option<WallTime>,
    /// Channel options that differ for the subscription.
    pub overrides: OptionOverrides,
}

/// Answered by every hub that is alive.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CheckHealth;

/// Closes all sessions with 3001 because the instance stops. They are closed in waves, so that their clients do not all
/// reconnect elsewhere at the same moment. Sessions that register later are closed after the last wave.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CloseAllSessions {
    /// Time from the first wave to the last.
    pub spread_over: Duration,
}
