//! `explain`: finds out why a publication did not arrive at a client.

use std::{cmp::Ordering, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext, ApiError,
    connections::NODE,
    description::{
        Access, ApiMethod, ApiResult, BROKER_BUSY, BROKER_UNAVAILABLE, Example, Field, Handler, JsonType,
        UNKNOWN_NAMESPACE, request_fields,
    },
    request::{check_user, find_channel, parse_object, to_result},
    survey::{UNREACHABLE, survey_nodes_within},
};
use crate::{
    broker::{
        BrokerError, Cause, ExplainQuery, ExplainedPublication, ExplainedSession, HistoryRequest, Inspection,
        MAX_EXPLAINED_SESSIONS, NodeExplanation, NodeIdentity, Retention, SharedBroker, SincePosition, StoredFacts,
        SurveyQuestion,
    },
    channel::Channel,
    protocol::ErrorCode,
    publication::Publication,
};

/// How long the nodes have to answer. Whether one does is a part of the explanation.
const DEADLINE: Duration = Duration::from_millis(150);

/// `explain`.
pub(super) const EXPLAIN: ApiMethod = ApiMethod {
    name: "explain",
    access: Access::ReadOnly,
    summary: "Says why a publication did not arrive at a user or a connection.",
    details: "`cause` names one of the [causes](#causes). If the client has open sessions, it is their cause; otherwise it is that of \
        the session that ended last, or of the last refused attempt to connect if that is newer. Refused attempts whose token no key \
        has signed (`signed` is `false`) decide only if nothing else is known, because anyone can send them. Each node remembers \
        `limits.ended_sessions` ended sessions per worker, the refused attempts of as many users and reasons, and as many of users \
        whose name no key has signed, and \
        `limits.ended_subscriptions` ended or refused subscriptions per worker. A node that does not answer within 150 ms is named in \
        `unreachable`. `delivered` means that the kernel of the node has accepted the publication; only the client knows whether it has \
        handled it.",
    request: &[ExplainRequest::FIELDS],
    result: &[
        Field::always("cause", JsonType::String, "The cause."),
        Field::always("explanation", JsonType::String, "The cause in words."),
        Field::left_out(
            "publication",
            JsonType::Object(PUBLICATION),
            "without a history",
            "The publication that is explained.",
        ),
        Field::always(
            "sessions",
            JsonType::Array(&JsonType::Object(SESSION)),
            "The open sessions of the client, then those that have ended or were refused lately, the newest end first, then refused \
             attempts that are not `signed`; at most 100.",
        ),
        Field::left_out("has_more", JsonType::Boolean, "if it is `false`", "There are more sessions."),
        UNREACHABLE,
    ],
    errors: &[
        BROKER_UNAVAILABLE,
        BROKER_BUSY,
        UNKNOWN_NAMESPACE,
        (
            ErrorCode::BadRequest,
            "`user` and `client` are both missing, or `user`, `client`, `channel`, `offset` or `epoch` is invalid",
        ),
    ],
    example: Example {
        request: r#"{"user":"ann","channel":"news"}"#,
        answer: r#"{"result":{
  "cause":"delivered","explanation":"The server has sent it: nothing on its side keeps it from the client.",
  "publication":{"offset":2,"epoch":"xyzw"},
  "sessions":[
    {"client":"1d5a0c43-8a52-4a2e-9a0b-6c1f3f0c1a11","user":"ann","cause":"delivered","is_open":true,
     "connected_at":1767225600000,"subscribed_at":1767225600100,
     "subscribed_after":{"offset":0,"epoch":"xyzw"},"position":{"offset":2,"epoch":"xyzw"},"queued_bytes":0,
     "node":{"uid":"5f9b7d5e-6a0e-4c5e-8d0f-2f3b1a7c9e10","name":"hub-1"}}
  ]
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(explain(body, api))),
};

const POSITION: &[Field] = &[
    Field::always("offset", JsonType::Integer, "The offset."),
    Field::always("epoch", JsonType::String, "The epoch."),
];

const PUBLICATION: &[Field] = &[
    Field::always("offset", JsonType::Integer, "Its offset."),
    Field::always("epoch", JsonType::String, "The epoch of the history."),
    Field::left_out(
        "time",
        JsonType::Integer,
        "if it is not stored any more",
        "When it entered the history, in milliseconds since 1970.",
    ),
];

const SESSION: &[Field] = &[
    Field::always("client", JsonType::String, "Id of its connection."),
    Field::always("user", JsonType::String, "Its user; empty for a session without one."),
    Field::always("cause", JsonType::String, "Why the publication did not arrive at this session."),
    Field::always("is_open", JsonType::Boolean, "Whether the session is open."),
    Field::always("connected_at", JsonType::Integer, "When it was accepted, or refused, in milliseconds since 1970."),
    Field::left_out(
        "subscribed_at",
        JsonType::Integer,
        "if it is not subscribed",
        "When the subscription began, in milliseconds since 1970.",
    ),
    Field::left_out(
        "subscribed_after",
        JsonType::Object(POSITION),
        "without a history",
        "The client was sent everything after this position.",
    ),
    Field::left_out(
        "position",
        JsonType::Object(POSITION),
        "without a history",
        "The node has delivered everything up to this position.",
    ),
    Field::left_out(
        "end",
        JsonType::Object(END),
        "if neither has ended",
        "How the session or its subscription has ended, or why it could not subscribe.",
    ),
    Field::left_out("queued_bytes", JsonType::Integer, "if it is not open", "Bytes that wait for the client."),
    Field::left_out(
        "stalled_for",
        JsonType::Integer,
        "if its socket is not full",
        "Milliseconds for which its socket has accepted nothing.",
    ),
    Field::left_out(
        "signed",
        JsonType::Boolean,
        "if it was not refused",
        "Whether a key has signed the name of the user. `false`: anyone may have sent the token.",
    ),
    Field::left_out(
        "attempts",
        JsonType::Integer,
        "if it was not refused",
        "How often clients of the user were refused for this reason. `client` and `end` are those of the last attempt.",
    ),
    NODE,
];

const END: &[Field] = &[
    Field::always("time", JsonType::Integer, "When, in milliseconds since 1970."),
    Field::left_out(
        "code",
        JsonType::Integer,
        "if there was none",
        "Code of the close, of the unsubscribe push, or of the error.",
    ),
    Field::always("reason", JsonType::String, "Its text."),
];

request_fields! {
    /// A request of `explain`.
    struct ExplainRequest {
        /// User at which it did not arrive, 1 to 255 bytes.
        user: Option<String> = (JsonType::String, Some("any, with `client`")),
        /// Id of the connection at which it did not arrive. With `user`, only if the connection is of this user.
        client: Option<String> = (JsonType::String, Some("all connections of the user")),
        /// Channel of the publication.
        channel: Option<String> = (JsonType::String, None),
        /// Offset of the publication, from 1.
        offset: Option<u64> = (JsonType::Integer, Some("that of the newest publication, if the channel has a history")),
        /// Epoch of the offset, at most 64 bytes. Only with `offset`.
        epoch: Option<String> = (JsonType::String, Some("any epoch")),
    }
}

/// The result of `explain`.
#[derive(Serialize)]
struct ExplainResult {
    cause: Cause,
    explanation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    publication: Option<PublicationResult>,
    sessions: Vec<SessionResult>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    has_more: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable: Vec<NodeIdentity>,
}

#[derive(Serialize)]
struct PublicationResult {
    offset: u64,
    epoch: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<i64>,
}

#[derive(Serialize)]
struct SessionResult {
    #[serde(flatten)]
    session: ExplainedSession,
    node: NodeIdentity,
}

/// The publication as it is known before the nodes are asked.
enum Found {
    /// There is nothing to judge but the sessions.
    Nothing,
    /// It exists or has existed.
    Publication(ExplainedPublication),
    /// It has never existed.
    Never(Cause),
}

async fn explain(body: &Bytes, api: &ApiContext) -> ApiResult {
    let ExplainRequest { user, client, channel, offset, epoch } = parse_object(body)?;
    let (user, client) = check_target(user, client)?;
    let epoch = epoch.unwrap_or_default();
    let since = SincePosition::parse(offset.unwrap_or_default(), &epoch);
    if offset == Some(0) || (offset.is_none() && !epoch.is_empty()) || (epoch.len() > 64) {
        return Err(ErrorCode::BadRequest.with_detail("offset begins at 1, and epoch needs an offset").into());
    }
    let (channel, options) = find_channel(channel, api)?;
    let found = match (Retention::from_options(&options), offset, since) {
        (None, Some(_), _) => Found::Never(Cause::NeverStored),
        (None, None, _) => Found::Nothing,
        (Some(_), _, Err(_)) => Found::Never(Cause::OtherEpoch),
        (Some(retention), _, Ok(since)) => {
            let since = offset.map(|_| since);
            find_publication(&api.broker, &channel, retention, since).await.map_err(ErrorCode::from)?
        }
    };
    let (publication, never) = match found {
        Found::Nothing => (None, None),
        Found::Publication(publication) => (Some(publication), None),
        Found::Never(cause) => (None, Some(cause)),
    };
    let channel = channel.as_str().to_owned();
    let query = ExplainQuery { user, client, channel, publication: publication.clone() };
    let question = SurveyQuestion::Inspect(Inspection::Explain(query));
    let (answers, unreachable) = survey_nodes_within::<NodeExplanation>(question, DEADLINE, api).await?;
    let (sessions, has_more) = join_sessions(answers);
    let is_stored = publication.as_ref().is_none_or(|publication| publication.stored.is_some());
    let cause = never.unwrap_or_else(|| choose_cause(&sessions, !unreachable.is_empty(), is_stored));
    let publication = publication.map(|publication| PublicationResult {
        offset: publication.offset,
        epoch: publication.epoch,
        time: publication.stored.map(|stored| stored.time),
    });
    to_result(ExplainResult { cause, explanation: cause.text(), publication, sessions, has_more, unreachable })
}

/// Checks who is meant.
fn check_target(user: Option<String>, client: Option<String>) -> Result<(Option<String>, Option<String>), ApiError> {
    // Some clients of the API write an unset field as an empty text.
    let [user, client] = [user, client].map(|field| field.filter(|text| !text.is_empty()));
    if let Some(user) = &user {
        check_user(user)?;
    }
    if client.as_deref().is_some_and(|client| uuid::Uuid::parse_str(client).is_err()) {
        return Err(ErrorCode::BadRequest.with_detail("client is not the id of a connection").into());
    }
    if user.is_none() && client.is_none() {
        return Err(ErrorCode::BadRequest.with_detail("user or client is required").into());
    }
    Ok((user, client))
}

/// Finds a publication; without `wanted`, the newest one. Creates no history.
async fn find_publication(
    broker: &SharedBroker,
    channel: &Channel,
    retention: Retention,
    wanted: Option<SincePosition>,
) -> Result<Found, BrokerError> {
    let mut tops = broker.read_positions(vec![(channel.clone(), retention)]).await;
    let Some(top) = tops.pop().transpose()?.flatten().map(|top| top.position) else {
        return Ok(wanted.map_or(Found::Nothing, |_| Found::Never(Cause::NotPublished)));
    };
    let offset = wanted.map_or(top.offset, |wanted| wanted.offset);
    if wanted.and_then(|wanted| wanted.epoch).is_some_and(|epoch| epoch != top.epoch) {
        return Ok(Found::Never(Cause::OtherEpoch));
    }
    if offset == 0 {
        return Ok(Found::Nothing);
    }
    if offset > top.offset {
        return Ok(Found::Never(Cause::NotPublished));
    }
    let since = Some(SincePosition { offset: offset - 1, epoch: None });
    let request = HistoryRequest { since, limit: 1, is_reverse: false, max_bytes: None };
    let page = broker.read_history(channel.clone(), request, retention).await?;
    let is_it = |publication: &Publication| publication.position.is_some_and(|position| position.offset == offset);
    let stored = page.publications.into_iter().find(is_it).map(|publication| StoredFacts {
        time: publication.time.unix_millis(),
        tags: publication.tags,
        exclude: publication.exclude.map(|client| client.to_string()),
    });
    Ok(Found::Publication(ExplainedPublication { offset, epoch: page.top.epoch.as_str().to_owned(), stored }))
}

/// Joins the sessions of all nodes: open ones first, then those that have ended last, then refused attempts with a name that no key
/// has signed.
fn join_sessions(answers: Vec<(NodeIdentity, NodeExplanation)>) -> (Vec<SessionResult>, bool) {
    let (mut joined, mut has_more) = (Vec::new(), false);
    for (node, explanation) in answers {
        has_more |= explanation.has_more;
        joined.extend(explanation.sessions.into_iter().map(|session| SessionResult { session, node: node.clone() }));
    }
    joined.sort_by(|one, other| match (one.session.is_open, other.session.is_open) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (true, true) => one.session.cause.cmp(&other.session.cause),
        (false, false) => one.session.closed_order().cmp(&other.session.closed_order()),
    });
    has_more |= joined.len() > MAX_EXPLAINED_SESSIONS;
    joined.truncate(MAX_EXPLAINED_SESSIONS);
    (joined, has_more)
}

/// Returns the one cause: that of the open sessions, or else of the session that has ended last, unless the client may be on a
/// node that has not answered.
fn choose_cause(sessions: &[SessionResult], is_node_missing: bool, is_stored: bool) -> Cause {
    match sessions.first().map(|first| (first.session.is_open, first.session.cause)) {
        Some((true, Cause::SubscribedLater)) if !is_stored => Cause::NoLongerStored,
        Some((true, cause)) => cause,
        _ if is_node_missing => Cause::NodeUnreachable,
        Some((false, cause)) => cause,
        None => Cause::NotConnected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ExplainedEnd;

    fn session(cause: Cause, ended_at: Option<i64>) -> ExplainedSession {
        ExplainedSession {
            client: String::new(),
            user: String::new(),
            cause,
            is_open: ended_at.is_none(),
            connected_at: 0,
            subscribed_at: None,
            subscribed_after: None,
            position: None,
            end: ended_at.map(|time| ExplainedEnd { time, code: None, reason: String::new() }),
            queued_bytes: None,
            stalled_for: None,
            signed: None,
            attempts: None,
        }
    }

    fn refused(signed: Option<bool>, at: i64) -> ExplainedSession {
        ExplainedSession { signed, ..session(Cause::ConnectRefused, Some(at)) }
    }

    /// Joins these sessions, each of which is on a node of its own.
    fn join(sessions: impl IntoIterator<Item = ExplainedSession>) -> Vec<SessionResult> {
        let node = NodeIdentity { uid: "1".to_owned(), name: "hub".to_owned() };
        let explain = |session| NodeExplanation { sessions: vec![session], has_more: false };
        join_sessions(sessions.into_iter().map(|session| (node.clone(), explain(session))).collect()).0
    }

    fn cause(sessions: &[(Cause, Option<i64>)], is_node_missing: bool, is_stored: bool) -> Cause {
        let sessions = join(sessions.iter().map(|(cause, ended_at)| session(*cause, *ended_at)));
        choose_cause(&sessions, is_node_missing, is_stored)
    }

    #[test]
    fn open_sessions_decide_then_a_missing_node_then_the_last_end() {
        let open = [(Cause::Closed, Some(9)), (Cause::Delivered, None), (Cause::Filtered, None)];
        assert_eq!(cause(&open, true, true), Cause::Filtered);
        let ended = [(Cause::TooSlow, Some(1)), (Cause::TokenExpired, Some(2))];
        assert_eq!(cause(&ended, false, true), Cause::TokenExpired);
        assert_eq!(cause(&ended, true, true), Cause::NodeUnreachable);
        assert_eq!(cause(&[], true, true), Cause::NodeUnreachable);
        assert_eq!(cause(&[], false, true), Cause::NotConnected);
        assert_eq!(cause(&[(Cause::SubscribedLater, None)], false, false), Cause::NoLongerStored);
        assert_eq!(cause(&[(Cause::SubscribedLater, None)], false, true), Cause::SubscribedLater);
    }

    #[test]
    fn attempts_with_a_name_that_no_key_has_signed_come_last() {
        let sessions = [
            refused(Some(false), 9),
            // Of a node of an older release, which does not say it.
            refused(None, 8),
            refused(Some(true), 3),
            session(Cause::TooSlow, Some(2)),
            session(Cause::Closed, Some(4)),
            session(Cause::Delivered, None),
        ];
        let times = |count: usize| {
            let joined = join(sessions.iter().take(count).cloned());
            joined.iter().map(|result| result.session.end.as_ref().map(|end| end.time)).collect::<Vec<_>>()
        };
        assert_eq!(times(6), [None, Some(4), Some(3), Some(2), Some(9), Some(8)]);
        assert_eq!(times(3), [Some(3), Some(9), Some(8)]);
        assert_eq!(times(2), [Some(9), Some(8)]);
    }
}
