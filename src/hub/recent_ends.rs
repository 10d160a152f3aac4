//! Remembers sessions and subscriptions of a hub that have ended, so that the server API can explain why a client receives
//! nothing: two rings of limited length. Nothing is noted per delivery.

use std::{collections::VecDeque, sync::Arc};

use actix::prelude::*;
use uuid::Uuid;

use super::{Hub, SessionKey, liveness::HubSession};
use crate::{
    broker::TraceEventKind, channel::Channel, clock::WallTime, config::Limits, protocol::UnsubscribeCode,
    transport::CloseCause,
};

/// The reason of a subscription's end for which its client has asked.
pub(super) const UNSUBSCRIBED_BY_CLIENT: &str = "unsubscribed by the client";
/// Maximum length of an error's text that is kept.
const MAX_REASON_CHARS: usize = 200;

/// The sessions and subscriptions that have ended last. The oldest are forgotten first.
pub(super) struct RecentEnds {
    sessions: VecDeque<EndedSession>,
    max_sessions: usize,
    subscriptions: VecDeque<EndedSubscription>,
    max_subscriptions: usize,
}

/// A session that has ended.
pub(super) struct EndedSession {
    pub(super) at: WallTime,
    pub(super) client: Uuid,
    /// `None`: it was not authenticated.
    pub(super) user: Option<Arc<str>>,
    pub(super) connected_at: WallTime,
    /// `None`: the connection was lost.
    pub(super) cause: Option<CloseCause>,
}

/// A subscription of a session that has ended, or was refused.
pub(super) struct EndedSubscription {
    pub(super) at: WallTime,
    client: Uuid,
    channel: Channel,
    pub(super) end: SubscriptionEnd,
}

/// How a subscription has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SubscriptionEnd {
    /// Its client has ended it.
    ByClient,
    /// The server has ended it.
    Pushed(UnsubscribeCode),
    /// It has not begun: the client got an error.
    Refused {
        /// The code of the error.
        code: u32,
        /// Its text.
        message: String,
    },
}

impl RecentEnds {
    pub(super) fn new(limits: &Limits) -> Self {
        let (max_sessions, max_subscriptions) = (limits.ended_sessions, limits.ended_subscriptions);
        Self { sessions: VecDeque::new(), max_sessions, subscriptions: VecDeque::new(), max_subscriptions }
    }

    fn add_session(&mut self, ended: EndedSession) {
        add(&mut self.sessions, ended, self.max_sessions);
    }

    fn add_subscription(&mut self, ended: EndedSubscription) {
        // A client that repeats itself does not drive out the others.
        let is_repeated = |last: &EndedSubscription| {
            last.client == ended.client && last.channel == ended.channel && last.end == ended.end
        };
        if self.subscriptions.back().is_some_and(is_repeated) {
            self.subscriptions.pop_back();
        }
        add(&mut self.subscriptions, ended, self.max_subscriptions);
    }

    /// Returns the ended sessions, the newest first.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &EndedSession> {
        self.sessions.iter().rev()
    }

    /// Returns the last end of a session's subscription to a channel.
    pub(super) fn subscription(&self, client: Uuid, channel: &Channel) -> Option<&EndedSubscription> {
        self.subscriptions.iter().rev().find(|ended| ended.client == client && ended.channel == *channel)
    }
}

fn add<T>(ring: &mut VecDeque<T>, ended: T, limit: usize) {
    if ring.len() >= limit {
        ring.pop_front();
    }
    if limit > 0 {
        ring.push_back(ended);
    }
}

/// Notes that a client's subscribe command has failed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct NoteRefusedSubscription {
    /// The session.
    pub key: SessionKey,
    /// The channel.
    pub channel: Channel,
    /// The code of the error.
    pub code: u32,
    /// Its text.
    pub message: String,
}

impl Handler<NoteRefusedSubscription> for Hub {
    type Result = ();

    fn handle(&mut self, refused: NoteRefusedSubscription, _: &mut Self::Context) {
        let NoteRefusedSubscription { key, channel, code, message } = refused;
        self.note_refused_subscription(key, &channel, code, &message);
    }
}

impl Hub {
    /// Remembers that a subscription has not begun.
    pub(super) fn note_refused_subscription(&mut self, key: SessionKey, channel: &Channel, code: u32, text: &str) {
        let message = text.chars().take(MAX_REASON_CHARS).collect();
        self.note_subscription_end(key, channel, SubscriptionEnd::Refused { code, message });
    }

    /// Remembers that a subscription of a session that goes on has ended.
    pub(super) fn note_subscription_end(&mut self, key: SessionKey, channel: &Channel, end: SubscriptionEnd) {
        let kind = match &end {
            SubscriptionEnd::ByClient | SubscriptionEnd::Pushed(_) => TraceEventKind::Unsubscribed,
            SubscriptionEnd::Refused { .. } => TraceEventKind::SubscribeRefused,
        };
        self.trace_session(key, kind, Some(channel), |event| match &end {
            SubscriptionEnd::ByClient => {}
            SubscriptionEnd::Pushed(code) => {
                (event.code, event.reason) = (Some(code.code()), Some(code.reason().to_owned()));
            }
            SubscriptionEnd::Refused { code, message } => {
                (event.code, event.reason) = (Some(*code), Some(message.clone()));
            }
        });
        let Some(HubSession { client, .. }) = self.registry.session(key) else { return };
        let ended = EndedSubscription { at: self.clock.now(), client: *client, channel: channel.clone(), end };
        self.recent_ends.add_subscription(ended);
    }

    /// Remembers that a session has ended.
    pub(super) fn note_session_end(&mut self, session: &HubSession, user: Option<Arc<str>>) {
        let (client, connected_at) = (session.client, session.details.connected_at);
        let cause = session.outbox.close_cause();
        self.recent_ends.add_session(EndedSession { at: self.clock.now(), client, user, connected_at, cause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn ends(limit: usize) -> RecentEnds {
        let limits = Config::default().limits;
        RecentEnds::new(&Limits { ended_sessions: limit, ended_subscriptions: limit, ..limits })
    }

    fn subscription(client: u128, channel: &str, end: SubscriptionEnd) -> EndedSubscription {
        let (client, channel) = (Uuid::from_u128(client), Channel::new(channel).unwrap());
        EndedSubscription { at: WallTime::default(), client, channel, end }
    }

    #[test]
    fn oldest_ends_above_the_limit_are_forgotten_and_repeated_ones_count_once() {
        let (mut recent, news) = (ends(3), Channel::new("news").unwrap());
        recent.add_subscription(subscription(1, "news", SubscriptionEnd::Pushed(UnsubscribeCode::Expired)));
        recent.add_subscription(subscription(1, "sport", SubscriptionEnd::ByClient));
        for _ in 0..100 {
            recent.add_subscription(subscription(2, "news", SubscriptionEnd::ByClient));
        }
        let find = |recent: &RecentEnds, client| {
            recent.subscription(Uuid::from_u128(client), &news).map(|ended| ended.end.clone())
        };
        assert_eq!(find(&recent, 1), Some(SubscriptionEnd::Pushed(UnsubscribeCode::Expired)));
        recent.add_subscription(subscription(3, "news", SubscriptionEnd::ByClient));
        assert_eq!((find(&recent, 1), find(&recent, 2)), (None, Some(SubscriptionEnd::ByClient)));
    }

    #[test]
    fn without_a_limit_nothing_is_remembered() {
        let mut recent = ends(0);
        let (at, client, cause) = (WallTime::default(), Uuid::from_u128(1), None);
        recent.add_session(EndedSession { at, client, user: None, connected_at: at, cause });
        recent.add_subscription(subscription(1, "news", SubscriptionEnd::ByClient));
        assert_eq!((recent.sessions().count(), recent.subscriptions.len()), (0, 0));
    }
}
