//! Sessions and subscriptions that a hook has allowed for a time: when the end comes near, the hub has the backend asked. It does not ask
//! through the session, whose mailbox is not read while a command of its client waits.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actix::prelude::*;
use bytes::Bytes;

use super::{Hub, SessionControl, SessionKey};
use crate::{broker::TraceEventKind, channel::Channel, clock::WallTime, protocol::Disconnect};

/// Asks the backend about one session. Neither method waits for the answer, which comes as [`RenewSession`] or
/// [`RenewSubscription`](super::RenewSubscription).
pub trait SessionRenewer: Send + Sync {
    /// Asks whether the session goes on that ends at `asked`. Returns `false` if the backend does not decide about that.
    fn renew_session(&self, asked: WallTime) -> bool;

    /// Asks whether a subscription goes on that ends at `asked`.
    fn renew_subscription(&self, channel: Channel, asked: WallTime);
}

/// Whether a token decides when a session ends that the connect hook had let in. The session and the questions about it share it: from
/// then on an answer about the session has no effect, even if the token ends when the session would have.
#[derive(Clone, Debug, Default)]
pub struct TokenTakeover(Arc<AtomicBool>);

impl TokenTakeover {
    /// Notes that a token decides from now on.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether a token decides.
    pub fn has_happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gives the hub the renewer of a session, in place of an earlier one. Only sessions with something to renew have one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SetRenewer {
    /// The session.
    pub key: SessionKey,
    /// Its renewer.
    pub renewer: Arc<dyn SessionRenewer>,
}

/// The answer of the backend about a session.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RenewSession {
    /// The session.
    pub key: SessionKey,
    /// The end about which the backend was asked. If the session has another one meanwhile, the answer has no effect.
    pub asked: WallTime,
    /// Whether a token decides about the session meanwhile. Then the answer has no effect either.
    pub takeover: TokenTakeover,
    /// What becomes of the session.
    pub renewal: SessionRenewal,
}

/// The backend's answer about a session.
pub enum SessionRenewal {
    /// It goes on.
    Extended {
        /// When it ends.
        expires_at: WallTime,
        /// Raw JSON that replaces what other clients see of the user.
        info: Option<Bytes>,
        /// When the backend is asked again.
        renew_at: WallTime,
    },
    /// Nothing: it is asked again at this time.
    Unanswered(WallTime),
    /// It ends now.
    Ended(Disconnect),
}

/// The renewers of a hub's sessions.
#[derive(Default)]
pub(super) struct Renewers(HashMap<SessionKey, Arc<dyn SessionRenewer>>);

impl Renewers {
    pub(super) fn of(&self, key: SessionKey) -> Option<&Arc<dyn SessionRenewer>> {
        self.0.get(&key)
    }

    /// Forgets that of a session that has ended.
    pub(super) fn remove(&mut self, key: SessionKey) {
        self.0.remove(&key);
    }
}

impl Handler<SetRenewer> for Hub {
    type Result = ();

    fn handle(&mut self, SetRenewer { key, renewer }: SetRenewer, _: &mut Self::Context) {
        if self.registry.session(key).is_some() {
            self.renewers.0.insert(key, renewer);
        }
    }
}

impl Handler<RenewSession> for Hub {
    type Result = ();

    fn handle(&mut self, RenewSession { key, asked, takeover, renewal }: RenewSession, _: &mut Self::Context) {
        let Some(session) = self.registry.session_mut(key) else { return };
        // A token, or the server API, may have given the session another end meanwhile.
        if session.is_closing() || takeover.has_happened() || session.outbox.expires_at() != asked {
            return;
        }
        match renewal {
            SessionRenewal::Extended { expires_at, info, renew_at } => {
                session.outbox.set_expiry(expires_at);
                session.warn_at = renew_at;
                session.controls.do_send(SessionControl::ApplyRenewal { asked, expires_at, info });
                self.trace_session(key, TraceEventKind::TokenChanged, None, |_| {});
            }
            SessionRenewal::Unanswered(renew_at) => session.warn_at = renew_at,
            SessionRenewal::Ended(disconnect) => return self.close(key, &disconnect),
        }
        self.schedule(key);
    }
}
