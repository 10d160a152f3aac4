//! Finds why a publication did not arrive, as far as this node knows: from the open sessions of the client, and from those that
//! have ended lately.

use std::{sync::Arc, time::Instant};

use actix::prelude::*;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::{
    broker::{
        Cause, ExplainQuery, ExplainedEnd, ExplainedPublication, ExplainedSession, MAX_EXPLAINED_SESSIONS,
        NodeExplanation,
    },
    channel::Channel,
    clock::WallTime,
    hub::{
        CONNECTION_LOST, Hub, RefusedAttempt, RefusedAttempts, SessionKey,
        liveness::HubSession,
        recent_ends::{EndedSession, EndedSubscription, SubscriptionEnd, UNSUBSCRIBED_BY_CLIENT},
        refused_attempts::RepeatedAttempt,
        subscription::{ChannelState, DeliveryOptions, Live},
    },
    position::Position,
    protocol::{Disconnect, ErrorCode, UnsubscribeCode},
    transport::{CloseCause, PushError},
};

/// Explains on one hub.
#[derive(Message)]
#[rtype(result = "Vec<ExplainedSession>")]
struct ExplainSessions {
    query: Arc<ExplainQuery>,
    channel: Channel,
    client: Option<Uuid>,
}

/// Returns what this node knows.
pub(super) async fn explain(hubs: &[Addr<Hub>], query: ExplainQuery, refused: &RefusedAttempts) -> NodeExplanation {
    let client = query.client.as_deref().map(Uuid::parse_str).transpose();
    let (Ok(channel), Ok(client)) = (Channel::new(&query.channel), client) else { return NodeExplanation::default() };
    let query = Arc::new(query);
    let asked =
        hubs.iter().map(|hub| hub.send(ExplainSessions { query: query.clone(), channel: channel.clone(), client }));
    let mut sessions: Vec<ExplainedSession> = join_all(asked).await.into_iter().flatten().flatten().collect();
    let refused = refused.find(query.user.as_deref(), client, MAX_EXPLAINED_SESSIONS + 1);
    sessions.extend(refused.into_iter().map(explain_refused));
    sessions.sort_by_cached_key(|session| (!session.is_open, session.closed_order()));
    let has_more = sessions.len() > MAX_EXPLAINED_SESSIONS;
    sessions.truncate(MAX_EXPLAINED_SESSIONS);
    NodeExplanation { sessions, has_more }
}

impl Handler<ExplainSessions> for Hub {
    type Result = Vec<ExplainedSession>;

    fn handle(&mut self, explain: ExplainSessions, _: &mut Self::Context) -> Self::Result {
        let ExplainSessions { query, channel, client } = explain;
        // One more than the node answers with tells it that there are more.
        let limit = MAX_EXPLAINED_SESSIONS + 1;
        let keys: Vec<SessionKey> = match (client, &query.user) {
            (Some(client), user) => {
                let is_of_user = |key: &SessionKey| {
                    user.as_deref().is_none_or(|user| self.registry.user(*key).is_some_and(|owner| **owner == *user))
                };
                self.registry.find(|session| session.client == client).filter(is_of_user).into_iter().collect()
            }
            (None, Some(user)) => self.registry.sessions_of(user).map(|(key, _)| key).take(limit).collect(),
            (None, None) => Vec::new(),
        };
        let open = keys.into_iter().filter_map(|key| self.explain_session(key, &channel, query.publication.as_ref()));
        let is_meant = |ended: &&EndedSession| {
            client.is_none_or(|client| ended.client == client)
                && query.user.as_deref().is_none_or(|user| ended.user.as_deref() == Some(user))
        };
        let ended = self.recent_ends.sessions().filter(is_meant).map(explain_ended);
        open.chain(ended).take(limit).collect()
    }
}

impl Hub {
    /// Explains a session that is registered.
    fn explain_session(
        &self,
        key: SessionKey,
        channel: &Channel,
        publication: Option<&ExplainedPublication>,
    ) -> Option<ExplainedSession> {
        let session = self.registry.session(key)?;
        let user = self.registry.user(key);
        let (queued_bytes, stalled_for) = (session.outbox.queued_bytes() as u64, session.outbox.stalled_since());
        let mut explained = ExplainedSession {
            client: session.client.to_string(),
            user: user.map(|user| user.to_string()).unwrap_or_default(),
            cause: Cause::Delivered,
            is_open: true,
            connected_at: session.details.connected_at.unix_millis(),
            subscribed_at: None,
            subscribed_after: None,
            position: None,
            end: None,
            queued_bytes: Some(queued_bytes),
            stalled_for: stalled_for.map(|since| Instant::now().saturating_duration_since(since).as_millis() as u64),
            signed: None,
            attempts: None,
        };
        if session.is_closing() {
            let cause = session.outbox.close_cause();
            (explained.cause, explained.is_open) = (cause_of_close(cause.as_ref()), false);
            explained.end = Some(explained_close(cause.as_ref(), self.clock.now()));
        } else if let Err(ended) = session.outbox.check_token(self.clock.now()) {
            explained.cause = if ended == PushError::Revoked { Cause::TokenRefused } else { Cause::TokenExpired };
        } else if user.is_none() {
            explained.cause = Cause::NotAuthenticated;
        } else if let Some((live, options)) = self.registry.subscription(key, channel) {
            let state = self.registry.channel_state(channel);
            explained.subscribed_at = Some(live.start.at.unix_millis());
            explained.subscribed_after = live.start.after.map(Into::into);
            explained.position = state.and_then(|state| state.position).map(Into::into);
            let is_expired =
                self.registry.channels_of(key).is_some_and(|channels| channels.has_expired(channel, self.clock.now()));
            explained.cause = match publication {
                _ if is_expired => Cause::SubscriptionExpired,
                Some(publication) => self.judge_delivery(session, live, options, state, publication),
                None => self.judge_connection(session),
            };
        } else {
            let ended = self.recent_ends.subscription(session.client, channel);
            explained.cause = ended.map_or(Cause::NotSubscribed, |ended| cause_of_end(&ended.end));
            explained.end = ended.map(explained_end);
        }
        Some(explained)
    }

    /// Returns why a live subscription has not received a publication.
    fn judge_delivery(
        &self,
        session: &HubSession,
        live: &Live,
        options: &DeliveryOptions,
        channel_state: Option<&ChannelState>,
        publication: &ExplainedPublication,
    ) -> Cause {
        let here = channel_state.and_then(|state| state.position);
        let stored = publication.stored.as_ref();
        if stored.and_then(|stored| stored.exclude.as_deref()) == Some(session.client.to_string().as_str()) {
            return Cause::Excluded;
        }
        let filter = options.filter.as_ref().map(|tracked| tracked.filter());
        if let (Some(filter), Some(stored)) = (filter, stored)
            && !filter.matches(&stored.tags)
        {
            return Cause::Filtered;
        }
        let is_of = |position: &Position| position.epoch.as_str() == publication.epoch;
        let began_later = match live.start.after.filter(is_of) {
            Some(after) => publication.offset <= after.offset,
            // The subscription is older than the epoch, or has no position.
            None => stored.is_some_and(|stored| stored.time < live.start.at.unix_millis()),
        };
        if began_later {
            return Cause::SubscribedLater;
        }
        let conflates =
            channel_state.and_then(|state| state.pace.as_ref()).is_some_and(|pace| pace.conflation.is_some());
        match here {
            _ if self.is_holding_deliveries() => Cause::DeliveriesHeld,
            Some(here) if is_of(&here) && here.offset >= publication.offset => match self.judge_connection(session) {
                // The newest one replaces others, and nothing replaces it.
                Cause::Delivered if here.offset > publication.offset && conflates => Cause::Conflated,
                cause => cause,
            },
            // In the queue of the hub, on its way to the node, or lost and not read again yet.
            _ => Cause::NodeBehind,
        }
    }

    /// Returns what keeps a connection from getting what is sent to it.
    fn judge_connection(&self, session: &HubSession) -> Cause {
        if self.is_holding_deliveries() {
            Cause::DeliveriesHeld
        } else if session.outbox.queued_bytes() > 0 {
            Cause::ClientBehind
        } else {
            Cause::Delivered
        }
    }

    fn is_holding_deliveries(&self) -> bool {
        self.revocations.state().is_held()
    }
}

/// Explains a session that has ended.
fn explain_ended(ended: &EndedSession) -> ExplainedSession {
    ExplainedSession {
        client: ended.client.to_string(),
        user: ended.user.as_deref().unwrap_or_default().to_owned(),
        cause: cause_of_close(ended.cause.as_ref()),
        is_open: false,
        connected_at: ended.connected_at.unix_millis(),
        subscribed_at: None,
        subscribed_after: None,
        position: None,
        end: Some(explained_close(ended.cause.as_ref(), ended.at)),
        queued_bytes: None,
        stalled_for: None,
        signed: None,
        attempts: None,
    }
}

/// Explains attempts to connect that were refused for one reason.
fn explain_refused(repeated: RepeatedAttempt) -> ExplainedSession {
    let RepeatedAttempt { last, attempts } = repeated;
    let RefusedAttempt { at, client, user, is_signed, code, reason } = last;
    let time = at.unix_millis();
    ExplainedSession {
        client: client.to_string(),
        user: user.into(),
        cause: Cause::ConnectRefused,
        is_open: false,
        connected_at: time,
        subscribed_at: None,
        subscribed_after: None,
        position: None,
        end: Some(ExplainedEnd { time, code, reason: reason.into_owned() }),
        queued_bytes: None,
        stalled_for: None,
        signed: Some(is_signed),
        attempts: Some(attempts),
    }
}

fn cause_of_close(cause: Option<&CloseCause>) -> Cause {
    let Some(CloseCause { code, is_by_client, .. }) = cause else { return Cause::ConnectionLost };
    let Some(code) = code.filter(|_| !is_by_client) else { return Cause::ClosedByClient };
    let causes = [
        (&Disconnect::EXPIRED, Cause::TokenExpired),
        (&Disconnect::SUBSCRIPTION_EXPIRED, Cause::SubscriptionExpired),
        (&Disconnect::REVOKED_TOKEN, Cause::TokenRefused),
        (&Disconnect::SLOW, Cause::TooSlow),
        (&Disconnect::NO_PONG, Cause::NoPong),
        (&Disconnect::INSUFFICIENT_STATE, Cause::SubscriptionLost),
    ];
    causes.iter().find(|(disconnect, _)| disconnect.code() == code).map_or(Cause::Closed, |(_, cause)| *cause)
}

fn explained_close(cause: Option<&CloseCause>, at: WallTime) -> ExplainedEnd {
    ExplainedEnd {
        time: at.unix_millis(),
        code: cause.and_then(|cause| cause.code).map(u32::from),
        reason: cause.map_or(CONNECTION_LOST, |cause| &cause.reason).to_owned(),
    }
}

fn cause_of_end(end: &SubscriptionEnd) -> Cause {
    match end {
        SubscriptionEnd::ByClient => Cause::UnsubscribedByClient,
        SubscriptionEnd::Pushed(UnsubscribeCode::ByServer) => Cause::Unsubscribed,
        SubscriptionEnd::Pushed(UnsubscribeCode::InsufficientState) => Cause::SubscriptionLost,
        SubscriptionEnd::Pushed(UnsubscribeCode::Expired) => Cause::SubscriptionExpired,
        SubscriptionEnd::Refused { code, .. } if *code == ErrorCode::PermissionDenied.code() => Cause::NotPermitted,
        SubscriptionEnd::Refused { .. } => Cause::SubscribeFailed,
    }
}

fn explained_end(ended: &EndedSubscription) -> ExplainedEnd {
    let (code, reason) = match &ended.end {
        SubscriptionEnd::ByClient => (None, UNSUBSCRIBED_BY_CLIENT.to_owned()),
        SubscriptionEnd::Pushed(code) => (Some(code.code()), code.reason().to_owned()),
        SubscriptionEnd::Refused { code, message } => (Some(*code), message.clone()),
    };
    ExplainedEnd { time: ended.at.unix_millis(), code, reason }
}
